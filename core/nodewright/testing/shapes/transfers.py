"""Bytes of a transfer between accounts: sender key 32 ‖ nonce u64 ‖ recipient key 32 ‖ amount u64 ‖ signature 64 over what
precedes it. Its id is SHA-256 of all of it."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from attrs import frozen

from nodewright.testing.shapes.codec import Malformed, Reader, u64
from nodewright.testing.shapes.keys import Key, verify

TRANSFER_BYTES = 144
LIMIT = 1 << 62


@frozen
class Transfer:
    id: bytes
    raw: bytes
    sender: bytes
    nonce: int
    recipient: bytes
    amount: int

    @property
    def signed(self) -> bool:
        return verify(self.sender, self.raw[:80], self.raw[80:])


@frozen
class Account:
    """``nonce`` is that of the next transfer."""

    nonce: int = 0
    balance: int = 0

    def encode(self) -> bytes:
        return u64(self.nonce) + u64(self.balance)

    @classmethod
    def decode(cls, row: bytes) -> Account:
        return cls(int.from_bytes(row[:8], "big"), int.from_bytes(row[8:16], "big"))


@frozen
class Refusal:
    """``retry`` when an earlier nonce may still come."""

    code: str
    message: str
    retry: bool = False


def check(tx: Transfer, sender: Account) -> Refusal | None:
    """Whether the sender's account lets it run now."""
    if tx.nonce < sender.nonce:
        return Refusal("nonce-used", f"nonce {tx.nonce} was used; the next is {sender.nonce}")
    if tx.nonce > sender.nonce:
        return Refusal("nonce-gap", f"nonce {tx.nonce} is ahead of {sender.nonce}", retry=True)
    if tx.amount > sender.balance:
        return Refusal("balance", f"it sends {tx.amount} out of {sender.balance}")
    return None


def transfer(sender: Key, nonce: int, recipient: bytes, amount: int) -> Transfer:
    body = sender.public + u64(nonce) + recipient + u64(amount)
    return parse(body + sender.sign(body))


@lru_cache(maxsize=1 << 14)
def parse(raw: bytes) -> Transfer:
    """Raises Malformed. The signature is not checked here."""
    if len(raw) != TRANSFER_BYTES:
        raise Malformed(f"a transfer has {TRANSFER_BYTES} bytes, not {len(raw)}")
    reader = Reader(raw)
    sender, nonce, recipient, amount = reader.take(32), reader.u64(), reader.take(32), reader.u64()
    if amount >= LIMIT or nonce >= LIMIT:
        raise Malformed("a number is out of range")
    return Transfer(sha256(raw).digest(), raw, sender, nonce, recipient, amount)
