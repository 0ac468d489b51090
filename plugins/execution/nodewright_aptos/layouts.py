"""Fields of structs, to show resources and events as JSON. Not needed to run anything.

A layout is a list of (field, type): a type of ``abi``, ``0x1::option::Option<T>``, ``vector<T>``, another struct that has a
layout (``0x1::event::EventHandle``), or ``T0`` for the phantom of a generic one, which takes no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodewright_aptos import abi
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.typetags import StructTag, parse_struct

Fields = tuple[tuple[str, str], ...]
MAX_DEPTH: Final = 8

_HANDLE: Final = "0x1::event::EventHandle"
FRAMEWORK: Final[Mapping[str, Fields]] = {
    "0x1::guid::ID": (("creation_num", "u64"), ("addr", "address")),
    "0x1::guid::GUID": (("id", "0x1::guid::ID"),),
    _HANDLE: (("counter", "u64"), ("guid", "0x1::guid::GUID")),
    "0x1::account::CapabilityOffer": (("for", "0x1::option::Option<address>"),),
    "0x1::account::Account": (
        ("authentication_key", "vector<u8>"),
        ("sequence_number", "u64"),
        ("guid_creation_num", "u64"),
        ("coin_register_events", _HANDLE),
        ("key_rotation_events", _HANDLE),
        ("rotation_capability_offer", "0x1::account::CapabilityOffer"),
        ("signer_capability_offer", "0x1::account::CapabilityOffer"),
    ),
    "0x1::coin::Coin": (("value", "u64"),),
    "0x1::coin::CoinStore": (
        ("coin", "0x1::coin::Coin"),
        ("frozen", "bool"),
        ("deposit_events", _HANDLE),
        ("withdraw_events", _HANDLE),
    ),
    "0x1::aggregator::Aggregator": (("handle", "address"), ("key", "address"), ("limit", "u128")),
    "0x1::optional_aggregator::Integer": (("value", "u128"), ("limit", "u128")),
    "0x1::optional_aggregator::OptionalAggregator": (
        ("aggregator", "0x1::option::Option<0x1::aggregator::Aggregator>"),
        ("integer", "0x1::option::Option<0x1::optional_aggregator::Integer>"),
    ),
    "0x1::coin::CoinInfo": (
        ("name", "0x1::string::String"),
        ("symbol", "0x1::string::String"),
        ("decimals", "u8"),
        ("supply", "0x1::option::Option<0x1::optional_aggregator::OptionalAggregator>"),
    ),
    "0x1::aptos_coin::MintCapStore": (("dummy_field", "bool"),),
    "0x1::chain_id::ChainId": (("id", "u8"),),
    "0x1::timestamp::CurrentTimeMicroseconds": (("microseconds", "u64"),),
    "0x1::block::BlockResource": (
        ("height", "u64"),
        ("epoch_interval", "u64"),
        ("new_block_events", _HANDLE),
        ("update_epoch_interval_events", _HANDLE),
    ),
    "0x1::reconfiguration::Configuration": (
        ("epoch", "u64"),
        ("last_reconfiguration_time", "u64"),
        ("events", _HANDLE),
    ),
    "0x1::coin::DepositEvent": (("amount", "u64"),),
    "0x1::coin::WithdrawEvent": (("amount", "u64"),),
    "0x1::transaction_fee::FeeStatement": (
        ("total_charge_gas_units", "u64"),
        ("execution_gas_units", "u64"),
        ("io_gas_units", "u64"),
        ("storage_fee_octas", "u64"),
        ("storage_fee_refund_octas", "u64"),
    ),
    "0x1::block::NewBlockEvent": (
        ("hash", "address"),
        ("epoch", "u64"),
        ("round", "u64"),
        ("height", "u64"),
        ("previous_block_votes_bitvec", "vector<u8>"),
        ("proposer", "address"),
        ("failed_proposer_indices", "vector<u64>"),
        ("time_microseconds", "u64"),
    ),
    "0x1::reconfiguration::NewEpochEvent": (("epoch", "u64"),),
    "0x1::validators::Update": (("key", "vector<u8>"), ("power", "u64")),
}
_OPTION: Final = "0x1::option::Option<"


def render(tag: StructTag, value: bytes, more: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> Any:
    """A struct's fields as the REST API writes them; the whole value in hexadecimal where it has no layout."""
    name = _bare(tag)
    known = {**FRAMEWORK, **(more or {})}
    if name not in known:
        return {"bytes": "0x" + value.hex()}
    try:
        reader = Reader(value)
        shown = _read(name, reader, known, 0)
        reader.finish()
    except Malformed:
        return {"bytes": "0x" + value.hex()}
    return shown


def _bare(tag: StructTag) -> str:
    return str(StructTag(tag.address, tag.module, tag.name))


def _read(type: str, reader: Reader, known: Mapping[str, Sequence[tuple[str, str]]], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise Malformed("a layout is nested too deeply")
    if type.startswith(_OPTION):
        inner = type[len(_OPTION) : -1]
        return {"vec": [_read(inner, reader, known, depth + 1)] if reader.flag() else []}
    if type.startswith("vector<") and type != "vector<u8>":
        inner = type[7:-1]
        return [_read(inner, reader, known, depth + 1) for _ in range(reader.length(abi.MAX_ITEMS))]
    fields = known.get(type) or (known.get(_bare(parse_struct(type))) if "<" in type and "::" in type else None)
    if fields is not None:
        return {name: _read(inner, reader, known, depth + 1) for name, inner in fields}
    codec = abi.codec(type)
    return codec.to_json(codec.read(reader))
