"""One block under Block-STM: what becomes of the answers of those who execute its transactions.

Validation is by value: an incarnation is right where a read of each of its keys answers now what it was answered then. That
is no weaker than comparing versions, because an output is a pure function of the values read (``state``), and it spares
those that read what was written again unchanged.

Invariants
- ``outputs`` of committed transactions are those of sequential execution: each was validated after all below it were final.
- An exception of an incarnation that is not committed is never raised: it is kept as its outcome, and goes away with it.
- A transaction reads each key once: what its function is answered the second time is what it was answered the first.

Methods that end in ``_steps`` are generators that yield wherever another worker might come in between: threads are explored
without threads by advancing several in any order. A sole owner drives each to its end (``drive``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

from attrs import define

from nodewright_aptos.blockstm.memory import Blocked, MultiVersionMemory
from nodewright_aptos.blockstm.scheduler import Scheduler, Task
from nodewright_aptos.state import KEPT, Absent, Output

T = TypeVar("T")
Steps = Generator[None, None, T]


@define
class Outcome:
    """Of one incarnation: what it was answered by key, and its output, or what its function raised."""

    reads: Mapping[bytes, bytes | None]
    output: Output | None
    error: Exception | None = None


class BlockRun:
    def __init__(self, count: int, base: Callable[[bytes], bytes | None]) -> None:
        self.scheduler = Scheduler(count)
        self.memory = MultiVersionMemory(count, base)
        self.outcomes: list[Outcome | None] = [None] * count
        self.executions = 0
        self.aborts = 0
        self.suspensions = 0

    def suspend(self, task: Task, writer: int) -> bool:
        """False where the writer is done: read again."""
        if not self.scheduler.suspend(task, writer):
            return False
        self.suspensions += 1
        return True

    def finish_steps(self, task: Task, outcome: Outcome) -> Steps[Task | None]:
        """An incarnation has run to its end. Answers a task that follows for whoever finished this one."""
        self.executions += 1
        self.outcomes[task.place] = outcome
        output = outcome.output
        if output is not None and output.kind == KEPT:
            wider = self.memory.record(task.place, output.writes, output.deltas)
        else:
            wider = self.memory.record(task.place, {}, {})
        yield
        return self.scheduler.executed(task, wider)

    def validate_steps(self, task: Task) -> Steps[Task | None]:
        outcome = self.outcomes[task.place]
        assert outcome is not None  # it was EXECUTED when the task was handed out
        good = True
        for key, value in outcome.reads.items():
            try:
                good = self.memory.read(key, task.place) == value
            except (Blocked, Absent):  # Absent: what it read was another's version, which is gone
                good = False
            yield
            if not good:
                break
        if good:
            self.scheduler.passed(task)
            return None
        if not self.scheduler.abort(task):
            return None
        self.aborts += 1
        yield
        self.memory.estimate(task.place)
        yield
        return self.scheduler.aborted(task)

    def commit(self) -> None:
        """As far as can be. Raises what a transaction raised that sequential execution would have come to, and
        OverflowError where an aggregator leaves its range."""
        while (place := self.scheduler.commit()) is not None:
            outcome = self.outcomes[place]
            assert outcome is not None
            if outcome.error is not None:
                raise outcome.error
            self.memory.settle(place)

    def outputs(self) -> list[Output]:
        """Of a block whose every transaction is committed."""
        return [one.output for one in self.outcomes if one is not None and one.output is not None]


def drive(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value
