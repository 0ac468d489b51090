"""Two mining processes, parted with ``setban`` and let together again: one chain, nothing lost, nothing mined twice."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.bench.wallet import Coin, Key, spend
from nodewright_bsv_api.client import BsvClient

COINS = 60
PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)


def pay(coin: Coin, key: Key, fee: int = 120) -> tuple[bytes, Coin]:
    """A transaction of one coin to one key, and the coin that it makes."""
    raw = spend(coin, [(coin.satoshis - fee, key.script)])
    return raw, Coin(id_of(raw) + bytes(4), coin.satoshis - fee, key)


def id_of(raw: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(raw).digest()).digest()


class Side:
    """One node with what it has accepted."""

    def __init__(self, process: NodeProcess, client: BsvClient, address: str) -> None:
        self.process = process
        self.client = client
        self.address = address
        self.key = str(process.info["node_id"])
        self.accepted: list[bytes] = []

    def post(self, *raws: bytes) -> None:
        status, text = self.client.post_txs(b"".join(raws))
        assert status == 200, text
        self.accepted += raws

    def mine(self, count: int = 1) -> None:
        self.client.rpc("generatetoaddress", count, self.address)

    @property
    def tip(self) -> str:
        return str(self.client.rpc("getbestblockhash"))

    @property
    def peers(self) -> list[Any]:
        found: list[Any] = self.client.rpc("getpeerinfo")
        return found

    def pending(self) -> int:
        return int(self.client.rpc("getmininginfo")["pooledtx"])


Sides = tuple[Side, Side]


@pytest.fixture
def sides(
    node: Callable[..., NodeProcess], client_of: Callable[[NodeProcess], BsvClient], wallet_of: Callable[..., Any]
) -> tuple[Sides, list[Coin]]:
    """Two connected nodes with one tip, and mined coins that nobody has spent."""
    alpha = node("alpha")
    wallet = wallet_of(alpha)
    coins = wallet.coins(COINS)
    peer = alpha.info["transport"].removeprefix("tcp://")
    beta = node("beta", **{"transport.peers": f'["{peer}"]'})
    pair = Side(alpha, wallet.client, wallet.address), Side(beta, client_of(beta), wallet.address)
    until(lambda: pair[0].tip == pair[1].tip, "the second node's catch-up")
    return pair, coins


def part(sides: Sides) -> None:
    for side, other in (sides, sides[::-1]):
        side.client.rpc("setban", other.key, "add", 3600)
    until(lambda: not any(side.peers for side in sides), "the parting")
    for side, other in (sides, sides[::-1]):
        assert [one["nodekey"] for one in side.client.rpc("listbanned")] == [other.key]


def rest(sides: Sides) -> None:
    """One tip, nothing pending: the first mines what is left."""
    until(lambda: sides[0].tip == sides[1].tip, "one tip")
    for _ in range(20):
        if not any(side.pending() for side in sides):
            return
        until(lambda: sides[0].pending() >= sides[1].pending(), "relay of what is pending")
        sides[0].mine()
        until(lambda: sides[0].tip == sides[1].tip, "one tip")
    raise AssertionError(f"still pending: {[side.pending() for side in sides]}")


def chain(client: BsvClient) -> tuple[set[str], dict[bytes, str]]:
    """Every transaction id of the chain, each to be there once; and who spent each outpoint."""
    mined: set[str] = set()
    spenders: dict[bytes, str] = {}
    for block in client.rpc_many("getblockbyheight", range(1, client.rpc("getblockcount") + 1)):
        assert not mined.intersection(block["tx"]), "a transaction is mined twice"
        mined.update(block["tx"])
        for txid, raw in zip(block["tx"], client.rpc_many("getrawtransaction", block["tx"]), strict=True):
            for item in Transaction.parse(bytes.fromhex(raw)).inputs:
                assert item.outpoint not in spenders or item.outpoint[:32] == bytes(32), "an output is spent twice"
                spenders[item.outpoint] = txid
    return mined, spenders


def account(sides: Sides) -> tuple[int, int]:
    """How many of the accepted are in a block, and how many gave way to another; nothing else may have become of them."""
    ours, theirs = (side.client.rpc("gettxoutsetinfo") for side in sides)
    assert ours == theirs
    mined, spenders = chain(sides[0].client)
    assert chain(sides[1].client)[0] == mined
    names = {raw: id_of(raw)[::-1].hex() for side in sides for raw in side.accepted}
    gone = {raw for raw, name in names.items() if name not in mined}
    lost_ids = {id_of(raw) for raw in gone}
    for raw in gone:
        spent = [item.outpoint for item in Transaction.parse(raw).inputs]
        assert any(point in spenders or point[:32] in lost_ids for point in spent), f"{names[raw]} is lost"
    for side in sides:
        for raw in side.accepted:
            status = side.client.get_json(f"/v1/tx/{names[raw]}")["txStatus"]
            wanted = {"MINED"} if raw not in gone else {"REJECTED", "DOUBLE_SPEND_ATTEMPTED"}
            assert status in wanted, f"{side.process.data_dir.name}: {names[raw]} is {status}"
    return len(names) - len(gone), len(gone)


@pytest.mark.parametrize("end", [pytest.param("remove", marks=pytest.mark.long), "clear"])
def test_parted_and_healed(sides: tuple[Sides, list[Coin]], end: str, budget: int) -> None:
    pair, coins = sides
    dice = random.Random(5)
    keys = [Key(99, number) for number in range(8)]
    for round_ in range(1, min(budget, COINS // 17) + 1):
        both, contested = [coins.pop() for _ in range(3)], [coins.pop() for _ in range(4)]
        known, children = zip(*[pay(coin, keys[0]) for coin in both], strict=True)
        pair[0].post(*known)
        until(lambda: pair[1].pending() == pair[0].pending(), "relay")
        part(pair)
        for number, side in enumerate(pair):
            for coin in contested:  # the two sides of a double spend, each with a child and a grandchild
                raws = []
                for _ in range(3):
                    raw, coin = pay(coin, keys[1 + number])
                    raws.append(raw)
                side.post(*raws)
            side.post(pay(children[0], keys[7])[0])  # the same transaction on both sides
            side.post(pay(children[1 + number], keys[6])[0])
            side.mine()
            side.post(*[pay(coins.pop(), keys[dice.randrange(8)])[0] for _ in range(5)])
        pair[dice.randrange(2)].mine(2)  # the longer chain, with what was pending there
        assert pair[0].tip != pair[1].tip
        for side, other in (pair, pair[::-1]):
            side.client.rpc(*(["setban", other.key, "remove"] if end == "remove" else ["clearbanned"]))
        until(lambda: all(side.peers for side in pair), "the reunion")
        rest(pair)
        kept, displaced = account(pair)
        assert displaced == 12 * round_, "one side of each of four double spends, with two descendants"
        assert kept == (12 + len(known) + 1 + 2 + 10) * round_
    for side in pair:
        assert side.process.stop() == 0


def test_what_was_posted_while_parted_is_told_without_a_block(sides: tuple[Sides, list[Coin]]) -> None:
    pair, coins = sides
    part(pair)
    for side in pair:
        side.post(*[pay(coins.pop(), Key(99, 0))[0] for _ in range(10)])
    for side in pair:
        side.client.rpc("clearbanned")
    until(lambda: [side.pending() for side in pair] == [20, 20], "relay in both directions")
    pair[1].mine()
    until(lambda: pair[0].tip == pair[1].tip, "one tip")
    assert account(pair) == (20, 0)
