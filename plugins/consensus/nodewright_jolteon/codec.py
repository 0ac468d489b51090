"""Bounded binary encoding of everything that validators say and sign: little-endian integers, ULEB128 lengths (as in BCS).

Invariant: a ``Reader`` believes no length before it has compared it with what is there and with the limit that its caller
names; bytes from outside raise ``Malformed`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha3_256
from typing import TypeVar

from nodewright.interfaces.common import BlockRef

T = TypeVar("T")

SIGNATURE_BYTES = 64
MAX_LENGTH_BYTES = 5
NO_HASH = bytes(32)


class Malformed(ValueError):
    """Bytes from outside that are not what they should be."""


def digest(tag: str, *parts: bytes) -> bytes:
    """SHA3-256 over a tag of this protocol and the parts, each behind its length: no two lists of parts hash alike."""
    hasher = sha3_256(blob(b"nodewright jolteon " + tag.encode()))
    for part in parts:
        hasher.update(blob(part))
    return hasher.digest()


def uleb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def blob(value: bytes) -> bytes:
    return uleb(len(value)) + value


def vector(items: Sequence[T], encode: Callable[[T], bytes]) -> bytes:
    return uleb(len(items)) + b"".join(map(encode, items))


def option(item: T | None, encode: Callable[[T], bytes]) -> bytes:
    return b"\0" if item is None else b"\1" + encode(item)


def ref(value: BlockRef) -> bytes:
    return u64(value.height) + value.id


class Reader:
    """Reads what the functions above wrote."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Malformed("the data ends early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def length(self, maximum: int) -> int:
        value = 0
        for place in range(MAX_LENGTH_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if place and not byte:
                    raise Malformed("a length has more digits than it needs")
                if value > maximum:
                    raise Malformed(f"{value} is more than the {maximum} allowed here")
                return value
        raise Malformed("a length has too many digits")

    def flag(self) -> bool:
        value = self.u8()
        if value > 1:
            raise Malformed("a flag is 0 or 1")
        return value == 1

    def blob(self, maximum: int) -> bytes:
        return self.take(self.length(maximum))

    def vector(self, decode: Callable[[], T], maximum: int) -> tuple[T, ...]:
        return tuple(decode() for _ in range(self.length(maximum)))

    def option(self, decode: Callable[[], T]) -> T | None:
        return decode() if self.flag() else None

    def hash(self) -> bytes:
        return self.take(32)

    def ref(self) -> BlockRef:
        height = self.u64()
        return BlockRef(height, self.take(32))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes are left over")
