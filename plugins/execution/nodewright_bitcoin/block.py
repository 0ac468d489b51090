"""Block headers, whole blocks as the peer-to-peer network carries them, Merkle roots and proof of work.

Does not live here: subtrees and which chain is best (the consensus plugin's).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from attrs import define, field, frozen

from nodewright_bitcoin.encoding import ParseError, read_compact_size, sha256d, write_compact_size
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES, Transaction, parse_many

HEADER_BYTES: Final = 80
MAX_TARGET: Final = (1 << 256) - 1

_HEADER = Struct("<i32s32sIII")


@frozen
class BlockHeader:
    """80 bytes. Hashes in wire order; ``time`` in seconds since 1970; ``bits`` is the compact target."""

    version: int
    previous: bytes
    merkle_root: bytes
    time: int
    bits: int
    nonce: int

    @classmethod
    def parse(cls, raw: bytes) -> BlockHeader:
        if len(raw) != HEADER_BYTES:
            raise ParseError(f"a block header has {HEADER_BYTES} bytes, not {len(raw)}", min(len(raw), HEADER_BYTES))
        return cls(*_HEADER.unpack(raw))

    def serialize(self) -> bytes:
        return _HEADER.pack(self.version, self.previous, self.merkle_root, self.time, self.bits, self.nonce)

    @property
    def hash(self) -> bytes:
        return sha256d(self.serialize())


@define
class Block:
    header: BlockHeader
    transactions: Sequence[Transaction] = field(factory=list)

    @classmethod
    def parse(cls, raw: bytes, max_transaction_bytes: int = MAX_TRANSACTION_BYTES) -> Block:
        """Header, CompactSize count, transactions, and nothing after. ParseError otherwise."""
        header = BlockHeader.parse(raw[:HEADER_BYTES])
        count, offset = read_compact_size(raw, HEADER_BYTES)
        try:
            transactions = parse_many(raw[offset:], limit=count, max_bytes=max_transaction_bytes)
        except ParseError as error:
            raise ParseError(error.reason, error.offset + offset) from error
        if len(transactions) != count:
            raise ParseError(f"{count} transactions announced, {len(transactions)} found", len(raw))
        return cls(header, transactions)

    def serialize(self) -> bytes:
        head = (self.header.serialize(), write_compact_size(len(self.transactions)))
        return b"".join((*head, *[tx.raw for tx in self.transactions]))


def merkle_root(leaves: Sequence[bytes]) -> tuple[bytes, bool]:
    """``(root, doubled)`` of 32-byte leaves, the last one paired with itself where a level is odd; 32 zeros for none.

    ``doubled`` is True where two equal neighbours were hashed together: a different list of leaves has the same root
    (CVE-2012-2459), so a block with it must be refused and not remembered as invalid."""
    if not leaves:
        return bytes(32), False
    level = list(leaves)
    doubled = False
    while len(level) > 1:
        pairs = range(0, len(level) - 1, 2)
        doubled = doubled or any(level[i] == level[i + 1] for i in pairs)
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0], doubled


def target_of_bits(bits: int) -> int | None:
    """The number that a block's hash must not exceed; None where the compact form is negative, zero or above 256 bits."""
    exponent, mantissa = bits >> 24, bits & 0x007FFFFF
    if bits & 0x00800000 or not mantissa:
        return None
    target = mantissa << 8 * (exponent - 3) if exponent > 3 else mantissa >> 8 * (3 - exponent)
    return target if 0 < target <= MAX_TARGET else None


def bits_of_target(target: int) -> int:
    """The compact form, which keeps the highest 23 bits."""
    if not 0 < target <= MAX_TARGET:
        raise ValueError("a target is between 1 and 2**256 - 1")
    size = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if mantissa & 0x00800000:
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def work_of_bits(bits: int) -> int:
    """Expected hashes for one block; 0 where the bits are no target."""
    target = target_of_bits(bits)
    return (1 << 256) // (target + 1) if target else 0


def has_proof_of_work(header: BlockHeader, pow_limit_bits: int) -> bool:
    """The target is a valid one, not easier than the chain's easiest, and met."""
    target, limit = target_of_bits(header.bits), target_of_bits(pow_limit_bits)
    if target is None or limit is None or target > limit:
        return False
    return int.from_bytes(header.hash, "little") <= target
