"""Bytes of a coin transaction: spends (txid 32 ‖ index u8 each), payments (key 32 ‖ amount u64 each), then a 64-byte
signature per spend over everything before them; one without spends (a block's prologue) carries its height instead."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from attrs import frozen

from nodewright.testing.shapes.codec import Malformed, Reader, u8, u64, vector
from nodewright.testing.shapes.keys import Key, verify

MAX_INPUTS = 64
MAX_OUTPUTS = 64
MAX_TRANSACTION_BYTES = 16 * 1024
LIMIT = 1 << 62


@frozen
class Payment:
    owner: bytes
    amount: int

    def encode(self) -> bytes:
        return self.owner + u64(self.amount)


@frozen
class Coin:
    """An output as stored: the spender's id once spent."""

    owner: bytes
    amount: int
    spender: bytes | None = None

    def encode(self) -> bytes:
        return self.owner + u64(self.amount) + (self.spender or b"")

    def unspent(self) -> Coin:
        return Coin(self.owner, self.amount)

    @classmethod
    def decode(cls, row: bytes) -> Coin:
        return cls(row[:32], int.from_bytes(row[32:40], "big"), row[40:] or None)


@frozen
class CoinTransaction:
    id: bytes
    raw: bytes
    spends: tuple[bytes, ...]
    pays: tuple[Payment, ...]
    signatures: tuple[bytes, ...]
    body: bytes
    height: int = 0

    @property
    def paid(self) -> int:
        return sum(payment.amount for payment in self.pays)

    def outpoint(self, index: int) -> bytes:
        return self.id + u8(index)

    def signed_by(self, index: int, owner: bytes) -> bool:
        return verify(owner, self.body, self.signatures[index])


def _body(spends: Sequence[bytes], pays: Sequence[Payment]) -> bytes:
    return vector(spends, lambda outpoint: outpoint) + vector(pays, Payment.encode)


def transfer(spends: Sequence[tuple[bytes, Key]], pays: Sequence[tuple[bytes, int]]) -> CoinTransaction:
    """Signed: ``spends`` are (outpoint, its owner's key)."""
    body = _body([outpoint for outpoint, _ in spends], [Payment(owner, amount) for owner, amount in pays])
    return parse(body + b"".join(key.sign(body) for _, key in spends))


def mint(height: int, pays: Sequence[Payment]) -> CoinTransaction:
    return parse(_body((), pays) + u64(height))


@lru_cache(maxsize=1 << 14)
def parse(raw: bytes) -> CoinTransaction:
    """Raises Malformed."""
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise Malformed(f"a transaction has at most {MAX_TRANSACTION_BYTES} bytes")
    reader = Reader(raw)
    spends = reader.vector(lambda: reader.take(33), MAX_INPUTS)
    pays = reader.vector(lambda: Payment(reader.take(32), reader.u64()), MAX_OUTPUTS)
    body = _body(spends, pays)
    signatures = tuple(reader.take(64) for _ in spends)
    height = reader.u64() if not spends else 0
    reader.finish()
    if not pays:
        raise Malformed("a transaction pays somebody")
    if any(not 0 < payment.amount < LIMIT for payment in pays):
        raise Malformed("an amount is out of range")
    if len(set(spends)) != len(spends):
        raise Malformed("it spends an output twice")
    return CoinTransaction(sha256(raw).digest(), raw, spends, pays, signatures, body, height)
