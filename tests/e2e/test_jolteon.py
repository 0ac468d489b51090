"""``jolteon × bitcoin`` from its example file: four processes order payments by votes; one is killed, it comes back. The
packages of Aptos's family cannot be imported there, as if they were not installed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.network import LOCAL
from nodewright_bitcoin.signing import p2pkh_script
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, spend
from nodewright_bsv_api.client import BsvClient, RpcFailure

EXAMPLE = Path(__file__).parents[2] / "examples" / "jolteon-bitcoin.toml"
ADDRESS = "mrCDrCybB6J1vRfbwM5hemdJz73FwDBC8r"
PATIENCE_SECONDS = 120.0
NODES = 4
WITHOUT = """
import sys

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("nodewright_aptos"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone())
"""


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)


def txid(raw: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(raw).digest()).digest()


class First(Key):
    """The key that the example's genesis pays."""

    def __init__(self) -> None:
        self.private = PrivateKey((1).to_bytes(32, "big"))
        self.public = self.private.public_key.format()
        self.script = p2pkh_script(self.public)


class Member:
    def __init__(self, number: int, folder: Path, peers: list[str]) -> None:
        self.process = NodeProcess(
            str(EXAMPLE),
            folder / f"node{number}",
            {
                "services.bsv_api.listen": "127.0.0.1:0",
                "transport.listen": "127.0.0.1:0",
                "transport.peers": json.dumps(peers),
                "consensus.local_validators": str(NODES),
                "consensus.local_validator": str(number),
            },
            environment={**os.environ, "PYTHONPATH": str(folder / "without")},
        )
        self.process.start()
        self.client = BsvClient(self.process.service("bsv_api"), self.process.data_dir / ".cookie")

    def end(self) -> None:
        self.client.close()
        self.process.kill()

    @property
    def height(self) -> int:
        return int(self.client.rpc("getblockcount"))

    def post(self, *raws: bytes) -> None:
        status, text = self.client.post_txs(b"".join(raws))
        assert status == 200, text

    def mined(self, raws: list[bytes]) -> bool:
        try:
            found = [self.client.rpc("getrawtransaction", txid(raw)[::-1].hex(), True) for raw in raws]
        except RpcFailure:
            return False
        return all(one.get("confirmations", 0) > 0 for one in found)


@pytest.fixture
def members(tmp_path: Path) -> Iterator[tuple[list[Member], Callable[[int], Member]]]:
    found: list[Member] = []
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)

    def start(number: int) -> Member:
        peers = [str(member.process.info["transport"]) for member in found if member.process.alive()]
        found.append(Member(number, tmp_path, peers))
        return found[-1]

    try:
        for number in range(NODES):
            start(number)
        yield found, start
    finally:
        for member in found:
            member.end()


def test_four_processes_order_payments_by_votes(members: tuple[list[Member], Callable[[int], Member]]) -> None:
    nodes, start = members
    given: Any = coinbase.allocation({"allocations": [{"satoshis": 10**11, "address": ADDRESS}]}, LOCAL)
    raw, coins = fan_out(Coin(given.txid + bytes(4), 10**11, First()), [Key(5, at) for at in range(60)], 100_000)
    nodes[0].post(raw)
    sent = [raw]
    until(lambda: all(node.mined(sent) for node in nodes), "the first payment on every node")

    def pay(alive: list[Member], part: list[Coin]) -> None:
        for at, coin in enumerate(part):
            payment = spend(coin, [(coin.satoshis - 200, Key(6, at).script)])
            alive[at % len(alive)].post(payment)
            sent.append(payment)

    pay(nodes, coins[:20])
    until(lambda: all(node.mined(sent) for node in nodes), "payments on every node")
    dead = nodes.pop(2)
    dead.end()
    pay(nodes, coins[20:40])
    until(lambda: all(node.mined(sent) for node in nodes), "payments without the killed node")
    before = min(node.height for node in nodes)
    until(lambda: min(node.height for node in nodes) > before + 3, "blocks without the killed node")
    back = start(2)
    pay([back], coins[40:60])
    until(lambda: all(node.mined(sent) for node in nodes), "the killed node's return, with payments of its own")
    height = min(node.height for node in nodes)
    assert len({node.client.rpc("getblockhash", height) for node in nodes}) == 1
    assert back.process.stop() == 0
