"""A two-way line of messages between a coordinator and one shard: over pipes, or within one process.

Invariants: messages come in order, whole and each once, or the line is lost; once lost it stays so. What is longer than a
message may be is never read into memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from nodewright_aptos.shards.messages import MAX_MESSAGE_BYTES

_READ_BYTES: Final = 1 << 18
_QUEUED: Final = 16


class LinkLost(Exception):
    """The other side is gone; the text says how that showed."""


class Link(Protocol):
    async def send(self, data: bytes) -> None:
        """One message. Not by two tasks at once. Raises LinkLost."""

    async def receive(self) -> bytes:
        """The next one. Raises LinkLost."""

    async def aclose(self) -> None:
        """Both sides' calls raise from now on. What there is to clean up is done when this returns."""


class StreamLink:
    """Over two byte streams: each message has its length before it, u32 little-endian."""

    def __init__(self, into: Any, out: Any, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._into = into
        self._out = out
        self._close = close
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        try:
            await self._out.send_all(len(data).to_bytes(4, "little") + data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise LinkLost("its process takes nothing any more") from error

    async def receive(self) -> bytes:
        size = int.from_bytes(await self._take(4), "little")
        if size > MAX_MESSAGE_BYTES:
            raise LinkLost(f"it announces a message of {size} bytes")
        return await self._take(size)

    async def _take(self, count: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < count:
            try:
                more = await self._into.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise LinkLost("its process says nothing any more") from error
            if not more:
                raise LinkLost("its process ended")
            buffer += more
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken

    async def aclose(self) -> None:
        await self._out.aclose()
        await self._into.aclose()
        if self._close is not None:
            await self._close()


class QueueLink:
    """One end of two queues."""

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out = out
        self._into = into

    async def send(self, data: bytes) -> None:
        try:
            await self._out.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkLost("the other end was closed") from error

    async def receive(self) -> bytes:
        try:
            return await self._into.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise LinkLost("the other end was closed") from error

    async def aclose(self) -> None:
        self._out.close()
        self._into.close()
        await trio.lowlevel.checkpoint()


def linked() -> tuple[QueueLink, QueueLink]:
    """Two ends."""
    there_out, here_in = trio.open_memory_channel[bytes](_QUEUED)
    here_out, there_in = trio.open_memory_channel[bytes](_QUEUED)
    return QueueLink(here_out, here_in), QueueLink(there_out, there_in)


def leaves(error: BaseException) -> list[BaseException]:
    """What is in a group of exceptions, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
