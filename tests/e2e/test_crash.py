"""kill -9 at random instants, under load and in the middle of reorganisations: nothing acknowledged is lost, nothing that
was spent comes back.

Two oracles judge each kill. The node's own: ``nodewright verify`` on what the killed process left, before anything starts
again on it. And another implementation, written here: it replays the raw blocks and the pending transactions that the
restarted node serves over its API into a dictionary of outputs. ``--budget N`` kills 10 N times under load, 4 N of them
with stores that lose what is not durable, and 10 N times around reorganisations; by default twice.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright.cli.app import invoke
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.bench.wallet import Coin, Key, payments, sha256d, spend
from nodewright_bsv_api.client import BsvClient, RpcFailure

pytestmark = pytest.mark.usefixtures("kernels")

PATIENCE_SECONDS = 120.0
DEEPEST = 8
PER_ROUND = 40  # coins, on average


def forgetful() -> dict[str, str]:
    """Stores that hold commits in memory, over ones that keep those that are not durable there as well: a killed process
    loses what it would at a power cut, and more."""
    settings = {}
    for slot in ("utxo", "chain", "blobs"):
        settings |= {
            f"stores.{slot}.use": "write_behind",
            f"stores.{slot}.inner": f"{slot}-losing",
            f"stores.{slot}-losing.use": "faulty",
            f"stores.{slot}-losing.allow_faults": "true",
            f"stores.{slot}-losing.lose_unsynced": "true",
            f"stores.{slot}-losing.inner": f"{slot}-disk",
            f"stores.{slot}-disk.use": "leveldb",
        }
    return settings


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.02)


def verified(node: NodeProcess, capsys: Any, settings: dict[str, str] | None = None) -> list[str]:
    """``nodewright verify`` finds no difference in what the process left; its notes."""
    capsys.readouterr()
    chosen = [f"--set={key}={value}" for key, value in (settings or {}).items()]
    code = invoke(["verify", "teranode", f"--data-dir={node.data_dir}", "--json", *chosen])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    notes: list[str] = json.loads(said.out)["notes"]
    return notes


class Replay:
    """Unspent outputs from raw blocks and pending transactions alone (genesis pays nobody). Keeps what it has read."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[str]] = {}
        self._raws: dict[str, bytes] = {}

    def _transactions(self, client: BsvClient, txids: Sequence[str]) -> list[Transaction]:
        absent = [txid for txid in txids if txid not in self._raws]
        for txid, raw in zip(absent, client.rpc_many("getrawtransaction", absent), strict=True):
            self._raws[txid] = bytes.fromhex(raw)
        return [Transaction.parse(self._raws[txid]) for txid in txids]

    def run(self, client: BsvClient) -> dict[bytes, str]:
        """Compares with the node's own; returns who spends each outpoint in a block. Nobody posts or mines meanwhile."""
        hashes = client.rpc_many("getblockhash", range(1, client.rpc("getblockcount") + 1))
        absent = [hash for hash in hashes if hash not in self._blocks]
        for hash, block in zip(absent, client.rpc_many("getblock", absent), strict=True):
            self._blocks[hash] = block["tx"]
        mined = [txid for hash in hashes for txid in self._blocks[hash]]
        transactions = self._transactions(client, [*mined, *client.rpc("getrawmempool")])
        assert len({tx.txid for tx in transactions}) == len(transactions), "a transaction stands in the chain twice"
        unspent: dict[bytes, tuple[int, bytes]] = {}
        for tx in transactions:
            for index, output in enumerate(tx.outputs):
                unspent[tx.txid + index.to_bytes(4, "little")] = (output.satoshis, output.script)
        for tx in transactions:
            for item in tx.inputs if not tx.is_coinbase else ():
                assert item.outpoint in unspent, "an output is spent twice, or never was"
                del unspent[item.outpoint]
        mixed = 0
        for point, (satoshis, script) in unspent.items():
            row = hashlib.sha256(point + satoshis.to_bytes(8, "little") + script).digest()
            mixed = (mixed + int.from_bytes(row, "little")) % (1 << 256)
        digest = hashlib.sha256(mixed.to_bytes(32, "little") + len(unspent).to_bytes(8, "little")).hexdigest()
        ours = client.rpc("gettxoutsetinfo")
        assert (ours["txouts"], ours["total"]) == (len(unspent), sum(value for value, _ in unspent.values()))
        assert ours["hash_serialized"] == digest
        in_blocks = zip(mined, transactions, strict=False)
        return {item.outpoint: txid for txid, tx in in_blocks if not tx.is_coinbase for item in tx.inputs}


def name_of(raw: bytes) -> str:
    return sha256d(raw)[::-1].hex()


