"""What the benchmark sends: transfers of one yocto between the generated accounts of a genesis, signed beforehand.

Who sends and who receives is drawn by the law of Zipf and Mandelbrot: the account of rank r with a weight of
1 / (r + 1 + SHIFT). Names rise with numbers and shards are ranges of names, so ranks are dealt out over the numbers, or
one shard would get all that is frequent. Draws and nonces follow from the seed alone; the nonces of a key rise one by one
in the order of sending.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from itertools import accumulate
from math import gcd
from typing import Any, Final

from attrs import define, field, frozen
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from nodewright_near.generated import Generated
from nodewright_near.primitives import hash256

SHIFT: Final = 2.7
BALANCE: Final = 10**27
SUFFIX: Final = "bench"
_GOLDEN: Final = 0.6180339887
_KEYS_AT_HAND: Final = 100_000
# One action, a transfer, of one yoctoNEAR.
_ONE_YOCTO: Final = (1).to_bytes(4, "little") + b"\x03" + (1).to_bytes(16, "little")


def section(count: int, seed: int) -> dict[str, Any]:
    """What the genesis says of the accounts (``execution.generated_accounts``)."""
    return {"count": count, "seed": str(seed), "amount": str(BALANCE), "suffix": SUFFIX}


@frozen
class Signed:
    """``sender``: the number of its account, of which this is transfer ``nonce``."""

    sender: int
    raw: bytes


@define
class Transfers:
    accounts: Generated
    seed: int
    _drawn: random.Random = field(init=False)
    _weights: array[float] = field(init=False)
    _step: int = field(init=False)
    _nonces: dict[int, int] = field(factory=dict)
    _keys: dict[int, tuple[bytes, bytes]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._drawn = random.Random(self.seed)
        count = self.accounts.count
        self._weights = array("d", accumulate(1 / (rank + 1 + SHIFT) for rank in range(count)))
        self._step = next(step for step in range(max(1, int(count * _GOLDEN)), 2 * count + 1) if gcd(step, count) == 1)

    def number(self, rank: int) -> int:
        """Of the account of that rank (0 the most frequent): each once."""
        return rank * self._step % self.accounts.count

    def draws(self, count: int) -> Iterator[tuple[int, int]]:
        """The numbers of sender and receiver, never the same."""
        ranks = range(self.accounts.count)
        for _ in range(count):
            source, target = self._drawn.choices(ranks, cum_weights=self._weights, k=2)
            if source == target:
                target = (target + 1) % self.accounts.count
            yield self.number(source), self.number(target)

    def sign(self, count: int, block_hash: bytes, part: int = 0, parts: int = 1) -> Iterator[Signed | None]:
        """One for each draw: None for those of senders that another part sends (number modulo ``parts``)."""
        for source, target in self.draws(count):
            if source % parts != part:
                yield None
                continue
            self._nonces[source] = nonce = self._nonces.get(source, 0) + 1
            public, secret = self._key(source)
            signer, receiver = self.accounts.name(source).encode(), self.accounts.name(target).encode()
            body = b"".join(
                (
                    len(signer).to_bytes(4, "little"),
                    signer,
                    b"\0",
                    public,
                    nonce.to_bytes(8, "little"),
                    len(receiver).to_bytes(4, "little"),
                    receiver,
                    block_hash,
                    _ONE_YOCTO,
                )
            )
            yield Signed(source, body + b"\0" + crypto_sign(hash256(body), secret)[:64])

    def _key(self, number: int) -> tuple[bytes, bytes]:
        found = self._keys.get(number)
        if found is None:
            if len(self._keys) >= _KEYS_AT_HAND:
                self._keys.clear()
            found = self._keys[number] = crypto_sign_seed_keypair(self.accounts.key_seed(number))
        return found
