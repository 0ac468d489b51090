"""Integers and lengths as Bitcoin puts them on the wire, and the one exception a parser of outside bytes may raise.

Lives here: CompactSize, ``ParseError``, double SHA-256, RIPEMD-160 (with an implementation of our own for an OpenSSL
built without it). Does not live here: transactions (``transaction``), script numbers (``script.numbers``).

A CompactSize is 1, 3, 5 or 9 bytes: a value below 0xFD is itself; 0xFD, 0xFE and 0xFF announce 2, 4 and 8
little-endian bytes. Only the shortest form of a value is accepted (as every node does since 2012).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from struct import Struct

from nodewright.errors import NodewrightError

UINT16 = Struct("<H")
UINT32 = Struct("<I")
UINT64 = Struct("<Q")
INT32 = Struct("<i")
INT64 = Struct("<q")

MAX_COMPACT_SIZE = 0xFFFFFFFFFFFFFFFF


class ParseError(NodewrightError):
    """Bytes from outside that are not what they should be. ``offset`` is where reading stopped."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.reason = message
        self.offset = offset


def read_compact_size(raw: bytes, offset: int, limit: int = MAX_COMPACT_SIZE) -> tuple[int, int]:
    """The value at ``offset`` and the offset after it. ParseError where it is cut short, longer than its value needs, or
    above ``limit``."""
    if offset >= len(raw):
        raise ParseError("a length is missing", offset)
    value = raw[offset]
    after = offset + 1
    if value >= 0xFD:
        if value == 0xFD:
            after, least, form = offset + 3, 0xFD, UINT16
        elif value == 0xFE:
            after, least, form = offset + 5, 0x10000, UINT32
        else:
            after, least, form = offset + 9, 0x100000000, UINT64
        if after > len(raw):
            raise ParseError("a length is cut short", offset)
        (value,) = form.unpack_from(raw, offset + 1)
        if value < least:
            raise ParseError("a length is not in its shortest form", offset)
    if value > limit:
        raise ParseError(f"a length of {value} is above the limit of {limit}", offset)
    return value, after


def write_compact_size(value: int) -> bytes:
    """The shortest form. ValueError outside 0 … 2**64 - 1."""
    if 0 <= value < 0xFD:
        return bytes((value,))
    if 0 <= value <= 0xFFFF:
        return b"\xfd" + UINT16.pack(value)
    if 0 <= value <= 0xFFFFFFFF:
        return b"\xfe" + UINT32.pack(value)
    if 0 <= value <= MAX_COMPACT_SIZE:
        return b"\xff" + UINT64.pack(value)
    raise ValueError(f"{value} does not fit a CompactSize")


def sha256d(data: bytes) -> bytes:
    """SHA-256 of SHA-256: txids, block hashes, signature digests, Merkle nodes."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _choose_ripemd160() -> Callable[[bytes], bytes]:
    try:
        hashlib.new("ripemd160", b"", usedforsecurity=False)
    except ValueError:  # OpenSSL 3 without its legacy provider
        from nodewright_bitcoin.ripemd160 import ripemd160 as own

        return own
    return lambda data: hashlib.new("ripemd160", data, usedforsecurity=False).digest()


ripemd160: Callable[[bytes], bytes] = _choose_ripemd160()


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256: what addresses are made of."""
    return ripemd160(hashlib.sha256(data).digest())
