"""The kit on the execution ``near``: two shards, with every commit synced, and as the settings are by default."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from nacl.signing import SigningKey

from nodewright.interfaces import FINAL, Execution, Outcome
from nodewright.testing.execution import GENESIS, ExecutionKit, ExecutionTests, Sample
from nodewright.testing.execution_faults import FaultTests
from nodewright.testing.execution_random import RandomTests
from nodewright_near import plugin
from nodewright_near.borsh import encode
from nodewright_near.config import NearConfig
from nodewright_near.primitives import key_text
from nodewright_near.transactions import SignedTransaction, Transaction, Transfer

NEAR = 10**24
NAMES = [("ada%d", "zoe%d")[purse % 2] % purse for purse in range(12)]
SHOP = "shop"  # of the second shard
KEYS = [SigningKey(hashlib.sha256(name.encode()).digest()) for name in NAMES]
AMOUNTS = (NEAR, 2 * NEAR)  # of the two variants


def public(key: SigningKey) -> bytes:
    return b"\0" + key.verify_key.encode()


ACCOUNTS = [
    {"id": name, "amount": 1000 * NEAR, "keys": [key_text(public(key))]} for name, key in zip(NAMES, KEYS, strict=True)
]
DOCUMENT = {
    "execution": {
        "accounts": [*ACCOUNTS, {"id": SHOP, "amount": NEAR, "keys": [key_text(public(KEYS[0]))]}],
        "boundary_accounts": ["mm"],
    }
}


def payment(purse: int, nonce: int, amount: int, signer: SigningKey) -> Sample:
    transaction = Transaction(NAMES[purse], public(KEYS[purse]), nonce, SHOP, GENESIS.id, (Transfer(amount),))
    made = SignedTransaction.of(transaction, b"\0" + signer.sign(transaction.hash()).signature)
    return Sample(made.id, made.raw, purse % 2)


class NearPayments(ExecutionKit):
    (spec,) = plugin.register_execution()
    genesis = DOCUMENT
    shards = 2
    waits = False  # a nonce may be passed over

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        return [payment(purse, number + 1, AMOUNTS[variant], KEYS[purse]) for number in range(length)]

    def invalid(self, purse: int) -> Sample:
        return payment(purse, 1, 1, KEYS[purse - 1])

    async def state(self, execution: Execution) -> Any:
        extras = [await execution.query(FINAL, "extra", shard=shard) for shard in range(self.shards)]
        return [extra.state_root for extra in extras]

    def state_detail(self, outcome: Outcome) -> bytes:
        return encode(outcome.detail["extra"])


class TestSynced(NearPayments, ExecutionTests):
    config = NearConfig(kernels="off", sync_mib=0)


class TestAsItComes(NearPayments, FaultTests, RandomTests):
    """Commits are synced now and then, trie nodes held back: what a power cut takes differs, and nothing else."""

    config = NearConfig(kernels="off")
    late_sync = True
    examples = 4
    cuts = 4
