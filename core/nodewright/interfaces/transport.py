"""Contract ``transport``: authenticated peers, channels, streamed bodies.

A peer is named by its node key (32-byte Ed25519 public key). The handshake proves it, is bound to the encrypted channel,
and compares network id, genesis hash and protocol range before anything else is said. Until ``open_gate`` the transport
accepts nobody.

Delivery: per peer and channel in order, at most once, nothing lost while the peer stays connected, except by the stated
drop policy of a full *inbox* at the receiver. A slow peer blocks nobody else: each peer has a bounded outbox; a broadcast
to a peer whose outbox is full for ``outbox_stall_seconds`` disconnects that peer (it reconnects and catches up) rather than
dropping silently.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from attrs import frozen

DropPolicy = Literal["block", "oldest", "newest"]


@frozen
class PeerInfo:
    id: bytes
    address: str
    inbound: bool
    protocol: int
    score: int = 0


@frozen
class Message:
    """``reply`` is None for broadcasts and sends; for a request it must be called once with the answer."""

    peer: bytes
    payload: bytes
    reply: Callable[[bytes], Awaitable[None]] | None = None


class Channel(Protocol):
    """A named stream of messages. ``block`` makes a full inbox stop reading this channel from that peer (others flow
    on); ``oldest`` and ``newest`` drop, and the drop is counted."""

    name: str

    async def broadcast(self, payload: bytes, exclude: Sequence[bytes] = ()) -> None: ...

    async def send(self, peer: bytes, payload: bytes) -> None:
        """Raises PeerGone."""

    async def request(self, peer: bytes, payload: bytes, timeout_seconds: float = 10.0) -> bytes:
        """Raises PeerGone, RequestTimeout."""

    async def receive(self) -> Message: ...


class BodyProvider(Protocol):
    """Serves bodies of one kind to peers."""

    async def size(self, id: bytes) -> int | None: ...

    async def read(self, id: bytes, offset: int, length: int) -> bytes: ...


@frozen
class PeerUp:
    peer: PeerInfo


@frozen
class PeerDown:
    peer: PeerInfo
    reason: str


@runtime_checkable
class Transport(Protocol):
    node_id: bytes
    capabilities: frozenset[str]

    @property
    def address(self) -> str:
        """The bound listening address (``tcp://127.0.0.1:40123``), port 0 resolved; empty when it does not listen."""

    def peers(self) -> list[PeerInfo]: ...

    def channel(
        self, name: str, inbox: int = 256, policy: DropPolicy = "block", max_message_bytes: int = 4 * 1024 * 1024
    ) -> Channel:
        """Declared before ``open_gate``, once per name."""

    def provide(self, kind: str, provider: BodyProvider) -> None: ...

    def fetch(
        self,
        peer: bytes,
        kind: str,
        id: bytes,
        max_bytes: int,
        offset: int = 0,
        timeout_seconds: float = 30.0,
    ) -> AsyncIterator[bytes]:
        """Stream a body from ``offset`` in pieces, under a byte credit. ``timeout_seconds`` bounds each piece. Raises
        NotHere (the peer has none), PeerBusy (it cannot now), PeerGone, RequestTimeout, BodyTooLarge. The caller checks
        the hash."""

    async def connect(self, address: str) -> None:
        """Keep a connection to this address: dialled again with back-off until ``disconnect``."""

    async def disconnect(self, address: str) -> None:
        """Stop keeping a connection to this address, and end the one there is."""

    def open_gate(self) -> None: ...

    def events(self) -> AsyncIterator[PeerUp | PeerDown]:
        """Every peer that comes and goes from now on, starting with those already there. One reader's own stream."""

    def penalise(self, peer: bytes, points: int, reason: str) -> None:
        """At 100 points a peer is cut off and refused for ``ban_seconds``; named in the log with the reason."""

    def ban(self, peer: bytes, seconds: float, reason: str) -> None: ...

    def banned(self) -> dict[bytes, float]: ...

    def unban(self, peer: bytes | None = None) -> None: ...
