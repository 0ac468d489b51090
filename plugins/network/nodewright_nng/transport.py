"""The nng transport: rendezvous and pair sockets below, the shared ``PeerHub`` above.

Invariants:
- Nobody reaches the hub but through a finished handshake; nobody is answered before the gate is open.
- Every socket ever opened is closed when ``running`` is left, whatever way it is left, within a bounded time.
- Each address of ``connect`` has one task, which holds at most one connection at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import PeerInfo
from nodewright.transport.bans import BANS_FILE
from nodewright.transport.handshake import (
    MAX_MESSAGE_BYTES,
    STREAM_OVERHEAD,
    TICKET_BYTES,
    Established,
    HandshakeError,
    Initiator,
    Mismatch,
    NodeKey,
    Refused,
    Responder,
    SecureStream,
)
from nodewright.transport.hub import ALREADY_CONNECTED, ITSELF, PeerHub
from nodewright.transport.link import Limits, LinkClosed, NetworkIdentity
from nodewright_nng import rendezvous
from nodewright_nng.addresses import Address, parse_address
from nodewright_nng.rendezvous import Assigned, Busy, Strangers
from nodewright_nng.sockets import NoFreePort, PairSocket, RendezvousSocket, ask, host_of

OFFLOAD_BYTES = 64 * 1024  # from here on a message is sealed and opened off the trio thread
WORKERS = 4
HANDSHAKE_SECONDS = 5.0
KNOCK_SECONDS = 3.0
RETRY_FIRST_SECONDS = 0.2
RETRY_MISMATCH_SECONDS = 60.0
STEADY_SECONDS = 5.0  # a connection that lived this long starts the back-off anew


class SecureLink:
    """A pair socket under the two streams of a handshake."""

    def __init__(self, pair: PairSocket, stream: SecureStream, environment: Environment) -> None:
        self._pair = pair
        self._stream = stream
        self._environment = environment
        self._sending = trio.Lock()

    async def send(self, batch: bytes) -> None:
        async with self._sending:
            if len(batch) < OFFLOAD_BYTES:
                sealed = self._stream.seal(batch)
            else:
                sealed = await self._environment.offload(self._stream.seal, batch)
            await self._pair.send(sealed)

    async def receive(self) -> bytes:
        sealed = await self._pair.receive()
        try:
            if len(sealed) < OFFLOAD_BYTES:
                return self._stream.open(sealed)
            return await self._environment.offload(self._stream.open, sealed)
        except HandshakeError as error:
            # Whoever sits on the path can cause this: it is no fault of the peer's key.
            self._environment.logger.warning("a connection was tampered with", address=self._pair.remote, error=str(error))
            raise LinkClosed(str(error)) from error

    async def wait_closed(self) -> None:
        await self._pair.down.wait()

    def close(self) -> None:
        self._pair.close()


class NngTransport(PeerHub):
    """Implements ``Transport``. Enter ``running`` before anything else."""

    capabilities = frozenset({"encrypted", "authenticated"})

    def __init__(
        self,
        key: NodeKey,
        identity: NetworkIdentity,
        environment: Environment,
        *,
        limits: Limits | None = None,
        allow: Collection[bytes] = (),
        pair_ports: range = range(0),
        retry_most_seconds: float = 10.0,
    ) -> None:
        super().__init__(key.public, environment, limits, allow)
        self.identity = identity
        self._key = key
        self._pair_ports = pair_ports
        self._retry_most_seconds = retry_most_seconds
        self._address = ""
        self._host = ""
        self._strangers = Strangers(environment.monotonic)
        self._pairs: set[PairSocket] = set()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._reached: dict[str, bytes] = {}
        self._links = 0
        self._no_links = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def address(self) -> str:
        return self._address

    @asynccontextmanager
    async def running(self, listen: str, peers: Collection[str] = ()) -> AsyncIterator[NngTransport]:
        """``listen`` empty: peers are only dialled. Raises AddressInUse, ConfigurationError."""
        kept = Path(self.environment.data_dir, BANS_FILE)
        await self.load_bans(kept)
        server = None
        if listen:  # before the nursery, which would wrap what it raises
            at = parse_address(listen)
            server = RendezvousSocket(at.url, self.environment.slot, rendezvous.MAX_BYTES)
            self._host = at.host
            self._address = Address(at.host, server.port).url
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self.keep_bans, kept)
                if server is not None:
                    nursery.start_soon(server.run, self._knocked, WORKERS)
                for peer in peers:
                    await self.connect(peer)
                yield self
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop()
                nursery.cancel_scope.cancel()

    async def _stop(self) -> None:
        await self.finish()
        with trio.move_on_after(2 * self.limits.goodbye_seconds):
            while self._links:
                self._no_links = trio.Event()
                await self._no_links.wait()
        for pair in list(self._pairs):
            pair.close()

    def _pair(self, only_host: str | None = None) -> PairSocket:
        pair = PairSocket(self.max_batch_bytes() + STREAM_OVERHEAD + MAX_MESSAGE_BYTES, only_host)
        self._pairs.add(pair)
        return pair

    def _drop(self, pair: PairSocket) -> None:
        pair.close()
        self._pairs.discard(pair)

    def host(self, address: str) -> str:
        return host_of(address)

    def kept(self) -> Collection[bytes]:
        return self._reached.values()

    # Called ----------------------------------------------------------------------------------------------------------

    def _knocked(self, question: bytes, host: str) -> bytes | None:
        """The answer to a stranger's knock; None cuts it off."""
        if not self._strangers.charge(host):
            return None
        busy = bytes([rendezvous.BUSY])
        try:
            identity = rendezvous.decode_knock(question)
        except HandshakeError as error:
            self._offended(host, str(error))
            return None
        mismatch = self.identity.mismatch(identity)
        if mismatch is not None:
            if self._strangers.first_offence(host):
                self.log.warning("a node of another network knocked", address=host, reason=mismatch)
            return bytes([rendezvous.MISMATCH]) + rendezvous.encode_knock(self.identity)
        if not self.gate.is_set() or self.closed or not self._strangers.begin(host):
            return busy
        ticket = self.environment.entropy(TICKET_BYTES)
        pair = self._pair(only_host=host)
        try:
            port = pair.listen(self._host, self._pair_ports, self.environment.random.randrange(1 << 16))
        except NoFreePort as error:
            self._drop(pair)
            self._strangers.end(host, good=False)
            self.log.warning("a peer cannot be taken", address=host, error=str(error))
            return busy
        assert self._nursery is not None
        self._nursery.start_soon(self._accept, pair, ticket, host)
        return rendezvous.encode_assigned(Assigned(port, ticket))

    def _offended(self, host: str, what: str) -> None:
        self._strangers.charge(host, 10.0)
        if self._strangers.first_offence(host):
            self.log.warning("garbage from a stranger, who is cut off", address=host, reason=what)

    async def _accept(self, pair: PairSocket, ticket: bytes, host: str) -> None:
        established: Established | None = None
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS):
                established = await self._respond(pair, ticket)
        except HandshakeError as error:
            self._offended(host, str(error))
        except LinkClosed:
            pass  # it went away
        finally:
            self._strangers.end(host, good=established is not None)
            if established is None:
                self._drop(pair)
        if established is not None:
            await self._linked(pair, established, pair.remote, inbound=True)

    async def _respond(self, pair: PairSocket, ticket: bytes) -> Established | None:
        await pair.up.wait()
        responder = Responder(self._key, self.identity, self.environment.entropy, ticket)
        responder.receive_hello(await pair.receive())
        await pair.send(responder.answer())
        responder.verify(await pair.receive())
        refusal = self.refusal(responder.peer, True, pair.remote)
        if refusal is not None and refusal != ALREADY_CONNECTED:
            self.tell_refused(responder.peer, True, pair.remote, refusal)
        fourth, established = responder.verdict(refusal)
        await pair.send(fourth)
        if established is None:
            await pair.down.wait()  # it reads the reason first
        return established

    async def _linked(self, pair: PairSocket, established: Established, address: str, inbound: bool) -> str:
        pair.trust()
        self._links += 1
        try:
            info = PeerInfo(established.peer, address, inbound, established.protocol)
            return await self.serve(SecureLink(pair, established.stream, self.environment), info)
        finally:
            self._drop(pair)
            self._links -= 1
            if not self._links:
                self._no_links.set()

    # Dialling ----------------------------------------------------------------------------------------------------------

    async def connect(self, address: str) -> None:
        """Raises ValueError where ``address`` is not one."""
        parsed = parse_address(address)
        await trio.lowlevel.checkpoint()
        if address not in self._scopes:
            assert self._nursery is not None
            scope = self._scopes[address] = trio.CancelScope()
            self._nursery.start_soon(self._keep, address, parsed, scope)

    async def disconnect(self, address: str) -> None:
        """End ``connect``: the connection it made is closed and not made again."""
        await trio.lowlevel.checkpoint()
        scope = self._scopes.pop(address, None)
        session = self._sessions.get(self._reached.pop(address, b""))
        if session is not None:
            session.close("disconnected here")  # and its task, which says goodbye, then ends by itself
        elif scope is not None:
            scope.cancel()

    async def _keep(self, text: str, address: Address, scope: trio.CancelScope) -> None:
        with scope:
            await self.gate.wait()
            wait, last = RETRY_FIRST_SECONDS, ""
            while True:
                started = self.environment.monotonic()
                try:
                    ended = await self._dial(text, address)
                except Mismatch as error:
                    self.log.error("a peer cannot be joined", address=address.url, reason=str(error))
                    ended, wait = "", RETRY_MISMATCH_SECONDS
                except Refused as error:
                    ended = str(error)
                except (HandshakeError, LinkClosed) as error:
                    ended = str(error)
                else:
                    if self.environment.monotonic() - started > STEADY_SECONDS:
                        wait = RETRY_FIRST_SECONDS
                if self.closed or self._scopes.get(text) is not scope:
                    return
                if ended == ITSELF:
                    self.log.warning("an address of this node itself is not dialled again", address=address.url)
                    return
                if ended and ended not in (last, ALREADY_CONNECTED):
                    self.log.info("a peer is dialled again later", address=address.url, reason=ended)
                last = ended
                while self._reached.get(text) in self._sessions:
                    await self.until_changed()
                    wait = RETRY_FIRST_SECONDS
                await self.environment.sleep(wait * self.environment.random.uniform(0.5, 1.0))
                wait = min(2 * wait, self._retry_most_seconds)

    async def _dial(self, text: str, address: Address) -> str:
        """One connection from knock to end; returns why it ended. Raises HandshakeError, LinkClosed."""
        reply = await ask(address.url, rendezvous.encode_knock(self.identity), rendezvous.MAX_BYTES, KNOCK_SECONDS)
        if reply is None:
            return "nobody answers there"
        try:
            assigned = rendezvous.decode_answer(reply, self.identity)
        except Busy as error:
            return str(error)
        pair = self._pair()
        established: Established | None = None
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS):
                pair.dial(Address(address.host, assigned.port).url)
                established = await self._initiate(pair, text, address, assigned.ticket)
        finally:
            if established is None:
                self._drop(pair)
        if established is None:
            return f"the handshake took longer than {HANDSHAKE_SECONDS:g} s"
        return await self._linked(pair, established, address.url, inbound=False)

    async def _initiate(self, pair: PairSocket, text: str, address: Address, ticket: bytes) -> Established:
        await pair.up.wait()
        initiator = Initiator(self._key, self.identity, self.environment.entropy, ticket, address.node_key)
        await pair.send(initiator.hello())
        initiator.receive_hello(await pair.receive())
        self._reached[text] = initiator.peer
        refusal = self.refusal(initiator.peer, inbound=False)
        if refusal is not None:
            if refusal not in (ALREADY_CONNECTED, ITSELF):
                self.tell_refused(initiator.peer, False, address.url, refusal)
            raise Refused(refusal)
        await pair.send(initiator.prove())
        return initiator.finish(await pair.receive())
