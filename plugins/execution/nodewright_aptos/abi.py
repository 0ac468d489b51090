"""Values of the types that functions take and give: in BCS, in JSON as the REST API writes them, and by name.

Types: bool, u8 to u256, address, ``vector<T>``, ``0x1::string::String``, ``0x1::option::Option<T>`` and
``0x1::object::Object<T>`` (an address). JSON: whole numbers up to u32 as numbers, larger ones as text, addresses and
``vector<u8>`` in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from attrs import frozen

from nodewright_aptos import bcs
from nodewright_aptos.addresses import address_text, parse_address
from nodewright_aptos.bcs import Malformed, Reader

MAX_ITEMS: Final = 4096
MAX_DEPTH: Final = 8  # of types within types, as in ``typetags``
_NUMBERS: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "u128": 16, "u256": 32}
_SIGNERS: Final = ("&signer", "signer")


@frozen
class Codec:
    read: Callable[[Reader], Any]
    write: Callable[[Any], bytes]
    from_json: Callable[[Any], Any]
    to_json: Callable[[Any], Any]


def is_signer(type: str) -> bool:
    return type in _SIGNERS


@lru_cache(maxsize=4096)  # clients name types too
def codec(type: str) -> Codec:
    """Raises Malformed for a type that is not known here."""
    if type.count("<") > MAX_DEPTH:
        raise Malformed("a type is nested too deeply")
    if type in _NUMBERS:
        return _number(_NUMBERS[type])
    if type == "bool":
        return Codec(Reader.flag, bcs.flag, _bool, bool)
    if type == "address" or type.startswith("0x1::object::Object"):
        return Codec(lambda reader: reader.take(32), _address_bytes, _address, address_text)
    if type == "0x1::string::String":
        return Codec(lambda reader: reader.text(), bcs.text, _text, str)
    if type == "vector<u8>":
        return Codec(lambda reader: reader.blob(), bcs.blob, _bytes, lambda value: "0x" + value.hex())
    if type.startswith("vector<") and type.endswith(">"):
        return _vector(codec(type[7:-1]))
    if type.startswith("0x1::option::Option<") and type.endswith(">"):
        return _option(codec(type[20:-1]))
    raise Malformed(f"values of type {type} are not known here")


def _number(size: int) -> Codec:
    def from_json(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 78:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 8 * size:
            raise Malformed(f"not a whole number of {8 * size} bits: {str(value)[:40]}")
        return value

    return Codec(
        lambda reader: int.from_bytes(reader.take(size), "little"),
        lambda value: int(value).to_bytes(size, "little"),
        from_json,
        int if size <= 4 else str,
    )


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Malformed("not true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed("not text")
    return value


def _address(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"inner"}:  # an Object
        value = value["inner"]
    return parse_address(_text(value))


def _address_bytes(value: bytes) -> bytes:
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, list):
        if len(value) > MAX_ITEMS * 16:
            raise Malformed(f"not a list of at most {MAX_ITEMS * 16}")
        return bytes(codec("u8").from_json(item) for item in value)
    digits = _text(value).removeprefix("0x")
    try:
        found = bytes.fromhex(digits)
        if len(found) * 2 != len(digits):
            raise ValueError("there are spaces in it")
        return found
    except ValueError as error:
        raise Malformed("not hexadecimal") from error


def _vector(item: Codec) -> Codec:
    def from_json(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise Malformed(f"not a list of at most {MAX_ITEMS}")
        return tuple(item.from_json(one) for one in value)

    return Codec(
        lambda reader: reader.vector(lambda: item.read(reader), MAX_ITEMS),
        lambda value: bcs.vector(item.write(one) for one in value),
        from_json,
        lambda value: [item.to_json(one) for one in value],
    )


def _option(item: Codec) -> Codec:
    def from_json(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"vec"}:
            held = value["vec"]
            if not isinstance(held, list) or len(held) > 1:
                raise Malformed("not an option: it holds one value or none")
            value = held[0] if held else None
        return None if value is None else item.from_json(value)

    return Codec(
        lambda reader: reader.option(lambda: item.read(reader)),
        lambda value: bcs.option(None if value is None else item.write(value)),
        from_json,
        lambda value: {"vec": [] if value is None else [item.to_json(value)]},
    )


def decode_argument(type: str, data: bytes) -> Any:
    """A value that is the whole of ``data``. Raises Malformed."""
    return bcs.whole(data, codec(type).read)


def json_argument(type: str, value: Any) -> bytes:
    """A JSON argument in BCS. Raises Malformed."""
    known = codec(type)
    return known.write(known.from_json(value))
