"""What a stopped node holds, computed anew and compared: the core's part of ``nodewright verify``.

Here: opening the audits that execution and consensus give (``interfaces.audit``), reading the pool's journal without
changing it, and the one question that needs both and no family: is every transaction whose sender was told that it is in a
block still in a block, or pending again? Where all of that is as it should be, or something cannot be read, every row and
blob is read and rows are compared with each other (``db.verify``): there may be damage in what was not needed.

Memory: the pending transactions and the kept final statuses, as in the node itself; nothing grows with the state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from attrs import evolve

from nodewright.composition.plan import Plan
from nodewright.db.findings import Findings
from nodewright.db.stopped import StoppedNode, StoreSlot
from nodewright.db.verify import verify_node
from nodewright.errors import ConfigurationError, StoreError
from nodewright.genesis import Genesis
from nodewright.interfaces.audit import ChainAudit, ChainPart, Journal, Report, StateAudit
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KindListing, TableListing
from nodewright.node.journal import SegmentLog
from nodewright.node.pool import PoolLimits
from nodewright.node.pooljournal import replay
from nodewright.node.statuses import FinalStatuses
from nodewright.node.stores import adapted
from nodewright.plugins.specs import Dependencies, Open

RESTORE = "restore the data directory from a snapshot, or start anew in another --data-dir"
STATE = (
    "empty that store (move its folder away, or rename its schema on a database server) and start the node: it computes "
    "the state anew from its blocks"
)


def require_audits(plan: Plan) -> None:
    """Raises ConfigurationError where there is nothing to compute anew."""
    for slot in ("execution", "consensus"):
        planned = _component(plan, slot)
        if planned.spec.audit is None:
            raise ConfigurationError(
                f"{plan.source}: {slot}: {planned.spec.name} has no way to compute a state anew from blocks: run  "
                "nodewright db verify  , which reads every row, and compare what your nodes say of one block"
            )


class Told(Report, Protocol):
    @property
    def clean(self) -> bool:
        """Whether no difference was told."""


class _Rows(Findings):
    """Damage of rows as differences of a report."""

    def __init__(self, report: Report, fixes: dict[str, str]) -> None:
        super().__init__()
        self._report = report
        self._fixes = fixes

    def damaged(self, what: str, where: str) -> None:
        self._report.differs(what, where, self._fixes.get(what.partition(":")[0], RESTORE))


async def verify_stopped(node: StoppedNode, genesis: Genesis, report: Told) -> None:
    """Raises what opening raises, and StoreError where something cannot be read and no difference says what; what else is
    wrong with the data is reported."""
    unreadable: StoreError | None = None
    listed: list[StoreSlot] = []
    try:
        for store in node.stores:
            if await _holds_rows(store, report):
                listed.append(store)
        await _recompute(node, genesis, report)
    except StoreError as error:
        unreadable, listed = error, list(node.stores)
    if report.clean:
        rows = _Rows(report, {store.slot: _fix(store) for store in node.stores})
        await verify_node(evolve(node, stores=tuple(listed)), rows, report.progress)
    if unreadable is not None and report.clean:
        raise unreadable
    if unreadable is not None:
        report.note(f"not compared to the end: {unreadable}")


async def _holds_rows(store: StoreSlot, report: Report) -> bool:
    """Whether it can be read row by row, and has rows. Raises ConfigurationError where it keeps nothing."""
    if not isinstance(store.rows, TableListing) and not isinstance(store.bodies, KindListing):
        report.note(f"{store.slot}: {store.describe()} cannot list what it holds: not read row by row")
        return False
    if await store.is_empty():
        if store.volatile:
            raise ConfigurationError(
                f"{store.slot}: {store.describe()} keeps nothing once its node has stopped: there is nothing to compare"
            )
        report.note(
            f"{store.slot}: {store.describe()} is empty: is it the profile, with its --set, that the node ran with?"
        )
        return False
    return True


def _fix(store: StoreSlot) -> str:
    return STATE if store.keeps_outputs else RESTORE


async def _recompute(node: StoppedNode, genesis: Genesis, report: Report) -> None:
    plan = node.plan
    statuses = FinalStatuses(plan.pool.status_retention_seconds, PoolLimits().status_max_count)
    journal = await read_journal(node.environment.for_slot("pool"), node.folder / "pool" / "journal", statuses, report)
    async with AsyncExitStack() as stack:
        given = Dependencies({"genesis": genesis, "report": report})
        for store in node.stores:
            environment = node.environment.for_slot(store.slot)
            given[store.slot] = await adapted(store.planned, store.raw, environment, stack)
        state: StateAudit = await _audit(node, "execution", given, stack)
        given["identify"] = state.identify
        chain: ChainAudit = await _audit(node, "consensus", given, stack)
        await compare(chain, state, journal, statuses, report)


async def _audit(node: StoppedNode, slot: str, given: Dependencies, stack: AsyncExitStack) -> Any:
    planned = _component(node.plan, slot)
    audit: Open | None = planned.spec.audit
    assert audit is not None  # require_audits was asked
    return await stack.enter_async_context(audit(planned.config, given, node.environment.for_slot(slot)))


def _component(plan: Plan, slot: str) -> Any:
    planned = plan.component(slot)
    assert planned is not None  # every plan has these two
    return planned


async def read_journal(environment: Environment, folder: Path, statuses: FinalStatuses, report: Report) -> Journal:
    """What is pending; ``statuses`` are filled. An unreadable journal is reported and counts as empty."""
    pending: dict[bytes, bytes] = {}
    try:
        async with SegmentLog.open(environment, folder, read_only=True) as log:
            pending = await replay(log, statuses, environment.now())
    except StoreError as error:
        report.differs(
            "the pool's journal cannot be read, so that what was acknowledged and is in no block yet is lost",
            str(error),
            f"move {folder} away to go on with what is in blocks, or restore it from a copy",
        )
    return Journal(pending, statuses.get)


async def compare(chain: ChainAudit, state: StateAudit, journal: Journal, statuses: FinalStatuses, report: Report) -> None:
    """``statuses`` are those that ``journal.final`` gives."""
    applied = await state.applied()
    watched = _Watched(chain, {id for record in statuses.records() if record.status == "committed" for id in record.ids})
    await watched.load(applied)
    await state.compare(watched, journal, report)
    if applied is None:
        return
    if not watched.whole:
        report.note("not compared: final statuses with blocks, because blocks are damaged")
        return
    left = watched.committed - journal.pending.keys()
    if left:
        async for part in chain.loose():
            left.difference_update(_split(part.ids))
    for id in sorted(left):
        report.differs(
            "a transaction whose sender was told that it is in a block is in none, and is not pending",
            id[::-1].hex(),
            "post it again; " + RESTORE,
        )


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + 32] for at in range(0, len(ids), 32)]


class _Watched:
    """A chain of whose transactions those seen are struck from ``committed``."""

    def __init__(self, chain: ChainAudit, committed: set[bytes]) -> None:
        self._chain = chain
        self.committed = committed

    async def load(self, applied: BlockRef | None) -> None:
        await self._chain.load(applied)

    @property
    def whole(self) -> bool:
        return self._chain.whole

    @property
    def highest(self) -> int:
        return self._chain.highest

    async def parts(self) -> AsyncIterator[ChainPart]:
        async for part in self._chain.parts():
            self.committed.difference_update(_split(part.ids))
            yield part

    async def loose(self) -> AsyncIterator[ChainPart]:
        async for part in self._chain.loose():
            yield part