# --- under load ---------------------------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Posts batches of ten payments, mining now and then, and remembers those answered 200, until the node goes away."""

    def __init__(self, node: NodeProcess, wallet: Any, coins: list[Coin], seed: int) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.address = wallet.address
        self.raws = list(payments(coins, seed))
        self.acknowledged: list[str] = []
        self.unexpected: list[str] = []

    def reached(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def run(self) -> None:
        try:
            with BsvClient(self.node.service("bsv_api"), self.node.data_dir / ".cookie") as client:
                for at in range(0, len(self.raws), 10):
                    if at % 50 == 0:
                        client.rpc("generatetoaddress", 1, self.address)
                    batch = self.raws[at : at + 10]
                    status, text = client.post_txs(b"".join(batch))
                    if status == 200:
                        self.acknowledged += map(name_of, batch)
                    else:
                        self.unexpected.append(text)
        except OSError:
            pass  # the node was killed
        except Exception as error:  # http.client's own: a response cut in the middle
            if "http" not in type(error).__module__:
                raise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stores", "kills"),
    [({}, (2, 6)), pytest.param(forgetful(), (2, 4), marks=pytest.mark.long)],
    ids=["as shipped", "forgetful"],
)
def test_kill_at_random_instants_under_load(
    node: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    wallet_of: Callable[[NodeProcess], Any],
    capsys: Any,
    budget: int,
    stores: dict[str, str],
    kills: tuple[int, int],
) -> None:
    count = kills[0] if budget == 1 else kills[1] * budget
    dice = random.Random(20)
    alpha = node(**stores)
    wallet = wallet_of(alpha)
    coins = wallet.coins(200 * count)
    known: list[str] = []
    cut = 0
    replay = Replay()
    for round_ in range(count):
        load = Load(alpha, wallet, coins[200 * round_ : 200 * (round_ + 1)], round_)
        load.start()
        due = dice.randrange(190)
        until(partial(load.reached, due), "the load")
        time.sleep(dice.uniform(0, 0.04))  # the instant of the kill is the point of the test
        alpha.kill()
        load.join()
        cut += len(load.acknowledged) < len(load.raws)
        assert not load.unexpected
        known += load.acknowledged
        with capsys.disabled():
            print(f"{round_ + 1} kills, {cut} with more to post, {len(known)} transactions acknowledged")
        verified(alpha, capsys, stores)
        alpha.start()
        client = client_of(alpha)
        assert len(client.rpc_many("getrawtransaction", load.acknowledged)) == len(load.acknowledged)
        replay.run(client)
    client = client_of(alpha)
    assert known, "no transaction was acknowledged: the load never reached the node"
    Wallet = type(wallet)
    Wallet(client).mine(2)
    assert client.rpc("getmininginfo")["pooledtx"] == 0
    assert set(replay.run(client).values()).issuperset(known)
    statuses = {client.get_json(f"/v1/tx/{txid}")["txStatus"] for txid in known}
    assert statuses == {"MINED"}
    assert alpha.stop() == 0
    verified(alpha, capsys, stores)
    chosen = [f"--set={key}={value}" for key, value in stores.items()]
    assert invoke(["db", "verify", "teranode", f"--data-dir={alpha.data_dir}", *chosen]) == 0


# --- in a reorganisation ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def pay(coin: Coin, owner: int) -> bytes:
    return spend(coin, [(coin.satoshis - 200, Key(99, owner).script)])


class Side:
    """One of two nodes that are parted and let together, with what it has accepted."""

    def __init__(self, process: NodeProcess, address: str) -> None:
        self.process = process
        self.address = address
        self.accepted: list[bytes] = []
        self.connect()

    def connect(self) -> None:
        self.key = str(self.process.info["node_id"])
        self.client = BsvClient(self.process.service("bsv_api"), self.process.data_dir / ".cookie")

    def post(self, *raws: bytes) -> None:
        status, text = self.client.post_txs(b"".join(raws))
        assert status == 200, text
        self.accepted += raws

    def mine(self) -> None:
        self.client.rpc("generatetoaddress", 1, self.address)

    @property
    def tip(self) -> str:
        return str(self.client.rpc("getbestblockhash"))

    @property
    def parted(self) -> bool:
        return not self.client.rpc("getpeerinfo")

    def kill(self, capsys: Any) -> list[str]:
        """Killed, judged, and started again; what ``verify`` noted."""
        self.client.close()
        self.process.kill()
        notes = verified(self.process, capsys)
        self.process.start()
        self.connect()
        self.client.rpc("clearbanned")
        return notes


def half_done(notes: list[str]) -> bool:
    return any("the next start takes back" in note or "blocks that were taken back" in note for note in notes)


