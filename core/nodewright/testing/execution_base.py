"""What the ``execution`` kit stands on: the world that its tests open instances in, blocks, and what an author gives.

Invariants
- ``World.agreed`` has the outcome of every block that any instance of a test executed; every later execution of it, on any
  instance, after whatever else, is held to that one in all that is agreed data. So each test is one of purity too.
- A machine's disks outlive the instances opened on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from attrs import define, evolve, field

from nodewright.interfaces.common import Admission, Admitted, BlockContext, BlockRef, Parcel
from nodewright.interfaces.execution import (
    Execution,
    ExecutionRequest,
    ExecutionResult,
    InvalidTransaction,
    Outcome,
    Reverted,
    StateParts,
    Unhurried,
    Upgrading,
)
from nodewright.kernels.signatures import NativeVerifier
from nodewright.plugins.specs import BLOB, EXECUTION, KEY_VALUE, UTXO, VERIFIER, Dependencies, ExecutionSpec
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.execution_disk import Disk, DiskStore, Gate, GatedEnvironment
from nodewright.testing.execution_terms import (
    GENESIS,
    GENESIS_TIME,
    LONGEST_CHAIN,
    Block,
    Sample,
    agreed,
    alone,
    bundle_of,
    difference,
)
from nodewright.testing.power import Power

F = TypeVar("F", bound=Callable[..., Any])
OPTIONAL: dict[str, type] = {"StateParts": StateParts, "Unhurried": Unhurried, "Upgrading": Upgrading}


@define
class Node:
    """A running instance. ``held`` are ids that it may have reserved, ``staged`` those that nobody confirmed yet."""

    world: World
    name: str
    execution: Execution
    gate: Gate
    held: dict[bytes, None] = field(factory=dict)
    staged: list[bytes] = field(factory=list)

    async def head(self) -> BlockRef:
        applied = await self.execution.applied(0)
        assert applied is not None, "applied() is None after genesis"
        return applied

    async def admit(self, *samples: Sample, confirm: bool = True) -> list[Admission]:
        head = await self.head()
        time = GENESIS_TIME + head.height
        answers = await self.execution.admit([sample.raw for sample in samples], head, time)
        assert len(answers) == len(samples), "admit gives one answer for each transaction"
        taken = [answer.id for answer in answers if isinstance(answer, Admitted)]
        self.held.update(dict.fromkeys(taken))
        self.staged += taken
        if confirm and self.staged:  # as the pool does it: in the order admitted, whatever became of them meanwhile
            staged, self.staged = self.staged, []
            await self.execution.confirm(staged)
        return answers

    async def request(
        self, block: Block, shard: int = 0, bodies: bool = True, record_witness: bool = False
    ) -> ExecutionRequest:
        """One shard's share of the block, on what is agreed of its parent."""
        world, ref = self.world, block.ref
        context = evolve(world.kit.context(ref, block.parent), parent_commitment=world.commitment(block.parent, shard))
        if ref.id not in world.prologues:
            world.prologues[ref.id] = (await self.execution.prologue(context)).raw
        lots = [[sample for sample in bundle if sample.shard == shard] for bundle in block.bundles]
        bundles = [bundle_of(lot, bodies, shard) for lot in lots if lot]
        return ExecutionRequest(
            block.parent,
            ref,
            context,
            bundles,
            world.prologues[ref.id],
            world.parcels(block.parent, shard),
            shard,
            record_witness,
            block.policy,
        )

    async def execute(self, block: Block, shard: int = 0, **changes: Any) -> ExecutionResult:
        return await self.execution.execute(await self.request(block, shard, **changes))

    async def run(self, block: Block) -> list[Outcome]:
        """Every shard; the outcomes, held to those that were had of this block before."""
        outcomes = []
        for shard in range(self.world.kit.shards):
            outcome = await self.execute(block, shard)
            assert isinstance(outcome, Outcome), f"{block.ref} was to have an outcome: {outcome}"
            outcomes.append(self.world.agree(block, shard, outcome))
        return outcomes

    async def commit(self, block: Block) -> dict[bytes, bytes]:
        """Every shard; what commit tells of late evictions."""
        late: dict[bytes, bytes] = {}
        for shard in range(self.world.kit.shards):
            late.update(await self.execution.commit(block.ref, shard) or {})
        return late

    async def accept(self, *blocks: Block) -> list[Outcome]:
        """Execute and commit each; the last one's outcomes."""
        outcomes: list[Outcome] = []
        for block in blocks:
            outcomes = await self.run(block)
            await self.commit(block)
            assert await self.head() == block.ref, "a committed block is the applied one"
        return outcomes

    async def revert(self, block: Block) -> Reverted:
        """Of shard 0: no sharded execution that can be undone is known, and what order its shards went in is not said."""
        reverted = await self.execution.revert(block.ref)
        self.held.update(dict.fromkeys(id for id, _ in reverted.transactions))
        return reverted

    async def rest(self) -> None:
        """Nothing is reserved any more."""
        if self.held:
            await self.execution.release(list(self.held))
            self.held.clear()

    async def state(self) -> Any:
        """At rest, in comparable form."""
        await self.rest()
        return await self.world.kit.state(self.execution)

    async def checked(self, block: Block) -> None:
        """At rest the state is that which an instance had after this block before."""
        state = await self.state()
        known = self.world.states.setdefault(block.ref.id, state)
        assert state == known, f"the state after {block.ref} is not the one that another way to it gave"


