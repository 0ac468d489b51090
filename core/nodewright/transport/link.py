"""What a transport plugin provides for one peer, and the numbers that bound it.

A link is authenticated and keeps order: what ``receive`` gives is a prefix of what the other end's ``send`` took, each
exactly once, or ``LinkClosed``.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from nodewright.errors import TransportError


class LinkClosed(TransportError):
    """The link ended; the message says why, for the log."""


class Link(Protocol):
    async def send(self, batch: bytes) -> None:
        """Blocks while the other end does not take. Raises LinkClosed."""

    async def receive(self) -> bytes:
        """Raises LinkClosed."""

    async def wait_closed(self) -> None:
        """Until the other end has closed it, or it was lost: what was sent before has then arrived or never will."""

    def close(self) -> None:
        """At once, from any task of the trio thread; idempotent."""


@frozen
class NetworkIdentity:
    """What two nodes must agree on before anything else is said. ``genesis_hash`` is 32 bytes."""

    network: str
    genesis_hash: bytes
    protocol_minimum: int = 1
    protocol_maximum: int = 1

    def mismatch(self, other: NetworkIdentity) -> str | None:
        """The sentence for the operator that names both values, or None where the two can talk."""
        if self.network != other.network:
            return f"network mismatch: this node is on {self.network!r}, the peer on {other.network!r}"
        if self.genesis_hash != other.genesis_hash:
            return f"genesis mismatch: this node has {self.genesis_hash.hex()}, the peer {other.genesis_hash.hex()}"
        if self.protocol_maximum < other.protocol_minimum or other.protocol_maximum < self.protocol_minimum:
            return (
                f"protocol mismatch: this node speaks {self.protocol_minimum} to {self.protocol_maximum}, "
                f"the peer {other.protocol_minimum} to {other.protocol_maximum}"
            )
        return None

    def agreed_protocol(self, other: NetworkIdentity) -> int:
        return min(self.protocol_maximum, other.protocol_maximum)


@frozen
class Limits:
    """Memory one peer can hold here, at most: per channel ``inbox_bytes`` (or two messages, if larger) in, twice
    ``outbox_bytes`` out; ``fetches_per_peer`` times ``fetch_credit_bytes`` of bodies; and one message in flight."""

    max_peers: int = 64  # that dialled this node; those that it dials itself have room beside them
    max_inbound_per_host: int = 32
    idle_seconds: float = 60.0  # from then on a peer that never sent anything of its own makes room where there is none
    inbox_bytes: int = 16 * 1024 * 1024
    outbox_bytes: int = 8 * 1024 * 1024
    outbox_stall_seconds: float = 10.0
    requests_per_peer: int = 1024
    fetches_per_peer: int = 8
    fetch_credit_bytes: int = 4 * 1024 * 1024
    hello_seconds: float = 10.0
    goodbye_seconds: float = 0.5
    keepalive_seconds: float = 5.0
    dead_seconds: float = 20.0
    ban_score: int = 100
    ban_seconds: float = 3600.0
    score_decay_seconds: float = 60.0  # one point forgotten in this time
