"""Submissions wait here, are grouped into batches and admitted one batch at a time, in the order they came.

Invariants: at most one ``execution.admit`` is in flight; a submission is answered exactly once, with one answer per
transaction in order, or raised at; what waits is counted in bytes, so that the pool can refuse before it is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from contextlib import asynccontextmanager

import trio

from nodewright.errors import NodewrightError
from nodewright.interfaces.common import Admission, Admitted, BlockRef, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution, Unhurried
from nodewright.node.ordering import retry_order
from nodewright.node.statuses import FinalStatuses

# What a waiting or pending transaction costs in memory beside its bytes.
OVERHEAD_BYTES = 256


class Submission:
    __slots__ = ("answers", "done", "error", "size", "source", "txs")

    def __init__(self, txs: Sequence[bytes], size: int, source: str) -> None:
        self.txs = txs
        self.size = size
        self.source = source
        self.done = trio.Event()
        self.answers: list[Admission] = []
        self.error: NodewrightError | None = None


class Batch:
    """Submissions admitted together. ``answers`` are in the order of all their transactions; ``late`` has the positions of
    those admitted after the others, parents first; ``number`` is that of their admission; ``final_mark`` the last final
    status that was recorded before it."""

    __slots__ = ("answers", "final_mark", "late", "number", "submissions", "txs")

    def __init__(self, submissions: list[Submission]) -> None:
        self.submissions = submissions
        self.number = 0
        self.final_mark = 0
        self.txs: list[bytes] = []
        for submission in submissions:
            self.txs += submission.txs
        self.answers: list[Admission] = []
        self.late: list[int] = []

    def in_order(self) -> Iterable[tuple[int, Admission]]:
        """Positions and answers, parents before children."""
        if not self.late:
            return enumerate(self.answers)
        late = set(self.late)
        order = [*(at for at in range(len(self.answers)) if at not in late), *self.late]
        return [(at, self.answers[at]) for at in order]

    def answer(self) -> None:
        start = 0
        for submission in self.submissions:
            end = start + len(submission.txs)
            submission.answers = self.answers[start:end]
            start = end
            submission.done.set()


class Waiting:
    """The bounded queue of submissions. ``bytes_used`` counts transactions' bytes and OVERHEAD_BYTES for each."""

    def __init__(self, batch_count: int, batch_bytes: int) -> None:
        self._batch_count = batch_count
        self._batch_bytes = batch_bytes
        self._queue: deque[Submission] = deque()
        self._arrived = trio.Event()
        self._closed = False
        self.bytes_used = 0

    def add(self, txs: Sequence[bytes], size: int, source: str) -> Submission:
        submission = Submission(txs, size, source)
        self._queue.append(submission)
        self.bytes_used += size
        self._arrived.set()
        return submission

    async def next(self) -> Batch | None:
        """Waits for at least one submission; None once closed and empty. A submission is never split."""
        while not self._queue:
            if self._closed:
                return None
            self._arrived = trio.Event()
            await self._arrived.wait()
        chosen: list[Submission] = []
        count = size = 0
        while self._queue:
            first = self._queue[0]
            if chosen and (count + len(first.txs) > self._batch_count or size + first.size > self._batch_bytes):
                break
            chosen.append(self._queue.popleft())
            count += len(first.txs)
            size += first.size
        return Batch(chosen)

    def finished(self, batch: Batch) -> None:
        self.bytes_used -= sum(submission.size for submission in batch.submissions)

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def fail(self, error: NodewrightError) -> None:
        """Raise at everyone who waits."""
        self._closed = True
        while self._queue:
            submission = self._queue.popleft()
            submission.error = error
            submission.done.set()