@define
class World:
    """Machines by name, and what is agreed."""

    kit: ExecutionKit
    folder: Path
    disks: dict[str, dict[str, Disk]] = field(factory=dict)
    outcomes: dict[tuple[bytes, int], Outcome] = field(factory=dict)
    states: dict[bytes, Any] = field(factory=dict)
    prologues: dict[bytes, bytes] = field(factory=dict)
    start: bytes | None = None

    def agree(self, block: Block, shard: int, outcome: Outcome) -> Outcome:
        key = block.ref.id, shard
        assert outcome.block == block.ref, "an outcome names its block"
        known = self.outcomes.setdefault(key, agreed(outcome))
        assert agreed(outcome) == known, (
            f"{block.ref} had another outcome before, and outcomes depend on (parent, request) alone: "
            f"{difference(outcome, known)}"
        )
        return outcome

    def commitment(self, block: BlockRef, shard: int) -> bytes | None:
        if block == GENESIS:
            if self.start is None or "sharded" not in self.kit.capabilities:
                return self.start
            return self.start[32 * shard : 32 * shard + 32]
        known = self.outcomes.get((block.id, shard))
        return known.commitment if known is not None else None

    def parcels(self, block: BlockRef, shard: int) -> list[Parcel]:
        """What the shards sent to this one in a block, as the consensus would deliver it in the next."""
        found = []
        for source in range(self.kit.shards):
            outcome = self.outcomes.get((block.id, source))
            if outcome is not None and shard in outcome.outgoing:
                parcel = outcome.outgoing[shard]
                found.append(evolve(parcel, block=block, commitment=outcome.commitment or b""))
        return found

    @asynccontextmanager
    async def components(self, name: str, gate: Gate) -> AsyncIterator[tuple[Dependencies, GatedEnvironment]]:
        """What the spec requires, opened over the machine's disks, and the execution's environment."""
        kit, folder = self.kit, self.folder / name
        folder.mkdir(exist_ok=True, parents=True)
        environment = GatedEnvironment(0, name, folder)
        environment.gate = gate
        async with alone(), AsyncExitStack() as stack:
            dependencies = Dependencies(genesis=kit.genesis)
            disks = self.disks.setdefault(name, {})
            for requirement in kit.spec.requires:
                slot = requirement.slot
                if requirement.contract == VERIFIER:
                    dependencies[slot] = NativeVerifier()
                    continue
                if requirement.contract not in (KEY_VALUE, UTXO, BLOB):
                    assert requirement.optional, f"the kit has nothing for {slot}: override open_execution"
                    continue
                store = DiskStore(disks.setdefault(slot, Disk()), gate)
                dependencies[slot] = store
                if requirement.contract == UTXO:
                    opened: AbstractAsyncContextManager[Any] = open_utxo(store, environment.for_slot(slot))
                    dependencies[slot] = await stack.enter_async_context(opened)
                elif requirement.contract == BLOB:
                    opened = open_blobs(store, environment.for_slot(slot))
                    dependencies[slot] = await stack.enter_async_context(opened)
            yield dependencies, environment.for_slot("execution")

    @asynccontextmanager
    async def bare(self, name: str = "a", power: Power | None = None) -> AsyncIterator[Node]:
        """An instance on a machine, as it opens: a new one has no genesis yet."""
        gate = Gate(power or Power())
        async with (
            alone(),
            self.components(name, gate) as (dependencies, environment),
            self.kit.open_execution(dependencies, environment) as execution,
        ):
            yield Node(self, name, execution, gate)

    @asynccontextmanager
    async def node(self, name: str = "a", power: Power | None = None) -> AsyncIterator[Node]:
        """As ``bare``, with the genesis state installed."""
        async with self.bare(name, power) as node:
            start = await node.execution.genesis(self.kit.genesis, GENESIS)
            assert self.start in (None, start), "the genesis commitment differs between two instances"
            self.start = start
            yield node

    def crash(self, name: str, keep: int = 0) -> None:
        for disk in self.disks.get(name, {}).values():
            disk.crash(keep % (len(disk.unsynced) + 1))


