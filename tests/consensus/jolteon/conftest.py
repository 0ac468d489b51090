"""Jolteon's nodes in virtual time, whole but for their services: real execution, pool and consensus over memory disks that
outlive them, and a simulated network."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from nacl.signing import SigningKey

from nodewright.interfaces import HEAD, Admitted, ConsensusUpdates, ExecutionRequest, ExecutionResult, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.node.pool import Pool
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.shapes import plugin as shapes
from nodewright.testing.shapes.accounts import Accounts
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.observer import Events, Numbers
from nodewright.testing.shapes.transfers import parse, transfer
from nodewright.testing.simulation import EPOCH_SECONDS, Simulation, SimulationResult, simulate
from nodewright.testing.transport import Conditions, SimulatedNetwork
from nodewright_bitcoin.plugin import register_execution as register_bitcoin
from nodewright_jolteon import consensus as jolteon
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.formats import Block, Timeout, Vote
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

EXECUTIONS = {spec.name: spec for spec in (*shapes.register_execution(), *register_bitcoin())}
VERIFIER = NativeVerifier()
WAIT_SECONDS = 300.0
REGISTRY = Key("the registry of validators")


def execution_of(name: str) -> Any:
    """The family that Jolteon comes from is asked for only where a story names it: all others run without it."""
    if name != "aptos":
        return EXECUTIONS[name]
    from nodewright_aptos.plugin import register_execution as register_aptos

    return register_aptos()[0]


class Crashed(Exception):
    """The power went."""


class Fuse:
    """Counts durable steps of one node's stores and blows before the one numbered ``at`` (from 1)."""

    def __init__(self) -> None:
        self.count = 0
        self.at: int | None = None
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        self.count += 1
        self.steps.append(name)
        if self.at is not None and self.count >= self.at:
            raise Crashed(f"before step {self.count}: {name}")


class FusedDisk(MemoryDisk):
    fuse: Fuse | None = None

    def commit(self, epoch: int, changes: Mapping[str, Mapping[bytes, bytes | None]], durable: bool) -> None:
        if durable and self.fuse is not None:
            self.fuse.step(f"{self.name}:{','.join(sorted(changes))}")
        super().commit(epoch, changes, durable)


