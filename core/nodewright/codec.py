"""Bounded reading of bytes from outside, for codecs to build on: BCS, Borsh, what validators say to each other.

``Reader`` is a position in bytes and knows no format. ``CompactReader``, and the functions for writing, are the numbers and
lengths of BCS, which a plugin's own messages may use as well: little-endian integers, and ULEB128 lengths in their shortest
form, at most 32 bits.

Invariants: nothing is read past the end. A count is compared with the bound that the caller names, and with the bytes that
are left, before anything is allocated for it. A value has one form. Everything else raises ``Malformed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")


class Malformed(ValueError):
    """The bytes are not what they are taken for, or the value has no such form. The message is a clause that says why."""


class Reader:
    """A position in bytes. A format's own reader adds its integers and lengths."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.end = len(data)

    def take(self, count: int) -> bytes:
        at = self.at
        stop = at + count
        if stop > self.end:
            raise Malformed(f"{count} bytes wanted, {self.end - at} left")
        self.at = stop
        return self.data[at:stop]

    def u8(self) -> int:
        at = self.at
        if at >= self.end:
            raise Malformed("1 byte wanted, 0 left")
        self.at = at + 1
        return self.data[at]

    def flag(self) -> bool:
        byte = self.u8()
        if byte > 1:
            raise Malformed(f"a flag is 0 or 1, not {byte}")
        return byte == 1

    def option(self, read: Callable[[], T]) -> T | None:
        """What ``read`` reads behind a flag of 1."""
        return read() if self.flag() else None

    def rest(self) -> bytes:
        return self.take(self.end - self.at)

    def finish(self) -> None:
        """Raises Malformed where bytes are left."""
        if self.at != self.end:
            raise Malformed(f"{self.end - self.at} bytes too many")


class CompactReader(Reader):
    """Reads what the functions below write."""

    __slots__ = ()

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def uleb(self) -> int:
        byte = self.u8()
        if byte < 0x80:
            return byte
        value, shift = byte & 0x7F, 7
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                raise Malformed("a ULEB128 number has more than 32 bits")
        if not byte or value >> 32:
            raise Malformed("a ULEB128 number is not in its shortest form, or has more than 32 bits")
        return value

    def length(self, limit: int, floor: int = 1) -> int:
        """A count of items of at least ``floor`` bytes each, at most ``limit``."""
        count = self.uleb()
        if count > limit:
            raise Malformed(f"{count} items where {limit} are allowed")
        if count * floor > self.end - self.at:
            raise Malformed(f"{count} items announced, {self.end - self.at} bytes left")
        return count

    def blob(self, limit: int) -> bytes:
        return self.take(self.length(limit))

    def vector(self, read: Callable[[], T], limit: int, floor: int = 1) -> tuple[T, ...]:
        return tuple([read() for _ in range(self.length(limit, floor))])


# --- writing ---------------------------------------------------------------------------------------------------------


def uint(size: int) -> Callable[[int], bytes]:
    """What writes unsigned numbers of ``size`` bytes."""

    def write(value: int) -> bytes:
        try:
            return value.to_bytes(size, "little")
        except OverflowError as error:
            raise Malformed(f"{value} is no unsigned number of {8 * size} bits") from error

    return write


u8 = uint(1)
u16 = uint(2)
u32 = uint(4)
u64 = uint(8)

_SMALL: Final = tuple(bytes([value]) for value in range(0x80))


def uleb(value: int) -> bytes:
    if 0 <= value < 0x80:
        return _SMALL[value]
    if not 0 <= value < 1 << 32:
        raise Malformed(f"{value} is no length")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def flag(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def blob(value: bytes) -> bytes:
    return uleb(len(value)) + value


def vector(items: Iterable[bytes]) -> bytes:
    """A sequence of values that are written already."""
    written = list(items)
    return uleb(len(written)) + b"".join(written)
