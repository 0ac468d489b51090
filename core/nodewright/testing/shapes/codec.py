"""Bounded binary encoding for the small chains: integers big-endian, byte strings with a u32 length in front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeVar

from nodewright import codec
from nodewright.codec import Malformed
from nodewright.interfaces import BlockRef

T = TypeVar("T")

MAX_BLOB = 1 << 20
MAX_COUNT = 1 << 14

__all__ = ["MAX_BLOB", "MAX_COUNT", "Malformed", "Reader", "blob", "digest", "ref", "u8", "u32", "u64", "vector"]


def digest(tag: bytes, *parts: bytes) -> bytes:
    """SHA-256 over a tag and the parts, each with its length, so that no two lists of parts hash alike."""
    hasher = sha256(u8(len(tag)) + tag)
    for part in parts:
        hasher.update(u32(len(part)) + part)
    return hasher.digest()


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def blob(value: bytes) -> bytes:
    return u32(len(value)) + value


def vector(items: Sequence[T], encode: Callable[[T], bytes]) -> bytes:
    return u32(len(items)) + b"".join(map(encode, items))


def ref(value: BlockRef) -> bytes:
    return u64(value.height) + value.id


class Reader(codec.Reader):
    """Reads what the functions above wrote. Every length is checked before it is believed; raises Malformed."""

    __slots__ = ()

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def blob(self, maximum: int = MAX_BLOB) -> bytes:
        size = self.u32()
        if size > maximum:
            raise Malformed(f"{size} bytes are more than the {maximum} allowed here")
        return self.take(size)

    def vector(self, decode: Callable[[], T], maximum: int = MAX_COUNT) -> tuple[T, ...]:
        count = self.u32()
        if count > maximum:
            raise Malformed(f"{count} items are more than the {maximum} allowed here")
        return tuple(decode() for _ in range(count))

    def hash(self) -> bytes:
        return self.take(32)

    def ref(self) -> BlockRef:
        height = self.u64()
        return BlockRef(height, self.take(32))
