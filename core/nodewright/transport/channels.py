"""Channels as this node declares them, and their inboxes.

Invariants:
- What a peer holds in one inbox never exceeds the window it was granted (``block``) or the bound at which the policy
  drops (``oldest``, ``newest``); one peer's full inbox takes no room from another's.
- Within one inbox order is kept; across peers ``receive`` goes round robin.
- A message taken by ``receive`` gives its room back to the peer's current session exactly once.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import trio
from attrs import define, field, frozen

from nodewright.errors import PeerGone, TransportError
from nodewright.interfaces.transport import DropPolicy, Message
from nodewright.transport import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodewright.transport.hub import PeerHub
    from nodewright.transport.session import Session


@frozen
class ChannelRules:
    name: str
    id: int
    inbox: int
    policy: DropPolicy
    max_message_bytes: int
    inbox_bytes: int


@define(eq=False)
class Inbox:
    """Of one peer on one channel. Outlives the session: what was received is delivered after the peer has gone."""

    peer: bytes
    session: Session | None = None
    messages: deque[Message] = field(factory=deque)
    size: int = 0


class LocalChannel:
    """Implements the contract's ``Channel``."""

    def __init__(self, hub: PeerHub, rules: ChannelRules) -> None:
        self.name = rules.name
        self.rules = rules
        self.dropped = 0
        self._hub = hub
        self._inboxes: OrderedDict[bytes, Inbox] = OrderedDict()
        self._ready: deque[Inbox] = deque()
        self._lot = trio.lowlevel.ParkingLot()

    # Outgoing ------------------------------------------------------------------------------------------------------

    def _check(self, payload: bytes) -> None:
        if len(payload) > self.rules.max_message_bytes:
            raise ValueError(
                f"a message of {len(payload)} bytes on channel {self.name!r}, which takes {self.rules.max_message_bytes}"
            )

    async def broadcast(self, payload: bytes, exclude: Sequence[bytes] = ()) -> None:
        """To every peer with this channel. Waits only for a peer whose outbox is full to its hard bound, and never
        longer than until that peer has been full for ``outbox_stall_seconds`` and is disconnected for it."""
        self._check(payload)
        await trio.lowlevel.checkpoint_if_cancelled()
        encoded = frames.data(self.rules.id, payload)
        full = [
            session
            for session in self._hub.sessions()
            if session.info.id not in exclude and not session.offer(self.rules.id, encoded)
        ]
        for session in full:
            await session.offer_until_stalled(self.rules.id, encoded)

    async def send(self, peer: bytes, payload: bytes) -> None:
        self._check(payload)
        await self._hub.session(peer).put(self.rules, frames.data(self.rules.id, payload))

    async def request(self, peer: bytes, payload: bytes, timeout_seconds: float = 10.0) -> bytes:
        self._check(payload)
        return await self._hub.session(peer).request(self.rules, payload, timeout_seconds)

    # Incoming ------------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._ready:
            if self._hub.closed:
                raise TransportError(f"the transport is closed: channel {self.name!r} has no more messages")
            await self._lot.park()
        inbox = self._ready.popleft()
        message = inbox.messages.popleft()
        inbox.size -= len(message.payload)
        if inbox.messages:
            self._ready.append(inbox)
        elif inbox.session is None:
            del self._inboxes[inbox.peer]
        if inbox.session is not None:
            inbox.session.consumed(self.rules, len(message.payload))
        return message

    def attach(self, session: Session) -> tuple[int, int]:
        """The peer is (again) there: the window it starts with, in messages and bytes."""
        peer = session.info.id
        inbox = self._inboxes.get(peer)
        if inbox is None:
            inbox = self._inboxes[peer] = Inbox(peer)
        inbox.session = session
        if self.rules.policy != "block":
            return frames.UNMETERED, 0
        return self.rules.inbox - len(inbox.messages), self.rules.inbox_bytes - inbox.size

    def detach(self, session: Session, keep: int) -> None:
        """``keep`` is how many inboxes of peers that have gone may stay, so that a churn of keys cannot fill memory."""
        inbox = self._inboxes.get(session.info.id)
        if inbox is None or inbox.session is not session:
            return
        inbox.session = None
        if not inbox.messages:
            del self._inboxes[inbox.peer]
            return
        gone = [i for i in self._inboxes.values() if i.session is None]
        for old in gone[: max(0, len(gone) - keep)]:
            self.forget(old.peer)

    def forget(self, peer: bytes) -> None:
        """Drop what a peer still has here (it is banned, or too many have gone)."""
        inbox = self._inboxes.get(peer)
        if inbox is None:
            return
        self.dropped += len(inbox.messages)
        inbox.messages.clear()
        inbox.size = 0
        if inbox in self._ready:
            self._ready.remove(inbox)
        if inbox.session is None:
            del self._inboxes[peer]

    def deliver(self, session: Session, message: Message) -> None:
        inbox = self._inboxes.get(session.info.id)
        if inbox is None or inbox.session is not session:
            return  # a message that arrives with the very end of a replaced session
        rules = self.rules
        if rules.policy != "block":
            size = len(message.payload)
            while inbox.messages and (len(inbox.messages) >= rules.inbox or inbox.size + size > rules.inbox_bytes):
                self.dropped += 1
                if rules.policy == "newest":
                    return
                inbox.size -= len(inbox.messages.popleft().payload)
        if not inbox.messages and inbox not in self._ready:
            self._ready.append(inbox)
        inbox.messages.append(message)
        inbox.size += len(message.payload)
        self._lot.unpark()

    def close(self) -> None:
        self._lot.unpark_all()


def no_such_channel(peer: bytes, name: str) -> PeerGone:
    return PeerGone(f"peer {peer.hex()[:16]} does not take part in channel {name!r}")
