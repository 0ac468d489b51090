"""The transaction pool: implements ``nodewright.interfaces.TransactionPool`` over a journal.

``intake`` takes transactions in, ``held`` is what is held of them, ``pooljournal`` what is on the disk. Here: the contract,
final statuses, and what happens when the ground moves under pending ones (restart, reorganisation, new rules, expiry).

Invariants
- A transaction is answered ``Admitted`` only when its bytes are synced in the journal (or it was pending or committed
  already). What the journal refuses is released again, with everything admitted on top of it, and answered ``busy``.
- Every accepted id is pending or has a final status, until ``status_retention_seconds`` after the final status.
- The journal at any instant, replayed in order, gives the pending set and the kept statuses: a final status is put in the
  journal in the same step (no ``await`` between) that takes the transaction out of the pending ones.
- A full disk changes what is answered, never what is held: ``submit`` is busy; ``settle`` keeps statuses in memory until
  the journal takes them; ``restore`` holds the transactions as pending and raises StoreFull, so that its caller keeps what
  it needs to restore them after a crash, and calls again. A full UTXO store leaves journalled ones reserved in memory.
- Every pending transaction is reserved by the execution, or in limbo: offered again after a restart and when the rules
  that it was judged by have changed (``interfaces.execution.Upgrading``), before anything newer is admitted.
- After a restart, everything accepted and not final is offered to the execution again, in order, before consensus
  recovers; what is refused then is offered again after it, and only then rejected, with the reason. What a block turns
  out to hold (its status was lost with a full disk) is committed.
- What gave way to a transaction that itself gives way, or is rejected, is offered again (``displaced``).
- ``bytes_used`` is the sum over pending; with what waits and OVERHEAD_BYTES for each it stays at most ``max_bytes``, except
  for what a restart or a reorganisation brings back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import trio
from attrs import frozen

from nodewright.errors import NodewrightError, StoreError, StoreFull
from nodewright.interfaces.common import Admission, Admitted, BlockRef, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Candidate, Execution, Unhurried, Upgrading
from nodewright.interfaces.pool import InBlock, TransactionStatus
from nodewright.interfaces.service import EventLog, Metrics
from nodewright.node.admission import OVERHEAD_BYTES, Batch, Waiting, busy
from nodewright.node.health import Health
from nodewright.node.held import EXPIRY_SECONDS, Held
from nodewright.node.intake import Intake, Locate
from nodewright.node.journal import SegmentLog
from nodewright.node.poolevents import PoolEvents
from nodewright.node.pooljournal import PoolJournal, replay, rewrite
from nodewright.node.ready import first_candidates
from nodewright.node.records import FinalRecord
from nodewright.node.slowlane import SlowLane, is_slow
from nodewright.node.statuses import FinalStatuses

STATUS_CHUNK = 1 << 20
LOCATE_CHUNK = 50_000
READMIT_BATCH = 2048
SAVE_AGAIN_SECONDS = 1.0


@frozen(kw_only=True)
class PoolLimits:
    """``compact_bytes``: below this size the journal is not rewritten; above it, when it is three times what it must
    hold."""

    max_bytes: int = 256 * 1024 * 1024
    status_retention_seconds: float = 86_400
    status_max_count: int = 1_000_000
    batch_count: int = 2048
    batch_bytes: int = 16 * 1024 * 1024
    segment_bytes: int = 32 * 1024 * 1024
    compact_bytes: int = 96 * 1024 * 1024


def leading_ids(committed: InBlock, pending: Iterable[bytes]) -> list[bytes] | None:
    """The ids of a block as the pending ones' own objects, where it is what these begin with."""
    own = list(islice(pending, len(committed)))
    return own if b"".join(own) == committed.column else None


def by_block(committed: Mapping[bytes, BlockRef] | None) -> dict[BlockRef, list[bytes]]:
    """The ids of each block, in their order."""
    if not committed:
        return {}
    if isinstance(committed, InBlock):
        return {committed.block: committed.ids()}
    blocks: dict[BlockRef, list[bytes]] = {}
    for id, block in committed.items():
        blocks.setdefault(block, []).append(id)
    return blocks


