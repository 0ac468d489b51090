"""A world of simulated nodes, each composed from the small chains' specs over memory disks that outlive it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.interfaces import HEAD, Consensus, Execution, Transport
from nodewright.node.pool import Pool
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import open_blobs
from nodewright.testing.shapes import plugin
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.observer import Events, Numbers
from nodewright.testing.simulation import Simulation, SimulationResult, simulate
from nodewright.testing.transport import Conditions, SimulatedNetwork, node_key
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

SPECS = {spec.name: spec for spec in (*plugin.register_execution(), *plugin.register_consensus())}
WAIT_SECONDS = 300.0


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


class Node:
    """One node: what survives a crash (disks, files, events seen) and, while it runs, its components."""

    def __init__(self, world: World, name: str, consensus: str, execution: str, config: Any = None) -> None:
        self.world = world
        self.name = name
        self._names = (consensus, execution)
        self._config = config
        self.disks = {slot: FusedDisk(slot) for slot in ("stores.state", "stores.chain", "stores.blobs")}
        self.fuse = Fuse()
        for disk in self.disks.values():
            disk.fuse = self.fuse
        self.events = Events(name, world.simulation.trace)
        self.execution: Execution
        self.consensus: Consensus
        self.pool: Pool
        self.transport: Transport
        self.running = False
        self.crashes = 0
        self._scope: trio.CancelScope | None = None
        self._stopped = trio.Event()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        world, (consensus, execution) = self.world, self._names
        environment = world.simulation.environment(self.name, world.folder / self.name, secrets={"validator": self.name})
        dependencies = Dependencies(genesis=world.genesis, events=self.events)
        async with AsyncExitStack() as stack:
            for slot, disk in self.disks.items():
                store = MemoryStore(disk, self.name)
                stack.callback(store.close)
                dependencies[slot] = store
            dependencies["stores.blobs"] = await stack.enter_async_context(
                open_blobs(dependencies["stores.blobs"], environment.for_slot("stores.blobs"))
            )
            spec = SPECS[execution]
            config = self._config if self._config is not None else spec.config()
            self.execution = dependencies["execution"] = await stack.enter_async_context(
                spec.open(config, dependencies, environment.for_slot("execution"))
            )
            self.transport = dependencies["transport"] = world.network.transport(self.name, environment=environment)
            stack.callback(self._leave)
            pool_environment = environment.for_slot("pool")
            self.pool = dependencies["pool"] = await stack.enter_async_context(
                Pool.open(pool_environment, pool_environment.data_dir, self.execution, self.events, Numbers())
            )
            spec = SPECS[consensus]
            self.consensus = await stack.enter_async_context(
                spec.open(spec.config(), dependencies, environment.for_slot("consensus"))
            )
            await self.consensus.recover()
            self.pool.attach(self.consensus.head, self.consensus.locate)
            await self.pool.recovered()
            self.transport.open_gate()
            yield

    def _leave(self) -> None:
        if self.name in self.world.network._transports:
            self.world.network.crash(self.name)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is crashed; a blown fuse is a crash, whatever else fails is an error of the test."""
        self._stopped = trio.Event()
        started = False
        try:
            with trio.CancelScope() as self._scope:
                async with self._open(), trio.open_nursery() as nursery:
                    await nursery.start(self.consensus.run)
                    self.running = True
                    started = True
                    task_status.started()
                    await trio.sleep_forever()
        except BaseExceptionGroup as error:
            if error.split(Crashed)[1] is not None:
                raise
        except Crashed:
            pass
        finally:
            self.running = False
            self.crashes += 1
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
        kind = {"coins": "outputs", "accounts": "accounts"}.get(self._names[1])
        if kind is not None:
            return await self.execution.query(HEAD, kind)
        kept = await self.execution.query(HEAD, "kept")
        return {shard: await self.execution.query(HEAD, "accounts", shard=shard) for shard in kept}

    async def statuses(self, ids: Sequence[bytes]) -> list[str]:
        return [status.status if status is not None else "unknown" for status in await self.pool.status(ids)]


class World:
    """Nodes of one network. ``genesis`` is as the core gives it to components."""

    def __init__(self, simulation: Simulation, network: SimulatedNetwork, nursery: trio.Nursery, folder: Path) -> None:
        self.simulation = simulation
        self.network = network
        self.nursery = nursery
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.genesis: dict[str, Any] = {}

    def found(self, consensus: Mapping[str, Any], execution: Mapping[str, Any]) -> None:
        body = repr((sorted(consensus.items()), sorted(execution.items())))
        self.genesis = {
            "network": "shapes",
            "consensus": dict(consensus),
            "execution": dict(execution),
            "hash": hashlib.sha256(body.encode()).digest(),
        }

    def node(self, name: str, consensus: str, execution: str, config: Any = None) -> Node:
        self.nodes[name] = Node(self, name, consensus, execution, config)
        return self.nodes[name]

    async def start(self, *nodes: Node) -> None:
        for node in nodes or tuple(self.nodes.values()):
            await node.start()

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = WAIT_SECONDS) -> None:
        """Virtual time passes until the condition holds."""
        with trio.fail_after(seconds):
            while not await condition():  # noqa: ASYNC110 (virtual time: nothing to wait for but its passing)
                await trio.sleep(0.05)

    async def agree(self, *nodes: Node, seconds: float = WAIT_SECONDS, beyond: int = 0) -> None:
        """All stand on one head higher than ``beyond`` at one instant, with equal states."""
        chosen = nodes or tuple(self.nodes.values())

        async def same() -> bool:
            heads = {node.consensus.head() for node in chosen}
            if len(heads) != 1 or next(iter(heads)).height <= beyond:
                return False
            states = [await node.state() for node in chosen]
            heads |= {node.consensus.head() for node in chosen}
            return len(heads) == 1 and all(state == states[0] for state in states)

        await self.until(same, seconds)


def validators(names: Sequence[str]) -> list[list[str]]:
    return [[Key(name).public.hex(), node_key(name).hex()] for name in names]


Story = Callable[[World], Awaitable[Any]]


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
                for node in world.nodes.values():
                    if node.running:
                        await node.crash()
                nursery.cancel_scope.cancel()
            return value

        return simulate(main, seed, limit_seconds=3600)

    return run


@pytest.fixture
def names() -> tuple[str, ...]:
    return ("ada", "bob", "cleo", "dan")


@pytest.fixture
def committee() -> Callable[[Sequence[str]], list[list[str]]]:
    return validators