class Registry(Accounts):
    """Accounts whose transfers to the registry change the validators: the amount is 10 × the place among ``keys`` + the new
    power, and 9 × 100 added ends the epoch."""

    keys: Sequence[bytes] = ()

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        if not isinstance(outcome, Outcome):
            return outcome
        powers, end, seen = {}, False, set()
        for bundle in request.bundles:
            for index, raw in enumerate(bundle.bodies or ()):
                id = bundle.id_at(index)
                tx = parse(raw)
                if tx.recipient == REGISTRY.public and id not in outcome.discarded and id not in outcome.retry:
                    if id in seen:
                        continue
                    seen.add(id)
                    end = end or tx.amount >= 900
                    powers[self.keys[tx.amount % 900 // 10]] = tx.amount % 10
        if not seen:
            return outcome
        import attrs

        return attrs.evolve(outcome, updates=ConsensusUpdates(powers, end))


class Node:
    """One node: what survives a crash (disks, files, events seen) and, while it runs, its components."""

    def __init__(self, world: World, name: str, execution: str, alone: bool = False, **config: Any) -> None:
        self.world = world
        self.name = name
        self.execution_name = execution
        self.alone = alone
        self.config = JolteonConfig(**({"validator": True} | config))
        self.disks = {slot: FusedDisk(slot) for slot in ("stores.state", "stores.chain", "stores.utxo")}
        self.fuse = Fuse()
        for disk in self.disks.values():
            disk.fuse = self.fuse
        self.events = Events(name, world.simulation.trace)
        self.execution: Any
        self.consensus: jolteon.Jolteon
        self.pool: Pool
        self.transport: Any = None
        self.running = False
        self.log: Any = None
        self.failure: BaseException | None = None
        self._scope: trio.CancelScope | None = None
        self._stopped = trio.Event()
        self.before: Callable[[Node], None] = lambda node: None  # its transport is there, its consensus is not yet
        self.meddle: Callable[[Node], None] = lambda node: None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        world = self.world
        secrets = {"validator_key": signing(self.name).encode().hex()}
        environment = world.simulation.environment(self.name, world.folder / self.name, secrets=secrets)
        self.log = environment.log
        dependencies = Dependencies(genesis=world.genesis, events=self.events, verifier=VERIFIER)
        async with AsyncExitStack() as stack:
            for slot, disk in self.disks.items():
                store = MemoryStore(disk, self.name)
                stack.callback(store.close)
                dependencies[slot] = store
            if self.execution_name == "registry":
                self.execution = Registry(dependencies["stores.state"])
                self.execution.keys = world.keys
                await self.execution.open()
            else:
                dependencies["stores.utxo"] = await stack.enter_async_context(
                    open_utxo(dependencies["stores.utxo"], environment.for_slot("stores.utxo"))
                )
                spec = execution_of(self.execution_name)
                config = spec.config(kernels="off") if self.execution_name in ("bitcoin", "aptos") else spec.config()
                self.execution = await stack.enter_async_context(
                    spec.open(config, dependencies, environment.for_slot("execution"))
                )
            if not self.alone:
                self.transport = world.network.transport(self.name, environment=environment)
                stack.callback(self._leave)
                self.before(self)
            pool_environment = environment.for_slot("pool")
            self.pool = await stack.enter_async_context(
                Pool.open(pool_environment, pool_environment.data_dir, self.execution, self.events, Numbers())
            )
            self.consensus = jolteon.Jolteon.create(
                self.config,
                genesis=world.genesis,
                chain=dependencies["stores.chain"],
                execution=self.execution,
                pool=self.pool,
                events=self.events,
                verifier=VERIFIER,
                environment=environment.for_slot("consensus"),
                transport=self.transport,
            )
            self.meddle(self)
            await self.consensus.recover()
            self.pool.attach(self.consensus.head, self.consensus.locate)
            await self.pool.recovered()
            if self.transport is not None:
                self.transport.open_gate()
            yield

    def _leave(self) -> None:
        if self.name in self.world.network._transports:
            self.world.network.crash(self.name)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is crashed; a blown fuse is a crash, and a failure of its own is kept in ``failure``."""
        self._stopped = trio.Event()
        started = False
        try:
            with trio.CancelScope() as self._scope:
                async with self._open(), trio.open_nursery() as nursery:
                    await nursery.start(self.consensus.run)
                    self.running = started = True
                    task_status.started()
                    await trio.sleep_forever()
        except BaseException as error:
            rest = error.split(Crashed)[1] if isinstance(error, BaseExceptionGroup) else error
            if rest is not None and not isinstance(rest, Crashed):
                if self.name not in self.world.may_fail:
                    raise
                self.failure = rest
        finally:
            self.running = False
            for disk in self.disks.values():
                disk.crash()
            self._stopped.set()
        if not started:
            task_status.started()  # it died while it opened: the test sees that it does not run

    async def start(self) -> None:
        self.fuse.at = None
        await self.world.nursery.start(self.run)

    async def crash(self) -> None:
        if self.running:
            assert self._scope is not None
            self._scope.cancel()
        await self._stopped.wait()

    async def stopped(self) -> None:
        with trio.fail_after(WAIT_SECONDS):
            await self._stopped.wait()

    async def state(self) -> Any:
        """What the execution holds at its applied block, in comparable form."""
        if self.execution_name == "bitcoin":
            return await self.execution.query(HEAD, "unspent_digest")
        if self.execution_name == "aptos":
            return await self.execution.query(HEAD, "ledger")
        return await self.execution.query(HEAD, "outputs" if self.execution_name == "coins" else "accounts")

    async def statuses(self, ids: Sequence[bytes]) -> list[str]:
        return [status.status if status is not None else "unknown" for status in await self.pool.status(ids)]

    @property
    def height(self) -> int:
        return self.consensus.head().height


def signing(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(b"validator " + name.encode()).digest())


def public(name: str) -> bytes:
    return bytes(signing(name).verify_key)


class World:
    """Nodes of one network, and a book of all that validators sign in it."""

    def __init__(self, simulation: Simulation, network: SimulatedNetwork, nursery: trio.Nursery, folder: Path) -> None:
        self.simulation = simulation
        self.network = network
        self.nursery = nursery
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.keys: list[bytes] = []
        self.genesis: dict[str, Any] = {}
        self.may_fail: set[str] = set()

    def found(
        self, validators: Sequence[str], execution: Mapping[str, Any], others: Sequence[str] = (), **rules: Any
    ) -> None:
        account = {"account": "51"} if "allocations" in execution else {}
        self.keys = [public(name) for name in (*validators, *others)]
        consensus = {"validators": [{"key": public(name).hex(), **account} for name in validators], **rules}
        body = repr((sorted(map(repr, consensus.items())), sorted(map(repr, execution.items()))))
        self.genesis = {
            "network": "test",
            "time": int(EPOCH_SECONDS) - 10,
            "consensus": consensus,
            "execution": dict(execution),
            "protocol_versions": {"0": 1},
            "hash": hashlib.sha256(body.encode()).digest(),
        }

    def node(self, name: str, execution: str = "accounts", **config: Any) -> Node:
        self.nodes[name] = Node(self, name, execution, **config)
        return self.nodes[name]

    async def start(self, *nodes: Node) -> None:
        for node in nodes or tuple(self.nodes.values()):
            await node.start()

    @property
    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running]

    async def until(self, condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
        """Virtual time passes until the condition holds."""
        with trio.fail_after(seconds):
            while True:
                answer = condition()
                if await answer if isinstance(answer, Awaitable) else answer:
                    return
                await trio.sleep(0.05)

    async def agree(self, *nodes: Node, seconds: float = WAIT_SECONDS, beyond: int = 0) -> None:
        """All come past a height, with one chain, and equal states wherever they stand at one head."""
        chosen = nodes or tuple(self.up)
        await self.until(lambda: all(node.height > beyond for node in chosen), seconds)
        await self.same(*chosen)

        async def equal() -> bool:
            heads = {node.consensus.head() for node in chosen}
            if len(heads) != 1:
                return False
            states = [await node.state() for node in chosen]
            return len({node.consensus.head() for node in chosen} | heads) == 1 and all(s == states[0] for s in states)

        await self.until(equal, seconds)

    async def same(self, *nodes: Node) -> None:
        """No two nodes committed different blocks."""
        chosen = nodes or tuple(self.up)
        low = min(node.height for node in chosen)
        for height in {low, low // 2, max(low - 1, 0)}:
            found = {(await node.consensus.block_at(height)).ref for node in chosen}
            assert len(found) == 1, f"different blocks at {height}: {found}"

    async def settled(
        self, node: Node, ids: Sequence[bytes], status: str = "committed", seconds: float = WAIT_SECONDS
    ) -> None:
        async def done() -> bool:
            return await node.statuses(ids) == [status] * len(ids)

        try:
            await self.until(done, seconds)
        except trio.TooSlowError:
            found = await node.statuses(ids)
            raise AssertionError(f"{node.name} at {node.height}: {found}, not {status}") from None

    async def submit(self, node: Node, *raws: bytes) -> list[bytes]:
        answers = await node.pool.submit(raws)
        assert all(isinstance(answer, Admitted) for answer in answers), answers
        return [answer.id for answer in answers]


Story = Callable[[World], Awaitable[Any]]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated power cut is of the stores: a file that was written is there after it, and a sync only takes time."""
    monkeypatch.setattr("nodewright.storage.synced.os.fsync", lambda file: None)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., SimulationResult[Any]]:
    """Play a story in a simulated world: ``play(story, seed)``."""
    runs = 0

    def run(story: Story, seed: int = 0, conditions: Conditions | None = None) -> SimulationResult[Any]:
        nonlocal runs
        runs += 1
        folder = tmp_path / str(runs)

        async def main(simulation: Simulation) -> Any:
            async with SimulatedNetwork(seed, conditions) as network, trio.open_nursery() as nursery:
                world = World(simulation, network, nursery, folder)
                value = await story(world)
                for node in world.up:
                    await node.crash()
                nursery.cancel_scope.cancel()
            return value

        return simulate(main, seed, limit_seconds=3600)

    return run


ALICE, BERT, CARL = Key("alice"), Key("bert"), Key("carl")
ACCOUNTS = {"accounts": [(key.public.hex(), 100_000) for key in (ALICE, BERT, CARL)]}
COINS = {"coins": [(ALICE.public.hex(), 100), (ALICE.public.hex(), 200), (BERT.public.hex(), 300)]}


class Kit:
    """What stories share."""

    alice, bert, carl, registry = ALICE, BERT, CARL, REGISTRY
    names = ("ada", "bob", "cleo", "dan")
    harsh = Conditions(loss=0.05, duplication=0.05, reordering=0.1)
    transfer = staticmethod(transfer)
    public = staticmethod(public)
    signing = staticmethod(signing)

    @staticmethod
    def network(world: World, names: Sequence[str] = names, execution: str = "accounts", **rules: Any) -> list[Node]:
        others = rules.pop("others", ())
        world.found(names, ACCOUNTS | COINS | rules.pop("document", {}), others, **rules)
        return [world.node(name, execution) for name in names]


@pytest.fixture
def kit() -> Kit:
    return Kit()


class Book:
    """Every vote, timeout and block that leaves a node goes through here: never two votes in a round, nor two blocks, nor a
    vote in a round that was given up."""

    def __init__(self) -> None:
        self.votes: dict[tuple[bytes, int, int], bytes] = {}
        self.given_up: set[tuple[bytes, int, int]] = set()
        self.blocks: dict[tuple[bytes, int, int], bytes] = {}

    def watch(self, node: Node) -> None:
        orderer, key = node.consensus.orderer, public(node.name)
        outward = orderer.outward
        send, blocks, timeouts = outward.send_vote, outward.broadcast_block, outward.broadcast_timeout
        vote = orderer.on_vote

        def note(said: Vote) -> None:
            if orderer.rules.epoch.validators.key(said.voter) != key:
                return
            place = key, said.epoch, said.round
            assert self.votes.setdefault(place, said.block.id) == said.block.id, f"{node.name} voted twice in {place[1:]}"
            assert place not in self.given_up, f"{node.name} voted in a round that it gave up: {place[1:]}"

        async def send_vote(said: Vote, to: int) -> None:
            note(said)
            await send(said, to)

        async def on_vote(said: Vote) -> None:
            note(said)
            await vote(said)

        async def broadcast_block(block: Block) -> None:
            place = key, block.epoch, block.round
            assert self.blocks.setdefault(place, block.id) == block.id, f"{node.name} proposed twice in {place[1:]}"
            await blocks(block)

        async def broadcast_timeout(said: Timeout) -> None:
            self.given_up.add((key, said.epoch, said.round))
            await timeouts(said)

        outward.send_vote, outward.broadcast_block = send_vote, broadcast_block  # type: ignore[method-assign]
        outward.broadcast_timeout, orderer.on_vote = broadcast_timeout, on_vote  # type: ignore[method-assign]


@pytest.fixture
def book() -> Book:
    return Book()
