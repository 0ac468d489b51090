"""What takes long to check, of what is submitted, is checked here, beside the batches, one at a time.

Invariants
- One transaction is being prepared at a time, those of several submissions in turn: nothing but its like waits for it.
- A submission's order is kept: what takes long, and what was refused for want of a parent behind it, is offered again one
  after the other. What needs none of these is admitted before them.
- A submission gets one look for nothing: once something that took long is refused, the rest of it that would is busy.
- At most MAX_WAITING submissions are in here, MAX_OF_ONE_SOURCE of one source: any more are busy at once.
- Once the pool closes, no further look begins.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from nodewright.errors import NodewrightError
from nodewright.interfaces.common import Admission, Admitted, BlockRef, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Unhurried

MAX_WAITING = 16
MAX_OF_ONE_SOURCE = 12

Offer = Callable[[Sequence[bytes]], Awaitable[list[Admission]]]


def is_slow(answer: Admission) -> bool:
    return type(answer) is Refused and "slow" in answer.data


class SlowLane:
    """``head`` as the admitter has it; ``closing`` says that the pool stops; ``refused`` hears of each that is refused."""

    def __init__(
        self,
        environment: Environment,
        execution: Unhurried,
        head: Callable[[], BlockRef],
        closing: Callable[[], bool],
        refused: Callable[[Sequence[Refused]], None],
    ) -> None:
        self._environment = environment
        self._execution = execution
        self._head = head
        self._closing = closing
        self._refused = refused
        self._turn = trio.Lock()
        self._waiting: Counter[str] = Counter()

    async def finish(
        self, txs: Sequence[bytes], answers: Sequence[Admission], source: str, offer: Offer
    ) -> list[Admission]:
        """The answers of a submission, some of which are slow, with none that is. ``offer`` is a submission's way to the
        batches."""
        if self._waiting.total() >= MAX_WAITING or self._waiting[source] >= MAX_OF_ONE_SOURCE:
            text = "its scripts take long to check and many such wait: try again later"
            return [_busy(answer, text) if is_slow(answer) else answer for answer in answers]
        self._waiting[source] += 1
        try:
            return await self._finish(txs, list(answers), offer)
        finally:
            self._waiting[source] -= 1
            if not self._waiting[source]:
                del self._waiting[source]

    async def _finish(self, txs: Sequence[bytes], answers: list[Admission], offer: Offer) -> list[Admission]:
        first = next(at for at, answer in enumerate(answers) if is_slow(answer))
        todo = deque(at for at in range(first, len(answers)) if is_slow(answers[at]) or _is_missing(answers[at]))
        failed = ""
        while todo:
            if not is_slow(answers[todo[0]]):
                run = []
                while todo and not is_slow(answers[todo[0]]):
                    run.append(todo.popleft())
                if failed:
                    continue
                for at, answer in zip(run, await offer([txs[at] for at in run]), strict=True):
                    answers[at] = answer
                todo.extendleft(reversed([at for at in run if is_slow(answers[at])]))
                continue
            at = todo.popleft()
            if not failed:
                answers[at] = await self._one(txs[at], answers[at], offer)
                if self._closing():
                    failed = "the node is stopping"
                elif not isinstance(answers[at], Admitted):
                    failed = "one before it in this submission took long to check and was refused: send this one again"
            else:
                answers[at] = _busy(answers[at], failed)
        return answers

    async def _one(self, tx: bytes, answer: Admission, offer: Offer) -> Admission:
        async with self._turn:
            if self._closing():
                return _busy(answer, "the node is stopping")
            refused = await self._execution.prepare(tx, self._head(), int(self._environment.now()))
        if refused is not None:
            self._refused([refused])
            return refused
        if self._closing():
            return _busy(answer, "the node is stopping")
        try:
            (admitted,) = await offer([tx])
        except NodewrightError:
            if not self._closing():
                raise
            return _busy(answer, "the node is stopping")
        return _busy(admitted, "the chain changed while this was checked: send it again") if is_slow(admitted) else admitted


def _is_missing(answer: Admission) -> bool:
    return type(answer) is Refused and answer.kind == "missing"


def _busy(answer: Admission, message: str) -> Refused:
    assert isinstance(answer, Refused)
    return Refused("busy", message, "busy", answer.id, {"retry_after_seconds": 1})
