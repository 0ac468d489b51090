"""A contract's code made ready: its memory becomes an imported one of fixed bounds, and custom sections go.

Only the frame of the binary is read here (sections, imports, limits); whether the code is valid is the compiler's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from nodewright_near.parameters import Limits

MAGIC: Final = b"\0asm\x01\0\0\0"
_CUSTOM, _IMPORT, _FUNCTIONS, _TABLES, _MEMORY, _CODE = 0, 2, 3, 4, 5, 10
_FUNCTION_KIND, _TABLE_KIND, _MEMORY_KIND, _GLOBAL_KIND = 0, 1, 2, 3
MAX_IMPORTS: Final = 10_000


class NotWasm(ValueError):
    """The bytes are no module that a contract may be. ``name`` is NEAR's for it."""

    def __init__(self, reason: str, name: str = "Deserialization") -> None:
        super().__init__(reason)
        self.name = name


@frozen
class Prepared:
    """A module for the compiler, and how many functions it defines."""

    code: bytes
    functions: int


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise NotWasm("the module ends in the middle of a section")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """LEB128, at most 32 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                if value >> 32:
                    break
                return value
        raise NotWasm("a number in the module is too long")

    def name(self) -> bytes:
        return self.take(self.number())


def _number(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _limits(source: _Bytes) -> bytes:
    start = source.at
    flags = source.take(1)[0]
    if flags > 1:
        raise NotWasm("shared and 64-bit memories are not allowed")
    source.number()
    if flags & 1:
        source.number()
    return source.data[start : source.at]


def _imports(body: bytes) -> list[bytes]:
    """Each import but that of a memory, as it stands."""
    source = _Bytes(body)
    count = source.number()
    if count > MAX_IMPORTS:
        raise NotWasm(f"{count} imports are too many")
    found = []
    for _ in range(count):
        start = source.at
        source.name()
        source.name()
        kind = source.take(1)[0]
        if kind == _FUNCTION_KIND:
            source.number()
        elif kind == _TABLE_KIND:
            source.take(1)
            _limits(source)
        elif kind == _MEMORY_KIND:
            _limits(source)
            continue
        elif kind == _GLOBAL_KIND:
            source.take(2)
        else:
            raise NotWasm(f"there is no import of kind {kind}")
        found.append(body[start : source.at])
    return found


def _locals(body: bytes, most: int) -> None:
    """Of the section with the functions' code: no more variables of their own than that, all together."""
    source, total = _Bytes(body), 0
    for _ in range(source.number()):
        size = source.number()
        end = source.at + size
        for _ in range(source.number()):
            total += source.number()
            source.take(1)
            if total > most or source.at > end:
                raise NotWasm(f"functions have more than {most} variables of their own", "TooManyLocals")
        source.take(end - source.at)


def _tables(body: bytes, limits: Limits) -> None:
    source = _Bytes(body)
    count = source.number()
    if count > limits.max_tables:
        raise NotWasm(f"{count} tables are too many", "TooManyTables")
    for _ in range(count):
        source.take(1)
        table = _Bytes(_limits(source))
        table.take(1)
        if table.number() > limits.max_table_elements:
            raise NotWasm("a table has too many elements", "TooManyTableElements")
    if source.at != len(body):
        raise NotWasm("a table is of no kind that contracts have")


def _functions(sections: Sequence[tuple[int, bytes]], limits: Limits) -> int:
    """How many it defines. What takes the compiler long is bounded here: its time follows from these, not from gas."""
    functions = 0
    for kind, body in sections:
        if kind == _FUNCTIONS:
            functions = _Bytes(body).number()
            if functions > limits.max_functions:
                raise NotWasm(f"{functions} functions are too many", "TooManyFunctions")
        elif kind == _TABLES:
            _tables(body, limits)
        elif kind == _CODE:
            _locals(body, limits.max_locals)
    return functions


def prepare(code: bytes, limits: Limits) -> Prepared:
    """The module with memory ``env.memory`` of the protocol's bounds. Raises NotWasm."""
    if code[:8] != MAGIC:
        raise NotWasm("the code is not WebAssembly")
    source = _Bytes(code)
    source.take(8)
    memory = b"\x03env\x06memory\x02\x01" + _number(limits.initial_memory_pages) + _number(limits.max_memory_pages)
    sections: list[tuple[int, bytes]] = []
    imports: list[bytes] = []
    while source.at < len(code):
        kind = source.take(1)[0]
        body = source.take(source.number())
        if kind == _IMPORT:
            imports = _imports(body)
        elif kind not in (_CUSTOM, _MEMORY):
            sections.append((kind, body))
    functions = _functions(sections, limits)
    # Memory comes first: it is the only one, so that no index of functions, tables or globals moves.
    section = _number(1 + len(imports)) + memory + b"".join(imports)
    place = 1 if sections and sections[0][0] == 1 else 0
    sections.insert(place, (_IMPORT, section))
    whole = MAGIC + b"".join(bytes([kind]) + _number(len(body)) + body for kind, body in sections)
    return Prepared(whole, functions)
