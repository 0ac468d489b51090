"""What waits to be written to one peer.

Invariants:
- Control frames go first, then responses and channels in turn, then at most one piece of a body per batch.
- A metered channel's frame leaves only with credit for it; the order within a channel never changes.
- Every queue is bounded: a channel at twice ``outbox_bytes`` (plus one message), responses at ``outbox_bytes`` (plus
  one), control frames by count (``ControlOverflow``: the peer makes us answer and does not read the answers).
"""

from __future__ import annotations

from collections import deque

import trio
from attrs import define, field

from nodewright.errors import TransportError
from nodewright.transport import frames
from nodewright.transport.link import Limits

FRAME_COST = 64  # memory of a queued frame beside its bytes
MAX_CONTROL_FRAMES = 4096


class ControlOverflow(TransportError):
    """The peer asks and does not read."""


@define(eq=False)
class ChannelQueue:
    """Toward one peer. ``credit_*`` is what its inbox still takes; ``full_since`` is set while a broadcast found the
    queue above its soft bound and it has not drained to half of it since."""

    metered: bool
    credit_messages: int
    credit_bytes: int
    max_message_bytes: int
    frames: deque[bytes] = field(factory=deque)
    size: int = 0
    full_since: float | None = None
    room: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def sendable(self) -> bool:
        if not self.frames:
            return False
        if not self.metered:
            return True
        head = self.frames[0]
        return self.credit_messages > 0 and self.credit_bytes >= payload_size(head)


def payload_size(frame: bytes) -> int:
    """Of a DATA or REQUEST frame: what it takes from the window."""
    return len(frame) - (frames.DATA_OVERHEAD if frame[4] == frames.DATA else frames.REQUEST_OVERHEAD)


class Outbox:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.channels: dict[int, ChannelQueue] = {}
        self.closed = False
        self._turn: deque[ChannelQueue] = deque()
        self._control: deque[bytes] = deque()
        self._responses: deque[bytes] = deque()
        self._responses_size = 0
        self._responses_room = trio.lowlevel.ParkingLot()
        self._bulk: deque[bytes] = deque()
        self._bulk_room = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()

    def declare(self, declaration: frames.Declaration) -> None:
        queue = ChannelQueue(
            metered=declaration.window_messages != frames.UNMETERED,
            credit_messages=declaration.window_messages,
            credit_bytes=declaration.window_bytes,
            max_message_bytes=declaration.max_message_bytes,
        )
        self.channels[declaration.channel] = queue
        self._turn.append(queue)

    def kick(self) -> None:
        self._wake.set()

    def control(self, frame: bytes) -> None:
        if len(self._control) >= MAX_CONTROL_FRAMES:
            raise ControlOverflow("the peer makes this node answer and does not read the answers")
        self._control.append(frame)
        self._wake.set()

    def push(self, queue: ChannelQueue, frame: bytes) -> None:
        queue.frames.append(frame)
        queue.size += len(frame) + FRAME_COST
        self._wake.set()

    async def respond(self, frame: bytes) -> bool:
        """False where the session ended first."""
        while self._responses_size > self.limits.outbox_bytes and not self.closed:
            await self._responses_room.park()
        if self.closed:
            return False
        self._responses.append(frame)
        self._responses_size += len(frame) + FRAME_COST
        self._wake.set()
        return True

    async def bulk(self, frame: bytes) -> bool:
        """A piece of a body, once fewer than two wait. False where the session ended first."""
        while len(self._bulk) >= 2 and not self.closed:
            await self._bulk_room.park()
        if self.closed:
            return False
        self._bulk.append(frame)
        self._wake.set()
        return True

    def close(self) -> None:
        self.closed = True
        for queue in self.channels.values():
            queue.room.unpark_all()
        self._responses_room.unpark_all()
        self._bulk_room.unpark_all()
        self._wake.set()

    def empty(self) -> bool:
        return not (self._control or self._responses or self._bulk or any(q.frames for q in self.channels.values()))

    async def next_batch(self) -> bytes:
        """Waits until something may be written; empty once closed."""
        while True:
            if self.closed:
                return b""
            batch = self._collect()
            if batch:
                return batch
            self._wake = trio.Event()
            await self._wake.wait()

    def _collect(self) -> bytes:
        parts: list[bytes] = []
        budget = frames.BATCH_BYTES
        control, responses = self._control, self._responses
        while control and budget > 0:
            parts.append(control.popleft())
            budget -= len(parts[-1])
        while responses and budget > 0:
            parts.append(responses.popleft())
            budget -= len(parts[-1])
            self._responses_size -= len(parts[-1]) + FRAME_COST
            self._responses_room.unpark()
        for _ in range(len(self._turn)):
            if budget <= 0:
                break
            self._turn.rotate(-1)
            budget = self._take(self._turn[-1], parts, budget)
        if self._bulk:
            parts.append(self._bulk.popleft())
            self._bulk_room.unpark()
        return b"".join(parts)

    def _take(self, queue: ChannelQueue, parts: list[bytes], budget: int) -> int:
        while budget > 0 and queue.sendable():
            head = queue.frames.popleft()
            queue.size -= len(head) + FRAME_COST
            if queue.metered:
                queue.credit_messages -= 1
                queue.credit_bytes -= payload_size(head)
            parts.append(head)
            budget -= len(head)
        if queue.size < self.limits.outbox_bytes:
            queue.room.unpark_all()
            if queue.size <= self.limits.outbox_bytes // 2:
                queue.full_since = None
        return budget
