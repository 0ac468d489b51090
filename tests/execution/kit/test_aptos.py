"""The kit on the execution ``aptos``, with the executors that run in the node's own process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from nacl.signing import SigningKey

from nodewright.interfaces import FINAL, Execution
from nodewright.testing.execution import GENESIS_TIME, ExecutionKit, ExecutionTests, Sample
from nodewright.testing.execution_blocks import BlockTests
from nodewright.testing.execution_random import RandomTests
from nodewright_aptos import bcs, plugin
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.config import AptosConfig
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    decode_transaction,
    signed_transaction,
    signing_message,
)

APT = 10**8
OWNERS = [SigningKey(hashlib.sha256(b"owner %d" % purse).digest()) for purse in range(12)]
SHOP = authentication_key(bytes(SigningKey(bytes(32)).verify_key), ED25519)
AMOUNTS = (1000, 2000)  # of the two variants
ACCOUNTS = [{"public_key": bytes(key.verify_key).hex(), "balance": 5 * APT, "mint": False} for key in OWNERS]
DOCUMENT = {"time": GENESIS_TIME - 100, "execution": {"accounts": ACCOUNTS}}


def address(key: SigningKey) -> bytes:
    return authentication_key(bytes(key.verify_key), ED25519)


def payment(purse: int, number: int, amount: int, signer: SigningKey) -> Sample:
    payload = EntryFunction.of(ONE, "aptos_account", "transfer", (), (SHOP, bcs.u64(amount)))
    raw = RawTransaction(
        sender=address(OWNERS[purse]),
        sequence_number=number,
        payload=payload,
        max_gas=10_000,
        gas_price=100,
        expires_at=GENESIS_TIME + 10_000,
        chain_id=4,
    )
    signature = signer.sign(signing_message(raw.encode())).signature
    made = decode_transaction(signed_transaction(raw, ed25519_authenticator(bytes(OWNERS[purse].verify_key), signature)))
    return Sample(made.id, made.raw)


class AptosPayments(ExecutionKit):
    (spec,) = plugin.register_execution()
    genesis = DOCUMENT

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        return [payment(purse, number, AMOUNTS[variant], OWNERS[purse]) for number in range(length)]

    def invalid(self, purse: int) -> Sample:
        return payment(purse, 0, 1, OWNERS[purse - 1])

    async def state(self, execution: Execution) -> Any:
        accounts = [SHOP, *map(address, OWNERS)]
        return [await execution.query(FINAL, "balance", address=one) for one in accounts]


class TestSequential(AptosPayments, ExecutionTests):
    config = AptosConfig(kernels="off")


class TestColumnar(AptosPayments, BlockTests, RandomTests):
    """What runs blocks differs, and nothing else."""

    config = AptosConfig(executor="columnar", kernels="off")
    examples = 4