class Admitter:
    """Calls the execution, one batch at a time. ``head`` is what transactions are checked against."""

    def __init__(self, environment: Environment, execution: Execution) -> None:
        self._environment = environment
        self._execution = execution
        self._unhurried = execution if isinstance(execution, Unhurried) else None
        self._lock = trio.Lock()
        self._number = 0
        self.head: Callable[[], BlockRef] | None = None

    def known_head(self) -> BlockRef:
        if self.head is None:
            raise NodewrightError("a transaction was submitted before the chain's head is known")
        return self.head()

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[int]:
        """Nothing is being admitted inside; gives the number of the last admission."""
        async with self._lock:
            yield self._number

    async def offer(self, txs: Sequence[bytes]) -> list[Admission]:
        """For who holds ``idle``: nothing else is admitted meanwhile."""
        assert self.head is not None
        return await self._execution.admit(txs, self.head(), int(self._environment.now()))

    async def admit(
        self, txs: Sequence[bytes], groups: Sequence[int] = (), quick: bool = False
    ) -> tuple[list[Admission], int, list[int]]:
        """Answers, the number of this admission, and the positions of those admitted at the second try, in order.

        ``groups`` are the sizes of the calls that ``txs`` came in: within each, transactions refused because a parent
        came after them are tried once more, parents first.
        ``quick``: what takes long is left out (``interfaces.execution.Unhurried``)."""
        self.known_head()
        async with self._lock:
            now = int(self._environment.now())
            unhurried = self._unhurried if quick else None
            admit = self._execution.admit if unhurried is None else unhurried.admit_quick
            answers = await admit(txs, self.known_head(), now)
            if len(answers) != len(txs):
                raise NodewrightError(f"the execution gave {len(answers)} answers for {len(txs)} transactions")
            again = await self._again(txs, answers, groups)
            if again:
                second = await admit([txs[at] for at in again], self.known_head(), now)
                for at, answer in zip(again, second, strict=True):
                    answers[at] = answer
            self._number += 1
            return answers, self._number, again

    async def _again(self, txs: Sequence[bytes], answers: list[Admission], groups: Sequence[int]) -> list[int]:
        order: list[int] = []
        start = 0
        for size in groups:
            end = start + size
            if size > 1:
                part = answers[start:end]
                waiting = [at for at, answer in enumerate(part) if type(answer) is Refused and answer.kind == "missing"]
                if waiting:
                    ids = {at: part[at].id for at in waiting}
                    unnamed = [at for at, id in ids.items() if id is None]
                    if unnamed:
                        found = await self._execution.identify([txs[start + at] for at in unnamed])
                        ids.update(zip(unnamed, found, strict=True))
                    known = {at: id for at, id in ids.items() if id is not None}
                    order += [start + at for at in retry_order(part, known)]
            start = end
        return order


def busy(count: int, code: str = "busy", message: str = "the pool is full: try again later") -> list[Admission]:
    return [Refused(code, message, "busy", data={"retry_after_seconds": 1})] * count


def as_known(id: bytes, answer: Admission, raw: bytes) -> Admitted:
    """The answer for a transaction the node has already."""
    if isinstance(answer, Admitted):
        return answer if answer.known else Admitted(id, answer.raw, answer.fee, known=True, shard=answer.shard)
    return Admitted(id, raw, known=True)


def settled_meanwhile(batch: Batch, final: FinalStatuses) -> None:
    """A block came between a transaction's admission and now, and ordered it or one that conflicts with it."""
    for at, answer in enumerate(batch.answers):
        if type(answer) is not Admitted or final.number(answer.id) <= batch.final_mark:
            continue
        status = final.get(answer.id)
        if status is None or status.status == "committed":
            batch.answers[at] = as_known(answer.id, answer, batch.txs[at])
        else:
            kind = "conflict" if status.status == "replaced" else "invalid"
            text = f"a block came first: {status.detail}" if status.detail else "a block came first"
            batch.answers[at] = Refused(status.status, text, kind, answer.id)


def refuse(batch: Batch, ids: Container[bytes]) -> None:
    """The journal did not take these."""
    text = "the disk that holds the pool's journal is full: try again later"
    for at, answer in enumerate(batch.answers):
        if isinstance(answer, Admitted) and answer.id in ids:
            batch.answers[at] = busy(1, "journal-full", text)[0]
