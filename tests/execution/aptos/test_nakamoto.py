"""``nakamoto × aptos``: proof of work over Aptos's accounts: two nodes in virtual time, a partition, a reorganisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.interfaces import HEAD, Admitted
from nodewright.kernels.signatures import NativeVerifier
from nodewright.node.metrics import Registry
from nodewright.node.pool import Pool, PoolLimits
from nodewright.storage.blob_adapter import open_blobs
from nodewright.testing.simulation import EPOCH_SECONDS, SimulatedEnvironment, Simulation, simulate
from nodewright.testing.transport import SimulatedNetwork
from nodewright_aptos.engine import AptosEngine
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.installed import installed_functions
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.consensus import Nakamoto

APT = 10**8
PEOPLE = {name: 10 * APT for name in ("alice", "bob", "carol")}
START = int(EPOCH_SECONDS)


class Events:
    def __init__(self) -> None:
        self.list: list[tuple[str, Mapping[str, Any]]] = []

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        self.list.append((kind, data))
        return len(self.list)


class Node:
    pool: Pool
    engine: AptosEngine
    consensus: Nakamoto

    def __init__(self, name: str, network: SimulatedNetwork, document: Mapping[str, Any], folder: Path) -> None:
        self.name, self.network, self.document, self.folder = name, network, document, folder / name
        self.events = Events()

    def environment(self, slot: str) -> SimulatedEnvironment:
        return SimulatedEnvironment(sum(self.name.encode()), self.name, self.folder / slot, slot=slot)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        stores = {slot: MemoryStore(MemoryDisk(f"{self.name}/{slot}"), "node") for slot in ("state", "chain", "blobs")}
        functions, metrics = installed_functions(), Registry()
        executor = SequentialExecutor(functions, self.environment("execution"))
        self.engine = AptosEngine(
            stores["state"], self.environment("execution"), NativeVerifier(), functions, executor, 4, history=100
        )
        await self.engine.open()
        async with AsyncExitStack() as stack:
            blobs = await stack.enter_async_context(open_blobs(stores["blobs"], self.environment("blobs")))
            self.pool = await stack.enter_async_context(
                Pool.open(
                    self.environment("pool"),
                    self.folder / "pool" / "journal",
                    self.engine,
                    self.events,  # type: ignore[arg-type]
                    metrics,
                    PoolLimits(),
                    lambda id: id.hex(),
                )
            )
            transport = self.network.transport(self.name, environment=self.environment("pool"))
            self.consensus = await Nakamoto.create(
                NakamotoConfig(subtree_size=8, announce_after_seconds=0.3),
                genesis=self.document,
                chain=stores["chain"],
                blobs=blobs,
                execution=self.engine,
                pool=self.pool,
                events=self.events,  # type: ignore[arg-type]
                environment=self.environment("consensus"),
                transport=transport,
                metrics=metrics,
            )
            self.pool.attach(self.consensus.head, self.consensus.locate)
            await self.consensus.recover()
            await self.pool.recovered()
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(self.consensus.run)
            transport.open_gate()
            task_status.started()
            await trio.sleep_forever()

    async def submit(self, *transactions: Any) -> None:
        answers = await self.pool.submit([one.raw for one in transactions])
        assert all(isinstance(answer, Admitted) for answer in answers), answers

    async def generate(self, ready: int) -> None:
        """A block, once ``ready`` transactions stand in the assembly."""
        with trio.fail_after(600):
            while len(self.consensus.chain.assembler) < ready:  # noqa: ASYNC110 - it lies in another component
                await trio.sleep(0.05)
        await self.consensus.control("generate", count=1)

    async def balance(self, address: bytes) -> int:
        found: int = await self.engine.query(HEAD, "balance", address=address)
        return found


async def together(*nodes: Node) -> None:
    with trio.fail_after(600):
        while len({node.consensus.head() for node in nodes}) > 1:  # noqa: ASYNC110 - it lies in several components
            await trio.sleep(0.05)
    roots = {(await node.engine.query(HEAD, "ledger")).state_root for node in nodes}
    assert len(roots) == 1, "one tip, one state"


@pytest.mark.parametrize("seed", range(2))
def test_a_reorganisation_takes_transactions_back_and_mines_them_again(
    world: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    w = world(PEOPLE)
    document = {
        "network": "nakamoto-aptos",
        "time": START - 1,
        "consensus": {"version": 1, "bits": "207fffff", "nonce": 0},
        "execution": w.table,
    }

    async def story(simulation: Simulation) -> None:
        async with SimulatedNetwork(seed) as network, trio.open_nursery() as nursery:
            alpha, beta = (Node(name, network, document, tmp_path / str(seed)) for name in ("alpha", "beta"))
            for node in (alpha, beta):
                await nursery.start(node.run)
            later = {"expires_at": START + 10_000}
            await alpha.submit(*[w.pay("alice", f"new {at}", 1, **later) for at in range(3)])
            await alpha.generate(3)
            await together(alpha, beta)
            network.partition(["alpha"], ["beta"])
            common = [w.pay("alice", "bob", at, **later) for at in range(5)]
            theirs = w.pay("carol", "bob", 7, sequence_number=0, **later)
            ours = w.pay("carol", "alice", 8, sequence_number=0, **later)
            await alpha.submit(*common, ours)
            await alpha.generate(6)
            await beta.submit(theirs)
            await beta.generate(1)
            await beta.generate(0)
            network.heal()
            await together(alpha, beta)
            (status,) = await alpha.pool.status([ours.id])
            assert status is not None and status.status == "rejected" and "sequence number" in status.detail
            await alpha.generate(len(common))
            await together(alpha, beta)
            for node in (alpha, beta):
                assert await node.balance(common[0].sender) < 10 * APT - 13
                assert await node.balance(w.pay("bob", "bob", 0).sender) == 10 * APT + 10 + 7
                for one in (*common, theirs):
                    assert await node.engine.query(HEAD, "transaction", hash=one.id) is not None
                assert await node.engine.query(HEAD, "transaction", hash=ours.id) is None
            assert [kind for kind, _ in alpha.events.list].count("reorganised") == 1
            nursery.cancel_scope.cancel()

    simulate(story, seed=seed)
