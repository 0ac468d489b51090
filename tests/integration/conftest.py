"""Whole nodes of the Bitcoin family in virtual time: the real engine, consensus and pool over disks that can lose power.

Nothing stands in for a component: only the world around them is simulated (clock, network, disks). A seed gives the run.
``Node`` opens its parts in the order of ``nodewright.node.runtime``; ``World`` has what stories say and the two accounts
that every story ends with:

- ``World.same``: all nodes have one tip and one set of unspent outputs, equal to the one that a replay of the blocks and of
  the pending transactions gives (another implementation, written here, that also finds a transaction mined twice, a
  child before its parent and an output spent twice);
- ``World.account``: every transaction that was acknowledged is in a block exactly once, or what displaced it is.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from nodewright.errors import NodewrightError
from nodewright.interfaces import HEAD, Admitted, BlockRef, Refused, TransactionStatus
from nodewright.kernels.signatures import NativeVerifier
from nodewright.node.metrics import Registry
from nodewright.node.pool import Pool, PoolLimits
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.power import Power, PowerCut, PoweredEnvironment, PoweredStore
from nodewright.testing.simulation import EPOCH_SECONDS, SimulatedEnvironment, Simulation, SimulationResult, simulate
from nodewright.testing.transport import Conditions, SimulatedNetwork, SimulatedTransport
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.engine import BitcoinEngine
from nodewright_bitcoin.network import LOCAL
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.consensus import Nakamoto

KEYS = 30
COINS = 1_000_000
FEE = 500
MATURITY = 4
PARAMETERS = attrs.evolve(LOCAL, coinbase_maturity=MATURITY)
OWNERS = [derive_key(b"integration", index) for index in range(KEYS)]
SCRIPTS = [p2pkh_script(public_key(key)) for key in OWNERS]
DOCUMENT: dict[str, Any] = {
    "network": "integration",
    "time": int(EPOCH_SECONDS) - 1,
    "consensus": {"version": 1, "bits": "207fffff", "nonce": 0},
    "execution": {"allocations": [{"satoshis": COINS, "script": script.hex()} for script in SCRIPTS]},
    "protocol_versions": {"0": 1},
}


@attrs.frozen
class Coin:
    """An output and the number of the key that owns it."""

    txid: bytes
    index: int
    satoshis: int
    owner: int

    @property
    def outpoint(self) -> bytes:
        return self.txid + self.index.to_bytes(4, "little")


def genesis_coins() -> list[Coin]:
    given = coinbase.allocation(DOCUMENT["execution"], PARAMETERS)
    assert given is not None
    return [Coin(given.txid, index, COINS, index) for index in range(KEYS)]


def pay(coins: Sequence[Coin], owners: Sequence[int], fee: int = FEE) -> Transaction:
    """Signed P2PKH: all of these coins, less the fee, in equal parts to these keys."""
    share = (sum(coin.satoshis for coin in coins) - fee) // len(owners)
    tx = build_transaction(
        [(coin.txid, coin.index, coin.satoshis, SCRIPTS[coin.owner]) for coin in coins],
        [(share, SCRIPTS[owner]) for owner in owners],
    )
    return sign_p2pkh_inputs(tx, [OWNERS[coin.owner] for coin in coins])


def coins_of(tx: Transaction) -> list[Coin]:
    """The outputs of a transaction that belong to the keys of these tests."""
    return [
        Coin(tx.txid, index, output.satoshis, SCRIPTS.index(output.script))
        for index, output in enumerate(tx.outputs)
        if output.script in SCRIPTS
    ]


async def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Looks again and again, in virtual time."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for lies in several components
            await trio.sleep(0.05)


# --- a node -----------------------------------------------------------------------------------------------------------


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


class Events:
    def __init__(self) -> None:
        self.list: list[tuple[str, Mapping[str, Any]]] = []

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        self.list.append((kind, data))
        return len(self.list)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [data for one, data in self.list if one == kind]

    @property
    def last_sequence(self) -> int:
        return len(self.list)


class Node:
    """Disks that outlive it, and the node while it is on."""

    pool: Pool
    engine: BitcoinEngine
    consensus: Nakamoto
    transport: SimulatedTransport
    power: Power

    def __init__(self, world: World, name: str, **config: Any) -> None:
        self.world = world
        self.name = name
        self.folder = world.folder / name
        defaults: dict[str, Any] = {"subtree_size": 8, "announce_after_seconds": 0.3}
        self.config = NakamotoConfig(**(defaults | config))
        self.disks = {slot: MemoryDisk(f"{name}/{slot}") for slot in ("utxo", "chain", "blobs")}
        self.dice = random.Random(f"{world.seed} {name} power")
        self.events = Events()
        self.log: deque[Any] = deque(maxlen=2000)
        self.starts = 0
        self.front: Callable[[str, Any], Any] = lambda slot, store: store  # what stands in front of each of its stores
        self.dies_of: tuple[type[Exception], ...] = ()  # errors that end the node, and not the story
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def environment(self, slot: str) -> SimulatedEnvironment:
        # Each start has randomness of its own, or a node that restarts would make its old coinbases again.
        seed = self.world.seed * 1000 + self.starts
        return SimulatedEnvironment(seed, self.name, self.folder / slot, slot=slot, log=self.log)

    async def start(self, cut_at: int | None = None, how: Any = "before") -> Node:
        """On, or already without power again: then ``power.off``."""
        self.starts += 1
        self.power = Power(cut_at, how)
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        up = trio.Event()
        self.world.nursery.start_soon(self._live, up, name=f"node {self.name}")
        await up.wait()
        return self

    async def _live(self, up: trio.Event) -> None:
        try:
            with self._scope:
                await self._open(up)
        except BaseException as error:
            if not self.power.off and not all(isinstance(leaf, self.dies_of) for leaf in leaves(error)):
                raise
        finally:
            if self.name in self.world.up:
                self.world.network.crash(self.name)
                self.world.up.remove(self.name)
            up.set()
            self._ended.set()

    async def _open(self, up: trio.Event) -> None:
        stores: dict[str, Any] = {
            slot: self.front(slot, PoweredStore(MemoryStore(disk, "node"), self.power)) for slot, disk in self.disks.items()
        }
        environment = self.environment("pool")
        pool_environment = PoweredEnvironment(
            self.world.seed * 1000 + self.starts, self.name, self.folder / "pool", slot="pool", log=self.log
        )
        pool_environment.power = self.power
        metrics = Registry()
        async with (
            open_utxo(stores["utxo"], self.environment("utxo"), coinbase_maturity=MATURITY) as utxo,
            open_blobs(stores["blobs"], self.environment("blobs")) as blobs,
        ):
            self.engine = BitcoinEngine(
                utxo,
                NativeVerifier(),
                self.environment("execution"),
                self.world.parameters,
                Policy(),
                SCRIPTS[0],
                1 << 20,
            )
            await self.engine.load()
            async with Pool.open(
                pool_environment,
                self.folder / "pool" / "journal",
                self.engine,
                self.events,  # type: ignore[arg-type]
                metrics,
                PoolLimits(),
                lambda id: id[::-1].hex(),
            ) as self.pool:
                self.transport = self.world.network.transport(self.name, environment=environment)
                self.world.up.append(self.name)
                self.consensus = await Nakamoto.create(
                    self.config,
                    genesis=DOCUMENT,
                    chain=stores["chain"],
                    blobs=blobs,
                    execution=self.engine,
                    pool=self.pool,
                    events=self.events,  # type: ignore[arg-type]
                    environment=self.environment("consensus"),
                    transport=self.transport,
                    metrics=metrics,
                )
                self.pool.attach(self.consensus.head, self.consensus.locate)
                await self.consensus.recover()
                await self.pool.recovered()
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.consensus.run)
                    self.transport.open_gate()
                    up.set()
                    await trio.sleep_forever()

    def end(self) -> None:
        """From within: what it is doing is cancelled. ``lose_power`` has to follow before it starts again."""
        self._scope.cancel()

    async def lose_power(self) -> None:
        """Now, if it has not gone already. Of what was not synced, a random prefix had reached each disk."""
        self.power.cut()
        self._scope.cancel()
        await self._ended.wait()
        for disk in self.disks.values():
            disk.crash(self.dice.randint(0, len(disk.unsynced)))

    # --- what stories say ---

    async def submit(self, *txs: Transaction) -> list[Admitted | Refused]:
        return await self.pool.submit([tx.raw for tx in txs])

    async def accept(self, *txs: Transaction) -> None:
        """Posted, and to be accepted: from now on the world's account asks for them."""
        answers = await self.submit(*txs)
        for tx, answer in zip(txs, answers, strict=True):
            assert isinstance(answer, Admitted), f"{self.name} refuses {tx.txid[::-1].hex()}: {answer}"
            self.world.acknowledge(self, tx)

    async def generate(self, count: int = 1, owner: int = 0) -> list[bytes]:
        """Blocks with all that is pending here and can be mined; their ids."""
        await self.assembled()
        found: list[bytes] = await self.consensus.control("generate", count=count, payout=SCRIPTS[owner])
        return found

    async def assembled(self) -> None:
        """Until everything pending stands in the assembly (nothing here waits for a lock time)."""
        chain = self.consensus.chain
        await until(lambda: len(chain.assembler) >= len(self.pool.pending()))

    @property
    def on(self) -> bool:
        return self.name in self.world.up

    @property
    def head(self) -> BlockRef:
        return self.consensus.head()

    async def digest(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.engine.query(HEAD, "unspent_digest")
        return found

    async def status(self, tx: Transaction) -> TransactionStatus | None:
        return (await self.pool.status([tx.txid]))[0]

    async def blocks(self) -> list[tuple[BlockRef, list[Transaction]]]:
        """The best chain from height 1, as this node serves it."""
        found = []
        for height in range(1, self.head.height + 1):
            record = await self.consensus.block_at(height)
            assert record is not None
            ids = [record.prologue_id]
            for bundle in record.bundles:
                column = await self.consensus.chain.store.ids(bundle.id)
                ids += [column[at : at + 32] for at in range(0, len(column), 32)]
            bodies = await self.consensus.transactions(ids)
            txs = [Transaction.parse(body) for body in bodies if body is not None]
            assert [tx.txid for tx in txs] == ids, "a block's transaction is not served"
            assert len(ids) == record.transactions
            found.append((record.ref, txs))
        return found

    async def still(self) -> tuple[list[tuple[BlockRef, list[Transaction]]], list[Transaction], dict[str, Any]]:
        """Blocks, pending transactions and digest of one instant: read again when the node moved meanwhile."""
        while True:
            head, pending = self.head, self.pending()
            found = await self.blocks(), pending, await self.digest()
            if head == self.head and pending == self.pending() and found[2]["bestblock"] == head.id[::-1].hex():
                return found

    def pending(self) -> list[Transaction]:
        ids = [one.id for one in self.pool.pending()]
        return [Transaction.parse(body) for body in self.pool.bodies(ids) if body is not None]

    async def coinbase_coin(self, block: bytes) -> Coin:
        record = await self.consensus.block(block)
        assert record is not None
        return coins_of(Transaction.parse(record.prologue))[0]


# --- the world ----------------------------------------------------------------------------------------------------------


class Replay:
    """Blocks and pending transactions run into a plain dictionary of outputs."""

    def __init__(self) -> None:
        self.unspent: dict[bytes, tuple[int, bytes]] = {
            coin.outpoint: (coin.satoshis, SCRIPTS[coin.owner]) for coin in genesis_coins()
        }
        self.spenders: dict[bytes, bytes] = {}
        self.mined: dict[bytes, BlockRef] = {}

    def run(self, txs: Iterable[Transaction], block: BlockRef | None = None) -> None:
        for tx in txs:
            assert tx.txid not in self.mined, f"{tx.txid[::-1].hex()} is mined twice, or mined and pending"
            if block is not None:
                self.mined[tx.txid] = block
            if not tx.is_coinbase:
                for spent in tx.inputs:
                    assert spent.outpoint in self.unspent, f"{tx.txid[::-1].hex()} spends what is not there"
                    del self.unspent[spent.outpoint]
                    self.spenders[spent.outpoint] = tx.txid
            for index, output in enumerate(tx.outputs):
                self.unspent[tx.txid + index.to_bytes(4, "little")] = (output.satoshis, output.script)

    def digest(self) -> str:
        mixed = 0
        for outpoint, (satoshis, script) in self.unspent.items():
            row = hashlib.sha256(outpoint + satoshis.to_bytes(8, "little") + script).digest()
            mixed = (mixed + int.from_bytes(row, "little")) % (1 << 256)
        return hashlib.sha256(mixed.to_bytes(32, "little") + len(self.unspent).to_bytes(8, "little")).hexdigest()


class World:
    def __init__(self, simulation: Simulation, network: SimulatedNetwork, nursery: trio.Nursery, folder: Path) -> None:
        self.simulation = simulation
        self.seed = simulation.seed
        self.dice = simulation.random
        self.network = network
        self.nursery = nursery
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.up: list[str] = []
        self.acknowledged: dict[bytes, tuple[Transaction, list[Node]]] = {}
        self.parameters = PARAMETERS  # for nodes that start from now on

    async def node(self, name: str, **config: Any) -> Node:
        self.nodes[name] = Node(self, name, **config)
        return await self.nodes[name].start()

    def acknowledge(self, node: Node, tx: Transaction) -> None:
        self.acknowledged.setdefault(tx.txid, (tx, []))[1].append(node)

    async def together(self) -> None:
        """Until all nodes that are on have one tip."""
        nodes = [self.nodes[name] for name in self.up]
        await until(lambda: len({node.head for node in nodes}) == 1)

    async def together_or_mine(self, miner: Node) -> None:
        """As ``together``, but of two chains of equal work one is made the longer by this node."""
        nodes = [self.nodes[name] for name in self.up]
        with trio.move_on_after(30):
            await until(lambda: len({node.head for node in nodes}) == 1)
            return
        await miner.generate()
        await self.together()

    async def spendable(self, node: Node) -> list[Coin]:
        """What the next block here could hold spends of, in no order that depends on the run."""
        replay, coinbases = Replay(), dict[bytes, int]()
        blocks, pending, _ = await node.still()
        for block, txs in blocks:
            replay.run(txs, block)
            coinbases[txs[0].txid] = block.height
        replay.run(pending)
        height = node.head.height + 1
        return [
            Coin(point[:32], int.from_bytes(point[32:], "little"), satoshis, SCRIPTS.index(script))
            for point, (satoshis, script) in sorted(replay.unspent.items())
            if height - coinbases.get(point[:32], -MATURITY) >= MATURITY
        ]

    async def rest(self, *miners: Node, rounds: int = 30) -> None:
        """Until all have one tip and nothing is pending anywhere; these mine, in turn."""
        nodes = [self.nodes[name] for name in self.up]
        for round_ in range(rounds):
            await self.together()
            await trio.sleep(2)  # virtual: what is pending is told to the others meanwhile
            if not any(len(node.pool) for node in nodes):
                return
            await miners[round_ % len(miners)].generate()
        left = {node.name: [id.id[::-1].hex() for id in node.pool.pending()] for node in nodes}
        raise AssertionError(f"still pending after {rounds} blocks: {left}")

    async def replay(self, node: Node) -> Replay:
        """The node's blocks, then what is pending; compared with its own set."""
        replay = Replay()
        blocks, pending, theirs = await node.still()
        for block, txs in blocks:
            replay.run(txs, block)
        replay.run(pending)
        assert theirs["txouts"] == len(replay.unspent), f"{node.name} holds other outputs than its blocks and pool give"
        assert theirs["hash_serialized"] == replay.digest()
        return replay

    async def same(self) -> Replay:
        nodes = [self.nodes[name] for name in self.up]
        replays = [await self.replay(node) for node in nodes]
        assert len({node.head for node in nodes}) == 1
        assert len({replay.digest() for replay in replays}) == 1, "nodes of one tip and empty pools hold different outputs"
        return replays[0]

    async def account(self) -> tuple[int, int]:
        """At rest: how many of the acknowledged are in a block, and how many were displaced."""
        replay = await self.same()
        displaced = 0
        for id, (tx, nodes) in self.acknowledged.items():
            winners = None if id in replay.mined else self._winners(tx, replay)
            displaced += id not in replay.mined
            for node in nodes:
                status = await node.status(tx)
                assert status is not None, f"{node.name} has forgotten {id[::-1].hex()}"
                if winners is None:
                    assert (status.status, status.block) == ("committed", replay.mined[id]), f"{node.name}: {status}"
                    (place,) = await node.consensus.locate([id])
                    assert place is not None
                    assert place.block == replay.mined[id]
                    continue
                assert winners, f"{id[::-1].hex()} is in no block although nothing conflicts with it: {status}"
                if status.status == "replaced":
                    # What won at that time may have given way to a third since.
                    named = bytes.fromhex(status.detail)[::-1]
                    gave_way = named in self.acknowledged and named not in replay.mined
                    assert named in winners or gave_way, f"{status} names no winner of {winners}"
                else:
                    assert status.status == "rejected", f"{node.name}: {status}"
                    assert b"coinbase" in winners, f"{node.name}: {status} does not name the winner"
        return len(self.acknowledged) - displaced, displaced

    def _winners(self, tx: Transaction, replay: Replay) -> set[bytes]:
        """Mined transactions that spend what this one or an ancestor of it spends; ``coinbase`` where one of them spends a
        coinbase that is in no block of the chain."""
        winners: set[bytes] = set()
        for spent in tx.inputs:
            winner = replay.spenders.get(spent.outpoint)
            parent = self.acknowledged.get(spent.outpoint[:32])
            if winner is not None:
                winners.add(winner)
            elif parent is not None and spent.outpoint[:32] not in replay.mined:
                winners |= self._winners(parent[0], replay)
            elif spent.outpoint not in replay.unspent:
                winners.add(b"coinbase")
        return winners


class Trader:
    """Random transactions over the coins that it believes to have; each one is to be accepted where it trades."""

    def __init__(self, dice: random.Random, coins: Iterable[Coin], owners: Sequence[int] = range(KEYS)) -> None:
        self.dice = dice
        self.coins = list(coins)
        self.owners = owners

    def take(self) -> Coin:
        return self.coins.pop(self.dice.randrange(len(self.coins)))

    def next(self) -> Transaction:
        """One or two coins, to one to three owners: often ones that came of a transaction before, so chains grow."""
        spent = [self.take() for _ in range(min(len(self.coins), self.dice.choice((1, 1, 1, 2))))]
        return self.made(pay(spent, [self.dice.choice(self.owners) for _ in range(self.dice.randint(1, 3))]))

    def made(self, tx: Transaction) -> Transaction:
        self.coins += coins_of(tx)
        return tx


Story = Callable[[World], Awaitable[Any]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., SimulationResult[Any]]:
    """Run a story in a world of its own: ``tell(story, seed, loss=0.1)``."""
    told = 0

    def run(story: Story, seed: int = 0, **conditions: Any) -> SimulationResult[Any]:
        nonlocal told
        told += 1
        folder = tmp_path / str(told)

        async def main(simulation: Simulation) -> Any:
            async with SimulatedNetwork(seed, Conditions(**conditions)) as network, trio.open_nursery() as nursery:
                value = await story(World(simulation, network, nursery, folder))
                nursery.cancel_scope.cancel()
            return value

        return simulate(main, seed, limit_seconds=100_000)

    return run


@pytest.fixture
def money() -> Any:
    """The pieces that stories are told with."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Coin=Coin,
        Trader=Trader,
        Transaction=Transaction,
        NodewrightError=NodewrightError,
        PowerCut=PowerCut,
        Admitted=Admitted,
        KEYS=KEYS,
        MATURITY=MATURITY,
        OWNERS=OWNERS,
        SCRIPTS=SCRIPTS,
        allocation=lambda: coinbase.allocation(DOCUMENT["execution"], PARAMETERS),
        coins_of=coins_of,
        genesis_coins=genesis_coins,
        pay=pay,
        until=until,
    )
