"""Transactions that clients write in JSON: what ``POST /v1/transactions`` and ``…/encode_submission`` take.

A request has ``sender``, ``sequence_number``, ``max_gas_amount``, ``gas_unit_price``, ``expiration_timestamp_secs`` (64-bit
numbers as text) and ``payload``; a signed one ``signature`` as well (``signatures``). The chain id is this node's own. A
payload is a call of a transaction function that is known here: its arguments have the types that its signature says.
"""

from __future__ import annotations

from typing import Final

from nodewright_aptos import abi
from nodewright_aptos.functions import Functions
from nodewright_aptos.transactions import (
    MAX_FUNCTION_ARGUMENTS,
    MAX_SIGNERS,
    EntryFunction,
    RawTransaction,
    parse_function_key,
    signing_message,
)
from nodewright_aptos.typetags import MAX_ARGUMENTS, parse_type
from nodewright_aptos_api.document import Part
from nodewright_aptos_api.signatures import read_signature

# A transaction of 64 KiB has room in it: its longest form is a list of small numbers.
MAX_REQUEST_BYTES: Final = 512 * 1024


class Requests:
    """Every method raises ApiError, a 400 that names the field."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def payload(self, part: Part) -> EntryFunction:
        kind = part.field("type")
        if kind.text() != "entry_function_payload":
            raise kind.wrong(f"{kind.value[:40]!r} is not run here, there is no Move VM: send an entry_function_payload")
        name = part.field("function")
        key = name.parsed(parse_function_key)
        known = self._functions.entries.get(key)
        if known is None:
            raise name.wrong(f"there is no function {name.value[:200]} on this node, see docs/aptos.md")
        function, listed, given = known.function, part.field("type_arguments"), part.field("arguments")
        types = tuple(one.parsed(parse_type) for one in listed.items(MAX_ARGUMENTS))
        if len(types) != function.type_parameters:
            raise listed.wrong(f"{name.value} takes {function.type_parameters}, not {len(types)}")
        arguments = given.items(MAX_FUNCTION_ARGUMENTS)
        wanted = function.argument_types
        if len(arguments) != len(wanted):
            raise given.wrong(f"{name.value} takes {len(wanted)} ({', '.join(wanted)}), not {len(arguments)}")
        return EntryFunction(key, types, tuple(map(_argument, wanted, arguments)))

    def raw(self, part: Part, chain_id: int) -> RawTransaction:
        if part.has("replay_protection_nonce"):
            raise part.field("replay_protection_nonce").wrong("transactions without a sequence number are not taken here")
        return RawTransaction(
            part.field("sender").address(),
            part.field("sequence_number").number(),
            self.payload(part.field("payload")),
            part.field("max_gas_amount").number(),
            part.field("gas_unit_price").number(),
            part.field("expiration_timestamp_secs").number(),
            chain_id,
        )

    def signed(self, part: Part, chain_id: int) -> bytes:
        """The SignedTransaction in BCS."""
        return self.raw(part, chain_id).encode() + read_signature(part.field("signature"))

    def message(self, part: Part, chain_id: int) -> bytes:
        """What is to be signed, with ``secondary_signers`` where others sign too. ``fee_payer_address`` (0x0: not known
        yet) is this node's own: without it JSON alone could not say what the signers of a sponsored transaction sign."""
        raw = self.raw(part, chain_id).encode()
        secondary = tuple(one.address() for one in part.each("secondary_signers", MAX_SIGNERS))
        payer = part.field("fee_payer_address").address() if part.has("fee_payer_address") else None
        return signing_message(raw, secondary, payer)


def _argument(type: str, part: Part) -> bytes:
    return part.read(lambda value: abi.json_argument(type, value))
