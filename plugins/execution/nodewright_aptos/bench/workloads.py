"""The transactions of the benchmark, reproducible from a seed: accounts with 32-byte addresses, blocks in order.

- ``non-conflicting``: every transaction of a block touches one account, and no two the same: sequence number, balance, the
  supply's delta, one event (``calls.TOUCH``).
- ``conflicting``: users in clusters, each cluster with a few resources that its users pay to. A user's transactions are
  log-normal in number; all but one in a thousand go to a resource of the user's own cluster, chosen uniformly; the whole
  block is shuffled. Resources are accounts that receive.
- ``transfers``: payments between uniformly chosen accounts.

``Workload.block`` gives columns; ``transactions`` the same block as the objects that executors of single transactions take.
Numbers per block are drawn before the block is timed. Nothing is signed: a key that nobody has stands in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha3_256
from typing import Any, Final

import numpy as np
from attrs import define, field

from nodewright_aptos import gas
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import CURVE_ED25519, AccountAuthenticator
from nodewright_aptos.columnar import layout
from nodewright_aptos.columnar.calls import FUNCTION_GAS, TOUCH_KEY
from nodewright_aptos.columnar.ledger import Columns
from nodewright_aptos.transactions import (
    SIGNED_ED25519,
    EntryFunction,
    RawTransaction,
    UserTransaction,
    function_key,
    signed_transaction,
)

NAMES: Final = ("non-conflicting", "conflicting", "transfers")
CHAIN_ID: Final = 4
SECONDS: Final = 1_700_000_000
BALANCE: Final = 10**12
MAX_GAS: Final = 2000
PRICE: Final = gas.MIN_GAS_PRICE
_TRANSFER: Final = function_key(ONE, "aptos_account", "transfer")

Array = Any


@define
class Sizes:
    """Of a workload. ``conflicting`` has ``users`` and the accounts of its clusters in place of ``accounts``."""

    block: int = 500_000
    accounts: int = 2_000_000
    users: int = 100_000
    clusters: int = 400
    resources: int = 5
    cluster_users: tuple[float, float] = (250.0, 12.5)  # mean and deviation of a normal distribution
    most_of_a_user: int = 50
    mean_of_a_user: float = 5.0
    inside: float = 0.999


@define
class Workload:
    """``addresses`` (accounts, 32) u8, ``keys`` the public key of each (the same for every access), ``numbers`` the next
    sequence number of each."""

    name: str
    sizes: Sizes
    addresses: Array
    keys: Array
    numbers: Array
    random: Any
    clusters: Array = field(default=None)  # of each user; resources follow the users

    def block(self) -> tuple[Columns, Array, Array]:
        """The next block, and by number the senders and recipients (-1: none) of its transactions."""
        if self.name == "non-conflicting":
            senders = self.random.permutation(len(self.addresses))[: self.sizes.block]
            return self._columns(layout.TOUCH, senders, np.full(len(senders), -1), 0)
        if self.name == "transfers":
            chosen = self.random.integers(0, len(self.addresses), (2, self.sizes.block))
            return self._columns(layout.PAY, chosen[0], chosen[1], 1)
        return self._columns(layout.PAY, *self._conflicting(), 1)

    def _conflicting(self) -> tuple[Array, Array]:
        sizes, random = self.sizes, self.random
        users = len(self.clusters)
        sigma = 1.0
        counts = random.lognormal(np.log(sizes.mean_of_a_user) - sigma**2 / 2, sigma, users)
        counts = np.clip(np.rint(counts), 1, sizes.most_of_a_user).astype(np.int64)
        senders = np.repeat(np.arange(users), counts)
        random.shuffle(senders)
        while len(senders) < sizes.block:
            senders = np.concatenate((senders, random.permutation(senders)))
        senders = senders[: sizes.block]
        clusters = self.clusters[senders]
        outside = random.random(len(senders)) >= sizes.inside
        clusters[outside] = random.integers(0, sizes.clusters, int(outside.sum()))
        return senders, users + clusters * sizes.resources + random.integers(0, sizes.resources, len(senders))

    def _columns(self, kind: int, senders: Array, recipients: Array, amount: int) -> tuple[Columns, Array, Array]:
        count = len(senders)
        table = np.zeros((count, layout.TX), np.uint64)
        table[:, layout.X_KIND] = kind
        table[:, layout.X_SEQUENCE] = self.numbers[senders] + _occurrences(senders)
        table[:, layout.X_AMOUNT] = amount
        table[:, layout.X_MAX_GAS] = MAX_GAS
        table[:, layout.X_PRICE] = PRICE
        table[:, layout.X_EXPIRES] = SECONDS + 60
        one = self._transaction(int(senders[0]), int(recipients[0]), 0, amount)  # all are of one size
        table[:, layout.X_LEAST] = gas.intrinsic(len(one.raw))
        table[:, layout.X_GAS] = FUNCTION_GAS[kind]
        table[:, layout.X_KEY] = layout.GOOD_KEY
        np.add.at(self.numbers, senders, np.uint64(1))
        receivers = None if kind == layout.TOUCH else np.ascontiguousarray(self.addresses[recipients])
        return Columns(np.ascontiguousarray(self.addresses[senders]), receivers, table, SECONDS), senders, recipients

    def transactions(self, block: tuple[Columns, Array, Array]) -> list[UserTransaction]:
        """The same block, one object each."""
        columns, senders, recipients = block
        numbers = columns.table[:, layout.X_SEQUENCE].tolist()
        return [
            self._transaction(int(sender), int(recipient), number, int(amount))
            for sender, recipient, number, amount in zip(
                senders, recipients, numbers, columns.table[:, layout.X_AMOUNT].tolist(), strict=True
            )
        ]

    def _transaction(self, sender: int, recipient: int, number: int, amount: int) -> UserTransaction:
        payload = EntryFunction(TOUCH_KEY, (), ())
        if recipient >= 0:
            payload = EntryFunction(_TRANSFER, (), (self.addresses[recipient].tobytes(), amount.to_bytes(8, "little")))
        key = self.keys[sender].tobytes()
        signer = AccountAuthenticator(ED25519, key, ((CURVE_ED25519, key),), ((0, bytes(64)),))
        address = self.addresses[sender].tobytes()
        unsigned = RawTransaction(address, number, payload, MAX_GAS, PRICE, SECONDS + 60, CHAIN_ID)
        raw = signed_transaction(unsigned, signer)
        return UserTransaction(
            raw,
            sha3_256(raw).digest(),
            len(unsigned.encode()),
            address,
            number,
            payload,
            MAX_GAS,
            PRICE,
            SECONDS + 60,
            CHAIN_ID,
            SIGNED_ED25519,
            signer,
        )


def _occurrences(values: Array) -> Array:
    """How often each value stood before in its array."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.concatenate((starts, [len(values)])))
    ranks = np.empty(len(values), np.uint64)
    ranks[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return ranks


def make(name: str, sizes: Sizes, seed: int) -> Workload:
    random = np.random.default_rng(seed)
    clusters = None
    accounts = sizes.accounts
    if name == "conflicting":
        clusters = _clusters(sizes, random)
        accounts = len(clusters) + sizes.clusters * sizes.resources
    keys = np.frombuffer(random.bytes(32 * accounts), np.uint8).reshape(accounts, 32)
    return Workload(name, sizes, _addresses(keys), keys, np.zeros(accounts, np.uint64), random, clusters)


def _clusters(sizes: Sizes, random: Any) -> Array:
    """The cluster of each user. Cluster sizes are drawn, then the last is cut or filled up to the number of users."""
    mean, deviation = sizes.cluster_users
    mean, deviation = (figure * sizes.users / (250.0 * 400) * 400 / sizes.clusters for figure in (mean, deviation))
    drawn = np.clip(np.rint(random.normal(mean, deviation, sizes.clusters)), 1, None).astype(np.int64)
    members = np.repeat(np.arange(sizes.clusters), drawn)[: sizes.users]
    rest = random.integers(0, sizes.clusters, sizes.users - len(members))
    return np.concatenate((members, rest))


def _addresses(keys: Array) -> Array:
    """Addresses as Ed25519 keys have them: SHA3-256 of the key and its scheme."""
    from nodewright.kernels.compiled.sha3 import sha3_ranges

    assert authentication_key(keys[0].tobytes(), ED25519) == sha3_256(keys[0].tobytes() + b"\0").digest()
    messages = np.zeros((len(keys), 33), np.uint8)
    messages[:, :32] = keys
    starts = np.arange(len(keys), dtype=np.int64) * 33
    out = np.empty((len(keys), 32), np.uint8)
    sha3_ranges(messages.reshape(-1), starts, starts + 33, np.zeros(0, np.uint8), out)
    return out


def explain(name: str, sizes: Sizes) -> Sequence[str]:
    """What a reader of the figures must know of the transactions."""
    if name == "non-conflicting":
        return (f"{sizes.block:,} transactions a block, each of another of {sizes.accounts:,} accounts",)
    if name == "transfers":
        return (f"{sizes.block:,} payments a block between {sizes.accounts:,} accounts, uniformly chosen",)
    return (
        f"{sizes.block:,} payments a block of {sizes.users:,} users to {sizes.clusters} clusters of "
        f"{sizes.resources} accounts, {sizes.inside:.1%} within the user's cluster",
    )
