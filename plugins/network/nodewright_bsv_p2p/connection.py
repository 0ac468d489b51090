"""One byte stream to another node: whole messages in, a bounded outbox out.

Invariants:
- at most one message of a peer is in memory here while it arrives, and none is begun whose length is over its limit; what
  is passed over is never in memory whole; one that has begun comes at a pace of STALL_BYTES in ``stall_seconds`` at
  least, or the peer is at fault;
- what waits to be sent is at most OUTBOX_BYTES and one large message (a block); whoever replies never waits for the
  other side, so two nodes cannot wait for each other;
- messages go out in the order in which they were pushed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from nodewright_bsv_p2p.framing import (
    EXTENSION_BYTES,
    HEAD_BYTES,
    LONGEST_PLAIN,
    Head,
    WireError,
    check,
    checksum,
    decode_extension,
    decode_head,
    encode_head,
)

OUTBOX_BYTES = 16 * 1024 * 1024
LITTLE_BYTES = 1024 * 1024
STALL_BYTES = 64 * 1024
STALL_POINTS = 34
PIECE_BYTES = 256 * 1024


class Gone(Exception):
    """The connection is of no more use; the message says why."""


class Connection:
    """``limit`` gives the longest payload of a command that may come now, and whether it is kept or passed over."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        magic: bytes,
        limit: Callable[[str], tuple[int, bool]],
        send_seconds: float,
        stall_seconds: float,
    ) -> None:
        self.bytes_in = 0
        self._stream = stream
        self._magic = magic
        self._limit = limit
        self._send_seconds = send_seconds
        self._stall_seconds = stall_seconds
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._waiting = 0
        self._pushed = trio.Event()
        self._drained = trio.Event()

    # --- in ---

    async def read(self) -> tuple[str, bytes]:
        """The next message of a kind that is taken. Raises WireError, Gone."""
        while True:
            head = decode_head(await self._exactly(HEAD_BYTES), self._magic)
            if head is None:
                head = decode_extension(await self._exactly(EXTENSION_BYTES))
            limit, kept = self._limit(head.command)
            if head.length > limit:
                raise WireError(f"{head.command} of {head.length} bytes is over the limit of {limit}")
            payload = await self._payload(head, kept)
            if kept:
                check(head, payload)
                return head.command, payload

    async def _exactly(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            got += await self._some(count - len(got))
        return bytes(got)

    async def _payload(self, head: Head, kept: bool) -> bytes:
        got, count = bytearray(), 0
        while count < head.length:
            before = count
            with trio.move_on_after(self._stall_seconds):
                while count < head.length and count - before < STALL_BYTES:
                    piece = await self._some(head.length - count)
                    count += len(piece)
                    if kept:
                        got += piece
                continue
            raise WireError(f"{head.command} of {head.length} bytes does not come on", STALL_POINTS)
        return bytes(got)

    async def _some(self, most: int) -> bytes | bytearray:
        try:
            piece = await self._stream.receive_some(min(PIECE_BYTES, most))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Gone("the connection broke") from error
        if not piece:
            raise Gone("it hung up")
        self.bytes_in += len(piece)
        return piece

    # --- out ---

    def push(self, command: str, payload: bytes = b"") -> None:
        """Never waits. Raises Gone where the other side takes too little off us."""
        if self._waiting + len(payload) > OUTBOX_BYTES:
            raise Gone("it does not read what it is sent")
        self._push(command, payload)

    async def push_large(self, command: str, payload: bytes) -> None:
        """Waits until little else waits to be sent: then one message of any size may."""
        while self._waiting > LITTLE_BYTES:
            self._drained = trio.Event()  # one task only sends large ones
            await self._drained.wait()
        self._push(command, payload)

    def _push(self, command: str, payload: bytes) -> None:
        plain = len(payload) <= LONGEST_PLAIN
        head = Head(command, len(payload), checksum(payload) if plain else None)
        self._outbox.append((encode_head(self._magic, head), payload))
        self._waiting += HEAD_BYTES + len(payload)
        self._pushed.set()

    async def write(self) -> None:
        """Sends what is pushed, for ever. Raises Gone."""
        while True:
            while not self._outbox:
                self._pushed = trio.Event()
                await self._pushed.wait()
            head, payload = self._outbox.popleft()
            await self._send(head + payload if len(payload) < PIECE_BYTES else head)
            if len(payload) >= PIECE_BYTES:
                view = memoryview(payload)
                for at in range(0, len(payload), PIECE_BYTES):
                    await self._send(view[at : at + PIECE_BYTES])
            self._waiting -= HEAD_BYTES + len(payload)
            if self._waiting <= LITTLE_BYTES:
                self._drained.set()

    async def _send(self, piece: bytes | memoryview) -> None:
        with trio.move_on_after(self._send_seconds) as scope:
            try:
                await self._stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Gone("the connection broke") from error
        if scope.cancelled_caught:
            raise Gone(f"it took nothing off us in {self._send_seconds:g} s")
