"""The transaction pool: implements ``nodewright.interfaces.TransactionPool`` over a journal.

A batch goes through: wait → ``execution.admit`` → journal, synced → ``execution.confirm`` → pending and ready → answer. The
next batch is in ``admit`` while this one is in the journal; batches are journalled and confirmed in the order admitted.

Invariants
- A transaction is answered ``Admitted`` only when its bytes are synced in the journal (or it was pending or committed
  already). What the journal refuses is released again, with everything admitted on top of it, and answered ``busy``.
- Every accepted id is pending or has a final status, until ``status_retention_seconds`` after the final status.
- The journal at any instant, replayed in order, gives the pending set and the kept statuses: a final status is put in the
  journal in the same step (no ``await`` between) that takes the transaction out of the pending ones.
- After a restart, everything accepted and not final is offered to the execution again, in order, before consensus
  recovers; what is refused then is offered again after it, and only then rejected, with the reason.
- ``bytes_used`` is the sum over pending; with what waits and OVERHEAD_BYTES for each it stays at most ``max_bytes``, except
  for what a restart or a reorganisation brings back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import evolve, frozen

from nodewright.errors import NodewrightError, StoreFull
from nodewright.interfaces.common import Admission, Admitted, BlockRef, Location, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Candidate, Execution
from nodewright.interfaces.pool import TransactionStatus
from nodewright.interfaces.service import EventLog, Metrics
from nodewright.node.admission import OVERHEAD_BYTES, Admitter, Batch, Waiting, as_known, busy, refuse, settled_meanwhile
from nodewright.node.expiry import ExpiryQueue
from nodewright.node.health import Health
from nodewright.node.journal import SegmentLog
from nodewright.node.poolevents import PoolEvents
from nodewright.node.pooljournal import replay, rewrite
from nodewright.node.ready import ReadyQueue, first_candidates
from nodewright.node.records import AdmittedRecord, FinalRecord, encode_admitted, encode_final
from nodewright.node.statuses import FinalStatuses

Locate = Callable[[Sequence[bytes]], Awaitable[list[Location | None]]]
STATUS_CHUNK = 50_000
READMIT_BATCH = 2048
EXPIRY_SECONDS = 1.0


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
        self._pending: dict[bytes, Admitted] = {}
        self._ready = ReadyQueue(self._pending)
        self._readied = trio.Event()
        self._final = FinalStatuses(limits.status_retention_seconds, limits.status_max_count)
        self._bytes = 0
        self._waiting = Waiting(limits.batch_count, limits.batch_bytes)
        self._admitter = Admitter(environment, execution)
        self._locate: Locate | None = None
        # Accepted before a restart and not yet taken up again by the execution: id → (raw, the last refusal).
        self._limbo: dict[bytes, tuple[bytes, Refused | None]] = {}
        self._journal_lock = trio.Lock()
        # Being journalled: a final status that comes meanwhile takes them out, so that they never become pending.
        self._in_journal: dict[bytes, Admitted] = {}
        # Released because the journal refused them or what they stand on: id → number of the last admission before it.
        self._released: dict[bytes, int] = {}
        self._compact_at = limits.compact_bytes
        self._expiry = ExpiryQueue(EXPIRY_SECONDS)
        self._expires = trio.Event()
        self._closing = False

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
                pool._admitter.head = lambda: applied
                await pool._readmit()
            pool._events.observe(pool)
            sender, receiver = trio.open_memory_channel[Batch](0)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pool._admit_batches, sender)
                    nursery.start_soon(pool._journal_batches, receiver, nursery.cancel_scope)
                    nursery.start_soon(pool._expire)
                    yield pool
                    pool._closing = True
                    pool._waiting.close()
            finally:
                pool._closing = True
                pool._waiting.fail(NodewrightError("the node is stopping"))

    def attach(self, head: Callable[[], BlockRef], locate: Locate | None = None) -> None:
        """From now on transactions are checked against ``head()``; ``locate`` tells what is in a block already."""
        self._admitter.head = head
        self._locate = locate

    async def recovered(self) -> None:
        """Consensus stands at its head: what the execution still refuses of the journal's transactions is rejected."""
        await self._readmit()
        rejected: dict[bytes, str] = {}
        replaced: dict[bytes, bytes] = {}
        for id, (_, answer) in self._limbo.items():
            winner = answer.data.get("winner") if answer is not None and answer.kind == "conflict" else None
            if isinstance(winner, bytes):
                replaced[id] = winner
            elif answer is not None:
                rejected[id] = f"after a restart: {answer.code}: {answer.message}"
        if rejected or replaced:
            self._events.evicted([*rejected, *replaced], "no longer valid after a restart")
            await self.settle(rejected=rejected, replaced=replaced)
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
        if self._closing:
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
        submission = self._waiting.add(txs, size, source)
        await submission.done.wait()
        if submission.error is not None:
            raise NodewrightError(str(submission.error))
        return submission.answers

    async def status(self, ids: Sequence[bytes]) -> list[TransactionStatus | None]:
        pending, limbo, final = self._pending, self._limbo, self._final
        await trio.lowlevel.checkpoint()
        return [TransactionStatus(id, "pending") if id in pending or id in limbo else final.get(id) for id in ids]

    async def take(self, max_count: int) -> list[Candidate]:
        if max_count < 1:
            raise ValueError("max_count must be at least 1")
        await trio.lowlevel.checkpoint()
        while not (chosen := self._ready.take(max_count)):
            self._readied = trio.Event()
            await self._readied.wait()
        return chosen

    def give_back(self, ids: Sequence[bytes]) -> None:
        if self._ready.give_back(ids):
            self._readied.set()

    def pending(self, limit: int = 100_000) -> list[Candidate]:
        return first_candidates(self._pending, limit)

    def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        pending, limbo = self._pending, self._limbo
        found: list[bytes | None] = []
        for id in ids:
            item = pending.get(id)
            found.append(item.raw if item is not None else limbo[id][0] if id in limbo else None)
        return found

    async def settle(
        self,
        committed: Mapping[bytes, BlockRef] | None = None,
        rejected: Mapping[bytes, str] | None = None,
        replaced: Mapping[bytes, bytes] | None = None,
    ) -> None:
        now = self._environment.now()
        blocks: dict[BlockRef, list[bytes]] = {}
        current: BlockRef | None = None
        group: list[bytes] = []
        for id, block in (committed or {}).items():
            if block is not current:  # a block's ids share one object: hash it once, not once per id
                current = block
                group = blocks.setdefault(block, [])
            group.append(id)
        for block, ids in blocks.items():
            for start in range(0, len(ids), STATUS_CHUNK):
                await self._finish(FinalRecord(now, "committed", ids[start : start + STATUS_CHUNK], block))
        if replaced:
            display = self._events.display
            ids = list(replaced)
            await self._finish(FinalRecord(now, "replaced", ids, details=[display(replaced[id]) for id in ids]))
        if rejected:
            await self._reject(dict(rejected), now)

    async def restore(self, transactions: Sequence[tuple[bytes, bytes]]) -> list[Admission]:
        if not transactions:
            await trio.lowlevel.checkpoint()
            return []
        answers: list[Admission] = []
        for start in range(0, len(transactions), READMIT_BATCH):
            part, *_ = await self._admitter.admit([raw for _, raw in transactions[start : start + READMIT_BATCH]])
            answers += part
        async with self._journal_lock:
            fresh = {
                answer.id: answer for answer in answers if isinstance(answer, Admitted) and answer.id not in self._pending
            }
            if fresh:
                items = [evolve(item, known=False) if item.known else item for item in fresh.values()]
                # Of such records a later one is read back before an earlier one: the last transactions are written first.
                now, parts = self._environment.now(), range(0, len(items), READMIT_BATCH)
                pieces = [items[start : start + READMIT_BATCH] for start in reversed(parts)]
                records = [
                    AdmittedRecord(now, [one.id for one in piece], [one.raw for one in piece], True) for piece in pieces
                ]
                try:
                    await self._log.append([encode_admitted(record) for record in records])
                except StoreFull:
                    await self._release(list(fresh))
                    raise
                await self._execution.confirm(list(fresh))
                self._hold(items, first=True)
        return answers

    def __len__(self) -> int:
        return len(self._pending) + len(self._limbo)

    @property
    def bytes_used(self) -> int:
        return self._bytes

    # --- from waiting to pending --------------------------------------------------------------------------------------

    def _room(self) -> int:
        held = self._bytes + OVERHEAD_BYTES * len(self._pending)
        return self._limits.max_bytes - held - self._waiting.bytes_used

    async def _admit_batches(self, sender: trio.MemorySendChannel[Batch]) -> None:
        # Not ``async with``: its checkpoint would be cancelled when the other side ends, and hide an error raised here.
        with sender:
            while (batch := await self._waiting.next()) is not None:
                try:
                    batch.final_mark = self._final.last_number
                    groups = [len(submission.txs) for submission in batch.submissions]
                    batch.answers, batch.number, batch.late = await self._admitter.admit(batch.txs, groups)
                    await sender.send(batch)
                except BaseException:
                    self._fail(batch)
                    raise

    async def _journal_batches(self, receiver: trio.MemoryReceiveChannel[Batch], scope: trio.CancelScope) -> None:
        async for batch in receiver:
            try:
                async with self._journal_lock:
                    await self._journal(batch)
                    await self._compact()
            except BaseException:
                self._fail(batch)
                raise
            self._waiting.finished(batch)
            batch.answer()
        scope.cancel()  # closed and empty: the expiry ends too

    def _fail(self, batch: Batch) -> None:
        """Nothing more is journalled: whoever waits, or comes, must not wait for it."""
        self._closing = True
        for submission in batch.submissions:
            submission.error = NodewrightError("the node is stopping")
            submission.done.set()
        self._waiting.fail(NodewrightError("the node is stopping"))

    async def _journal(self, batch: Batch) -> None:
        fresh, refusals = await self._sort(batch)
        if fresh:
            items, ids = list(fresh.values()), list(fresh)
            record = encode_admitted(AdmittedRecord(self._environment.now(), ids, [item.raw for item in items]))
            self._in_journal = fresh.copy()
            try:
                await self._log.append([record])
                await self._execution.confirm(ids)
                kept = self._in_journal
                self._hold(items if len(kept) == len(items) else list(kept.values()))
                self._events.store_works()
            except StoreFull as error:
                self._events.store_full(str(error))
                await self._release(ids)
                refuse(batch, fresh)
                return
            finally:
                self._in_journal = {}
        self._events.batch(batch, fresh, refusals)

    async def _sort(self, batch: Batch) -> tuple[dict[bytes, Admitted], list[Refused]]:
        """What is new, and what is refused for good. Puts into ``batch.answers`` what the pool knows better."""
        answers, txs, pending = batch.answers, batch.txs, self._pending
        fresh: dict[bytes, Admitted] = {}
        held_elsewhere: list[Admitted] = []
        refused: list[int] = []
        if self._released:
            refuse(batch, {id: None for id, number in self._released.items() if number >= batch.number})
            self._released = {id: number for id, number in self._released.items() if number > batch.number}
        if self._final.last_number > batch.final_mark:
            settled_meanwhile(batch, self._final)
        for at, answer in batch.in_order():
            if type(answer) is Admitted:
                id = answer.id
                if id in pending or id in fresh:
                    if not answer.known:
                        answers[at] = as_known(id, answer, txs[at])
                elif answer.known:
                    held_elsewhere.append(answer)
                else:
                    fresh[id] = answer
            else:
                refused.append(at)
        if held_elsewhere:
            for item in await self._lost(held_elsewhere):
                fresh.setdefault(item.id, evolve(item, known=False))
        refusals: list[Refused] = []
        for at in refused:
            answer = answers[at]
            assert isinstance(answer, Refused)
            known = answer.id
            if known is not None and (known in pending or known in fresh or self._final.committed(known)):
                answers[at] = as_known(known, answer, txs[at])
            else:
                refusals.append(answer)
        return fresh, refusals

    async def _lost(self, known: Sequence[Admitted]) -> list[Admitted]:
        """Those that the execution holds and no block does: taken up like new ones, or they would wait for ever."""
        asked = [item for item in known if not self._final.committed(item.id)]
        if not asked or self._locate is None:
            return []
        places = await self._locate([item.id for item in asked])
        return [item for item, place in zip(asked, places, strict=True) if place is None or place.block is None]

    async def _release(self, ids: Sequence[bytes]) -> None:
        """The journal did not take these: their reservations go, and with them all that was admitted on top of them by
        now, which ``_sort`` refuses when its turn comes."""
        async with self._admitter.idle() as number:
            released = await self._execution.release(ids)
            self._released.update(dict.fromkeys([*ids, *released], number))

    def _hold(self, items: Sequence[Admitted], first: bool = False) -> None:
        held = [(item.id, item) for item in items]
        if first:  # restored ones are older than all that is pending, and may be parents of it
            held += self._pending.items()
            self._pending.clear()
            for item in items:
                self._limbo.pop(item.id, None)
        self._pending.update(held)
        for item in items:
            self._bytes += len(item.raw)
            if item.expires_at is not None:
                self._expiry.add(item.expires_at, item)
        if len(self._final):
            for item in items:
                self._final.forget(item.id)
        if first:
            self._ready.add_first(items)
        else:
            self._ready.add(items)
        if self._expiry:
            self._expires.set()
        self._readied.set()

    # --- final statuses -----------------------------------------------------------------------------------------------

    async def _finish(self, record: FinalRecord) -> list[bytes]:
        """One final status for many; returns those that were pending. Journalled and synced on return."""
        were = self._drop(record.ids)
        self._final.record(record, record.time)
        await self._log.append([encode_final(record)])
        return were

    def _drop(self, ids: Sequence[bytes]) -> list[bytes]:
        pending, limbo = self._pending, self._limbo
        were = []
        freed = 0
        for id in ids:
            item = pending.pop(id, None)
            if item is not None:
                freed += len(item.raw)
                were.append(id)
        if self._in_journal:
            for id in ids:
                self._in_journal.pop(id, None)
        if limbo:
            for id in ids:
                if limbo.pop(id, None) is not None:
                    were.append(id)
        self._bytes -= freed
        self._ready.drop(were)
        self._ready.compact()
        return were

    async def _reject(self, reasons: dict[bytes, str], now: float) -> None:
        """Their reservations go, and with them what depends on them."""
        held = [id for id in reasons if id in self._pending or id in self._limbo]
        if held:
            dependent = [id for id in await self._execution.release(held) if id in self._pending and id not in reasons]
            if dependent:
                text = "depends on a transaction that was rejected"
                self._events.evicted(dependent, text)
                reasons.update(dict.fromkeys(dependent, text))
        ids = list(reasons)
        await self._finish(FinalRecord(now, "rejected", ids, details=[reasons[id] for id in ids]))

    async def _expire(self) -> None:
        """Runs for the node's life; wakes only where a pending transaction can expire."""
        while True:
            while not self._expiry:
                self._expires = trio.Event()
                await self._expires.wait()
            now = self._environment.now()
            due = self._expiry.due(now, self._pending, self._ready.is_taken)
            if due:
                await self._expired(due, now)
            await self._environment.sleep(EXPIRY_SECONDS)

    async def _expired(self, due: list[bytes], now: float) -> None:
        self._ready.withhold(due)
        released = await self._execution.release(due)
        dependent = [id for id in released if id in self._pending and id not in set(due)]
        self._events.evicted([*due, *dependent], "expired, or depends on one that did")
        await self._finish(FinalRecord(now, "expired", [id for id in due if id in self._pending]))
        if dependent:
            text = "depends on a transaction that expired"
            await self._finish(FinalRecord(now, "rejected", dependent, details=[text] * len(dependent)))

    # --- the journal --------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        raws = await replay(self._log, self._final, self._environment.now())
        self._limbo = {id: (raw, None) for id, raw in raws.items()}
        if raws or len(self._final):
            self._environment.logger.info("journal read", pending=len(raws), final=len(self._final))

    async def _readmit(self) -> None:
        """Offer what is in limbo to the execution, in order; then what misses a parent again, as long as that helps."""
        left = list(self._limbo)
        while left:
            again: list[bytes] = []
            taken = 0
            for start in range(0, len(left), READMIT_BATCH):
                part = [(id, self._limbo[id][0]) for id in left[start : start + READMIT_BATCH] if id in self._limbo]
                if not part:
                    continue
                answers, *_ = await self._admitter.admit([raw for _, raw in part])
                admitted: list[Admitted] = []
                for (id, raw), answer in zip(part, answers, strict=True):
                    if isinstance(answer, Refused):
                        self._limbo[id] = (raw, answer)
                        if answer.kind == "missing":
                            again.append(id)
                    elif id in self._limbo:
                        admitted.append(evolve(answer, id=id, known=False))
                await self._execution.confirm([item.id for item in admitted])
                still = [item for item in admitted if self._limbo.pop(item.id, None) is not None]
                self._hold(still)
                taken += len(still)
            if not taken:
                return
            left = again

    async def _compact(self) -> None:
        """Rewrite what is alive to the journal's end and drop what stands before, once most of it is final. Under the
        journal's lock: no batch is between the journal and the pending ones. Amortised, each byte is written twice."""
        if self._log.bytes_used < self._compact_at:
            return
        alive = self._bytes + 40 * (len(self._pending) + len(self._final))
        self._compact_at = max(self._limits.compact_bytes, 3 * alive)
        if self._log.bytes_used < self._compact_at or self._limbo:
            return
        before = self._log.bytes_used
        try:
            first = await rewrite(self._log, self._final, self._pending, self._environment.now)
        except StoreFull:
            return  # nothing is dropped; tried again when there is room
        await self._log.drop_before(first)
        self._environment.logger.info("journal compacted", before=before, after=self._log.bytes_used)
