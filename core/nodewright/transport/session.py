"""One connection to one peer: what is written, what is read, and when it ends.

Invariants:
- The reader never waits for the application: what has no room is refused by the windows it granted, so that answers,
  credits and keep-alives always get through.
- A frame beyond a granted window, above a channel's size or malformed ends the session and is scored.
- After ``close`` nothing more is delivered, every waiter of this session raises PeerGone, and ``run`` returns the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from nodewright.errors import PeerGone, RequestTimeout
from nodewright.interfaces.transport import Message, PeerInfo
from nodewright.transport import frames
from nodewright.transport.bodies import BodyReader, BodyServer
from nodewright.transport.channels import ChannelRules, no_such_channel
from nodewright.transport.frames import FrameError
from nodewright.transport.link import Link, LinkClosed
from nodewright.transport.outbox import ChannelQueue, ControlOverflow, Outbox

if TYPE_CHECKING:
    from nodewright.transport.hub import PeerHub


@define(eq=False)
class Grant:
    """What the peer may still send on one metered channel, and what was consumed since it was last told."""

    rules: ChannelRules
    metered: bool
    messages: int
    size: int
    freed_messages: int = 0
    freed_size: int = 0


@define(eq=False)
class Pending:
    done: trio.Event = field(factory=trio.Event)
    answer: bytes | None = None


class Session:
    def __init__(self, hub: PeerHub, link: Link, info: PeerInfo) -> None:
        self.hub = hub
        self.info = info
        self.reason: str | None = None
        self.dialled_by = info.id if info.inbound else hub.node_id
        self._link = link
        self._limits = hub.limits
        self._outbox = Outbox(hub.limits)
        self._grants: dict[int, Grant] = {}
        self._pending: dict[int, Pending] = {}
        self._next_request = 0
        self._request_slots = trio.Semaphore(hub.limits.requests_per_peer)
        self._ended = trio.Event()
        self.since = self._heard = hub.environment.monotonic()
        self.useful = False  # it has sent something of its own: a message that answers nothing, or a piece of a body
        self.bodies = BodyReader(info.id, self._outbox, hub.limits)
        self._served = BodyServer(hub, self._outbox, info.id)

    # Life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Until the link ends or somebody calls ``close``; returns why. The hub is told when the peer is there."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guard, self._converse, nursery)
                await self._ended.wait()
                with trio.move_on_after(self._limits.goodbye_seconds):
                    await self._farewell()
                nursery.cancel_scope.cancel()
        finally:
            self.close("this node stopped")
            self._link.close()
        assert self.reason is not None
        return self.reason

    def close(self, reason: str) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        self._outbox.close()
        self.bodies.close(self._gone())
        for pending in self._pending.values():
            pending.done.set()
        self._ended.set()
        self.hub.left(self)

    def _gone(self) -> PeerGone:
        return PeerGone(f"peer {self.info.id.hex()[:16]} ({self.info.address}) is gone: {self.reason}")

    async def _farewell(self) -> None:
        try:
            await self._link.send(frames.bye(self.reason or ""))
            await self._link.wait_closed()
        except LinkClosed:
            pass

    async def _guard(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await function(*arguments)
        except LinkClosed as error:
            self.close(str(error))
        except ControlOverflow as error:
            self.close(str(error))
        except FrameError as error:
            self.close(f"it broke the protocol: {error}")
            self.hub.penalise(self.info.id, 50, str(error))

    async def _converse(self, nursery: trio.Nursery) -> None:
        grants, declarations = self.hub.grants()
        self._grants = grants
        await self._link.send(frames.hello(declarations))
        with trio.move_on_after(self._limits.hello_seconds) as scope:
            batch = await self._link.receive()
        if scope.cancelled_caught:
            self.close("it said nothing after the handshake")
            return
        rest = self._expect_hello(batch)
        refusal = self.hub.joined(self)
        if refusal is not None:
            self.close(refusal)
            return
        for channel, messages, size in self.hub.attach(self):
            grant = self._grants[channel]
            short = frames.WINDOW_BODY.pack(channel, messages, size)
            grant.messages, grant.size = messages, size
            self._outbox.control(frames.frame(frames.WINDOW, short))
        self._heard = self.hub.environment.monotonic()
        nursery.start_soon(self._guard, self._write)
        nursery.start_soon(self._guard, self._keep_alive)
        nursery.start_soon(self._guard, self._served.run)
        if rest:
            self._handle(rest)
        await self._read()

    def _expect_hello(self, batch: bytes) -> bytes:
        for kind, start, end in frames.parse(batch):
            if kind == frames.BYE:
                raise LinkClosed(f"it said: {_reason(batch[start:end])}")
            if kind != frames.HELLO:
                raise FrameError(f"frame kind {kind} where HELLO must come first")
            for declaration in frames.parse_hello(batch[start:end]):
                self._outbox.declare(declaration)
            return batch[end:]
        raise FrameError("an empty first message")

    async def _write(self) -> None:
        while True:
            batch = await self._outbox.next_batch()
            if not batch:
                return
            await self._link.send(batch)

    async def _read(self) -> None:
        while True:
            batch = await self._link.receive()
            if self.reason is not None:
                return
            self._heard = self.hub.environment.monotonic()
            self._handle(batch)

    async def _keep_alive(self) -> None:
        limits, environment = self._limits, self.hub.environment
        while True:
            await environment.sleep(limits.keepalive_seconds)
            now = environment.monotonic()
            if now - self._heard > limits.dead_seconds:
                self.close(f"nothing heard for {limits.dead_seconds:g} s")
                return
            self._outbox.control(frames.frame(frames.PING, frames.U64.pack(0)))

    async def drained(self) -> None:
        """Until everything queued has been handed to the link or the session ended."""
        while not self._outbox.empty() and self.reason is None:
            await self.hub.environment.sleep(0.005)

    # Sending -------------------------------------------------------------------------------------------------------

    def _queue(self, rules: ChannelRules) -> ChannelQueue:
        if self.reason is not None:
            raise self._gone()
        queue = self._outbox.channels.get(rules.id)
        if queue is None:
            raise no_such_channel(self.info.id, rules.name)
        return queue

    def offer(self, channel: int, frame: bytes) -> bool:
        """For a broadcast. False where the peer's outbox is at its hard bound and ``offer_until_stalled`` must wait."""
        queue = self._outbox.channels.get(channel)
        if queue is None or self.reason is not None:
            return True  # it does not take part in this channel
        if len(frame) - frames.DATA_OVERHEAD > queue.max_message_bytes:
            return True
        soft = self._limits.outbox_bytes
        if queue.size >= soft:
            now = self.hub.environment.monotonic()
            if queue.full_since is None:
                queue.full_since = now
            elif now - queue.full_since >= self._limits.outbox_stall_seconds:
                self._stalled()
                return True
            if queue.size >= 2 * soft:
                return False
        self._outbox.push(queue, frame)
        return True

    async def offer_until_stalled(self, channel: int, frame: bytes) -> None:
        queue = self._outbox.channels[channel]
        since = queue.full_since if queue.full_since is not None else self.hub.environment.monotonic()
        left = since + self._limits.outbox_stall_seconds - self.hub.environment.monotonic()
        with trio.move_on_after(max(0.0, left)):
            while not self.offer(channel, frame):
                await queue.room.park()
            return
        self._stalled()

    def _stalled(self) -> None:
        self.close(f"its outbox was full for {self._limits.outbox_stall_seconds:g} s: it reads too slowly")

    async def put(self, rules: ChannelRules, frame: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        queue = self._queue(rules)
        overhead = frames.DATA_OVERHEAD if frame[4] == frames.DATA else frames.REQUEST_OVERHEAD
        if len(frame) - overhead > queue.max_message_bytes:
            raise ValueError(f"peer {self.info.id.hex()[:16]} takes {queue.max_message_bytes} bytes on {rules.name!r}")
        while queue.size >= self._limits.outbox_bytes:
            await queue.room.park()
            self._queue(rules)
        self._outbox.push(queue, frame)

    async def request(self, rules: ChannelRules, payload: bytes, timeout_seconds: float) -> bytes:
        pending = Pending()
        with trio.move_on_after(timeout_seconds):
            async with self._request_slots:
                self._next_request = number = (self._next_request + 1) & 0xFFFFFFFF
                self._pending[number] = pending
                try:
                    await self.put(rules, frames.request(frames.REQUEST, rules.id, number, payload))
                    await pending.done.wait()
                finally:
                    del self._pending[number]
            if pending.answer is None:
                raise self._gone()
            return pending.answer
        raise RequestTimeout(
            f"no answer on {rules.name!r} from peer {self.info.id.hex()[:16]} within {timeout_seconds:g} s"
        )

    # Receiving -----------------------------------------------------------------------------------------------------

    def _handle(self, batch: bytes) -> None:
        for kind, start, end in frames.parse(batch):
            if kind == frames.DATA:
                (channel,) = frames.U32.unpack_from(batch, start)
                self._on_message(channel, batch[start + 4 : end], None)
                self.useful = True
            elif kind == frames.REQUEST:
                channel, number = frames.CHANNEL_REQUEST.unpack_from(batch, start)
                self._on_message(channel, batch[start + 8 : end], number)
            elif kind == frames.RESPONSE:
                self._on_response(batch, start, end)
            elif kind == frames.WINDOW:
                self._on_window(*frames.WINDOW_BODY.unpack_from(batch, start))
            elif kind in (frames.OPEN, frames.PIECE, frames.END):
                self.useful = self.useful or kind == frames.PIECE
                self.bodies.handle(kind, batch[start:end])
            elif kind in (frames.FETCH, frames.CREDIT, frames.STOP):
                self._served.handle(kind, batch[start:end])
            elif kind == frames.PING:
                self._outbox.control(frames.frame(frames.PONG, batch[start:end]))
            elif kind == frames.BYE:
                raise LinkClosed(f"it said: {_reason(batch[start:end])}")
            elif kind == frames.HELLO:
                raise FrameError("a second HELLO")
            if self.reason is not None:
                return

    def _on_message(self, channel: int, payload: bytes, number: int | None) -> None:
        grant = self._grants.get(channel)
        if grant is None:
            raise FrameError(f"a message on channel {channel:08x}, which was never declared to it")
        if len(payload) > grant.rules.max_message_bytes:
            raise FrameError(f"{len(payload)} bytes on {grant.rules.name!r}, which takes {grant.rules.max_message_bytes}")
        if grant.metered:
            grant.messages -= 1
            grant.size -= len(payload)
            if grant.messages < 0 or grant.size < 0:
                raise FrameError(f"more on {grant.rules.name!r} than its window")
        reply = None
        if number is not None:
            queue = self._outbox.channels.get(channel)
            if queue is None:
                raise FrameError(f"a request on {grant.rules.name!r}, where it takes no answers")
            reply = self._reply_to(channel, number, min(grant.rules.max_message_bytes, queue.max_message_bytes))
        self.deliver(grant.rules, Message(self.info.id, payload, reply))

    def deliver(self, rules: ChannelRules, message: Message) -> None:
        """Into the inbox. The simulator's session overrides this to lose, repeat and reorder."""
        self.hub.local_channel(rules.name).deliver(self, message)

    def _reply_to(self, channel: int, number: int, limit: int) -> Callable[[bytes], Awaitable[None]]:
        async def reply(answer: bytes) -> None:
            if len(answer) > limit:
                raise ValueError(f"an answer of {len(answer)} bytes on a channel that takes {limit}")
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._outbox.respond(frames.request(frames.RESPONSE, channel, number, answer))

        return reply

    def _on_response(self, batch: bytes, start: int, end: int) -> None:
        channel, number = frames.CHANNEL_REQUEST.unpack_from(batch, start)
        grant = self._grants.get(channel)
        if grant is None or end - start - 8 > grant.rules.max_message_bytes:
            raise FrameError("an answer on an unknown channel or above its size")
        pending = self._pending.get(number)
        if pending is not None and not pending.done.is_set():
            pending.answer = batch[start + 8 : end]
            pending.done.set()

    def _on_window(self, channel: int, messages: int, size: int) -> None:
        queue = self._outbox.channels.get(channel)
        if queue is None:
            raise FrameError("a window for a channel it never declared")
        queue.credit_messages = min(queue.credit_messages + messages, frames.UNMETERED)
        queue.credit_bytes = min(queue.credit_bytes + size, 1 << 62)
        self._outbox.kick()

    def consumed(self, rules: ChannelRules, size: int) -> None:
        """A message left the inbox (or was dropped on the way to it): its room goes back to the peer, in halves of the
        window so that small messages do not each cost a frame."""
        grant = self._grants[rules.id]
        if not grant.metered or self.reason is not None:
            return
        grant.freed_messages += 1
        grant.freed_size += size
        if grant.freed_messages * 2 >= rules.inbox or grant.freed_size * 2 >= rules.inbox_bytes:
            grant.messages += grant.freed_messages
            grant.size += grant.freed_size
            body = frames.WINDOW_BODY.pack(rules.id, grant.freed_messages, grant.freed_size)
            grant.freed_messages = grant.freed_size = 0
            try:
                self._outbox.control(frames.frame(frames.WINDOW, body))
            except ControlOverflow as error:
                self.close(str(error))


def _reason(text: bytes) -> str:
    return text[: frames.MAX_REASON_BYTES].decode("utf-8", "replace")