def fork(sides: tuple[Side, Side], coins: list[Coin], dice: random.Random) -> Side:
    """Two chains, both sides of double spends and transactions of one side alone in them. Returns who has the shorter."""
    for side, other in (sides, sides[::-1]):
        side.client.rpc("setban", other.key, "add", 3600)
    until(lambda: all(side.parted for side in sides), "the parting")
    depth = dice.randint(1, DEEPEST)
    loser = dice.randrange(2)
    contested = [coins.pop() for _ in range(4)]
    for number, side in enumerate(sides):
        side.post(*[pay(coin, number) for coin in contested])
        for _ in range(depth + (number != loser)):
            side.post(*[pay(coins.pop(), 2 + number) for _ in range(3)])
            side.mine()
        side.post(pay(coins.pop(), 4))
    return sides[loser]


def knows(side: Side, block: str) -> bool:
    with suppress(RpcFailure):
        return bool(side.client.rpc("getblockheader", block))
    return False


def by_peers(sides: tuple[Side, Side], victim: Side, dice: random.Random) -> None:
    """Killed while it follows the other's longer chain, or just before, or after."""
    (ahead,) = [side.tip for side in sides if side is not victim]
    for side in sides:
        side.client.rpc("clearbanned")
    until(lambda: knows(victim, ahead), "the other's headers")
    time.sleep(dice.uniform(0, 0.2))


def invalidate(process: NodeProcess, block: str) -> None:
    """The operator takes blocks out of the chain, and is cut off when the node is killed."""
    with suppress(Exception), BsvClient(process.service("bsv_api"), process.data_dir / ".cookie") as client:
        client.rpc("invalidateblock", block)


def rest(sides: tuple[Side, Side]) -> None:
    """One tip, nothing pending: the first mines what is left."""
    for _ in range(20):
        until(lambda: sides[0].tip == sides[1].tip, "one tip")
        pending = [side.client.rpc("getmininginfo")["pooledtx"] for side in sides]
        if not any(pending):
            return
        sides[pending[0] < pending[1]].mine()
    raise AssertionError(f"still pending: {pending}")


def account(side: Side, mined: dict[bytes, str], since: int) -> None:
    """Each accepted transaction is in a block, or another that spends the same is; ``mined``: who spends each outpoint."""
    for raw in side.accepted[since:]:
        (item,) = Transaction.parse(raw).inputs
        assert item.outpoint in mined, f"{side.process.data_dir.name}: {name_of(raw)} is lost"
        status = side.client.get_json(f"/v1/tx/{name_of(raw)}")["txStatus"]
        won = mined[item.outpoint] == name_of(raw)
        assert status in ({"MINED"} if won else {"REJECTED", "DOUBLE_SPEND_ATTEMPTED"}), f"{name_of(raw)} is {status}"


@pytest.mark.slow
@pytest.mark.long
def test_kill_in_reorganisations(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], capsys: Any, budget: int
) -> None:
    count = 10 * budget
    dice = random.Random(6)
    ports = free_port(), free_port()
    settings = [
        {"transport.listen": f"127.0.0.1:{own}", "transport.peers": f'["127.0.0.1:{other}"]'}
        for own, other in (ports, ports[::-1])
    ]
    alpha = node("alpha", **settings[0])
    wallet = wallet_of(alpha)
    coins = wallet.coins(PER_ROUND * count)
    sides = Side(alpha, wallet.address), Side(node("beta", **settings[1]), wallet.address)
    replays = Replay(), Replay()
    halves = 0
    for round_ in range(count):
        until(lambda: sides[0].tip == sides[1].tip, "one tip")
        before = [len(side.accepted) for side in sides]
        victim = fork(sides, coins, dice)
        if round_ % 2:
            tip = victim.client.rpc("getblockcount")
            block = victim.client.rpc("getblockhash", tip - dice.randrange(DEEPEST))
            asked = threading.Thread(target=invalidate, args=(victim.process, block), daemon=True)
            asked.start()
            time.sleep(dice.uniform(0, 0.1))
            halves += half_done(victim.kill(capsys))
            asked.join()
            victim.client.rpc("reconsiderblock", block)
        else:
            by_peers(sides, victim, dice)
            halves += half_done(victim.kill(capsys))
        with capsys.disabled():
            print(f"{round_ + 1} kills, {halves} in the middle of a reorganisation")
        for side in sides:
            side.client.rpc("clearbanned")
        rest(sides)
        for side, replay, since in zip(sides, replays, before, strict=True):
            account(side, replay.run(side.client), since)
    assert halves, "no kill was in the middle of a reorganisation"
    for side, replay in zip(sides, replays, strict=True):
        account(side, replay.run(side.client), 0)
        side.client.close()
        assert side.process.stop() == 0
        verified(side.process, capsys)
