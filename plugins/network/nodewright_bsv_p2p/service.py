"""The service: listens, dials and keeps its nodes, tells them of this node's blocks and transactions.

Invariants: at most ``max_inbound`` nodes that dialled, ``max_inbound_per_host`` of one address; an address that reached
100 points, in one connection or several, is refused for ``ban_seconds`` (the host of one that dialled, host and port of one
that was dialled); one peer's end or failure ends no other's.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import trio

from nodewright.errors import AddressInUse, ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import Lagged, NodeHandle
from nodewright_bsv_p2p.config import BsvP2pConfig, parse_address
from nodewright_bsv_p2p.framing import MAGIC
from nodewright_bsv_p2p.peer import HEADERS_TOLD, Peer
from nodewright_bsv_p2p.shared import Shared

CUT_OFF_POINTS = 100
FIRST_RETRY_SECONDS = 0.5
DIAL_SECONDS = 10.0
MAX_BANS = 10_000
ACCEPT_PAUSE_SECONDS = 0.2


class BsvP2p:
    """``url`` is ``tcp://host:port`` while it listens."""

    def __init__(self, config: BsvP2pConfig, environment: Environment) -> None:
        self.url = ""
        self._config = config
        self._environment = environment
        self._bans: dict[str, float] = {}
        self._scores: dict[str, tuple[int, float]] = {}  # points of an address, and when they were last added to
        self._numbers = 0
        self._shared: Shared | None = None

    # --- life ---

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        chain = await node.execution.query(HEAD, "chain")
        magic = MAGIC.get(chain.name)
        if magic is None:
            raise ConfigurationError(f"services.bsv_p2p: the wire protocol has no network {chain.name!r}")
        nonce = int.from_bytes(self._environment.entropy(8), "little")
        shared = Shared(node, self._environment, self._config, magic, nonce, self._blame)
        self._shared = shared
        node.metrics.gauge("nodewright_bsv_p2p_peers", "Nodes connected by the wire protocol").set_function(
            lambda: len(shared.peers)
        )
        listeners = await self._listen()
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, shared, listener, nursery)
                for address in self._config.connect:
                    nursery.start_soon(self._keep, shared, address)
                nursery.start_soon(self._tell, shared)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.url = ""
            for listener in listeners:
                listener.socket.close()

    async def _listen(self) -> Sequence[trio.SocketListener]:
        if not self._config.listen:
            return []
        host, port = parse_address(self._config.listen)
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(self._config.listen, self._environment.slot) from error
            raise ConfigurationError(f"services.bsv_p2p.listen = {self._config.listen!r}: {error}") from error
        bound = listeners[0].socket.getsockname()
        self.url = f"tcp://{host if ':' not in host else f'[{host}]'}:{bound[1]}"
        return listeners

    async def _accept(self, shared: Shared, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:  # out of files: those that are open go on
                self._environment.logger.warning("no more nodes can be accepted", reason=str(error))
                await self._environment.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            host = str(stream.socket.getpeername()[0])
            if self._refuses(shared, host):
                await trio.aclose_forcefully(stream)
                continue
            address = f"{host}:{stream.socket.getpeername()[1]}"
            nursery.start_soon(self._live, shared, stream, address, True)

    def _refuses(self, shared: Shared, host: str) -> bool:
        inbound = [peer for peer in shared.peers.values() if peer.inbound]
        same = sum(_host(peer.address) == host for peer in inbound)
        full = len(inbound) >= self._config.max_inbound or same >= self._config.max_inbound_per_host
        return full or self._banned(host)

    async def _keep(self, shared: Shared, address: str) -> None:
        """Dials again and again, for ever."""
        host, port = parse_address(address)
        pause = FIRST_RETRY_SECONDS
        while True:
            if not self._banned(address):
                stream: trio.SocketStream | None = None
                with trio.move_on_after(DIAL_SECONDS):
                    try:
                        stream = await trio.open_tcp_stream(host, port)
                    except OSError as error:
                        self._environment.logger.debug("node not reached", peer=address, reason=str(error))
                if stream is not None:
                    began = self._environment.monotonic()
                    await self._live(shared, stream, address, False)
                    if self._environment.monotonic() - began > self._config.retry_most_seconds:
                        pause = FIRST_RETRY_SECONDS
            await self._environment.sleep(pause * self._environment.random.uniform(0.75, 1.25))
            pause = min(2 * pause, self._config.retry_most_seconds)

    async def _live(self, shared: Shared, stream: trio.SocketStream, address: str, inbound: bool) -> None:
        self._numbers += 1
        peer = Peer(shared, self._numbers, address, inbound, stream)
        shared.peers[peer.number] = peer
        log, events = self._environment.logger, shared.node.events
        events.publish("peer_up", {"peer": address, "inbound": inbound, "wire": "bitcoin"})
        try:
            await peer.run()
        except* Exception as error:  # a fault in answering one peer is not the others'
            peer.ended = f"this node failed: {error.exceptions[0]!r}"
            log.error("serving a node failed", peer=address, reason=repr(error.exceptions[0]))
        finally:
            shared.peers.pop(peer.number, None)
            await trio.aclose_forcefully(stream)
            reason = peer.ended or "this node stops"
            log.info("node gone", peer=address, agent=peer.version.agent, reason=reason)
            events.publish("peer_down", {"peer": address, "inbound": inbound, "wire": "bitcoin", "reason": reason})

    # --- who is to blame ---

    def _blame(self, peer: Peer, points: int, reason: str) -> None:
        log, key, now = self._environment.logger, _key(peer), self._environment.monotonic()
        peer.score = self._score(key) + points
        self._scores.pop(key, None)
        self._scores[key] = (peer.score, now)
        while len(self._scores) > MAX_BANS:
            del self._scores[next(iter(self._scores))]
        log.warning("node penalised", peer=peer.address, points=points, score=peer.score, reason=reason)
        if peer.score < CUT_OFF_POINTS or peer.ended:
            return
        self._scores.pop(key, None)
        self._bans[key] = now + self._config.ban_seconds
        while len(self._bans) > MAX_BANS:
            del self._bans[next(iter(self._bans))]
        if self._shared is not None:
            data = {"peer": peer.address, "wire": "bitcoin", "reason": reason, "seconds": self._config.ban_seconds}
            self._shared.node.events.publish("peer_banned", data)
        peer.end(f"cut off: {reason}")

    def _score(self, key: str) -> int:
        """Points that count still: coming again does not take them away, keeping quiet for ``ban_seconds`` does."""
        points, at = self._scores.get(key, (0, 0.0))
        return points if self._environment.monotonic() - at < self._config.ban_seconds else 0

    def _banned(self, key: str) -> bool:
        until = self._bans.get(key)
        if until is None:
            return False
        if until <= self._environment.monotonic():
            del self._bans[key]
            return False
        return True

    # --- what this node has to tell ---

    async def _tell(self, shared: Shared) -> None:
        """Tips and admitted transactions, from the node's own log of events."""
        told = shared.node.consensus.head()
        async for event in shared.node.events.subscribe():
            if not isinstance(event, Lagged) and event.kind == "admitted" and shared.peers:
                source = str(event.data.get("source", ""))
                ids = [bytes.fromhex(one)[::-1] for one in event.data.get("ids", ())]
                for peer in list(shared.peers.values()):
                    if peer.relay.source != source:
                        peer.announce(ids)
            head = shared.node.consensus.head()
            if head != told:
                told = head
                start = max(1, head.height - HEADERS_TOLD + 1)
                headers = await shared.query("header_range", start=start, count=HEADERS_TOLD)
                for peer in list(shared.peers.values()):
                    peer.announce_tip(headers)


def _key(peer: Peer) -> str:
    return _host(peer.address) if peer.inbound else peer.address


def _host(address: str) -> str:
    return address.rpartition(":")[0]
