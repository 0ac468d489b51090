"""Batches on their way from waiting to pending: wait → ``execution.admit`` → journal, synced → ``execution.confirm`` →
held → answered. The next batch is in ``admit`` while this one is in the journal.

Invariants
- Batches are journalled and confirmed in the order admitted, one at a time under ``lock``.
- What is answered ``Admitted`` is synced in the journal. What the journal refuses is released again, with everything
  admitted on top of it by now, and answered ``busy``.
- What is in the journal and finds no room in the execution's store is pending all the same, reserved in memory, and is
  confirmed with the next; until then new transactions are refused as busy.
- Whatever ends a loop answers everybody who waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio
from attrs import evolve

from nodewright.errors import NodewrightError, StoreFull
from nodewright.interfaces.common import Admission, Admitted, Location, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.node.admission import Admitter, Batch, Waiting, as_known, refuse, settled_meanwhile
from nodewright.node.held import Held
from nodewright.node.poolevents import PoolEvents
from nodewright.node.pooljournal import PoolJournal
from nodewright.node.records import AdmittedRecord, encode_admitted

Locate = Callable[[Sequence[bytes]], Awaitable[list[Location | None]]]
Reject = Callable[[Mapping[bytes, str]], Awaitable[None]]
Compact = Callable[[], Awaitable[None]]


class Intake:
    """``reject`` gives pending transactions a final status; ``compact`` runs after every batch, under ``lock``."""

    def __init__(
        self,
        environment: Environment,
        execution: Execution,
        held: Held,
        journal: PoolJournal,
        events: PoolEvents,
        waiting: Waiting,
        reject: Reject,
        compact: Compact,
    ) -> None:
        self._environment = environment
        self._execution = execution
        self._held = held
        self._journal = journal
        self._events = events
        self._reject = reject
        self._compact = compact
        self.waiting = waiting
        self.admitter = Admitter(environment, execution)
        self.locate: Locate | None = None
        self.lock = trio.Lock()
        self.closing = False
        self.unconfirmed: list[bytes] = []
        self._full = ""
        # Released because the journal refused them or what they stand on: id → number of the last admission before it.
        self._released: dict[bytes, int] = {}

    async def admit_batches(self, sender: trio.MemorySendChannel[Batch]) -> None:
        # Not ``async with``: its checkpoint would be cancelled when the other side ends, and hide an error raised here.
        with sender:
            while (batch := await self.waiting.next()) is not None:
                try:
                    batch.final_mark = self._held.final.last_number
                    groups = [len(submission.txs) for submission in batch.submissions]
                    batch.answers, batch.number, batch.late = await self.admitter.admit(batch.txs, groups, quick=True)
                    await sender.send(batch)
                except BaseException:
                    self._fail(batch)
                    raise

    async def journal_batches(self, receiver: trio.MemoryReceiveChannel[Batch], scope: trio.CancelScope) -> None:
        async for batch in receiver:
            try:
                async with self.lock:
                    await self._record(batch)
                    await self._compact()
            except BaseException:
                self._fail(batch)
                raise
            self.waiting.finished(batch)
            batch.answer()
        scope.cancel()  # closed and empty: the other loops end too

    def _fail(self, batch: Batch) -> None:
        """Nothing more is journalled: whoever waits, or comes, must not wait for it."""
        self.closing = True
        for submission in batch.submissions:
            submission.error = NodewrightError("the node is stopping")
            submission.done.set()
        self.waiting.fail(NodewrightError("the node is stopping"))

    async def _record(self, batch: Batch) -> None:
        fresh, refusals = await self._sort(batch)
        if fresh:
            held, items, ids = self._held, list(fresh.values()), list(fresh)
            record = encode_admitted(AdmittedRecord(self._environment.now(), ids, [item.raw for item in items]))
            held.in_journal = fresh.copy()
            try:
                if self.unconfirmed and not await self.confirm(()):
                    raise StoreFull(self._full)
                await self._journal.append([record])
                await self.confirm(ids)
                kept = held.in_journal
                held.hold(items if len(kept) == len(items) else list(kept.values()))
            except StoreFull as error:
                self._events.store_full(str(error))
                await self._release(ids)
                refuse(batch, fresh)
                return
            finally:
                held.in_journal = {}
            self.works()
        self._events.batch(batch, fresh, refusals)

    def works(self) -> None:
        """The journal took something."""
        if not self.unconfirmed:
            self._events.store_works()

    async def confirm(self, ids: Sequence[bytes]) -> bool:
        """Journalled ones enter the execution's store; False where that is full."""
        asked = [*self.unconfirmed, *ids] if self.unconfirmed else ids
        try:
            await self._execution.confirm(asked)
        except StoreFull as error:
            self.unconfirmed, self._full = list(asked), str(error)
            self._events.store_full(self._full)
            return False
        self.unconfirmed = []
        return True

    async def _sort(self, batch: Batch) -> tuple[dict[bytes, Admitted], list[Refused]]:
        """What is new, and what is refused for good. Puts into ``batch.answers`` what the pool knows better."""
        answers, txs, pending, final = batch.answers, batch.txs, self._held.pending, self._held.final
        fresh: dict[bytes, Admitted] = {}
        held_elsewhere: list[Admitted] = []
        refused: list[int] = []
        if self._released:
            refuse(batch, {id: None for id, number in self._released.items() if number >= batch.number})
            self._released = {id: number for id, number in self._released.items() if number > batch.number}
        if final.last_number > batch.final_mark:
            settled_meanwhile(batch, final)
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
            if final.last_number > batch.final_mark:  # a block may have come while it was asked where they stand
                settled_meanwhile(batch, final)
                fresh = {id: item for id, item in fresh.items() if final.number(id) <= batch.final_mark}
        refusals: list[Refused] = []
        for at in refused:
            answer = answers[at]
            assert isinstance(answer, Refused)
            known = answer.id
            if known is not None and (known in pending or known in fresh or final.committed(known)):
                answers[at] = as_known(known, answer, txs[at])
            elif "slow" not in answer.data:  # that one is not answered yet
                refusals.append(answer)
        return fresh, refusals

    async def _lost(self, known: Sequence[Admitted]) -> list[Admitted]:
        """Those that the execution holds and no block does: taken up like new ones, or they would wait for ever."""
        asked = [item for item in known if not self._held.final.committed(item.id)]
        if not asked or self.locate is None:
            return []
        places = await self.locate([item.id for item in asked])
        return [item for item, place in zip(asked, places, strict=True) if place is None or place.block is None]

    async def _release(self, ids: Sequence[bytes]) -> None:
        """The journal did not take these: their reservations go, and with them all that was admitted on top of them by
        now, which ``_sort`` refuses when its turn comes."""
        async with self.admitter.idle() as number:
            released = await self._execution.release(ids)
            self.refuse_later([*ids, *released], number)
            held = [id for id in released if id in self._held.pending]
            if held:  # accepted, and what they stand on is not
                await self._reject(dict.fromkeys(held, "depends on a transaction that was not accepted"))

    def refuse_later(self, ids: Iterable[bytes], number: int) -> None:
        """Admitted up to this number, and released since: busy, when they come to be journalled."""
        self._released.update(dict.fromkeys(ids, number))

    # --- offering again ---

    async def offer_limbo(self, offer: Callable[[Sequence[bytes]], Awaitable[list[Admission]]] | None = None) -> None:
        """Offer what is in limbo to the execution again. ``offer`` where the caller holds ``admitter.idle``."""

        async def admit(raws: Sequence[bytes]) -> list[Admission]:
            return (await self.admitter.admit(raws))[0]

        await self._held.limbo.offer(offer or admit, self._take_up)

    async def _take_up(self, admitted: list[Admitted]) -> None:
        await self.confirm([item.id for item in admitted])
        self._held.hold([item for item in admitted if item.id in self._held.limbo])

    async def take_back(self, transactions: Sequence[tuple[bytes, bytes]], size: int, first: bool) -> list[Admission]:
        """Admit these, in order and ``size`` at a time, and hold them as pending, ``first`` before all others. Raises
        StoreFull: then they are pending, and not in the journal until they are taken back once more."""
        answers: list[Admission] = []
        for start in range(0, len(transactions), size):
            raws = [raw for _, raw in transactions[start : start + size]]
            part, *_ = await self.admitter.admit(raws, [len(raws)])
            answers += part
        held = self._held
        async with self.lock:
            found: dict[bytes, Admitted] = {}
            for answer in answers:
                if isinstance(answer, Admitted) and (answer.id not in held.pending or answer.id in held.unjournalled):
                    found[answer.id] = evolve(answer, known=False) if answer.known else answer
            if not found:
                return answers
            items, ids = list(found.values()), list(found)
            fresh = [item for item in items if item.id not in held.pending]
            now = self._environment.now()
            pieces = [items[start : start + size] for start in range(0, len(items), size)]
            if first:  # of such records a later one is read back before an earlier one
                pieces.reverse()
            records = [
                AdmittedRecord(now, [one.id for one in piece], [one.raw for one in piece], first) for piece in pieces
            ]
            try:
                await self._journal.append([encode_admitted(record) for record in records])
                held.unjournalled.difference_update(ids)
            except StoreFull as error:
                self._events.store_full(str(error))
                held.unjournalled.update(ids)
                raise
            finally:  # they stand in no block, whatever the disk says
                held.hold(fresh, first)
            await self.confirm([item.id for item in fresh])
        return answers