class ExecutionKit:
    """What an author gives; see ``nodewright.testing.execution``."""

    spec: ExecutionSpec
    config: Any = None  # of the spec's class; None: its defaults
    genesis: Mapping[str, Any]
    shards: int = 1
    policies: Sequence[InvalidTransaction] = ("discard", "reject_block")
    purses: int = 12
    waits: bool = True  # a transaction of a chain cannot run before those in front of it
    late_sync: bool = False  # commits are synced later: a power cut may take the last ones, never the middle of one
    examples: int = 8  # programs that Hypothesis tries
    cuts: int = 8  # places in a story where the power goes, each before and after a write
    scale: int = 1  # of both

    @property
    def capabilities(self) -> frozenset[str]:
        return self.spec.provides - {EXECUTION}

    def open_execution(self, dependencies: Dependencies, environment: Any) -> AbstractAsyncContextManager[Execution]:
        """Open an instance on these components. Called again with the same stores after a restart or a crash."""
        config = self.spec.config() if self.config is None else self.config
        return self.spec.open(config, dependencies, environment)

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        """Valid transactions of one purse (0 to ``purses`` - 1, each with money of its own in the genesis), the first of
        which runs on the genesis state, and each later one after the one before it. Of the first transactions of two
        variants (0, 1) of a purse only one can run. The same arguments give the same transactions; a longer chain
        (``LONGEST_CHAIN`` at most) begins with the shorter. With shards, each orders those of five purses at least."""
        raise TypeError(f"{type(self).__name__} makes no transactions: give it a chain(purse, variant, length)")

    def invalid(self, purse: int) -> Sample:
        """A transaction that can be parsed and breaks a rule for good, whatever the state: signed by the wrong key,
        say. ``purse`` may help to make different ones."""
        raise TypeError(f"{type(self).__name__} makes no invalid transactions: give it an invalid(purse)")

    async def state(self, execution: Execution) -> Any:
        """All that the applied block left that the generator's transactions can change, in comparable form: balances,
        unspent outputs, a root. Blocks may be counted in it, reservations not."""
        raise TypeError(f"{type(self).__name__} does not say how to read the state: give it a state(execution)")

    def context(self, block: BlockRef, parent: BlockRef) -> BlockContext:
        """What a consensus says of a block beside its transactions (the parent's commitment is put in by the kit)."""
        return BlockContext(block.height, GENESIS_TIME + block.height)

    def state_detail(self, outcome: Outcome) -> bytes:
        """Of an execution with ``StateParts``: ``StateTarget.detail`` of the state that an outcome left."""
        return b""

    # --- for the tests ---

    def tx(self, purse: int, index: int = 0, variant: int = 0) -> Sample:
        """``index``-th of a purse's chain; made once for a class."""
        key = type(self), purse % self.purses, variant
        if key not in _chains:
            _chains[key] = list(self.chain(purse % self.purses, variant, LONGEST_CHAIN))
        return _chains[key][index]

    def pair(self, purse: int) -> tuple[Sample, Sample]:
        """Only one of these can run."""
        return self.tx(purse), self.tx(purse, variant=1)

    def family(self, purse: int) -> tuple[Sample, Sample]:
        """A parent and its child."""
        return self.tx(purse), self.tx(purse, 1)

    def world(self, folder: Path) -> World:
        return World(self, folder)

    @pytest.fixture(autouse=True)
    def promises(self, request: pytest.FixtureRequest) -> None:
        """Tests of what this execution does not promise are skipped, with the reason."""
        for condition in getattr(request.function, "conditions", ()):
            reason = self.lacks(condition)
            if reason:
                pytest.skip(reason)

    def lacks(self, condition: str) -> str:
        """Why a test that needs it cannot be run here; empty where it can."""
        if condition in ("discard", "reject_block"):
            return "" if condition in self.policies else f"it is not made for consensuses that declare {condition}"
        if condition == "waiting":
            return "" if self.waits else "its transactions do not wait for each other"
        if condition == "uncommitted parents":
            return "single-head: it executes on the applied block alone" if "single-head" in self.capabilities else ""
        if condition == "audit":
            return "" if self.spec.audit is not None else "its spec has no audit"
        if condition == "shards":
            return "" if self.shards > 1 else "one shard sends nothing"
        if condition in OPTIONAL:
            return "" if trio.run(self._is, OPTIONAL[condition]) else f"the component is not {condition}"
        return "" if condition in self.capabilities else f"no capability {condition}"

    async def _is(self, protocol: type) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            async with self.world(Path(folder)).bare() as node:
                return isinstance(node.execution, protocol)

    @property
    def policy(self) -> InvalidTransaction:
        """Of blocks in which all is valid."""
        return self.policies[0]


def only(*conditions: str) -> Callable[[F], F]:
    """For what a kit's test needs: capabilities, policies, optional protocols by name, and what ``lacks`` knows beside."""

    def mark(function: F) -> F:
        function.conditions = conditions  # type: ignore[attr-defined]
        return function

    return mark


_chains: dict[tuple[type, int, int], list[Sample]] = {}
