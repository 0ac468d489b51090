"""The peers of one node: who is connected, the channels they share, scores and bans. Everything of the transport contract
but the wire: a transport subclasses ``PeerHub``, adds ``address`` and ``connect``, and calls ``serve`` with every
authenticated link.

Invariants:
- At most one session per node key. Of two connections between the same two nodes the one dialled by the smaller key
  stays; of two dialled by the same side, the newer.
- The ``events`` of one reader alternate PeerUp and PeerDown for each peer.
- A banned peer has no session and is given none until its ban is over. At most ``bans.MAX_BANS`` are remembered, those
  that end last.
- What others take leaves the peers that this node dials their room: ``max_peers`` bounds those that dialled it, of one
  host ``max_inbound_per_host``; where all is taken, one of them that never sent anything of its own gives way to the next.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import attrs
import trio

from nodewright.errors import PeerGone, StoreError, TransportError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import BodyProvider, Channel, DropPolicy, PeerDown, PeerInfo, PeerUp
from nodewright.transport import bans, frames
from nodewright.transport.channels import ChannelRules, LocalChannel
from nodewright.transport.link import Limits, Link
from nodewright.transport.quiet import LinesPerHost
from nodewright.transport.session import Grant, Session

MAX_REMEMBERED_SCORES = 4096
MAX_WAITING_EVENTS = 1024
TWIN_REPLACEMENTS = 3  # of one peer's connection within TWIN_SECONDS: its key is used by more than one node
TWIN_SECONDS = 60.0
ALREADY_CONNECTED = "already connected"
ITSELF = "it is this node itself"


class PeerEvents:
    """One reader's stream. A reader that lets a thousand events wait no longer sees every coming and going: from then on
    an unread Up that is followed by its Down is taken back, so that what waits stays bounded by the peers there are."""

    def __init__(self, up: list[PeerInfo]) -> None:
        self._events: list[PeerUp | PeerDown] = [PeerUp(info) for info in up]
        self._lot = trio.lowlevel.ParkingLot()

    def add(self, event: PeerUp | PeerDown) -> None:
        if isinstance(event, PeerDown) and len(self._events) >= MAX_WAITING_EVENTS:
            for at in range(len(self._events) - 1, -1, -1):
                waiting = self._events[at]
                if waiting.peer.id == event.peer.id:
                    if isinstance(waiting, PeerUp):
                        del self._events[at]
                        return
                    break
        self._events.append(event)
        self._lot.unpark()

    def __aiter__(self) -> AsyncIterator[PeerUp | PeerDown]:
        return self

    async def __anext__(self) -> PeerUp | PeerDown:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._events:
            await self._lot.park()
        return self._events.pop(0)


class PeerHub:
    """``allow`` empty means every key may connect."""

    capabilities: frozenset[str] = frozenset()

    def __init__(
        self,
        node_id: bytes,
        environment: Environment,
        limits: Limits | None = None,
        allow: Collection[bytes] = (),
    ) -> None:
        self.node_id = node_id
        self.environment = environment
        self.limits = limits or Limits()
        self.closed = False
        self.log: Any = environment.logger
        self.gate = trio.Event()
        self._allow = frozenset(allow)
        self._channels: dict[str, LocalChannel] = {}
        self._providers: dict[str, BodyProvider] = {}
        self._sessions: dict[bytes, Session] = {}
        self._readers: list[weakref.ref[PeerEvents]] = []
        self._scores: dict[bytes, tuple[float, float]] = {}
        self._banned: dict[bytes, float] = {}
        self._replaced: dict[bytes, list[tuple[float, str]]] = {}
        self._twins_told: dict[bytes, float] = {}
        self._comings = LinesPerHost(environment.monotonic, burst=40, seconds_a_line=1.5)
        self._refusals = LinesPerHost(environment.monotonic, burst=10, seconds_a_line=6.0)
        self._changed = trio.Event()
        self._bans_changed = trio.Event()

    # The contract --------------------------------------------------------------------------------------------------

    def peers(self) -> list[PeerInfo]:
        return [attrs.evolve(s.info, score=round(self._score(s.info.id))) for s in self._sessions.values()]

    def channel(
        self, name: str, inbox: int = 256, policy: DropPolicy = "block", max_message_bytes: int = 4 * 1024 * 1024
    ) -> Channel:
        if self.gate.is_set():
            raise TransportError(f"channel {name!r} is declared after the gate was opened")
        if name in self._channels or frames.channel_id(name) in {c.rules.id for c in self._channels.values()}:
            raise TransportError(f"channel {name!r} is declared twice (or its id collides): choose another name")
        if len(self._channels) >= frames.MAX_CHANNELS:
            raise TransportError(f"more than {frames.MAX_CHANNELS} channels")
        if not 0 < inbox < frames.UNMETERED or not 0 < max_message_bytes < 1 << 31:
            raise TransportError(f"channel {name!r}: inbox and max_message_bytes must be positive and below 2^31")
        # Twice a message: half a window may be consumed and not yet told, and the other half must take any message.
        inbox_bytes = max(self.limits.inbox_bytes, 2 * max_message_bytes)
        rules = ChannelRules(name, frames.channel_id(name), inbox, policy, max_message_bytes, inbox_bytes)
        channel = self._channels[name] = LocalChannel(self, rules)
        return channel

    def provide(self, kind: str, provider: BodyProvider) -> None:
        if kind in self._providers:
            raise TransportError(f"bodies of kind {kind!r} are already provided")
        self._providers[kind] = provider

    def fetch(
        self,
        peer: bytes,
        kind: str,
        id: bytes,
        max_bytes: int,
        offset: int = 0,
        timeout_seconds: float = 30.0,
    ) -> AsyncIterator[bytes]:
        """``max_bytes`` bounds the whole body, whatever the offset, so that a resumed fetch passes the same number."""
        return self.session(peer).bodies.read(kind, id, max_bytes, offset, timeout_seconds)

    def open_gate(self) -> None:
        self.gate.set()

    def events(self) -> AsyncIterator[PeerUp | PeerDown]:
        reader = PeerEvents([s.info for s in self._sessions.values()])
        self._readers = [r for r in self._readers if r() is not None]
        self._readers.append(weakref.ref(reader))
        return reader

    def penalise(self, peer: bytes, points: int, reason: str) -> None:
        score = self._score(peer) + points
        self._scores.pop(peer, None)
        self._scores[peer] = (score, self.environment.monotonic())
        if len(self._scores) > MAX_REMEMBERED_SCORES:
            self._scores.pop(next(iter(self._scores)))
        self.log.warning("peer penalised", peer=peer.hex(), points=points, score=int(score), reason=reason)
        if score >= self.limits.ban_score:
            self.ban(peer, self.limits.ban_seconds, reason)

    def ban(self, peer: bytes, seconds: float, reason: str) -> None:
        self._banned[peer] = self.environment.now() + seconds
        if len(self._banned) > bans.MAX_BANS:
            del self._banned[min(self._banned, key=self._banned.__getitem__)]
        self._bans_changed.set()
        self.log.warning("peer banned", peer=peer.hex(), seconds=seconds, reason=reason)
        session = self._sessions.get(peer)
        if session is not None:
            session.close(f"banned for {seconds:g} s: {reason}")
        for channel in self._channels.values():
            channel.forget(peer)

    def banned(self) -> dict[bytes, float]:
        """By peer, the Unix time at which its ban ends."""
        now = self.environment.now()
        self._banned = {peer: until for peer, until in self._banned.items() if until > now}
        return dict(self._banned)

    def unban(self, peer: bytes | None = None) -> None:
        """One peer, or all; its score is forgotten too."""
        for one in [peer] if peer is not None else list(self._banned):
            self._banned.pop(one, None)
            self._scores.pop(one, None)
        self._bans_changed.set()

    async def load_bans(self, path: Path) -> None:
        """Those of before, for a transport that outlives its process; called before anybody can connect."""
        try:
            self._banned |= await self.environment.offload(bans.load, path)
        except (OSError, ValueError) as error:
            self.log.warning("the bans of before cannot be read and are forgotten", file=str(path), reason=str(error))

    async def keep_bans(self, path: Path) -> None:
        """A task: writes bans down as they come and go."""
        while True:
            await self._bans_changed.wait()
            self._bans_changed = trio.Event()
            try:
                await self.environment.offload(bans.save, path, self.banned())
            except StoreError as error:
                self.log.warning("bans are not written down: a restart will forget them", reason=str(error))

    # For sessions --------------------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def session(self, peer: bytes) -> Session:
        session = self._sessions.get(peer)
        if session is None:
            raise PeerGone(f"peer {peer.hex()[:16]} is not connected")
        return session

    def local_channel(self, name: str) -> LocalChannel:
        return self._channels[name]

    def provider(self, kind: str) -> BodyProvider | None:
        return self._providers.get(kind)

    def grants(self) -> tuple[dict[int, Grant], list[frames.Declaration]]:
        """What a new session may expect and what its HELLO says. Metered windows start at nothing: they are granted
        once the peer is accepted."""
        grants, declarations = {}, []
        for channel in self._channels.values():
            rules = channel.rules
            metered = rules.policy == "block"
            grants[rules.id] = Grant(rules, metered, 0, 0)
            window = 0 if metered else frames.UNMETERED
            declarations.append(frames.Declaration(rules.id, window, 0, rules.max_message_bytes))
        return grants, declarations

    def attach(self, session: Session) -> list[tuple[int, int, int]]:
        """The first windows: channel, messages, bytes, of metered channels."""
        windows = [(c.rules, *c.attach(session)) for c in self._channels.values()]
        return [(rules.id, messages, size) for rules, messages, size in windows if rules.policy == "block"]

    def host(self, address: str) -> str:
        """What of a peer's address many keys of one stranger have in common."""
        return address

    def kept(self) -> Collection[bytes]:
        """Peers that this node dials by its operator's will."""
        return ()

    def refusal(self, peer: bytes, inbound: bool, address: str = "") -> str | None:
        """Why a connection to this key is not wanted now, or None."""
        if peer == self.node_id:
            return ITSELF
        if self._banned.get(peer, 0.0) > self.environment.now():
            return "banned"
        if self._allow and peer not in self._allow:
            return f"the node key {peer.hex()} is not in the allow list"
        current = self._sessions.get(peer)
        if current is not None:
            # Who dialled the current one and dials again knows that it is dead; this node's own is not.
            dialled_by = peer if inbound else self.node_id
            if dialled_by == current.dialled_by:
                return None if inbound else ALREADY_CONNECTED
            if dialled_by != min(peer, self.node_id):
                return ALREADY_CONNECTED
        elif inbound:
            return self._room(peer, address)[0]
        return None

    def _room(self, peer: bytes, address: str) -> tuple[str | None, Session | None]:
        """For one more that dialled this node: why there is no room, or who has to make it, if anybody has."""
        kept = set(self.kept())
        if peer in kept:
            return None, None
        guests = [one for one in self._sessions.values() if one.info.inbound and one.info.id not in kept]
        host, most, each = self.host(address), self.limits.max_peers, self.limits.max_inbound_per_host
        neighbours = [one for one in guests if self.host(one.info.address) == host]
        if len(neighbours) >= each:
            guests, why = neighbours, f"this node has its {each} peers of one host (max_inbound_per_host)"
        elif len(guests) >= most:
            why = f"this node has its {most} peers"
        else:
            return None, None
        now = self.environment.monotonic()
        idle = [one for one in guests if not one.useful and now - one.since >= self.limits.idle_seconds]
        if not idle:
            return why, None
        return None, max(idle, key=lambda one: (self._score(one.info.id), now - one.since))

    def told(self, lines: LinesPerHost, inbound: bool, address: str) -> dict[str, int] | None:
        """None where a line about this host is one too many; what this node dialled is always told."""
        return lines.take(self.host(address)) if inbound else {}

    def tell_refused(self, peer: bytes, inbound: bool, address: str, reason: str) -> None:
        more = self.told(self._refusals, inbound, address)
        if more is not None:
            self.log.warning("a peer is refused", peer=peer.hex(), address=address, reason=reason, **more)

    def joined(self, session: Session) -> str | None:
        """The peer has said HELLO: take it, or say why not."""
        peer, address, inbound = session.info.id, session.info.address, session.info.inbound
        if self.closed:
            return "this node stopped"
        refusal = self.refusal(peer, inbound, address)
        if refusal is not None:
            return refusal
        current = self._sessions.get(peer)
        if current is not None:
            current.close("replaced by another connection to the same peer")
            if current.dialled_by == session.dialled_by:
                self._look_for_twins(peer, current.info.address, address)
        elif inbound:
            _, idle = self._room(peer, address)
            if idle is not None:
                idle.close("it made room for another peer: it never sent anything of its own")
        self._sessions[peer] = session
        self._tell(PeerUp(session.info))
        more = self.told(self._comings, inbound, address)
        if more is not None:
            self.log.info("peer up", peer=peer.hex(), address=address, inbound=inbound, **more)
        return None

    def _look_for_twins(self, peer: bytes, before: str, address: str) -> None:
        """A node that dials again has lost its connection, and that is rare; two nodes of one key do it all the time."""
        now = self.environment.monotonic()
        times = self._replaced.pop(peer, [(now, before)])
        times = [*times, (now, address)][-TWIN_REPLACEMENTS - 1 :]
        self._replaced[peer] = times  # the newest at the end, the oldest dropped
        if len(self._replaced) > MAX_REMEMBERED_SCORES:
            self._replaced.pop(next(iter(self._replaced)))
        recent = [(at, where) for at, where in times if now - at <= TWIN_SECONDS]
        if len(recent) <= TWIN_REPLACEMENTS or now - self._twins_told.get(peer, -TWIN_SECONDS) < TWIN_SECONDS:
            return
        self._twins_told = {peer: at for peer, at in self._twins_told.items() if now - at < TWIN_SECONDS} | {peer: now}
        self.log.warning(
            "more than one node uses one node key, and they push each other out",
            peer=peer.hex(),
            addresses=sorted({where for _, where in recent}),
            fix="give each node a key of its own: stop the copy, remove its node.key, and start it again",
        )

    def left(self, session: Session) -> None:
        for channel in self._channels.values():
            channel.detach(session, self.limits.max_peers)
        peer = session.info.id
        if self._sessions.get(peer) is not session:
            return
        del self._sessions[peer]
        reason, address = session.reason or "", session.info.address
        self._tell(PeerDown(session.info, reason))
        more = self.told(self._comings, session.info.inbound, address)
        if more is not None:
            self.log.info("peer down", peer=peer.hex(), address=address, reason=reason, **more)

    # For the transport ---------------------------------------------------------------------------------------------

    def make_session(self, link: Link, info: PeerInfo) -> Session:
        return Session(self, link, info)

    async def serve(self, link: Link, info: PeerInfo) -> str:
        """Run one authenticated link until it ends; returns why."""
        return await self.make_session(link, info).run()

    def max_batch_bytes(self) -> int:
        """The largest link message a peer of this node may send: what fits a batch begun just below its budget."""
        largest = max((c.rules.max_message_bytes for c in self._channels.values()), default=0)
        return frames.BATCH_BYTES + max(largest, 65536) + frames.PIECE_BYTES + 1024

    async def until_changed(self) -> None:
        """Until a peer comes or goes."""
        await self._changed.wait()

    async def finish(self, seconds: float = 1.0) -> None:
        """Write out what is queued, within ``seconds``, then part from every peer."""
        with trio.move_on_after(seconds, shield=True):
            for session in self.sessions():
                await session.drained()
        self.shut()

    def shut(self) -> None:
        self.closed = True
        for session in self.sessions():
            session.close("this node stopped")
        for channel in self._channels.values():
            channel.close()

    def _tell(self, event: PeerUp | PeerDown) -> None:
        for reference in self._readers:
            reader = reference()
            if reader is not None:
                reader.add(event)
        self._changed.set()
        self._changed = trio.Event()

    def _score(self, peer: bytes) -> float:
        points, at = self._scores.get(peer, (0.0, 0.0))
        return max(0.0, points - (self.environment.monotonic() - at) / self.limits.score_decay_seconds)
