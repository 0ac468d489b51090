"""Saying things without waiting for who does not listen: a peer that stops reading costs the others nothing.

Invariants: ``tell`` and ``tell_all`` return at once. For each peer at most ``MAX_WAITING`` messages of ``MAX_BYTES`` wait
on a channel, and as many broadcasts; what is more is dropped (all that is said here is said again, or asked for). Each
waits ``PATIENCE_SECONDS`` at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from nodewright.errors import PeerGone
from nodewright.interfaces.transport import Channel

MAX_WAITING = 1024
MAX_BYTES = 32 * 1024 * 1024
PATIENCE_SECONDS = 10.0
ALL = b""


class Sender:
    def __init__(self) -> None:
        self._waiting: dict[tuple[str, bytes], tuple[int, int]] = {}  # messages, bytes
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # who is still about to say something at a stop finds nobody to say it

    def tell(self, channel: Channel, peer: bytes, payload: bytes) -> None:
        self._start((channel.name, peer), len(payload), partial(channel.send, peer, payload))

    def tell_all(self, channel: Channel, payload: bytes) -> None:
        self._start((channel.name, ALL), len(payload), partial(channel.broadcast, payload))

    def _start(self, to: tuple[str, bytes], size: int, say: Callable[[], Awaitable[None]]) -> None:
        count, held = self._waiting.get(to, (0, 0))
        if self._nursery is None or count >= MAX_WAITING or (count and held + size > MAX_BYTES):
            return
        self._waiting[to] = count + 1, held + size
        self._nursery.start_soon(self._say, to, size, say)

    async def _say(self, to: tuple[str, bytes], size: int, say: Callable[[], Awaitable[None]]) -> None:
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                await say()
        except PeerGone:
            pass
        finally:
            count, held = self._waiting.pop(to)
            if count > 1:
                self._waiting[to] = count - 1, held - size
