"""The collaborative scheduler of Block-STM (section 4): which transaction is executed or validated next.

A block's transactions are numbered; the result must be that of running them in that order. Each runs in *incarnations*
0, 1, …: a new one whenever what the last one read has turned out not to be what it should have read.

    READY(n) → EXECUTING(n) → EXECUTED(n) → COMMITTED(n)
                   │               │
                   └→ SUSPENDED    └→ ABORTING → READY(n + 1)

SUSPENDED waits for a lower transaction to be EXECUTED, and is READY(n + 1) then.

Two counters go up over the block: below ``execution_index`` every transaction was begun, below ``validation_index`` every
executed one was given to be validated. The lower one's task is handed out first. Whatever may change what a higher
transaction should have read lowers ``validation_index`` and begins a new *wave*: all above are validated again.

Commits roll: a transaction is committed when all below are, it is EXECUTED, and it passed a validation of this incarnation
that began in a wave not older than any that was begun at or below its place.

Invariants
- At most one task is out for the execution of a transaction, and its incarnation is that of its status.
- A transaction whose effects changed where the incarnation before wrote nothing (``wider``), or that was aborted, has
  lowered ``validation_index`` below all above it *before* it is EXECUTED or READY again: until then it cannot commit, nor
  can they.
- A validation handed out in wave w looks at the memory after every change that began a wave ≤ w.
- An EXECUTED transaction that is not committed lies at or above ``validation_index``, or a validation of it is out, or it
  has passed one that suffices, or a task for a transaction below it is still to be done: so something is always to be
  done until all are committed.
- A COMMITTED transaction is never handed out again.

Calls are made one at a time by one owner: each is atomic. Between any two calls others may come in between, and nothing
here relies on their order: an answer for an incarnation that has gone is passed over.
"""

from __future__ import annotations

from typing import Final

from attrs import define

READY: Final = 0
EXECUTING: Final = 1
SUSPENDED: Final = 2
EXECUTED: Final = 3
ABORTING: Final = 4
COMMITTED: Final = 5


# Made twice for each transaction: a frozen class costs three times as much. Nobody assigns to one.
@define
class Task:
    """Of the transaction at ``place``: execute ``incarnation``, or (``wave`` not None) validate it."""

    place: int
    incarnation: int
    wave: int | None = None


class Scheduler:
    def __init__(self, count: int) -> None:
        self.count = count
        self.execution_index = 0
        self.validation_index = 0
        self.commit_index = 0
        self.wave = 0
        self.statuses = [READY] * count
        self.incarnations = [0] * count
        self._dependents: list[list[int]] = [[] for _ in range(count)]
        self._passed = [-1] * count  # the latest wave in which this incarnation passed
        self._begun = [0] * (count + 1)  # the latest wave begun at this place
        self._needed = 0  # the latest wave begun at or below commit_index

    @property
    def done(self) -> bool:
        return self.commit_index == self.count

    def next(self) -> Task | None:
        """The task of the lower counter; None where others' tasks have to be finished first."""
        while True:
            if self.validation_index < self.execution_index:
                task = self._next_validation()
            elif self.execution_index < self.count:
                place = self.execution_index
                self.execution_index += 1
                task = self._begin(place)
            else:
                return None
            if task is not None:
                return task

    def _next_validation(self) -> Task | None:
        place = self.validation_index
        self.validation_index += 1
        if self.statuses[place] == EXECUTED:
            return Task(place, self.incarnations[place], self.wave)
        return None

    def _begin(self, place: int) -> Task | None:
        if self.statuses[place] != READY:
            return None
        self.statuses[place] = EXECUTING
        return Task(place, self.incarnations[place])

    # --- execution -------------------------------------------------------------------------------------------------------

    def suspend(self, task: Task, writer: int) -> bool:
        """What is EXECUTING has read an estimate of ``writer``, a lower place. False where that one has been executed
        since: go on, and read again."""
        if self.statuses[writer] in (EXECUTED, COMMITTED):
            return False
        self.statuses[task.place] = SUSPENDED
        self._dependents[writer].append(task.place)
        return True

    def executed(self, task: Task, wider: bool) -> Task | None:
        """Its effects are in the memory. Answers its validation where the counter has passed it already."""
        place = task.place
        if wider:
            self._revalidate(place + 1)
        self.statuses[place] = EXECUTED
        resumed, self._dependents[place] = self._dependents[place], []
        for one in resumed:
            self.statuses[one] = READY
            self.incarnations[one] += 1
        if resumed:
            self.execution_index = min(self.execution_index, *resumed)
        if self.validation_index > place:
            return Task(place, task.incarnation, self.wave)
        return None

    # --- validation ------------------------------------------------------------------------------------------------------

    def passed(self, task: Task) -> None:
        """What this incarnation read is what it should have, by the memory after the task was handed out."""
        place = task.place
        if self.statuses[place] == EXECUTED and self.incarnations[place] == task.incarnation and task.wave is not None:
            self._passed[place] = max(self._passed[place], task.wave)

    def abort(self, task: Task) -> bool:
        """What it read is not what it should have. True for the first to say so of this incarnation: who gets that turns
        its versions into estimates and calls ``aborted``."""
        if self.statuses[task.place] != EXECUTED or self.incarnations[task.place] != task.incarnation:
            return False
        self.statuses[task.place] = ABORTING
        return True

    def aborted(self, task: Task) -> Task | None:
        """Its versions are estimates. Answers its next execution where the counter has passed it already."""
        place = task.place
        self._revalidate(place + 1)
        self.statuses[place] = READY
        self.incarnations[place] += 1
        self._passed[place] = -1
        return self._begin(place) if self.execution_index > place else None

    def _revalidate(self, place: int) -> None:
        """All from here on. Where the counter has not come so far there is nothing to do: whatever was validated here and
        above before was so in an earlier wave than that which lowered the counter below."""
        if self.validation_index > place:
            self.validation_index = place
            self.wave += 1
            self._begun[place] = self.wave

    # --- commit ----------------------------------------------------------------------------------------------------------

    def commit(self) -> int | None:
        """The next transaction, where it can be committed now."""
        place = self.commit_index
        if place == self.count or self.statuses[place] != EXECUTED:
            return None
        needed = max(self._needed, self._begun[place])
        if self._passed[place] < needed:
            return None
        self._needed = needed
        self.statuses[place] = COMMITTED
        self.commit_index += 1
        return place
