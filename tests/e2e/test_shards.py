"""Nodes whose blocks are executed by shards, here and behind ``nodewright shard``: what a node without any makes of them is
the same, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from nacl.signing import SigningKey

from nodewright.bench.node import NodeProcess
from nodewright_aptos import bcs
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    decode_transaction,
    signed_transaction,
    signing_message,
)

APTOS = {"services.aptos_api.listen": "127.0.0.1:0", "services.faucet.listen": "127.0.0.1:0"}
BCS = {"Content-Type": "application/x.aptos.signed_transaction+bcs"}
SHARDED = {
    "execution.executor": "sharded",
    "execution.executor_options.least": "1",
    "execution.executor_options.micro_batch": "3",
    "execution.executor_options.partitioner": "round-robin",
    "execution.executor_options.wait_seconds": "600",
}
SENDERS = 6
PATIENCE_SECONDS = 300.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)
    return found


class Person:
    def __init__(self, number: int) -> None:
        self.key = SigningKey(hashlib.sha256(b"sender %d" % number).digest())
        self.public = bytes(self.key.verify_key)
        self.address = authentication_key(self.public, ED25519)
        self.number = 0

    def pay(self, recipient: bytes, amount: int) -> bytes:
        payload = EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, bcs.u64(amount)))
        raw = RawTransaction(self.address, self.number, payload, 2000, 100, int(time.time()) + 600, 4)
        self.number += 1
        signature = self.key.sign(signing_message(raw.encode())).signature
        return signed_transaction(raw, ed25519_authenticator(self.public, signature))


PEOPLE = [Person(number) for number in range(SENDERS)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, folder: Path, **settings: str) -> NodeProcess:
    node = NodeProcess("aptos", folder, APTOS | settings)
    stack.callback(node.kill)
    node.start()
    return node


def url(node: NodeProcess) -> str:
    return f"{node.service('aptos_api')}/v1"


def transaction(node: NodeProcess, where: str) -> Any:
    """None where the node has not got it yet."""
    answer = httpx.get(f"{url(node)}/transactions/{where}", timeout=60)
    return None if answer.status_code != 200 or answer.json()["type"] == "pending_transaction" else answer.json()


def payments(node: NodeProcess) -> None:
    """Everybody pays everybody, in one call: executed when this returns."""
    raws = [person.pay(other.address, 1000) for other in PEOPLE for person in PEOPLE]
    with httpx.Client(timeout=60) as client:
        body = bcs.vector(raws)
        client.post(f"{url(node)}/transactions/batch", content=body, headers=BCS).raise_for_status()
        for raw in raws[-SENDERS:]:
            where = f"by_hash/0x{decode_transaction(raw).id.hex()}"
            told = until(lambda where=where: transaction(node, where), "a payment")  # type: ignore[misc]
            assert told["success"]


def last_of_block(node: NodeProcess) -> Any:
    """What the ledger says of the transaction that ends the newest block: it has the state's root."""
    version = httpx.get(url(node), timeout=60).json()["ledger_version"]
    block = httpx.get(f"{url(node)}/blocks/by_version/{version}", timeout=60).json()
    return transaction(node, f"by_version/{block['last_version']}")


def children(process: int) -> list[int]:
    """Those that run ``nodewright_aptos.shards``."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            if b"nodewright_aptos.shards" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def test_a_node_of_shards_and_one_without_end_on_one_root(stack: ExitStack, tmp_path: Path) -> None:
    validator = started(stack, tmp_path / "validator", **SHARDED)
    follows = {"consensus.local_validator": "-1", "transport.peers": json.dumps([validator.info["transport"]])}
    for person in PEOPLE:
        query = {"address": person.address.hex(), "amount": str(10**9)}
        httpx.post(f"{validator.service('faucet')}/mint", params=query, timeout=60).raise_for_status()
    payments(validator)
    first = children(validator.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    payments(validator)
    back = until(lambda: len(now := children(validator.pid)) == 2 and now != first and now, "the shard that was killed")
    payments(validator)
    expected = last_of_block(validator)
    assert expected["state_checkpoint_hash"] is not None
    follower = started(stack, tmp_path / "follower", **follows)
    told = until(lambda: transaction(follower, f"by_version/{expected['version']}"), "the follower")
    assert told == expected
    assert validator.stop() == 0
    log = validator.log.read_text()
    used = json.loads(next(line for line in log.splitlines() if "blocks were run by executor shards" in line))
    assert used["in_parts"] >= 3 * SENDERS * SENDERS and used["messages"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*first, *back))
