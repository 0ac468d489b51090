"""Binary Canonical Serialization: bounded reading, byte-exact writing. No format of Aptos lives here.

Invariants: a reader accepts exactly what a writer writes: no trailing byte (``finish``), no second form of a value (ULEB128
is minimal and at most 32 bits, flags and options are 0 or 1, text is UTF-8). A count is compared with its bound and with
the bytes that are left before anything is allocated for it. Everything else raises ``Malformed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
MAX_LENGTH: Final = (1 << 31) - 1
MAX_BLOB: Final = 8 * 1024 * 1024


class Malformed(ValueError):
    """The bytes are not what they are taken for."""


class Reader:
    """A position in bytes. Nothing is read past the end."""

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

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def u128(self) -> int:
        return int.from_bytes(self.take(16), "little")

    def u256(self) -> int:
        return int.from_bytes(self.take(32), "little")

    def flag(self) -> bool:
        byte = self.u8()
        if byte > 1:
            raise Malformed(f"a flag is 0 or 1, not {byte}")
        return byte == 1

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

    def blob(self, limit: int = MAX_BLOB) -> bytes:
        return self.take(self.length(limit))

    def exactly(self, size: int) -> bytes:
        """A blob whose length is ``size``."""
        if self.uleb() != size:
            raise Malformed(f"a value of {size} bytes has another length")
        return self.take(size)

    def text(self, limit: int = 65536) -> str:
        try:
            return self.blob(limit).decode()
        except UnicodeDecodeError as error:
            raise Malformed("text is not UTF-8") from error

    def option(self, read: Callable[[], T]) -> T | None:
        return read() if self.flag() else None

    def vector(self, read: Callable[[], T], limit: int, floor: int = 1) -> tuple[T, ...]:
        return tuple([read() for _ in range(self.length(limit, floor))])

    def finish(self) -> None:
        if self.at != self.end:
            raise Malformed(f"{self.end - self.at} bytes too many")


def whole(data: bytes, read: Callable[[Reader], T]) -> T:
    """All of ``data``, read by ``read``."""
    reader = Reader(data)
    value = read(reader)
    reader.finish()
    return value


# --- writing ---------------------------------------------------------------------------------------------------------


def _uint(size: int) -> Callable[[int], bytes]:
    def write(value: int) -> bytes:
        try:
            return value.to_bytes(size, "little")
        except OverflowError as error:
            raise Malformed(f"{value} is no unsigned number of {8 * size} bits") from error

    return write


u8 = _uint(1)
u16 = _uint(2)
u32 = _uint(4)
u64 = _uint(8)
u128 = _uint(16)
u256 = _uint(32)

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


def text(value: str) -> bytes:
    return blob(value.encode())


def vector(items: Iterable[bytes]) -> bytes:
    """A sequence of values that are written already."""
    written = list(items)
    return uleb(len(written)) + b"".join(written)


def option(value: bytes | None) -> bytes:
    """A value that is written already, or none."""
    return b"\0" if value is None else b"\1" + value
