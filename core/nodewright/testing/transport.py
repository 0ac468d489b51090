"""A network in memory, with seeded delay, loss, duplication, reordering and partitions.

Without faults it keeps the whole transport contract, over the same sessions, windows and frames as a real transport.
With them it is harsher than any real one: ``loss``, ``duplication`` and ``reordering`` break the contract's delivery on
purpose (for messages, requests and their answers; bodies and flow control stay whole), to see what a component makes of it.

All timing is ``trio.sleep``: under ``trio.testing.MockClock`` it costs nothing, and one seed gives one run.

A partition is silent, as a real one: what is sent across it is lost, and both ends see PeerDown ``detect_seconds``
later. A connection that lived through the start of a partition never recovers; after ``heal`` a new one is made.

    async with SimulatedNetwork(seed=7) as network:
        a, b = network.transport("a"), network.transport("b")
        votes = a.channel("votes"), b.channel("votes")
        a.open_gate(), b.open_gate()
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from types import TracebackType
from typing import Any

import attrs
import trio
from attrs import define, field, frozen
from nacl.bindings import crypto_sign_seed_keypair

from nodewright.errors import TransportError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import Message, PeerInfo
from nodewright.plugins.specs import TRANSPORT, Dependencies, TransportSpec
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright.transport.channels import ChannelRules
from nodewright.transport.hub import PeerHub
from nodewright.transport.link import Limits, LinkClosed, NetworkIdentity
from nodewright.transport.session import Session

IDENTITY = NetworkIdentity("simulated", bytes(32))
BATCHES_IN_FLIGHT = 16


@frozen
class Conditions:
    """Of one direction between two nodes. ``delay_seconds`` is the least and the most; probabilities are of 0 to 1; a
    reordered message comes up to ``reorder_seconds`` late."""

    delay_seconds: tuple[float, float] = (0.001, 0.01)
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reorder_seconds: float = 0.1
    bytes_per_second: float | None = None


@define(eq=False)
class Wire:
    """One direction of one connection."""

    network: SimulatedNetwork
    source: str
    target: str
    random: random.Random
    flying: deque[tuple[float, bytes]] = field(factory=deque)
    lot: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    free_at: float = 0.0
    last_due: float = 0.0
    lost: bool = False  # a partition has begun: nothing comes through any more
    closed: bool = False

    def close(self) -> None:
        self.closed = True
        self.lot.unpark_all()

    async def send(self, batch: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while len(self.flying) >= BATCHES_IN_FLIGHT and not self.closed and not self.lost:
            await self.lot.park()
        if self.closed:
            raise LinkClosed("the connection was closed")
        if self.lost:
            return
        conditions = self.network.conditions(self.source, self.target)
        now = trio.current_time()
        if conditions.bytes_per_second is not None:
            self.free_at = max(now, self.free_at) + len(batch) / conditions.bytes_per_second
            now = self.free_at
        least, most = conditions.delay_seconds
        self.last_due = max(self.last_due, now + self.random.uniform(least, most))
        self.flying.append((self.last_due, batch))
        self.lot.unpark_all()

    async def receive(self) -> bytes:
        while True:
            await trio.lowlevel.checkpoint()
            if self.flying and not self.lost:
                due, batch = self.flying[0]
                if due > trio.current_time():
                    await trio.sleep_until(due)
                    continue
                self.flying.popleft()
                self.lot.unpark_all()
                return batch
            if self.closed:
                raise LinkClosed("the connection was closed")
            await self.lot.park()


@define(eq=False)
class SimulatedLink:
    out: Wire
    into: Wire

    async def send(self, batch: bytes) -> None:
        await self.out.send(batch)

    async def receive(self) -> bytes:
        return await self.into.receive()

    async def wait_closed(self) -> None:
        while not self.into.closed:
            await self.into.lot.park()

    def close(self) -> None:
        for wire in (self.out, self.into):
            if not wire.lost:  # across a partition the other end must find out by itself
                wire.close()


class SimulatedSession(Session):
    """Delivers as the conditions of the wire say."""

    hub: SimulatedTransport

    def deliver(self, rules: ChannelRules, message: Message) -> None:
        network = self.hub.network
        peer = network.name_of(message.peer)
        conditions = network.conditions(peer, self.hub.name)
        chance = network.random_of(peer, self.hub.name)
        if conditions.loss and chance.random() < conditions.loss:
            self.consumed(rules, len(message.payload))
            return
        if conditions.duplication and chance.random() < conditions.duplication:
            network.later(self._again, chance.uniform(0, conditions.reorder_seconds), rules, message)
        if conditions.reordering and chance.random() < conditions.reordering:
            network.later(super().deliver, chance.uniform(0, conditions.reorder_seconds), rules, message)
            return
        super().deliver(rules, message)

    def _again(self, rules: ChannelRules, message: Message) -> None:
        """A repeated message takes room that no window was granted for: what it frees when read is not given back."""
        grant = self._grants[rules.id]
        grant.freed_messages -= 1
        grant.freed_size -= len(message.payload)
        super().deliver(rules, message)

    def _on_response(self, batch: bytes, start: int, end: int) -> None:
        network, peer = self.hub.network, self.hub.network.name_of(self.info.id)
        loss = network.conditions(peer, self.hub.name).loss
        if loss and network.random_of(peer, self.hub.name).random() < loss:
            return
        super()._on_response(batch, start, end)


class SimulatedTransport(PeerHub):
    """Implements ``Transport``. Made by ``SimulatedNetwork.transport``."""

    capabilities = frozenset({"simulated"})

    def __init__(
        self,
        network: SimulatedNetwork,
        name: str,
        environment: Environment,
        identity: NetworkIdentity,
        allow: Collection[bytes],
    ) -> None:
        super().__init__(node_key(name), environment, network.limits, allow)
        self.network = network
        self.name = name
        self.identity = identity
        self.wanted: list[str] = []

    @property
    def address(self) -> str:
        return f"simulated://{self.name}"

    async def connect(self, address: str) -> None:
        await trio.lowlevel.checkpoint()
        name = address.removeprefix("simulated://")
        if name not in self.wanted:
            self.wanted.append(name)
        self.network.reconcile()

    async def disconnect(self, address: str) -> None:
        await trio.lowlevel.checkpoint()
        name = address.removeprefix("simulated://")
        if name in self.wanted:
            self.wanted.remove(name)
        session = self._sessions.get(node_key(name))
        if session is not None:
            session.close("disconnected here")

    def open_gate(self) -> None:
        super().open_gate()
        self.network.reconcile()

    def ban(self, peer: bytes, seconds: float, reason: str) -> None:
        super().ban(peer, seconds, reason)
        self.network.later(self.network.reconcile, seconds + 0.001)

    def unban(self, peer: bytes | None = None) -> None:
        super().unban(peer)
        self.network.reconcile()

    def kept(self) -> list[bytes]:
        return [node_key(name) for name in self.wanted]

    def make_session(self, link: Any, info: PeerInfo) -> Session:
        return SimulatedSession(self, link, info)

    async def aclose(self) -> None:
        """Cleanly: what is queued is written first."""
        await self.finish()
        self.network.gone(self)

    async def __aenter__(self) -> SimulatedTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def node_key(name: str) -> bytes:
    """The node key of a simulated node: a real Ed25519 public key, from its name alone."""
    return crypto_sign_seed_keypair(blake2b(name.encode(), digest_size=32, person=b"nw-simulated").digest())[0]


class SimulatedNetwork:
    """Use as an async context manager: it owns the tasks of all its transports. With ``mesh`` every two nodes with open
    gates are connected; without it, those for which one called ``connect``."""

    def __init__(
        self,
        seed: int = 0,
        conditions: Conditions | None = None,
        *,
        mesh: bool = True,
        limits: Limits | None = None,
        detect_seconds: float = 1.0,
        reconnect_seconds: float = 0.5,
    ) -> None:
        self.seed = seed
        self.mesh = mesh
        self.limits = limits or Limits()
        self.refusals: list[tuple[str, str, str]] = []  # two names and why they cannot talk
        self._default = conditions or Conditions()
        self._detect_seconds = detect_seconds
        self._reconnect_seconds = reconnect_seconds
        self._conditions: dict[tuple[str, str], Conditions] = {}
        self._random: dict[tuple[str, str], random.Random] = {}
        self._names: dict[bytes, str] = {}
        self._transports: dict[str, SimulatedTransport] = {}
        self._groups: dict[str, int] | None = None
        self._cut: set[str] = set()
        self._connections: dict[tuple[str, str], tuple[Wire, Wire]] = {}
        self._pending: set[tuple[str, str]] = set()
        self._made = 0
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> SimulatedNetwork:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._nursery is not None
        for transport in list(self._transports.values()):
            transport.shut()
        self._nursery.cancel_scope.cancel()
        result: bool | None = await self._manager.__aexit__(kind, value, traceback)
        return result

    # Nodes ---------------------------------------------------------------------------------------------------------

    def transport(
        self,
        name: str,
        *,
        environment: Environment | None = None,
        identity: NetworkIdentity = IDENTITY,
        allow: Collection[bytes] = (),
    ) -> SimulatedTransport:
        """A node's transport; after ``aclose`` or ``crash`` the same name gives a new one with the same node key."""
        if name in self._transports:
            raise TransportError(f"the simulated node {name!r} already has a transport")
        environment = environment or SimulatedEnvironment(self.seed, name)
        transport = self._transports[name] = SimulatedTransport(self, name, environment, identity, allow)
        self._names[transport.node_id] = name
        return transport

    def spec(self, name: str = "simulated") -> TransportSpec:
        """For a registry of specs: opens the transport of ``environment.node_name`` on this network."""

        @asynccontextmanager
        async def open_transport(
            config: Any, dependencies: Dependencies, environment: Environment
        ) -> AsyncIterator[SimulatedTransport]:
            genesis = dependencies.get("genesis")
            identity = IDENTITY if genesis is None else NetworkIdentity(genesis["network"], genesis["hash"])
            async with self.transport(environment.node_name, environment=environment, identity=identity) as transport:
                yield transport

        return TransportSpec(name=name, summary="A network in memory", open=open_transport, provides=frozenset({TRANSPORT}))

    def crash(self, name: str) -> None:
        """At once: nothing queued is written. Its peers see it go ``detect_seconds`` later."""
        transport = self._transports.pop(name)
        for pair, wires in self._connections.items():
            if name in pair:
                self._lose(wires)
        transport.shut()

    def gone(self, transport: SimulatedTransport) -> None:
        if self._transports.get(transport.name) is transport:
            del self._transports[transport.name]

    def name_of(self, peer: bytes) -> str:
        return self._names[peer]

    # Conditions ----------------------------------------------------------------------------------------------------

    def conditions(self, source: str, target: str) -> Conditions:
        return self._conditions.get((source, target), self._default)

    def set_conditions(self, source: str | None = None, target: str | None = None, **changes: Any) -> None:
        """Change some fields of ``Conditions`` for one direction, or for all with neither name."""
        if source is None or target is None:
            self._default = attrs.evolve(self._default, **changes)
            self._conditions = {pair: attrs.evolve(c, **changes) for pair, c in self._conditions.items()}
        else:
            self._conditions[source, target] = attrs.evolve(self.conditions(source, target), **changes)

    def random_of(self, source: str, target: str) -> random.Random:
        chance = self._random.get((source, target))
        if chance is None:
            chance = self._random[source, target] = random.Random(f"{self.seed} {source} {target}")
        return chance

    def later(self, function: Any, seconds: float, *arguments: Any) -> None:
        async def run() -> None:
            await trio.sleep(seconds)
            function(*arguments)

        assert self._nursery is not None
        self._nursery.start_soon(run)

    # Partitions ----------------------------------------------------------------------------------------------------

    def partition(self, *groups: Sequence[str]) -> None:
        """Nodes of different groups cannot reach each other; a node in no group reaches none."""
        self._groups = {name: number for number, group in enumerate(groups) for name in group}
        self._apply()

    def heal(self) -> None:
        """End every partition and cut."""
        self._groups = None
        self._cut.clear()
        self._apply()

    def cut(self, name: str) -> None:
        """No other node reaches this one, until ``restore`` or ``heal``."""
        self._cut.add(name)
        self._apply()

    def restore(self, name: str) -> None:
        self._cut.discard(name)
        self._apply()

    def disconnect(self, one: str, other: str) -> None:
        """Break the connection between two nodes now; both see it at once, and it is made again."""
        wires = self._connections.get((min(one, other), max(one, other)))
        for wire in wires or ():
            wire.close()

    def reachable(self, one: str, other: str) -> bool:
        if one in self._cut or other in self._cut:
            return False
        if self._groups is None:
            return True
        return one in self._groups and self._groups.get(one) == self._groups.get(other)

    def _apply(self) -> None:
        for pair, wires in self._connections.items():
            if not self.reachable(*pair):
                self._lose(wires)
        self.reconcile()

    def _lose(self, wires: tuple[Wire, Wire]) -> None:
        if wires[0].lost:
            return
        for wire in wires:
            wire.lost = True
            wire.flying.clear()
            wire.lot.unpark_all()
            self.later(wire.close, self._detect_seconds)

    # Connections ---------------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Start every connection that is wanted, possible and not there."""
        names = sorted(name for name, t in self._transports.items() if t.gate.is_set())
        for at, one in enumerate(names):
            for other in names[at + 1 :]:
                pair = (one, other)
                if pair not in self._connections and pair not in self._pending and self._possible(pair):
                    self._pending.add(pair)
                    assert self._nursery is not None
                    self._nursery.start_soon(self._connection, pair)

    def _possible(self, pair: tuple[str, str]) -> bool:
        a, b = (self._transports.get(name) for name in pair)
        if a is None or b is None or not self.reachable(*pair):
            return False
        if not (self.mesh or b.name in a.wanted or a.name in b.wanted):
            return False
        why = a.identity.mismatch(b.identity) or a.refusal(b.node_id, False) or b.refusal(a.node_id, True)
        if why is not None and (a.name, b.name, why) not in self.refusals:
            self.refusals.append((a.name, b.name, why))
            for one, other in ((a, b), (b, a)):
                one.log.warning("a peer is refused", peer=other.node_id.hex(), address=other.address, reason=why)
        return why is None

    async def _connection(self, pair: tuple[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        self._pending.discard(pair)
        if not self._possible(pair):
            return
        a, b = self._transports[pair[0]], self._transports[pair[1]]
        self._made += 1
        there, back = (Wire(self, x, y, random.Random(f"{self.seed} {self._made} {x} {y}")) for x, y in (pair, pair[::-1]))
        self._connections[pair] = there, back
        protocol = a.identity.agreed_protocol(b.identity)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.serve, SimulatedLink(there, back), PeerInfo(b.node_id, b.address, False, protocol))
                nursery.start_soon(b.serve, SimulatedLink(back, there), PeerInfo(a.node_id, a.address, True, protocol))
        finally:
            del self._connections[pair]
        self.later(self.reconcile, self._reconnect_seconds)
