"""Move's types as Aptos names them: in BCS (TypeTag, StructTag) and in text (``0x1::coin::Coin<0x1::a::B>``).

Bounds: depth 8, 32 type arguments, names of at most 255 characters.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from nodewright_aptos import bcs
from nodewright_aptos.addresses import ONE, parse_address, short_text
from nodewright_aptos.bcs import Malformed, Reader

MAX_DEPTH: Final = 8
MAX_ARGUMENTS: Final = 32
MAX_NAME: Final = 255
IDENTIFIER: Final = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9_]*|_[a-zA-Z0-9_]+)\Z")
PRIMITIVES: Final = {
    "bool": 0,
    "u8": 1,
    "u64": 2,
    "u128": 3,
    "address": 4,
    "signer": 5,
    "u16": 8,
    "u32": 9,
    "u256": 10,
}
_BY_TAG: Final = {tag: name for name, tag in PRIMITIVES.items()}
_VECTOR: Final = 6
_STRUCT: Final = 7


def identifier(name: str) -> str:
    if len(name) > MAX_NAME or not IDENTIFIER.match(name):
        raise Malformed(f"not a name: {name[:40]!r}")
    return name


@frozen
class StructTag:
    address: bytes
    module: str
    name: str
    arguments: tuple[TypeTag, ...] = ()

    def encode(self) -> bytes:
        arguments = bcs.vector(encode_type(argument) for argument in self.arguments)
        return self.address + bcs.text(self.module) + bcs.text(self.name) + arguments

    def __str__(self) -> str:
        inner = f"<{', '.join(map(type_text, self.arguments))}>" if self.arguments else ""
        return f"{short_text(self.address)}::{self.module}::{self.name}{inner}"


@frozen
class VectorTag:
    item: TypeTag


TypeTag = str | VectorTag | StructTag
APT: Final = StructTag(ONE, "aptos_coin", "AptosCoin")


def encode_type(tag: TypeTag) -> bytes:
    if isinstance(tag, str):
        return bytes([PRIMITIVES[tag]])
    if isinstance(tag, VectorTag):
        return bytes([_VECTOR]) + encode_type(tag.item)
    return bytes([_STRUCT]) + tag.encode()


def read_type(reader: Reader, depth: int = 0) -> TypeTag:
    if depth > MAX_DEPTH:
        raise Malformed("a type is nested too deeply")
    kind = reader.uleb()
    if kind == _VECTOR:
        return VectorTag(read_type(reader, depth + 1))
    if kind == _STRUCT:
        return read_struct(reader, depth)
    if kind not in _BY_TAG:
        raise Malformed(f"there is no type with tag {kind}")
    return _BY_TAG[kind]


def read_struct(reader: Reader, depth: int = 0) -> StructTag:
    address = reader.take(32)
    module, name = identifier(reader.text(MAX_NAME)), identifier(reader.text(MAX_NAME))
    arguments = reader.vector(lambda: read_type(reader, depth + 1), MAX_ARGUMENTS)
    return StructTag(address, module, name, arguments)


def type_text(tag: TypeTag) -> str:
    return f"vector<{type_text(tag.item)}>" if isinstance(tag, VectorTag) else str(tag)


_TOKEN: Final = re.compile(r"\s*(0x[0-9a-fA-F]{1,64}|[a-zA-Z_][a-zA-Z0-9_]{0,254}|::|<|>|,)")


def parse_type(value: str) -> TypeTag:
    """From text. Raises Malformed."""
    if len(value) > 4096:
        raise Malformed("the name of a type is too long")
    tokens: list[str] = []
    at, value = 0, value.strip()
    while at < len(value):
        match = _TOKEN.match(value, at)
        if match is None:
            raise Malformed(f"not a type: {value[:60]!r}")
        tokens.append(match.group(1))
        at = match.end()
    tokens.reverse()
    tag = _parse(tokens, 0)
    if tokens:
        raise Malformed(f"not a type: {value[:60]!r}")
    return tag


def parse_struct(value: str) -> StructTag:
    tag = parse_type(value)
    if not isinstance(tag, StructTag):
        raise Malformed(f"not a struct: {value[:60]!r}")
    return tag


def _next(tokens: list[str], wanted: str | None = None) -> str:
    if not tokens or (wanted is not None and tokens[-1] != wanted):
        raise Malformed("the name of a type ends too early, or has something else in its place")
    return tokens.pop()


def _parse(tokens: list[str], depth: int) -> TypeTag:
    if depth > MAX_DEPTH:
        raise Malformed("a type is nested too deeply")
    first = _next(tokens)
    if first in PRIMITIVES:
        return first
    if first == "vector":
        _next(tokens, "<")
        item = _parse(tokens, depth + 1)
        _next(tokens, ">")
        return VectorTag(item)
    if not first.startswith("0x"):
        raise Malformed(f"not a type: {first!r}")
    _next(tokens, "::")
    module = identifier(_next(tokens))
    _next(tokens, "::")
    name = identifier(_next(tokens))
    arguments: list[TypeTag] = []
    if tokens and tokens[-1] == "<":
        _next(tokens)
        while True:
            arguments.append(_parse(tokens, depth + 1))
            if _next(tokens) == ">":
                break
    return StructTag(parse_address(first), module, name, tuple(arguments))
