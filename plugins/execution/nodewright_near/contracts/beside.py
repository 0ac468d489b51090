"""Contracts run beside the node's loop: a step that may take seconds goes to a thread, and loads what it lacks from there.

A step that lacks state raises ``Absent`` and is begun again once that is loaded. In a thread it need not: ``State.fetch``
has the loop load it while the thread waits. The outcome is the same either way, the time is not: a call that reads many
keys would run as many times. Where ``offload`` is inline (the simulator) steps are begun again.

Invariants
- A state is touched by one step at a time: whoever gave the step waits for it.
- At most one chunk's step and ``views`` view calls hold threads at once, so that stores that read in threads find one.
- Of view calls at most ``WAITING`` wait; the next is refused. None asks its host for anything beyond ``seconds``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio
from attrs import evolve

from nodewright.errors import NodewrightError
from nodewright.interfaces.environment import Environment, Reentrant
from nodewright_near.contracts.calls import Call, CallOutcome, Machine
from nodewright_near.state import Absent, State

T = TypeVar("T")
WAITING: Final = 32
# Loads keys, and what is under prefixes, into the state.
Load = Callable[[Sequence[bytes], Sequence[bytes]], Awaitable[None]]
LoadInto = Callable[[State, Sequence[bytes], Sequence[bytes]], Awaitable[None]]


class ViewsBusy(NodewrightError):
    """Too many view calls run and wait: this one was not begun."""


class ViewTooLong(NodewrightError):
    """A view call had its time."""


def tried(step: Callable[[], T]) -> T | Absent:
    """What the step comes to, or what it lacks."""
    try:
        return step()
    except Absent as absent:
        return absent


class Beside:
    def __init__(self, environment: Environment, views: int, seconds: float) -> None:
        self._environment = environment
        self._seconds = seconds
        self._chunks = trio.CapacityLimiter(1)
        self._views = trio.CapacityLimiter(views)
        self._asked = 0

    async def step(self, step: Callable[[], T], state: State, load: Load) -> T | Absent:
        """Of a chunk. Raises what the step and ``load`` raise."""
        async with self._chunks:
            return await self._off(step, state, load)

    async def _off(self, step: Callable[[], T], state: State, load: Load) -> T | Absent:
        environment = self._environment
        if isinstance(environment, Reentrant):
            state.fetch = partial(environment.reenter, load)
        try:
            return await environment.offload(tried, step)
        finally:
            state.fetch = None

    async def view(self, machine: Machine, call: Call, load: LoadInto) -> CallOutcome:
        """Raises ViewsBusy, ViewTooLong, and what ``load`` raises."""
        if self._asked >= self._views.total_tokens + WAITING:
            raise ViewsBusy(f"{self._asked} view calls run or wait here already; ask again later")
        self._asked += 1
        try:
            async with self._views:
                return await self._run_view(machine, call, load)
        finally:
            self._asked -= 1

    async def _run_view(self, machine: Machine, call: Call, load: LoadInto) -> CallOutcome:
        clock = self._environment.monotonic
        end = clock() + self._seconds

        def look() -> None:
            if clock() > end:
                raise ViewTooLong(f"the call of {call.method} took longer than {self._seconds:g} s")

        state, timed = State(), evolve(call, deadline=look)
        while True:
            answer = await self._off(partial(machine.call, timed, state), state, partial(load, state))
            if not isinstance(answer, Absent):
                return answer
            state.rollback()
            await load(state, answer.keys, answer.prefixes)
            look()
