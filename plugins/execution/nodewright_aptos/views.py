"""View functions: reads by name over one state, as ``POST /view`` makes them."""

from __future__ import annotations

from typing import Any, Final

from nodewright_aptos.addresses import APT_METADATA, ONE
from nodewright_aptos.functions import Functions, ViewCall, ViewFunction
from nodewright_aptos.resources import (
    APT_INFO_KEY,
    BLOCK_KEY,
    CHAIN_ID_KEY,
    CONFIGURATION_KEY,
    TIMESTAMP_KEY,
    CoinInfo,
    account_key,
    apt_store_key,
    authentication_key_of,
    balance,
    coin_info_key,
    frozen_store,
    read_coin_info,
    sequence_number,
    store_key,
)
from nodewright_aptos.typetags import StructTag

_OBJECT: Final = "0x1::object::Object<T0>"
_U64: Final = ("u64",)
_ADDRESS: Final = ("address",)


def _coin(call: ViewCall) -> StructTag:
    (coin,) = call.types
    if not isinstance(coin, StructTag):
        raise call.abort(0x10001, "ECOIN_TYPE", "a coin is a struct")
    return coin


def _account(call: ViewCall) -> bytes:
    value = call.read(account_key(call.arguments[0]))
    if value is None:
        raise call.abort(0x60002, "EACCOUNT_DOES_NOT_EXIST", "Account does not exist")
    return value


def _exists(call: ViewCall) -> tuple[Any, ...]:
    return (call.read(account_key(call.arguments[0])) is not None,)


def _sequence_number(call: ViewCall) -> tuple[Any, ...]:
    return (sequence_number(_account(call)),)


def _authentication_key(call: ViewCall) -> tuple[Any, ...]:
    return (authentication_key_of(_account(call)),)


def _balance(call: ViewCall) -> tuple[Any, ...]:
    store = call.read(store_key(call.arguments[0], _coin(call)))
    return (0 if store is None else balance(store),)


def _is_registered(call: ViewCall) -> tuple[Any, ...]:
    return (call.read(store_key(call.arguments[0], _coin(call))) is not None,)


def _is_frozen(call: ViewCall) -> tuple[Any, ...]:
    store = call.read(store_key(call.arguments[0], _coin(call)))
    return (store is not None and frozen_store(store),)


def _info(call: ViewCall) -> CoinInfo:
    value = call.read(coin_info_key(_coin(call)))
    if value is None:
        raise call.abort(0x60003, "ECOIN_INFO_NOT_PUBLISHED", "`CoinType` hasn't been initialized as a coin")
    return read_coin_info(value)


def _supply_of(call: ViewCall, info: CoinInfo) -> int | None:
    return None if info.supply is None else int.from_bytes(call.read(info.supply) or b"", "little")


def _supply(call: ViewCall) -> tuple[Any, ...]:
    return (_supply_of(call, _info(call)),)


def _is_coin(call: ViewCall) -> tuple[Any, ...]:
    return (call.read(coin_info_key(_coin(call))) is not None,)


def _asset(call: ViewCall) -> None:
    metadata = call.arguments[-1]
    if metadata != APT_METADATA:
        raise call.abort(0x60002, "EOBJECT_DOES_NOT_EXIST", "An object does not exist at this address")


def _asset_balance(call: ViewCall) -> tuple[Any, ...]:
    _asset(call)
    store = call.read(apt_store_key(call.arguments[0]))
    return (0 if store is None else balance(store),)


def _asset_supply(call: ViewCall) -> tuple[Any, ...]:
    _asset(call)
    value = call.read(APT_INFO_KEY)
    return (None if value is None else _supply_of(call, read_coin_info(value)),)


def _asset_info(name: str) -> Any:
    def run(call: ViewCall) -> tuple[Any, ...]:
        _asset(call)
        value = call.read(APT_INFO_KEY)
        assert value is not None  # written by every genesis
        return (getattr(read_coin_info(value), name),)

    return run


def _coin_property(name: str) -> Any:
    def run(call: ViewCall) -> tuple[Any, ...]:
        return (getattr(_info(call), name),)

    return run


def _number_at(key: bytes, at: int, size: int, unit: int = 1) -> Any:
    def run(call: ViewCall) -> tuple[Any, ...]:
        value = call.read(key)
        assert value is not None  # written by every genesis
        return (int.from_bytes(value[at : at + size], "little") // unit,)

    return run


def install(functions: Functions) -> None:
    def view(module: str, name: str, parameters: tuple[str, ...], returns: tuple[str, ...], run: Any, types: int) -> None:
        functions.add_views(ViewFunction(ONE, module, name, parameters, returns, run, types))

    view("account", "exists_at", _ADDRESS, ("bool",), _exists, 0)
    view("account", "get_sequence_number", _ADDRESS, _U64, _sequence_number, 0)
    view("account", "get_authentication_key", _ADDRESS, ("vector<u8>",), _authentication_key, 0)
    view("coin", "balance", _ADDRESS, _U64, _balance, 1)
    view("coin", "supply", (), ("0x1::option::Option<u128>",), _supply, 1)
    view("coin", "is_account_registered", _ADDRESS, ("bool",), _is_registered, 1)
    view("coin", "is_coin_store_frozen", _ADDRESS, ("bool",), _is_frozen, 1)
    view("coin", "is_coin_initialized", (), ("bool",), _is_coin, 1)
    view("coin", "name", (), ("0x1::string::String",), _coin_property("name"), 1)
    view("coin", "symbol", (), ("0x1::string::String",), _coin_property("symbol"), 1)
    view("coin", "decimals", (), ("u8",), _coin_property("decimals"), 1)
    view("primary_fungible_store", "balance", ("address", _OBJECT), _U64, _asset_balance, 1)
    view("fungible_asset", "supply", (_OBJECT,), ("0x1::option::Option<u128>",), _asset_supply, 1)
    for name, type in (("name", "0x1::string::String"), ("symbol", "0x1::string::String"), ("decimals", "u8")):
        view("fungible_asset", name, (_OBJECT,), (type,), _asset_info(name), 1)
    view("chain_id", "get", (), ("u8",), _number_at(CHAIN_ID_KEY, 0, 1), 0)
    view("timestamp", "now_microseconds", (), _U64, _number_at(TIMESTAMP_KEY, 0, 8), 0)
    view("timestamp", "now_seconds", (), _U64, _number_at(TIMESTAMP_KEY, 0, 8, 1_000_000), 0)
    view("block", "get_current_block_height", (), _U64, _number_at(BLOCK_KEY, 0, 8), 0)
    view("reconfiguration", "current_epoch", (), _U64, _number_at(CONFIGURATION_KEY, 0, 8), 0)
