"""What the ``transport`` kit stands on: the world that its tests open nodes in, a body to fetch, and how they wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from hashlib import sha256
from typing import Any, Protocol

import trio
import trio.lowlevel
import trio.testing
from attrs import define, field

from nodewright.interfaces.transport import Channel, PeerDown, PeerUp, Transport
from nodewright.transport.link import Limits

KIT_NETWORK = "kit"
KIT_GENESIS = b"\x01" * 32
# Small and quick, so that every bound is met within a test.
KIT_LIMITS = Limits(
    inbox_bytes=1024 * 1024,
    outbox_bytes=256 * 1024,
    outbox_stall_seconds=8.0,  # one test waits for it; who reads must not be taken for slow where the machine is
    fetch_credit_bytes=2 * 1024 * 1024,
    ban_seconds=600.0,
)


class TransportWorld(Protocol):
    """What the kit needs beside the transport itself. ``open`` takes a node's name (one name, one node key) and does not
    open the gate."""

    async def open(
        self,
        name: str,
        *,
        network: str = KIT_NETWORK,
        genesis: bytes = KIT_GENESIS,
        limits: Limits = KIT_LIMITS,
        allow: Collection[bytes] = (),
    ) -> Transport: ...

    async def close(self, transport: Transport) -> None:
        """Cleanly: what was sent before is written out."""

    async def kill(self, transport: Transport) -> None:
        """At once, with no goodbye."""

    def break_connection(self, transport: Transport, peer: bytes) -> None:
        """As a cut cable that is put back."""

    def log(self, transport: Transport) -> list[dict[str, Any]]:
        """What this transport logged so far: level, event and fields."""


@define
class Body:
    """A provider of one body, generated, which remembers how far it was read. ``stall_at`` is where it stops."""

    length: int
    stall_at: int | None = None
    furthest: int = 0
    reads: list[tuple[int, int]] = field(factory=list)
    going: trio.Event = field(factory=trio.Event)

    async def size(self, id: bytes) -> int | None:
        return self.length if id == b"body" else None

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.stall_at is not None and offset >= self.stall_at:
            await self.going.wait()
        self.reads.append((offset, length))
        self.furthest = max(self.furthest, offset + length)
        return body_bytes(offset, length)


_PATTERN = b"".join(sha256(bytes([n])).digest() for n in range(128))


def body_bytes(offset: int, length: int) -> bytes:
    """Bytes of a body whose every 4 KiB block differs from its neighbours by the number in front."""
    first, last = offset // 4096, (offset + length + 4095) // 4096
    blocks = b"".join(number.to_bytes(8, "big") + _PATTERN[8:] for number in range(first, last))
    return blocks[offset - first * 4096 : offset - first * 4096 + length]


async def serve(channel: Channel, answer: Callable[[bytes], bytes | None]) -> None:
    """Answer requests; None is no answer."""
    while True:
        message = await channel.receive()
        reply = answer(message.payload)
        if message.reply is not None and reply is not None:
            await message.reply(reply)


class TransportKit:
    patience_seconds = 60.0

    async def event(self, events: AsyncIterator[PeerUp | PeerDown], kind: type, peer: bytes | None = None) -> Any:
        with trio.fail_after(self.patience_seconds):
            while True:
                event = await anext(events)
                if isinstance(event, kind) and (peer is None or event.peer.id == peer):
                    return event

    async def logged(self, world: TransportWorld, transport: Transport, *words: str) -> dict[str, Any]:
        with trio.fail_after(self.patience_seconds):
            while True:
                for line in world.log(transport):
                    if all(word in " ".join(str(value) for value in line.values()) for word in words):
                        return line
                await trio.sleep(0.02)

    async def meet(self, *transports: Transport) -> None:
        """Gates opened, the first dials all others and the second those after it, and so on."""
        events = [transport.events() for transport in transports]
        for transport in transports:
            transport.open_gate()
        for at, transport in enumerate(transports):
            for other in transports[at + 1 :]:
                await transport.connect(other.address)
        for reader in events:
            up: set[bytes] = set()
            while len(up) < len(transports) - 1:
                up.add((await self.event(reader, PeerUp)).peer.id)

    async def pair(self, world: TransportWorld, **channel: Any) -> tuple[Transport, Transport, Channel, Channel]:
        a, b = await world.open("a"), await world.open("b")
        x, y = a.channel("x", **channel), b.channel("x", **channel)
        await self.meet(a, b)
        return a, b, x, y
