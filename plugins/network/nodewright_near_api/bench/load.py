"""What the benchmark sends: accounts of a genesis, and transfers of one yocto between them, signed beforehand.

Who sends and who receives is drawn by the law of Zipf and Mandelbrot: account i with a weight of 1 / (i + 1 + SHIFT). Keys,
draws and nonces follow from the seed alone; the nonces of a key rise one by one in the order of sending.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from typing import Any, Final

from attrs import define, field, frozen
from nacl.signing import SigningKey

from nodewright_near.primitives import ED25519, key_text
from nodewright_near.transactions import SignedTransaction, Transaction, Transfer

SHIFT: Final = 2.7
BALANCE: Final = 10**27
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@define(slots=False)
class Account:
    """One of the genesis, with one key."""

    seed: int
    number: int
    nonce: int = 0

    @cached_property
    def name(self) -> str:
        """Two letters in front that spread the accounts evenly over shards, which are ranges of names."""
        digest = sha256(f"nodewright bench near {self.seed} {self.number}".encode()).digest()
        first, second = divmod(int.from_bytes(digest[:8], "big") % 36**2, 36)
        return f"{_LETTERS[first]}{_LETTERS[second]}{self.number}.bench"

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey(sha256(f"nodewright bench near key {self.seed} {self.number}".encode()).digest())

    @cached_property
    def public(self) -> bytes:
        return bytes([ED25519]) + bytes(self.key.verify_key)

    def record(self) -> dict[str, Any]:
        return {"id": self.name, "amount": str(BALANCE), "keys": [key_text(self.public)]}


@frozen
class Sent:
    sender: int
    signed: SignedTransaction


@define
class Transfers:
    accounts: list[Account]
    seed: int
    _drawn: random.Random = field(init=False)
    _weights: list[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._drawn = random.Random(self.seed)
        self._weights = list(accumulate(1 / (place + 1 + SHIFT) for place in range(len(self.accounts))))

    def sign(self, count: int, block_hash: bytes, progress: Callable[[int], None]) -> Iterator[Sent]:
        numbers = range(len(self.accounts))
        for done in range(count):
            source, target = self._drawn.choices(numbers, cum_weights=self._weights, k=2)
            if source == target:
                target = (target + 1) % len(self.accounts)
            sender = self.accounts[source]
            sender.nonce += 1
            transaction = Transaction(
                sender.name, sender.public, sender.nonce, self.accounts[target].name, block_hash, (Transfer(1),)
            )
            signature = bytes([ED25519]) + sender.key.sign(transaction.hash()).signature
            yield Sent(source, SignedTransaction.of(transaction, signature))
            if (done + 1) % 1000 == 0 or done + 1 == count:
                progress(done + 1)
