"""Binary Canonical Serialization: bounded reading, byte-exact writing. No format of Aptos lives here.

Its numbers and lengths are those of ``nodewright.codec``, whose invariants hold here; text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from nodewright.codec import CompactReader, Malformed, blob, flag, u8, u16, u32, u64, uint, uleb, vector

T = TypeVar("T")
MAX_BLOB: Final = 8 * 1024 * 1024

__all__ = [
    "MAX_BLOB",
    "Malformed",
    "Reader",
    "blob",
    "flag",
    "option",
    "text",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "u256",
    "uleb",
    "vector",
    "whole",
]


class Reader(CompactReader):
    __slots__ = ()

    def u128(self) -> int:
        return int.from_bytes(self.take(16), "little")

    def u256(self) -> int:
        return int.from_bytes(self.take(32), "little")

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


def whole(data: bytes, read: Callable[[Reader], T]) -> T:
    """All of ``data``, read by ``read``."""
    reader = Reader(data)
    value = read(reader)
    reader.finish()
    return value


u128 = uint(16)
u256 = uint(32)


def text(value: str) -> bytes:
    return blob(value.encode())


def option(value: bytes | None) -> bytes:
    """A value that is written already, or none."""
    return b"\0" if value is None else b"\1" + value
