"""One client's connection: Hypercorn speaks HTTP/1.1 and ASGI on it, this module moves its bytes under deadlines.

Hypercorn's ``H11Protocol`` is driven as its own ``TCPServer`` drives it: it is handed what arrives, spawns a task for each
request and says what to send, when a head has been read, when a request is over and when to close. ``TCPServer`` itself
cannot be used: it leaves HTTP/1.1 for HTTP/2 when a client asks, its writes cannot be ended from outside, and a connection
that its client closed stays open until ``keep_alive_timeout``.

Invariants
- Every wait for the client has a deadline: ``head_timeout`` from a request's first byte until its head is there,
  ``body_timeout`` for its body, a least rate of bytes and STALL_SECONDS for both ways, ``keep_alive`` between requests.
  The application has none.
- Bytes held beyond SMALL_BYTES, of a body and of an answer not yet read, are in the server's budget until the request is
  over.
- Bytes are written by one task at a time: Hypercorn takes no request before the one under way has been answered.
- Once the connection is ended from here (a deadline, room for others, a fault), nothing more of Hypercorn's is written.
"""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from nodewright.services.exchange import BUSY, Exchange, Gone, last_word
from nodewright.services.limits import GRACE_SECONDS, SMALL_BYTES

if TYPE_CHECKING:
    from nodewright.services.http import HttpServer

MAX_HEAD_BYTES: Final = 32 * 1024
HEAD_RECEIVE_BYTES: Final = 16 * 1024
BODY_RECEIVE_BYTES: Final = 256 * 1024
STALL_SECONDS: Final = 30.0  # without a byte, however many came before
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 64 * 1024 * 1024  # thrown away as they come, so that who sends too much reads why


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are given up when there are too many."""

    READING = 0
    IDLE = 1
    WRITING = 2
    WORKING = 3


class Http1(H11Protocol):
    """Hypercorn's HTTP/1.1, and nothing that a client could change it into."""

    async def _check_protocol(self, event: Any) -> None:
        """Neither ``Upgrade: h2c`` nor HTTP/2's preface is followed: many streams at once would escape the bounds of a
        connection. The first is answered as if it had not been asked, the second is refused like any other version."""


def opener(server: HttpServer) -> Callable[[socket.socket, tuple[Any, ...]], Connection]:
    """What makes a Connection of a socket and its peer's address, over one Hypercorn configuration."""
    config = Config()
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.keep_alive_max_requests = sys.maxsize
    config.max_app_queue_size = sys.maxsize  # full, it would keep an answer from being given before the body has come
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return partial(Connection, server, config, WorkerContext(None))


