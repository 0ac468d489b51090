"""The node's chain events: numbered, kept on disk, read by any number of readers at their own pace.

Invariants
- Sequence numbers grow by one per event and are never used again for another event, also after a crash: what a crash may
  have lost (at most UNSAVED_EVENTS, told to readers but not yet on disk) is skipped when the log is opened again.
- ``publish`` never waits: the event goes to a ring in memory, and a task writes it out within FLUSH_SECONDS; a clean stop
  writes everything. If the disk refuses, events older than the bounded backlog are given up, with a gap, not the node.
- A reader gets every event that is kept, in order, each once. Where events it should have got are gone, or a crash may have
  lost some, it first gets ``Lagged`` with the sequence at which reading goes on. A reader holds nothing but its cursor.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import ChainEvent, Lagged
from nodewright.node.health import Health
from nodewright.node.journal import SegmentLog

UNSAVED_EVENTS = 100_000
UNSAVED_BYTES = 64 * 1024 * 1024
FLUSH_SECONDS = 0.2
CLEAN_FILE = "clean"


class Events:
    """Implements ``nodewright.interfaces.EventLog``. Opened by ``Events.open``."""

    def __init__(
        self,
        environment: Environment,
        folder: Path,
        log: SegmentLog,
        ring_bytes: int,
        keep: int,
        max_bytes: int,
        health: Health | None = None,
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._log = log
        self._ring: deque[tuple[ChainEvent, int]] = deque()
        self._ring_bytes = ring_bytes
        self._ring_used = 0
        self._keep = keep
        self._max_bytes = max_bytes
        self._unsaved: deque[tuple[int, bytes]] = deque()
        self._unsaved_bytes = 0
        self._last = log.next_sequence - 1
        self._published = trio.Event()
        self._wanted = trio.Event()
        self._failing = False
        self._health = health
        self._closing = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environment: Environment,
        folder: Path,
        keep: int = 100_000,
        max_bytes: int = 256 * 1024 * 1024,
        ring_bytes: int = 16 * 1024 * 1024,
        health: Health | None = None,
    ) -> AsyncIterator[Events]:
        """``keep`` events and ``max_bytes`` are what the disk holds at least and at most, in whole segments. ``health`` is
        told under the environment's slot when the disk refuses, and when it takes them again."""
        clean = folder / CLEAN_FILE
        segment_bytes = max(min(8 * 1024 * 1024, max_bytes // 8), 1)
        async with SegmentLog.open(environment, folder, segment_bytes) as log:
            if log.next_sequence > 1 and not clean.exists():
                await log.skip_to(log.next_sequence + UNSAVED_EVENTS)
            clean.unlink(missing_ok=True)
            events = cls(environment, folder, log, ring_bytes, keep, max_bytes, health)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(events._write_out)
                try:
                    yield events
                finally:
                    nursery.cancel_scope.cancel()
                    events._closing = True
                    events._published.set()
                    with trio.CancelScope(shield=True):
                        await events._flush()
                        if not events._unsaved:
                            await environment.offload(clean.write_bytes, b"")

    @property
    def last_sequence(self) -> int:
        return self._last

    @property
    def first_sequence(self) -> int:
        """The oldest event a reader can still get."""
        first = self._ring[0][0].sequence if self._ring else self._last + 1
        return min(first, self._log.first_sequence)

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        """Raises TypeError or ValueError if ``data`` is not JSON-ready: then nothing is published."""
        now = self._environment.now()
        payload = json.dumps([now, kind, data], separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        self._last += 1
        self._ring.append((ChainEvent(self._last, now, kind, data), len(payload)))
        self._ring_used += len(payload)
        while self._ring_used > self._ring_bytes and len(self._ring) > 1:
            self._ring_used -= self._ring.popleft()[1]
        self._unsaved.append((self._last, payload))
        self._unsaved_bytes += len(payload)
        while len(self._unsaved) > UNSAVED_EVENTS or self._unsaved_bytes > UNSAVED_BYTES:
            self._unsaved_bytes -= len(self._unsaved.popleft()[1])
        self._published.set()
        self._wanted.set()
        return self._last

    async def subscribe(self, after: int | None = None) -> AsyncIterator[ChainEvent | Lagged]:
        """Ends when the log is closed. ``after`` beyond the last event waits for those that follow it."""
        cursor = self._last if after is None else after
        while True:
            if cursor >= self._last:
                if self._closing:
                    return
                if self._published.is_set():
                    self._published = trio.Event()
                await self._published.wait()
                continue
            await trio.lowlevel.checkpoint()
            for item in await self._page(cursor):
                if item.sequence != cursor + 1:
                    yield Lagged(item.sequence)
                yield item
                cursor = item.sequence

    async def _page(self, cursor: int) -> list[ChainEvent]:
        """Events after the cursor, some; empty if there are none just now."""
        ring = self._ring
        if ring and ring[0][0].sequence <= cursor + 1:
            skip = cursor + 1 - ring[0][0].sequence
            return [ring[at][0] for at in range(skip, min(skip + 256, len(ring)))]
        found = await self._log.read(cursor + 1, 256 * 1024)
        # What the disk does not have (yet) the ring has.
        ring_first = ring[0][0].sequence if ring else self._last + 1
        page = [decode(sequence, payload) for sequence, payload in found if sequence < ring_first]
        return page or [event for event, _ in list(ring)[:256]]

    async def _write_out(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self._flush()
            await self._environment.sleep(FLUSH_SECONDS)
            if self._failing:
                self._wanted.set()

    async def _flush(self) -> None:
        """Everything unsaved, in one write. A full or failing disk is logged once and tried again."""
        if not self._unsaved:
            return
        batch = list(self._unsaved)
        try:
            if batch[0][0] > self._log.next_sequence:
                await self._log.skip_to(batch[0][0])  # some were given up while the disk was full
            await self._log.append([payload for _, payload in batch])
            await self._trim()
        except StoreError as error:
            if not self._failing:
                self._failing = True
                self._say(False, f"events are not written to disk: {error}")
                self._environment.logger.error("events are not written to disk", reason=str(error))
            return
        if self._failing:
            self._failing = False
            self._say(True)
            self._environment.logger.info("events are written to disk again")
        last = self._log.next_sequence
        while self._unsaved and self._unsaved[0][0] < last:
            self._unsaved_bytes -= len(self._unsaved.popleft()[1])

    def _say(self, ok: bool, detail: str = "") -> None:
        if self._health is not None:
            self._health.set(self._environment.slot, ok, detail)

    async def _trim(self) -> None:
        if self._log.bytes_used > self._max_bytes:
            await self._log.drop_to(self._max_bytes)
        if self._last - self._log.first_sequence > 2 * self._keep:
            await self._log.drop_before(self._last - self._keep)


def decode(sequence: int, payload: bytes) -> ChainEvent:
    try:
        time, kind, data = json.loads(payload)
        return ChainEvent(sequence, float(time), str(kind), data)
    except (ValueError, TypeError) as error:
        raise StoreCorrupt(f"event {sequence} of the event log is not one that a version wrote: {error}") from error
