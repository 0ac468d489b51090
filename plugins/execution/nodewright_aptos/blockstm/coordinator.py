"""One block over several workers: it hands out batches, and is the one owner of the block's scheduler and memory.

Everything here runs on the node's loop; workers get values and answer values, and share nothing. A task's values are what
the memory answers for its place when it is handed out: for the keys that it declares, and those that an incarnation before
it read or asked for. Where one of them is an estimate, the task waits without being run, unless its writer goes out in
the same batch, before it.

Invariants
- A task is in one place only: with the scheduler, in ``again`` (begun, to be handed out), in a batch, or being given
  state. When a batch is lost its tasks are put into ``again``.
- Between two awaits the scheduler, the memory and ``again`` agree.
- A worker waits only while another has a batch or loads state: whoever finishes wakes all (``_changed``).
- The lowest transaction that is not committed reads committed values alone when it is handed out first in a batch: it
  passes, so that every block ends whatever its functions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from nodewright_aptos.blockstm.memory import Blocked
from nodewright_aptos.blockstm.run import BlockRun, Outcome, drive
from nodewright_aptos.blockstm.scheduler import Task
from nodewright_aptos.blockstm.speculate import Answer, Item
from nodewright_aptos.executors import Base
from nodewright_aptos.functions import Functions
from nodewright_aptos.resources import account_key, apt_store_key
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import UserTransaction


class WorkerLost(Exception):
    """A worker is gone; what it was given is to be run by another."""


class Worker(Protocol):
    async def run(self, block: BlockEnvironment, items: Sequence[Item]) -> list[Answer]:
        """One answer an item. Raises WorkerLost: and is not called again."""


class Coordinator:
    """``local`` runs what no other worker can: what is left when all are lost, and what raised an exception elsewhere."""

    def __init__(
        self,
        functions: Functions,
        base: Base,
        transactions: Sequence[UserTransaction],
        block: BlockEnvironment,
        local: Worker,
        batch: int,
    ) -> None:
        self._base = base
        self._transactions = transactions
        self._block = block
        self._local = local
        self._batch = batch
        self._again: list[Task] = []
        self._hints: list[dict[bytes, None]] = []
        for transaction in transactions:
            accesses = functions.accesses(transaction)
            own = (account_key(transaction.sender), apt_store_key(transaction.payer))
            self._hints.append(dict.fromkeys(own if accesses is None else accesses.reads))
        self._aggregators = functions.aggregators
        self._changed = trio.Event()
        self._failure: Exception | None = None
        self.lost: list[Worker] = []
        self.run = BlockRun(len(transactions), base.get)

    async def outputs(self, workers: Sequence[Worker]) -> list[Output]:
        """Of all transactions, in order. Raises what sequential execution raises."""
        keys = dict.fromkeys(self._aggregators)
        for hints in self._hints:
            keys.update(hints)
        await self._base.load(keys)
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(self._serve, worker)
        if not self._ended:  # every worker was lost
            await self._serve(self._local)
        if self._failure is not None:
            raise self._failure
        return self.run.outputs()

    @property
    def _ended(self) -> bool:
        return self.run.scheduler.done or self._failure is not None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _serve(self, worker: Worker) -> None:
        while not self._ended:
            items, tasks, waiting, missing = self._take()
            if missing:
                await self._base.load(missing)
                self._again += waiting
                self._wake()
            if not items:
                if not missing and not self._ended:
                    await self._changed.wait()
                continue
            try:
                answers = await worker.run(self._block, items)
            except WorkerLost:
                self._again += tasks
                self.lost.append(worker)
                self._wake()
                return
            await self._put(items, tasks, answers)
            self._wake()

    # --- handing out -----------------------------------------------------------------------------------------------------

    def _take(self) -> tuple[list[Item], list[Task], list[Task], dict[bytes, None]]:
        """A batch and its tasks; and tasks that wait for state, with the keys to be loaded for them. Validations that come
        first are done on the way."""
        tasks, self._again = sorted(self._again, key=_place)[: self._batch], sorted(self._again, key=_place)[self._batch :]
        while len(tasks) < self._batch:
            task = self.run.scheduler.next()
            if task is None:
                break
            if task.wave is None:
                tasks.append(task)
            else:
                tasks += self._validate(task)
        tasks.sort(key=_place)
        items: list[Item] = []
        taken: list[Task] = []
        waiting: list[Task] = []
        missing: dict[bytes, None] = {}
        sent: dict[bytes, bytes | None] = {}
        places: set[int] = set()
        for task in tasks:
            try:
                values = self._values(task, places, sent)
            except Absent as absent:
                missing.update(dict.fromkeys(absent.keys))
                waiting.append(task)
                continue
            if values is not None:
                sent.update(values)
                places.add(task.place)
                taken.append(task)
                items.append(Item(task.place, task.incarnation, self._transactions[task.place], values))
        self._commit()
        if len(tasks) >= self._batch:
            self._wake()  # there may be more to do
        return items, taken, waiting, missing

    def _values(self, task: Task, places: set[int], sent: dict[bytes, bytes | None]) -> dict[bytes, bytes | None] | None:
        """What the batch does not know yet of what this task will read; None where it was suspended. Raises Absent."""
        memory, place = self.run.memory, task.place
        values: dict[bytes, bytes | None] = {}
        for key in self._hints[place]:
            while True:
                try:
                    value = memory.read(key, place)
                except Blocked as blocked:
                    if blocked.writer in places:
                        break
                    if self.run.suspend(task, blocked.writer):
                        return None
                    continue
                if key not in sent or sent[key] is not value:
                    values[key] = value
                break
        return values

    # --- taking back -----------------------------------------------------------------------------------------------------

    async def _put(self, items: Sequence[Item], tasks: Sequence[Task], answers: list[Answer]) -> None:
        missing: dict[bytes, None] = {}
        for at, (item, answer) in enumerate(zip(items, answers, strict=True)):
            if answer.failed and answer.error is None:
                # An exception does not travel: it is made here, of the very values that made it there.
                again = Item(item.place, item.incarnation, item.transaction, answer.reads)
                (answers[at],) = await self._local.run(self._block, [again])
            output = answers[at].output
            for key in output.deltas if output is not None and output.kind == KEPT else answer.asks:
                try:
                    self._base.get(key)
                except Absent:
                    missing[key] = None
        if missing:
            await self._base.load(missing)
        for task, answer in zip(tasks, answers, strict=True):
            hints = self._hints[task.place]
            if answer.asks:
                hints.update(dict.fromkeys(answer.reads))
                hints.update(dict.fromkeys(answer.asks))
                self._again.append(task)
                continue
            if len(answer.reads) > len(hints):
                hints.update(dict.fromkeys(answer.reads))
            outcome = Outcome(answer.reads, answer.output, answer.error)
            follows = drive(self.run.finish_steps(task, outcome))
            if follows is not None:
                self._again += self._validate(follows)
        self._commit()

    def _validate(self, task: Task) -> list[Task]:
        follows = drive(self.run.validate_steps(task))
        return [] if follows is None else [follows]

    def _commit(self) -> None:
        """Nothing after what failed: sequential execution would not have come to it."""
        if self._failure is None:
            try:
                self.run.commit()
            except Exception as error:
                self._failure = error
        if self._ended:
            self._wake()


def _place(task: Task) -> int:
    return task.place