class Pool:
    """Opened by ``Pool.open``; ``attach`` once consensus is there, ``recovered`` once it has recovered."""

    def __init__(
        self,
        environment: Environment,
        execution: Execution,
        log: SegmentLog,
        limits: PoolLimits,
        events: PoolEvents,
    ) -> None:
        self._environment = environment
        self._execution = execution
        self._log = log
        self._limits = limits
        self._events = events
        self._final = FinalStatuses(limits.status_retention_seconds, limits.status_max_count)
        self._held = Held(environment, self._final)
        self._pending = self._held.pending
        self._journal = PoolJournal(log, self._final, limits.status_max_count, self._held.waits)
        self._waiting = Waiting(limits.batch_count, limits.batch_bytes)
        self._intake = Intake(
            environment,
            execution,
            self._held,
            self._journal,
            events,
            self._waiting,
            self._finish_rejected,
            self._compact,
        )
        self._slow: SlowLane | None = None
        if isinstance(execution, Unhurried):
            intake = self._intake
            self._slow = SlowLane(
                environment, execution, intake.admitter.known_head, lambda: intake.closing, events.rejected
            )
        self._compact_at = limits.compact_bytes

    # --- lifetime -----------------------------------------------------------------------------------------------------

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environment: Environment,
        folder: Path,
        execution: Execution,
        events: EventLog,
        metrics: Metrics,
        limits: PoolLimits | None = None,
        display: Callable[[bytes], str] = bytes.hex,
        health: Health | None = None,
    ) -> AsyncIterator[Pool]:
        """Reads the journal and offers the execution what is pending, against its applied block. A journal that fails for
        good, or an execution that raises, ends the body: the node cannot go on."""
        limits = limits if limits is not None else PoolLimits()
        async with SegmentLog.open(environment, folder, limits.segment_bytes) as log:
            pool = cls(environment, execution, log, limits, PoolEvents(events, metrics, environment, display, health))
            await pool._replay()
            applied = await execution.applied()
            if applied is not None:
                pool._intake.admitter.head = lambda: applied
                await pool._intake.offer_limbo()
            pool._events.observe(pool)
            sender, receiver = trio.open_memory_channel[Batch](0)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pool._intake.admit_batches, sender)
                    nursery.start_soon(pool._intake.journal_batches, receiver, nursery.cancel_scope)
                    nursery.start_soon(pool._expire)
                    nursery.start_soon(pool._save_late)
                    yield pool
                    pool._intake.closing = True
                    pool._waiting.close()
            finally:
                pool._intake.closing = True
                pool._waiting.fail(NodewrightError("the node is stopping"))
                with trio.CancelScope(shield=True):
                    await pool._save()

    def attach(self, head: Callable[[], BlockRef], locate: Locate | None = None) -> None:
        """From now on transactions are checked against ``head()``; ``locate`` tells what is in a block already."""
        self._intake.admitter.head = head
        self._intake.locate = locate

    async def recovered(self) -> None:
        """Consensus stands at its head: what the execution still refuses of the journal's transactions is rejected."""
        limbo = self._held.limbo
        await self._intake.offer_limbo()
        await self._settle_mined([*limbo.known, *limbo.ids()])
        limbo.known = []
        await self._settle_refused("no longer valid after a restart", "after a restart: ")
        await self._rejudge()
        released = await self._execution.release_unclaimed()
        if released:
            self._environment.logger.warning(
                "transactions that the store held for this node are in no journal: let go", count=len(released)
            )

    # --- the contract -------------------------------------------------------------------------------------------------

    async def submit(self, txs: Sequence[bytes], source: str = "local") -> list[Admission]:
        count = len(txs)
        if not count:
            await trio.lowlevel.checkpoint()
            return []
        if self._intake.closing:
            await trio.lowlevel.checkpoint()
            return busy(count, message="the node is stopping")
        size = sum(map(len, txs)) + OVERHEAD_BYTES * count
        room = self._room()
        if size > room:
            if count == 1 and size > self._limits.max_bytes:
                text = f"it is larger than this node's whole pool ({self._limits.max_bytes} bytes)"
                return [Refused("too-large", text, "policy")]
            # As much as fits, from the front: parents stand before their children.
            fitting = 0
            while fitting < count and (room := room - len(txs[fitting]) - OVERHEAD_BYTES) >= 0:
                fitting += 1
            rest = busy(count - fitting)
            self._events.refused_busy(count - fitting)
            return [*(await self.submit(txs[:fitting], source) if fitting else []), *rest]
        if count > self._limits.batch_count:
            step = self._limits.batch_count
            answers: list[Admission] = []
            for start in range(0, count, step):
                answers += await self.submit(txs[start : start + step], source)
            return answers
        answers = await self._offer(txs, size, source)
        if self._slow is None or not any(map(is_slow, answers)):
            return answers
        # Held in memory all the while, so counted with what waits.
        self._waiting.bytes_used += size
        try:
            return await self._slow.finish(txs, answers, source, lambda again: self._offer_again(again, source))
        finally:
            self._waiting.bytes_used -= size

    async def _offer(self, txs: Sequence[bytes], size: int, source: str) -> list[Admission]:
        submission = self._waiting.add(txs, size, source)
        await submission.done.wait()
        if submission.error is not None:
            raise NodewrightError(str(submission.error))
        return submission.answers

    async def _offer_again(self, txs: Sequence[bytes], source: str) -> list[Admission]:
        if self._intake.closing:
            return busy(len(txs), message="the node is stopping")
        return await self._offer(txs, 0, source)  # their bytes are counted

    async def status(self, ids: Sequence[bytes]) -> list[TransactionStatus | None]:
        await trio.lowlevel.checkpoint()
        return [self._held.status(id) for id in ids]

    async def take(self, max_count: int) -> list[Candidate]:
        if max_count < 1:
            raise ValueError("max_count must be at least 1")
        await trio.lowlevel.checkpoint()
        held = self._held
        while not (chosen := held.ready.take(max_count)):
            held.readied = trio.Event()
            await held.readied.wait()
        return chosen

    def give_back(self, ids: Sequence[bytes]) -> None:
        if self._held.ready.give_back(ids):
            self._held.readied.set()

    def pending(self, limit: int = 100_000) -> list[Candidate]:
        return first_candidates(self._pending, limit)

    def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        return self._held.bodies(ids)

    async def settle(
        self,
        committed: Mapping[bytes, BlockRef] | None = None,
        rejected: Mapping[bytes, str] | None = None,
        replaced: Mapping[bytes, bytes] | None = None,
    ) -> None:
        now = self._environment.now()
        if isinstance(committed, InBlock) and 0 < len(committed) <= STATUS_CHUNK:
            own, block, column = leading_ids(committed, self._pending), committed.block, committed.column
            record = FinalRecord(now, "committed", own if own is not None else committed.ids(), block, column=column)
            await self._finish(record, leading=own is not None)
            committed = None
        for block, ids in by_block(committed).items():
            for start in range(0, len(ids), STATUS_CHUNK):
                await self._finish(FinalRecord(now, "committed", ids[start : start + STATUS_CHUNK], block))
        if replaced:
            await self._replace(replaced, {})
        gone = [*(replaced or ()), *(await self._reject(dict(rejected)) if rejected else ())]
        if gone:
            await self._reconsider(gone)
        await self._rejudge()

    async def restore(self, transactions: Sequence[tuple[bytes, bytes]]) -> list[Admission]:
        if not transactions:
            await trio.lowlevel.checkpoint()
            return []
        answers = await self._intake.take_back(transactions, READMIT_BATCH, first=True)
        await self._rejudge()
        return answers

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes_used(self) -> int:
        return self._held.bytes_used

    def _room(self) -> int:
        held = self._held.bytes_used + OVERHEAD_BYTES * len(self._pending)
        return self._limits.max_bytes - held - self._waiting.bytes_used

    # --- final statuses -----------------------------------------------------------------------------------------------

    async def _finish(self, record: FinalRecord, leading: bool = False) -> None:
        """One final status for many. Journalled and synced on return, or kept until the journal has room. ``leading``: of
        those that are pending, the first, in order."""
        self._held.drop(record.ids, leading)
        self._final.record(record, record.time)
        full = await self._journal.finish(record)
        if full is not None:
            self._events.store_full(str(full))

    async def _finish_rejected(self, reasons: Mapping[bytes, str]) -> None:
        ids = list(reasons)
        await self._finish(FinalRecord(self._environment.now(), "rejected", ids, details=[reasons[id] for id in ids]))

    async def _reject(self, reasons: dict[bytes, str]) -> list[bytes]:
        """Their reservations go, and with them what depends on them. All their ids."""
        held = [id for id in reasons if self._held.waits(id)]
        if held:
            dependent = [id for id in await self._execution.release(held) if id in self._pending and id not in reasons]
            if dependent:
                text = "depends on a transaction that was rejected"
                self._events.evicted(dependent, text)
                reasons.update(dict.fromkeys(dependent, text))
        await self._finish_rejected(reasons)
        return list(reasons)

    async def _replace(self, winners: Mapping[bytes, bytes], raws: Mapping[bytes, bytes]) -> None:
        """``raws`` has those that are not pending."""
        display = self._events.display
        names = {id: display(winner) for id, winner in winners.items()}
        self._held.displace(names, raws)
        record = FinalRecord(self._environment.now(), "replaced", list(names), details=list(names.values()))
        await self._finish(record)

    async def _reconsider(self, gone: Sequence[bytes]) -> None:
        """What gave way to these is offered again, and what gave way to that, as long as something has. It stands behind
        all that is pending: its parents may be there, its children gave way with it."""
        display = self._events.display
        while taken := self._held.displaced.take([display(id) for id in gone]):
            back = [one for one in taken if not self._final.committed(one[0])]
            if not back:
                return
            try:
                answers = await self._intake.take_back(back, READMIT_BATCH, first=False)
            except StoreFull:
                return  # pending for now; should the node crash first, replaced as it was
            winners = {
                id: winner
                for (id, _), answer in zip(back, answers, strict=True)
                if isinstance(answer, Refused) and isinstance(winner := answer.data.get("winner"), bytes)
            }
            if winners:
                await self._replace(winners, dict(back))
            count = sum(isinstance(answer, Admitted) for answer in answers)
            self._environment.logger.info("what they gave way to gave way itself", offered=len(back), pending=count)
            gone = list(winners)

    async def _expire(self) -> None:
        """Runs for the node's life; wakes only where a pending transaction can expire."""
        held = self._held
        while True:
            while not held.expiry:
                held.expires = trio.Event()
                await held.expires.wait()
            now = self._environment.now()
            due = held.expiry.due(now, self._pending, held.ready.overdue)
            if due:
                await self._expired(due, now)
            await self._environment.sleep(EXPIRY_SECONDS)

    async def _expired(self, due: list[bytes], now: float) -> None:
        self._held.ready.withhold(due)
        released = await self._execution.release(due)
        expired = set(due)
        dependent = [id for id in released if id in self._pending and id not in expired]
        self._events.evicted([*due, *dependent], "expired, or depends on one that did")
        await self._finish(FinalRecord(now, "expired", [id for id in due if id in self._pending]))
        if dependent:
            await self._finish_rejected(dict.fromkeys(dependent, "depends on a transaction that expired"))
        await self._reconsider([*due, *dependent])

    # --- offered again ------------------------------------------------------------------------------------------------

    async def _settle_mined(self, ids: Sequence[bytes]) -> None:
        """A crash may have lost the status of what a block holds."""
        locate = self._intake.locate
        asked = [id for id in ids if self._held.waits(id)]
        for start in range(0, len(asked) if locate is not None else 0, LOCATE_CHUNK):
            assert locate is not None
            part = asked[start : start + LOCATE_CHUNK]
            places = await locate(part)
            mined = {id: place.block for id, place in zip(part, places, strict=True) if place is not None and place.block}
            if mined:
                await self.settle(committed=mined)

    async def _settle_refused(self, event: str, prefix: str) -> None:
        """What is still in limbo gets its final status."""
        reasons, winners = self._held.limbo.refusals()
        if reasons or winners:
            self._events.evicted([*reasons, *winners], event)
            await self.settle(rejected={id: prefix + text for id, text in reasons.items()}, replaced=winners)

    async def _rejudge(self) -> None:
        """The next block has other rules than those that reservations were judged by: all of those are judged again, and
        nothing newer is admitted before. What is on its way into the journal is refused as busy."""
        held, execution = self._held, self._execution
        if not isinstance(execution, Upgrading) or len(held.limbo) or not await execution.outdated():
            return
        async with self._intake.lock, self._intake.admitter.idle() as number:
            released = await self._execution.release(await execution.outdated())
            self._intake.refuse_later([id for id in released if id not in self._pending], number)
            count = held.set_aside(released)
            self._environment.logger.info("the rules change with the next block: judging again", count=count)
            await self._intake.offer_limbo(self._intake.admitter.offer)
        await self._settle_refused("no longer valid under the rules of the next block", "the rules changed: ")

    # --- the journal --------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        raws = await replay(self._log, self._final, self._environment.now(), self._held.displaced)
        self._held.limbo.put(raws.items())
        if raws or len(self._final):
            self._environment.logger.info("journal read", pending=len(raws), final=len(self._final))

    async def _save_late(self) -> None:
        """Runs for the node's life: final statuses that the journal had no room for."""
        while True:
            await self._journal.behind.wait()
            await self._environment.sleep(SAVE_AGAIN_SECONDS)
            await self._save()

    async def _save(self) -> None:
        unsaved = self._journal.unsaved
        if not unsaved:
            return
        try:
            await self._journal.append(())
        except StoreError as error:
            self._events.store_full(str(error))
            if self._intake.closing:
                text = "final statuses are not in the journal, the next start finds them again"
                self._environment.logger.error(text, count=unsaved, reason=str(error))
        else:
            self._intake.works()

    async def _compact(self) -> None:
        """Rewrite what is alive to the journal's end and drop what stands before, once most of it is final. Under the
        journal's lock: no batch is between the journal and the pending ones. Amortised, each byte is written twice."""
        if self._log.bytes_used < self._compact_at:
            return
        alive = self._held.bytes_used + 40 * (len(self._pending) + len(self._final))
        self._compact_at = max(self._limits.compact_bytes, 3 * alive)
        if self._log.bytes_used < self._compact_at or len(self._held.limbo):
            return
        before = self._log.bytes_used
        try:
            first = await rewrite(self._log, self._final, self._pending, self._environment.now, self._held.displaced)
        except StoreFull:
            return  # nothing is dropped; tried again when there is room
        await self._log.drop_before(first)
        self._environment.logger.info("journal compacted", before=before, after=self._log.bytes_used)