class Connection:
    """``client`` is the peer's address; ``since`` when the present phase began, in the clock of trio."""

    def __init__(
        self, server: HttpServer, config: Config, context: WorkerContext, sock: socket.socket, address: tuple[Any, ...]
    ) -> None:
        self.server = server
        self.sock = sock
        self.client = str(address[0])
        self.address = (self.client, int(address[1]))
        self.scope = trio.CancelScope()
        self.phase = Phase.READING
        self.since = trio.current_time()
        self.deadline = self.since + server.settings.head_timeout_seconds  # the server ends the connection soon after it
        self.held = 0
        self.moved = 0  # bytes of the present body or answer that have come or gone
        self.gone = False  # nothing can be written any more
        self.corked = False  # what is to be written waits for more of it
        self._hypercorn = (config, context)
        self._protocol: Http1
        self._reading = trio.CancelScope()
        self._kept = b""
        self._word = b""  # what is said instead of an answer
        self._asked = False  # some bytes of a request have come
        self._body = False  # its head has been read, its body has not
        self._over = False  # ended from here
        self._left = False  # the client will send no more
        self._given_up = False

    # --- the life of a connection -------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            with self.scope:
                try:
                    async with TaskGroup() as group:
                        config, context = self._hypercorn
                        self._protocol = Http1(
                            self._exchange,
                            config,
                            context,
                            group,
                            ConnectionState({}),
                            False,
                            self.address,
                            self.server.address,
                            self._event,
                        )
                        await self._read()
                except* Exception as errors:
                    if not self._over:
                        self.server.logger.warning(
                            "a connection failed", client=self.client, error=repr(errors.exceptions[0])
                        )
            await self._part()
        finally:
            self._free()
            self.sock.close()

    def give_up(self) -> None:
        """End now; one that is sending a request is told to come back later."""
        self._given_up = True
        self._free()
        self._end(503, BUSY)

    def expire(self) -> None:
        """The deadline has passed."""
        self._end(408, "the request did not arrive in time")

    def cut(self) -> None:
        """The application's answer is none."""
        if self.phase is Phase.WRITING and not self.moved:
            self._word = last_word(500, "internal error")
        self._end(0, "")

    def finish(self) -> None:
        """The server stops: end unless a request is with the application or its answer on the way."""
        if self.phase in (Phase.READING, Phase.IDLE):
            self._asked = False
            self._end(0, "")

    def _end(self, status: int, sentence: str) -> None:
        if self._asked and self.phase is Phase.READING:
            self._word = last_word(status, sentence)
        self._over = True
        self.scope.cancel()

    @property
    def working(self) -> bool:
        """The application has its request."""
        return self.phase is Phase.WORKING

    @property
    def use(self) -> tuple[int, float]:
        """The smaller, the sooner it makes room for others."""
        return (self.phase, self.since)

    @property
    def rate(self) -> float:
        """Bytes a second of the present body or answer."""
        return self.moved / max(trio.current_time() - self.since, 0.001)

    async def _part(self) -> None:
        """A last word, and some patience with a client that is still sending: closing at once would reset the connection
        under the answer."""
        if self.gone or self._left or (self._over and not self._word):
            return
        if self._given_up:
            try:
                self.sock.send(self._word)
            except OSError:
                pass
            return
        with trio.CancelScope() as self.scope:
            try:
                if self._word:
                    self._enter(Phase.WRITING, GRACE_SECONDS)
                    await self._write(self._word)
                elif not self._body and self.phase is not Phase.READING and not self._unread():
                    return
                self._enter(Phase.WRITING, LINGER_SECONDS)
                self.sock.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES
                while left > 0 and (data := await self._receive(BODY_RECEIVE_BYTES)):
                    left -= len(data)
            except OSError:
                pass

    def _unread(self) -> bool:
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    # --- phases -------------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase, seconds: float = math.inf) -> None:
        self.phase = phase
        self.since = trio.current_time()
        self.moved = 0
        self.deadline = self.since + seconds

    def _progress(self, count: int, most: float = math.inf) -> None:
        """``count`` bytes more have come or gone: the deadline moves as far as the least rate allows."""
        self.moved += count
        allowed = GRACE_SECONDS + self.moved / self.server.settings.least_bytes_per_second
        self.deadline = min(self.since + min(allowed, most), trio.current_time() + STALL_SECONDS)

    def work(self) -> None:
        """The request is whole and goes to the application."""
        self._body = False
        self._enter(Phase.WORKING)

    def answer(self) -> None:
        """What is sent from now on is the answer."""
        self._enter(Phase.WRITING, GRACE_SECONDS)

    def pause(self) -> None:
        """A part of the answer has gone; the application is at work on the next."""
        self._enter(Phase.WORKING)

    def _next(self) -> None:
        """A request is over."""
        self._free()
        self._body = False
        self._asked = bool(self._protocol.connection.trailing_data[0])
        settings = self.server.settings
        if self._asked:
            self._enter(Phase.READING, settings.head_timeout_seconds)
        else:
            self._enter(Phase.IDLE, settings.keep_alive_seconds)

    def hold(self, count: int) -> bool:
        """Account for ``count`` bytes held in all; the small part that every connection may have is free."""
        more = max(0, count - SMALL_BYTES) - self.held
        if more <= 0:
            return True
        if not self.server.take(self, more):
            return False
        self.held += more
        return True

    def _free(self) -> None:
        if self.held:
            self.server.budget.give(self.client, self.held)
            self.held = 0

    # --- Hypercorn ----------------------------------------------------------------------------------------------------

    async def _exchange(self, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
        """The application as Hypercorn calls it."""
        await Exchange(self, scope, receive, send).run()

    async def _event(self, event: Event) -> None:
        """What Hypercorn's protocol says."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            if event.idle:
                self._next()
            else:
                self._asked = self._body = True
                self._enter(Phase.READING)
                self._progress(0, self.server.settings.body_timeout_seconds)
        elif isinstance(event, Closed):
            await self._close()

    async def _close(self) -> None:
        self._reading.cancel()
        await self._protocol.handle(Closed())

    async def _read(self) -> None:
        with self._reading:
            while True:
                data = await self._receive(BODY_RECEIVE_BYTES if self._body else HEAD_RECEIVE_BYTES)
                self._left = not data
                if not self._asked:
                    self._asked = bool(data)
                    self._enter(Phase.READING, self.server.settings.head_timeout_seconds)
                elif self._body:
                    self._progress(len(data), self.server.settings.body_timeout_seconds)
                await self._protocol.handle(RawData(data))
                if not data or self._reading.cancel_called:
                    break
        await self._protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        if self._over or self.gone:
            return
        if self.corked:
            self._kept += data
            return
        kept, self._kept = self._kept, b""
        try:
            if kept and len(data) > SMALL_BYTES:
                await self._write(kept)
            else:
                data = kept + data
            await self._write(data)
        except Gone:
            self.gone = True
            await self._close()

    # --- the socket ---------------------------------------------------------------------------------------------------

    async def _receive(self, count: int) -> bytes:
        """At least one byte, or none at the end."""
        while True:
            try:
                return self.sock.recv(count)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self.sock)
            except OSError:
                self.gone = True
                return b""

    async def _write(self, data: bytes) -> None:
        """All of it, under the present deadline. Raises Gone."""
        view = memoryview(data)
        while view:
            try:
                count = self.sock.send(view)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_writable(self.sock)
                continue
            except OSError:
                raise Gone from None
            view = view[count:]
            if self.phase is Phase.WRITING:
                self._progress(count)
