"""Shards on other machines, over a transport plugin: who may feed one, and lines of messages by peer.

Both sides prove their node keys in the transport's handshake, and everything is encrypted. A shard takes nothing from a key
that it was not told to allow, and a coordinator dials a shard under the key that it must have: there is no way to leave
either out. The transport is one of the node's plugins, opened beside the node's own with a key of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha3_256
from typing import Final

import attrs
import trio

from nodewright.errors import ConfigurationError, TransportError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import Channel, PeerDown, PeerUp, Transport
from nodewright.plugins.specs import Dependencies, TransportSpec
from nodewright_aptos.shards.links import LinkLost
from nodewright_aptos.shards.messages import MAX_MESSAGE_BYTES, VERSION

CHANNEL: Final = "aptos-shards"
NETWORK: Final = "nodewright-aptos-shards"
_INBOX: Final = 32
_NEEDED: Final = frozenset({"listen", "peers", "allow"})


def key_of(address: str) -> bytes:
    """The node key in ``<64 hex digits>@host:port``. Raises ValueError with a sentence."""
    digits, at, place = address.removeprefix("tcp://").partition("@")
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if not at or len(key) != 32 or ":" not in place:
        raise ValueError(
            f"{address!r} is no shard: write local, ray, or KEY@host:port as  nodewright shard  says it when it starts"
        )
    return key


@asynccontextmanager
async def open_transport(
    name: str,
    environment: Environment,
    *,
    listen: str = "",
    peers: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> AsyncIterator[Transport]:
    """Raises ConfigurationError, PluginError, and what the plugin raises."""
    from nodewright.plugins.host import PluginHost, directories_from_environment

    spec = PluginHost(directories_from_environment()).registry.get("transport", name).value
    known = {one.name for one in attrs.fields(spec.config)}
    if not isinstance(spec, TransportSpec) or not {"encrypted", "authenticated"} <= spec.provides or not known >= _NEEDED:
        raise ConfigurationError(f"the transport {name!r} cannot carry executor shards: it proves no keys, or lists none")
    config = spec.config(listen=listen, peers=list(peers), allow=list(allow))
    genesis = {"network": NETWORK, "hash": sha3_256(f"{NETWORK} {VERSION}".encode()).digest()}
    async with spec.open(config, Dependencies(genesis=genesis), environment) as transport:
        yield transport


class PeerLink:
    """Implements ``Link`` over a channel."""

    def __init__(self, channel: Channel, peer: bytes, forget: Callable[[PeerLink], None]) -> None:
        self.peer = peer
        self._channel = channel
        self._forget = forget
        self._ended = "its connection was closed"
        self._out, self._into = trio.open_memory_channel[bytes](_INBOX)

    async def send(self, data: bytes) -> None:
        try:
            await self._channel.send(self.peer, data)
        except TransportError as error:
            raise LinkLost(str(error)) from error

    async def receive(self) -> bytes:
        try:
            return await self._into.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise LinkLost(self._ended) from error

    async def deliver(self, data: bytes) -> None:
        try:
            await self._out.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody listens to it any more

    def end(self, reason: str) -> None:
        self._ended = reason
        self._out.close()

    async def aclose(self) -> None:
        self._out.close()
        self._into.close()
        self._forget(self)
        await trio.lowlevel.checkpoint()


class Peers:
    """Lines to the peers of a transport, one each. ``taken`` is called with the line of a peer that speaks first; where it
    is None, what comes from a peer to which there is no line is dropped: it is left over from one before."""

    def __init__(self, transport: Transport, taken: Callable[[PeerLink], None] | None = None) -> None:
        self._transport = transport
        self._taken = taken
        self._channel = transport.channel(CHANNEL, _INBOX, "block", MAX_MESSAGE_BYTES)
        self._links: dict[bytes, PeerLink] = {}
        self._changed = trio.Event()

    async def run(self) -> None:
        """A task. Opens the gate."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            self._transport.open_gate()
            await self._receive()

    async def link(self, peer: bytes) -> PeerLink:
        """A new line to it, once it is connected."""
        while not self._connected(peer):
            await self._changed.wait()
        return self._make(peer)

    def _connected(self, peer: bytes) -> bool:
        return any([one.id == peer for one in self._transport.peers()])

    def _make(self, peer: bytes) -> PeerLink:
        link = self._links[peer] = PeerLink(self._channel, peer, self._forget)
        return link

    def _forget(self, link: PeerLink) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]

    async def _watch(self) -> None:
        async for event in self._transport.events():
            if isinstance(event, PeerDown):
                link = self._links.pop(event.peer.id, None)
                if link is not None:
                    link.end(event.reason or "its connection was closed")
            elif isinstance(event, PeerUp):
                self._changed.set()
                self._changed = trio.Event()

    async def _receive(self) -> None:
        while True:
            message = await self._channel.receive()
            link = self._links.get(message.peer)
            if link is None:
                if self._taken is None or not self._connected(message.peer):
                    continue
                link = self._make(message.peer)
                self._taken(link)
            await link.deliver(message.payload)
