"""A sharded network of four processes: transfers across shards, one killed, the others go on, it comes back."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from nodewright.bench.node import NodeProcess

pytest.importorskip("wasmtime")

from nodewright_near.accounts import AccessKey
from nodewright_near.genesis import shard_of
from nodewright_near.primitives import key_text, parse_hash
from nodewright_near.transactions import Action, AddKey, CreateAccount, SignedTransaction, Transaction, Transfer
from nodewright_nightshade.local import boundaries
from nodewright_nightshade.sampling import Validator, assign_chunk_producers

PATIENCE_SECONDS = 180.0
NEAR = 10**24
ROOT = SigningKey(b"sandbox".ljust(32))
NODES, SHARDS = 4, 4


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.2)


class Member:
    """One node of the network, and calls to it."""

    def __init__(self, number: int, folder: Path, peers: list[str], track: str) -> None:
        validators = [Validator(f"validator{at}", b"", 1) for at in range(NODES)]
        members = assign_chunk_producers(validators, SHARDS)
        self.kept = [shard for shard in range(SHARDS) if track == "all" or number in members[shard]]
        self.process = NodeProcess(
            "near",
            folder / f"node{number}",
            {
                "services.near_api.listen": "127.0.0.1:0",
                "transport.listen": "127.0.0.1:0",
                "transport.peers": json.dumps(peers),
                "consensus.local_validators": str(NODES),
                "consensus.local_validator": str(number),
                "consensus.shards": str(SHARDS),
                "consensus.track": track,
                "execution.kept": json.dumps(self.kept),
            },
        )
        self.process.start()

    @property
    def address(self) -> str:
        return str(self.process.info["transport"])

    def call(self, method: str, params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": "x", "method": method, "params": params}).encode()
        request = urllib.request.Request(self.process.service("near_api"), body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.loads(reply.read())
        assert "error" not in answer, answer
        return answer["result"]

    @property
    def final(self) -> int:
        return int(self.call("block", {"finality": "final"})["header"]["height"])

    def hash_at(self, height: int) -> str:
        return str(self.call("block", {"block_id": height})["header"]["hash"])

    def balance(self, account: str) -> int:
        found = self.call("query", {"request_type": "view_account", "finality": "final", "account_id": account})
        return int(found["amount"])

    def send(self, account: Account, receiver: str, *actions: Action) -> SignedTransaction:
        account.nonce += 1
        block = parse_hash(self.call("block", {"finality": "final"})["header"]["hash"])
        transaction = Transaction(account.name, account.public, account.nonce, receiver, block, actions)
        signed = SignedTransaction.of(transaction, b"\0" + account.key.sign(transaction.hash()).signature)
        self.call("broadcast_tx_async", [base64.b64encode(signed.raw).decode()])
        return signed

    def nonce(self, account: Account) -> int:
        key = key_text(account.public)
        params = {"request_type": "view_access_key", "finality": "final", "account_id": account.name, "public_key": key}
        return int(self.call("query", params)["nonce"])


class Account:
    def __init__(self, name: str, key: SigningKey) -> None:
        self.name, self.key, self.nonce = name, key, 0
        self.public = b"\0" + bytes(key.verify_key)


@pytest.fixture
def network(tmp_path: Path, track: str) -> Iterator[tuple[list[Member], Path]]:
    members: list[Member] = []
    try:
        for number in range(NODES):
            members.append(Member(number, tmp_path, [one.address for one in members], track))
        yield members, tmp_path
    finally:
        for member in members:
            member.process.kill()


@pytest.mark.parametrize("track", [pytest.param(one, marks=pytest.mark.long) for one in ("all", "assigned")])
def test_four_shards_on_four_processes(network: tuple[list[Member], Path], track: str) -> None:
    """With the state of all shards everywhere, and with two shards' on each node, the others checked from witnesses."""
    members, folder = network
    root = Account("sandbox", ROOT)
    root.nonce = keeper(members, root.name).nonce(root)
    until(lambda: min(member.final for member in members) > 2, "the first final blocks")
    names = ["3m.sandbox", "bob.sandbox", "kim.sandbox", "zoe.sandbox"]
    assert [shard(name) for name in names] == [0, 1, 2, 3]
    accounts = [Account(name, SigningKey(sha256(name.encode()).digest())) for name in names]
    for account in accounts:
        actions = (CreateAccount(), Transfer(1000 * NEAR), AddKey(account.public, AccessKey(0)))
        members[0].send(root, account.name, *actions)
    due = dict.fromkeys(names, 1000 * NEAR)
    until(lambda: all(_has(keeper(members, name), name) for name in names), "the accounts")
    for account in accounts:
        account.nonce = keeper(members, account.name).nonce(account)
    fees = dict.fromkeys(names, 0)
    fee = 2 * 223_182_562_500 * 10**8

    def trade(alive: list[Member], amount: int) -> None:
        """Everybody to everybody, each posting at a node of its own."""
        for at, source in enumerate(accounts):
            for target in accounts:
                if target is not source:
                    alive[at % len(alive)].send(source, target.name, Transfer(amount))
                    due[source.name] -= amount
                    due[target.name] += amount
                    fees[source.name] += fee

    def settled(member: Member) -> bool:
        return all(member.balance(name) == due[name] - fees[name] for name in names if shard(name) in member.kept)

    trade(members, NEAR)
    until(lambda: all(settled(member) for member in members), "the first transfers, everywhere")

    lost = members.pop(2)
    lost.process.kill()
    before = max(member.final for member in members)
    trade(members, 2 * NEAR)
    until(lambda: all(settled(member) for member in members), "the transfers without the killed node")
    until(lambda: min(member.final for member in members) > before + 3, "finality without the killed node")

    back = Member(2, folder, [member.address for member in members], track)
    members.append(back)
    until(lambda: back.final > before + 3 and settled(back), "the killed node's return")
    trade(members, 3 * NEAR)
    until(lambda: all(settled(member) for member in members), "the last transfers, everywhere")
    height = min(member.final for member in members)
    held = next(one for one in range(height, 0, -1) if _block(members[0], one))
    assert len({member.hash_at(held) for member in members}) == 1


def shard(account: str) -> int:
    return shard_of(account, boundaries(SHARDS))


def keeper(members: list[Member], account: str) -> Member:
    return next(member for member in members if shard(account) in member.kept)


def _has(member: Member, name: str) -> bool:
    try:
        return member.balance(name) > 0
    except AssertionError:
        return False


def _block(member: Member, height: int) -> bool:
    try:
        return bool(member.hash_at(height))
    except AssertionError:
        return False
