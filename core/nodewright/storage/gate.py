"""A gate that store objects put before their calls, and the end of a key range: what ordered key-value stores share."""

from __future__ import annotations

import trio

from nodewright.errors import StoreError


class Gate:
    """Counts running calls (``with gate:``); once closed, nobody enters and ``wait_empty`` returns when the last has left.
    Entering a closed one raises StoreError."""

    __slots__ = ("_empty", "closed", "running")

    def __init__(self) -> None:
        self.closed = False
        self.running = 0
        self._empty = trio.Event()

    def __enter__(self) -> None:
        if self.closed:
            raise StoreError("this store is closed")
        self.running += 1

    def __exit__(self, *_: object) -> None:
        self.running -= 1
        if self.closed and not self.running:
            self._empty.set()

    async def wait_empty(self) -> None:
        self.closed = True
        if self.running:
            await self._empty.wait()


def successor(prefix: bytes) -> bytes | None:
    """The first key after all that start with ``prefix``; None where there is none (it is empty, or all ``ff``)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
