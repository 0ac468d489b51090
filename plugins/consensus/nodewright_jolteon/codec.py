"""Bounded binary encoding of everything that validators say and sign: that of ``nodewright.codec``, as in BCS.

Invariant: a ``Reader`` believes no length before it has compared it with what is there and with the limit that its caller
names; bytes from outside raise ``Malformed`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha3_256
from typing import TypeVar

from nodewright import codec
from nodewright.codec import CompactReader, Malformed, blob, u8, u32, u64, uleb
from nodewright.interfaces.common import BlockRef

T = TypeVar("T")

SIGNATURE_BYTES = 64
NO_HASH = bytes(32)

__all__ = [
    "NO_HASH",
    "SIGNATURE_BYTES",
    "Malformed",
    "Reader",
    "blob",
    "digest",
    "option",
    "ref",
    "u8",
    "u32",
    "u64",
    "uleb",
    "vector",
    "whole",
]


def digest(tag: str, *parts: bytes) -> bytes:
    """SHA3-256 over a tag of this protocol and the parts, each behind its length: no two lists of parts hash alike."""
    hasher = sha3_256(blob(b"nodewright jolteon " + tag.encode()))
    for part in parts:
        hasher.update(blob(part))
    return hasher.digest()


def vector(items: Iterable[T], encode: Callable[[T], bytes]) -> bytes:
    return codec.vector(map(encode, items))


def option(item: T | None, encode: Callable[[T], bytes]) -> bytes:
    return b"\0" if item is None else b"\1" + encode(item)


def ref(value: BlockRef) -> bytes:
    return u64(value.height) + value.id


class Reader(CompactReader):
    __slots__ = ()

    def hash(self) -> bytes:
        return self.take(32)

    def ref(self) -> BlockRef:
        height = self.u64()
        return BlockRef(height, self.take(32))


def whole(raw: bytes, read: Callable[[Reader], T]) -> T:
    """All of ``raw``, read by ``read``."""
    data = Reader(raw)
    found = read(data)
    data.finish()
    return found
