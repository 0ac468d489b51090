"""Nodes of nakamoto over disks that can lose their power, on ``nodewright_nakamoto.testing``: its ledger and its pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from nodewright.interfaces import (
    Admitted,
    BlockRef,
    Refused,
)
from nodewright.testing.power import Power, PowerCut, PoweredStore
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright.testing.transport import SimulatedNetwork, SimulatedTransport
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.consensus import Nakamoto
from nodewright_nakamoto.testing.ledger import ALLOCATIONS, REWARD, Ledger, Transaction, allocation, pay
from nodewright_nakamoto.testing.pool import Blobs, JournalPool

START = 1_700_000_000


class Events:
    def __init__(self) -> None:
        self.list: list[tuple[str, Mapping[str, Any]]] = []

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        self.list.append((kind, data))
        return len(self.list)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.list]

    @property
    def last_sequence(self) -> int:
        return len(self.list)


GENESIS_COINBASE = Transaction(0, 0, [], [REWARD], b"genesis")


def genesis_document(**consensus: Any) -> dict[str, Any]:
    table = {"version": 1, "bits": "207fffff", "nonce": 0, **consensus}
    return {
        "network": "test",
        "time": START,
        "consensus": table,
        "execution": {"coinbase": GENESIS_COINBASE.raw.hex()},
        "protocol_versions": {"0": 1},
    }


async def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Looks again and again, in virtual time."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for lies in several components
            await trio.sleep(0.05)


class Node:
    """Disks that outlive the node, and the node while it is on."""

    def __init__(self, name: str, network: SimulatedNetwork | None = None, document: Any = None, **config: Any) -> None:
        self.name = name
        self.network = network
        self.document = document or genesis_document()
        defaults: dict[str, Any] = {"subtree_size": 4, "announce_after_seconds": 0.5}
        self.config = NakamotoConfig(**(defaults | config))
        self.disks = {slot: MemoryDisk(f"{name}/{slot}") for slot in ("chain", "blobs", "state", "pool")}
        self.events = Events()
        self.environment = SimulatedEnvironment(seed=1, name=name)
        self.transport: SimulatedTransport | None = None
        self.cut_at_opening: int | None = None

    async def open(self) -> Nakamoto:
        """Open everything and recover, without running."""
        self.power = Power(self.cut_at_opening)
        stores = {slot: PoweredStore(MemoryStore(disk, "node"), self.power) for slot, disk in self.disks.items()}
        self.ledger = Ledger(stores["state"])
        await self.ledger.open()
        self.pool = JournalPool(stores["pool"], self.ledger)
        await self.pool.open()
        if self.network is not None:
            self.transport = self.network.transport(self.name, environment=self.environment)
        self.consensus = await Nakamoto.create(
            self.config,
            genesis=self.document,
            chain=stores["chain"],
            blobs=Blobs(stores["blobs"]),  # type: ignore[arg-type]
            execution=self.ledger,
            pool=self.pool,
            events=self.events,  # type: ignore[arg-type]
            environment=self.environment,
            transport=self.transport,
        )
        await self.consensus.recover()
        await self.pool.recovered()
        return self.consensus

    def lose_power(self, keep: Callable[[int], int] = lambda unsynced: 0) -> None:
        for disk in self.disks.values():
            disk.crash(keep(len(disk.unsynced)))
        if self.transport is not None and self.network is not None:
            self.network.crash(self.name)
            self.transport = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Nakamoto]:
        """On until the block ends; then the power goes."""
        consensus = await self.open()
        async with trio.open_nursery() as nursery:
            if self.transport is not None:
                self.transport.open_gate()
            await nursery.start(consensus.run)
            try:
                yield consensus
            finally:
                nursery.cancel_scope.cancel()
                self.lose_power()

    # --- what stories say ---

    async def submit(self, *transactions: Transaction) -> list[Admitted | Refused]:
        return await self.pool.submit([tx.raw for tx in transactions])

    async def assembled(self) -> None:
        """Until everything the pool handed out stands in the assembly."""
        assembler = self.consensus.chain.assembler
        await until(lambda: not self.pool.ready and len(assembler) >= len(self.pool.candidates))

    async def fill(self) -> None:
        """Without ``run``: one turn of the loop that takes from the pool."""
        if self.pool.ready:
            candidates = await self.pool.take(1000)
            async with self.consensus.chain.lock:
                await self.consensus.assembly._insert(candidates)

    async def feed(self, other: Node, id: bytes) -> None:
        """Hand over a block of another node with all its bundles, as the synchroniser would."""
        theirs, chain = other.consensus.chain, self.consensus.chain
        block, _ = await theirs.read_block(theirs.index.nodes[id])
        for bundle in block.subtrees:
            subtree = await theirs.store.subtree(bundle)
            assert subtree is not None
            await self.consensus._keeper.keep(subtree, await theirs.store.bodies(subtree), fresh=True)
        node = chain.add_header(block.header)
        await chain.store_block(node, block)
        await chain.activate()

    async def generate(self, count: int = 1, payout: bytes | None = None) -> list[bytes]:
        found: list[bytes] = await self.consensus.control("generate", count=count, payout=payout)
        return found

    async def reaches(self, head: BlockRef) -> None:
        await until(lambda: self.head == head)

    @property
    def head(self) -> BlockRef:
        return self.consensus.head()

    def state(self) -> dict[bytes, int]:
        return dict(self.ledger.unspent)

    async def chain_transactions(self) -> list[bytes]:
        """Every transaction of the best chain, in order."""
        found: list[bytes] = []
        chain = self.consensus.chain
        for node in chain.index.active[1:]:
            block, _ = await chain.read_block(node)
            for bundle in block.subtrees:
                ids = await chain.store.ids(bundle)
                found += [ids[i : i + 32] for i in range(0, len(ids), 32)]
        return found


@pytest.fixture
def world() -> SimpleNamespace:
    """The pieces, for tests that build a network of their own."""
    return SimpleNamespace(
        Node=Node,
        until=until,
        Network=SimulatedNetwork,
        Transaction=Transaction,
        PowerCut=PowerCut,
        Admitted=Admitted,
        Refused=Refused,
        allocation=allocation,
        pay=pay,
        genesis_document=genesis_document,
        ALLOCATIONS=ALLOCATIONS,
    )


@pytest.fixture
def spend() -> Callable[..., Transaction]:
    """One input of the genesis outputs to two outputs."""

    def make(index: int, nonce: int = 0, fee: int = 1) -> Transaction:
        return pay([allocation(index)], [500, 500 - fee], nonce)

    return make


@pytest.fixture
def autojump(autojump_clock: Any) -> Iterator[Any]:
    """Virtual time."""
    yield autojump_clock
