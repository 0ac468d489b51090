"""The 80-byte block header: hash, compact target, work, nonce search.

Nothing here knows a chain: see ``chainindex`` for the tree and ``difficulty`` for which target is due.
"""

from __future__ import annotations

import hashlib

from attrs import frozen

from nodewright_nakamoto.compact import MalformedError

HEADER_BYTES = 80
ZERO_ID = bytes(32)
MAX_TARGET = (1 << 256) - 1


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


@frozen
class Header:
    """version4 ‖ previous32 ‖ merkle32 ‖ time4 ‖ bits4 ‖ nonce4, all little-endian."""

    version: int
    previous: bytes
    merkle_root: bytes
    time: int
    bits: int
    nonce: int

    def encode(self) -> bytes:
        return b"".join(
            (
                (self.version & 0xFFFF_FFFF).to_bytes(4, "little"),
                self.previous,
                self.merkle_root,
                self.time.to_bytes(4, "little"),
                self.bits.to_bytes(4, "little"),
                self.nonce.to_bytes(4, "little"),
            )
        )

    @property
    def id(self) -> bytes:
        return sha256d(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Header:
        if len(data) != HEADER_BYTES:
            raise MalformedError(f"a header has 80 bytes, not {len(data)}")
        return cls(
            int.from_bytes(data[0:4], "little"),
            bytes(data[4:36]),
            bytes(data[36:68]),
            int.from_bytes(data[68:72], "little"),
            int.from_bytes(data[72:76], "little"),
            int.from_bytes(data[76:80], "little"),
        )


def target_of(bits: int) -> int:
    """The target of a compact form; 0 where it is negative, zero or over 256 bits (such a header can meet nothing)."""
    exponent, mantissa = bits >> 24, bits & 0x7FFFFF
    if bits & 0x800000:
        return 0
    target = mantissa >> (8 * (3 - exponent)) if exponent <= 3 else mantissa << (8 * (exponent - 3))
    return target if target <= MAX_TARGET else 0


def bits_of(target: int) -> int:
    """The compact form, rounded down to its 23 bits of precision. ``target`` is 1 to 2**256 - 1."""
    size = (target.bit_length() + 7) // 8
    mantissa = target << (8 * (3 - size)) if size <= 3 else target >> (8 * (size - 3))
    if mantissa & 0x800000:  # the sign bit of the compact form: one more byte of exponent keeps it clear
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def work_of(bits: int) -> int:
    """Expected number of hashes to meet the target: 2**256 / (target + 1). 0 for an impossible target."""
    target = target_of(bits)
    return (1 << 256) // (target + 1) if target else 0


def meets_target(id: bytes, bits: int) -> bool:
    target = target_of(bits)
    return target > 0 and int.from_bytes(id, "little") <= target


def search_nonce(header: bytes, bits: int, start: int, count: int) -> int | None:
    """The first nonce of ``start .. start + count - 1`` that meets the target, or None. CPU-bound: offload it."""
    target = target_of(bits)
    if not target:
        return None
    middle = hashlib.sha256(header[:64])
    tail = header[64:76]
    for nonce in range(start, min(start + count, 1 << 32)):
        inner = middle.copy()
        inner.update(tail + nonce.to_bytes(4, "little"))
        if int.from_bytes(hashlib.sha256(inner.digest()).digest(), "little") <= target:
            return nonce
    return None
