"""Events and metrics of a simulated node: kept in memory, told to the run's trace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import trio

from nodewright.interfaces import ChainEvent, Lagged
from nodewright.testing.simulation import Trace


class Events:
    """Implements ``EventLog``: every event since the node's first start, over its restarts."""

    def __init__(self, name: str, trace: Trace) -> None:
        self.name = name
        self.all: list[ChainEvent] = []
        self._trace = trace
        self._more = trio.Event()

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        event = ChainEvent(len(self.all) + 1, trio.current_time(), kind, data)
        self.all.append(event)
        self._trace.record(self.name, kind, dict(data))
        self._more.set()
        self._more = trio.Event()
        return event.sequence

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.data for event in self.all if event.kind == kind]

    async def subscribe(self, after: int | None = None) -> AsyncIterator[ChainEvent | Lagged]:
        at = len(self.all) if after is None else after
        while True:
            while at < len(self.all):
                at += 1
                yield self.all[at - 1]
            await self._more.wait()

    @property
    def last_sequence(self) -> int:
        return len(self.all)


class Gauge:
    """A number by name, set or asked for."""

    def __init__(self) -> None:
        self.value = 0.0
        self._function: Callable[[], float] | None = None

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value

    observe = set

    def set_function(self, function: Callable[[], float]) -> None:
        self._function = function

    def read(self) -> float:
        return self._function() if self._function is not None else self.value


class Numbers:
    """Implements ``Metrics``."""

    def __init__(self) -> None:
        self.all: dict[str, Gauge] = {}

    def counter(self, name: str, help: str) -> Gauge:
        return self.all.setdefault(name, Gauge())

    gauge = counter

    def histogram(self, name: str, help: str, buckets: tuple[float, ...] = ()) -> Gauge:
        return self.counter(name, help)

    def render(self) -> str:
        return "".join(f"{name} {gauge.read()}\n" for name, gauge in sorted(self.all.items()))
