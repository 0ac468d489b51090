"""The rendezvous: how a dialler is given a pair socket of its own behind one listening address.

The question (a *knock*) carries what must match; the answer is a port and a ticket, or a refusal. Nothing here is secret
or proved: the handshake on the pair socket proves everything again. What is here bounds what strangers can cost.

==========  ==================================================================================================
knock       ``NWKN`` u8 version, u8 length, network, 32 genesis, u32 least protocol, u32 most protocol
ASSIGNED    u8 0, u16 port, 16 ticket
MISMATCH    u8 1, then the listener's values as in the knock
BUSY        u8 2: too many strangers at this moment, or the node is not open yet; try again
==========  ==================================================================================================
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, frozen

from nodewright.transport.handshake import MAX_NETWORK_BYTES, TICKET_BYTES, HandshakeError, Mismatch
from nodewright.transport.link import NetworkIdentity

MAGIC = b"NWKN\x01"
MAX_BYTES = 256
ASSIGNED, MISMATCH, BUSY = range(3)
_TAIL = struct.Struct("<32sII")
_ASSIGNED = struct.Struct(f"<BH{TICKET_BYTES}s")


class Busy(HandshakeError):
    """Not now."""


@frozen
class Assigned:
    port: int
    ticket: bytes


def encode_knock(identity: NetworkIdentity) -> bytes:
    network = identity.network.encode()
    tail = _TAIL.pack(identity.genesis_hash, identity.protocol_minimum, identity.protocol_maximum)
    return MAGIC + bytes([len(network)]) + network + tail


def decode_knock(data: bytes) -> NetworkIdentity:
    start = len(MAGIC) + 1
    if len(data) < start or data[: len(MAGIC)] != MAGIC or not 0 < data[start - 1] <= MAX_NETWORK_BYTES:
        raise HandshakeError("it is no knock of a node")
    end = start + data[start - 1]
    if len(data) != end + _TAIL.size:
        raise HandshakeError("a knock of a wrong size")
    try:
        network = data[start:end].decode()
    except UnicodeDecodeError as error:
        raise HandshakeError("a network id that is not UTF-8") from error
    return NetworkIdentity(network, *_TAIL.unpack_from(data, end))


def encode_assigned(assigned: Assigned) -> bytes:
    return _ASSIGNED.pack(ASSIGNED, assigned.port, assigned.ticket)


def decode_answer(data: bytes, identity: NetworkIdentity) -> Assigned:
    """Raises Busy, Mismatch (naming both values), HandshakeError."""
    if len(data) == _ASSIGNED.size and data[0] == ASSIGNED:
        _, port, ticket = _ASSIGNED.unpack(data)
        return Assigned(port, ticket)
    if data[:1] == bytes([MISMATCH]):
        mismatch = identity.mismatch(decode_knock(data[1:]))
        raise Mismatch(mismatch or "the peer refuses this node's network and names the same")
    if data == bytes([BUSY]):
        raise Busy("the peer is not open yet, or busy with too many others")
    raise HandshakeError("it does not answer as a node does")


@define
class _Stranger:
    tokens: float
    at: float
    pending: int = 0
    named: bool = False  # in the log, since it last behaved


class Strangers:
    """What hosts that have proved nothing yet may cost: a bucket of knocks each (a bad knock costs ten), and a bounded
    number of pair sockets waiting for a handshake, each and in all."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        per_second: float = 20.0,
        burst: float = 60.0,
        pending_each: int = 12,
        pending_all: int = 24,
        remembered: int = 1024,
    ) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._pending_each = pending_each
        self._pending_all = pending_all
        self._remembered = remembered
        self._pending = 0
        self._hosts: OrderedDict[str, _Stranger] = OrderedDict()

    def _host(self, host: str) -> _Stranger:
        now = self._clock()
        stranger = self._hosts.get(host)
        if stranger is None:
            stranger = self._hosts[host] = _Stranger(self._burst, now)
            if len(self._hosts) > self._remembered:
                oldest = next((name for name, s in self._hosts.items() if s.pending == 0), host)
                del self._hosts[oldest]
        stranger.tokens = min(self._burst, stranger.tokens + (now - stranger.at) * self._per_second)
        stranger.at = now
        return stranger

    def charge(self, host: str, cost: float = 1.0) -> bool:
        """False where the host has spent its bucket: do not even look at what it says."""
        stranger = self._host(host)
        stranger.tokens -= cost
        if stranger.tokens >= 0:
            return True
        stranger.tokens = max(stranger.tokens, -self._burst)
        return False

    def first_offence(self, host: str) -> bool:
        """True once until it behaves: so that garbage is named in the log and does not fill it."""
        stranger = self._host(host)
        first, stranger.named = not stranger.named, True
        return first

    def begin(self, host: str) -> bool:
        """A handshake begins, if there is room for it."""
        stranger = self._host(host)
        if self._pending >= self._pending_all or stranger.pending >= self._pending_each:
            return False
        stranger.pending += 1
        self._pending += 1
        return True

    def end(self, host: str, good: bool) -> None:
        self._pending -= 1
        stranger = self._hosts.get(host)
        if stranger is not None:
            stranger.pending = max(0, stranger.pending - 1)
            if good:
                stranger.named = False
