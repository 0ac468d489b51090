"""Wakes everybody who waits for the chain to move: one reader of the node's events for all of them."""

from __future__ import annotations

from typing import Final

import trio

from nodewright.interfaces.service import ChainEvent, EventLog

# What can change the answer to "where does my transaction stand".
MOVES: Final = frozenset({"block_accepted", "finalised", "reorganised", "rejected", "evicted"})


class Pulse:
    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._next = trio.Event()

    async def run(self) -> None:
        async for event in self._events.subscribe():
            if not isinstance(event, ChainEvent) or event.kind in MOVES:
                self.beat()

    def beat(self) -> None:
        self._next.set()
        self._next = trio.Event()

    async def wait(self, seconds: float) -> None:
        """Until the chain moves, or for that long."""
        beat = self._next
        with trio.move_on_after(seconds):
            await beat.wait()
