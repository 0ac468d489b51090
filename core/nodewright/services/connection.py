"""One client's connection: reads requests whole, calls the ASGI application, writes the answers. One task, no others.

Invariants
- The application is called, and a slot taken, only once head and body have arrived; the slot is free again when it returns,
  however slowly the client then reads the answer.
- Every wait for the client has a deadline: ``head_timeout`` from a request's first byte to its blank line, ``body_timeout``
  for its body, a least rate of bytes and STALL_SECONDS for both ways, ``keep_alive`` between requests. The application
  has none.
- Bytes held beyond SMALL_BYTES, of bodies and of answers not yet read, are in the server's budget and given back before
  the next request is read.
- A request that cannot be understood is answered once and ends the connection.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import trio

from nodewright.services.request import MAX_HEAD_BYTES, BadRequest, ChunkedBody, Head, parse_head

if TYPE_CHECKING:
    from nodewright.services.http import HttpServer

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SMALL_BYTES: Final = 64 * 1024
RECEIVE_BYTES: Final = 256 * 1024
GRACE_SECONDS: Final = 5.0  # before the least rate counts
STALL_SECONDS: Final = 30.0  # without a byte, however many came before
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
MAX_PIPELINED: Final = 64  # requests taken from the buffer before other connections have their turn
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
BUSY: Final = "busy: retry later"


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are given up when there are too many."""

    READING = 0
    IDLE = 1
    WRITING = 2
    WORKING = 3


class Gone(OSError):
    """The client closed, or the socket broke: what ASGI's ``send`` raises then."""


def head_bytes(status: int, headers: list[tuple[bytes, bytes]], date: bytes, close: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"Unknown"))]
    lines += [b"%s: %s" % (name, value) for name, value in headers if b"\r" not in value and b"\n" not in value]
    lines.append(b"date: " + date)
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def plain(status: int, text: str, date: bytes, retry_after: int = 0, close: bool = False) -> bytes:
    """A whole answer of text."""
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    if retry_after:
        headers.append((b"retry-after", b"%d" % retry_after))
    return head_bytes(status, headers, date, close) + body


class Connection:
    """``client`` is the peer's address; ``since`` when the present phase began, in the clock of trio."""

    def __init__(self, server: HttpServer, sock: socket.socket, address: tuple[Any, ...]) -> None:
        self.server = server
        self.sock = sock
        self.client = str(address[0])
        self.address = (self.client, int(address[1]))
        self.scope = trio.CancelScope()
        self.phase = Phase.READING
        self.since = trio.current_time()
        self.deadline = math.inf  # the server ends the connection soon after it
        self.held = 0
        self.moved = 0  # bytes of the present body or answer that have come or gone
        self.last = False  # no request after this one
        self._buffer = bytearray()
        self._asked = False  # some bytes of a request have come
        self._given_up = False

    # --- the life of a connection -------------------------------------------------------------------------------------

    async def run(self) -> None:
        word = b""
        try:
            with self.scope:
                try:
                    await self._serve()
                except BadRequest as bad:
                    word = plain(bad.status, bad.sentence, self.server.date(), close=True)
                except Gone:
                    return
            if self.scope.cancelled_caught:
                if self._given_up:
                    self._last_word()
                elif self._asked and self.phase is Phase.READING:
                    word = plain(408, "the request did not arrive in time", self.server.date(), close=True)
            if word:
                await self._part(word)
        finally:
            self._free()
            self.sock.close()

    def give_up(self) -> None:
        """End now; one that is sending a request is told to come back later."""
        self.last = self._given_up = True
        self._free()
        self.scope.cancel()

    def expire(self) -> None:
        """The deadline has passed."""
        self.scope.cancel()

    def finish(self) -> None:
        """No request after the present one, and none if it has not arrived."""
        self.last = True
        if self.phase in (Phase.READING, Phase.IDLE):
            self.scope.cancel()

    @property
    def rate(self) -> float:
        """Bytes a second of the present body or answer."""
        return self.moved / max(trio.current_time() - self.since, 0.001)

    async def _serve(self) -> None:
        served = 0
        self._enter(Phase.READING, self.server.settings.head_timeout_seconds)
        while True:
            head = await self._read_head()
            if head is None:
                return
            await self._request(head)
            if self.last:
                if self._buffer:
                    await self._linger()
                return
            served += 1
            if served % MAX_PIPELINED == 0:
                await trio.lowlevel.checkpoint()
            self._asked = bool(self._buffer)
            if self._asked:
                self._enter(Phase.READING, self.server.settings.head_timeout_seconds)
            else:
                self._enter(Phase.IDLE, self.server.settings.keep_alive_seconds)

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

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _read_head(self) -> Head | None:
        buffer = self._buffer
        searched = 0
        while True:
            while buffer[:2] == b"\r\n":
                del buffer[:2]
            at = buffer.find(b"\r\n\r\n", searched)
            if 0 <= at <= MAX_HEAD_BYTES:
                head = parse_head(bytes(buffer[:at]))
                del buffer[: at + 4]
                return head
            if len(buffer) > MAX_HEAD_BYTES:
                raise BadRequest(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
            searched = max(0, len(buffer) - 3)
            data = await self._receive(SMALL_BYTES)
            if not data:
                return None
            if not self._asked:
                self._asked = True
                self._enter(Phase.READING, self.server.settings.head_timeout_seconds)
            buffer += data

    async def _request(self, head: Head) -> None:
        server = self.server
        self.last = self.last or not head.keep_alive
        wait = server.rate_limit.wait_for(self.client)
        limit = server.limit_for(head.path)
        if wait > 0 or (head.length or 0) > limit:
            if wait > 0:
                answer = (429, "too many requests: retry later", max(1, math.ceil(wait)))
            else:
                answer = (413, f"the request body is larger than the {limit} bytes allowed here", 0)
            self.last = self.last or head.length != 0
            await self._write(plain(answer[0], answer[1], server.date(), answer[2], self.last))
            if self.last:
                await self._linger()
            return
        body = b"" if head.length == 0 else await self._read_body(head, limit)
        if body is None or not server.enter(head.path):
            self.last = self.last or body is None
            await self._write(plain(503, BUSY, server.date(), 1, self.last))
            if body is None:
                await self._linger()
        else:
            await self._work(head, body)
        self._free()

    async def _read_body(self, head: Head, limit: int) -> bytes | None:
        """None where the budget has no room for it."""
        buffer, most = self._buffer, self.server.settings.body_timeout_seconds
        self._enter(Phase.READING)
        self._progress(0, most)
        if head.expects_continue and not buffer:
            await self._write_now(CONTINUE)
        length = head.length
        if length is not None and len(buffer) >= length:
            body = bytes(buffer[:length])
            del buffer[:length]
            return body if self._hold(len(body)) else None
        collected = bytearray()
        chunks = ChunkedBody(limit) if length is None else None
        while True:
            if chunks is not None:
                if chunks.take(buffer, collected):
                    break
            elif length is not None:
                piece = buffer[: length - len(collected)]
                collected += piece
                del buffer[: len(piece)]
                if len(collected) == length:
                    break
            if not self._hold(len(collected)):
                return None
            left = SMALL_BYTES if length is None else min(RECEIVE_BYTES, length - len(collected))
            data = await self._receive(left)
            if not data:
                raise Gone
            buffer += data
            self._progress(len(data), most)
        return bytes(collected) if self._hold(len(collected)) else None

    def _hold(self, count: int) -> bool:
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

    # --- the application ----------------------------------------------------------------------------------------------

    async def _work(self, head: Head, body: bytes) -> None:
        """Calls the application in a slot that is ours, and writes what it answers."""
        exchange = Exchange(self, head, body)
        server = self.server
        self._enter(Phase.WORKING)
        try:
            await server.app(exchange.scope(), exchange.receive, exchange.send)
        except Exception as error:  # one request's fault must not take the service down
            if exchange.broken:
                raise Gone from error
            server.logger.exception("a request failed", path=head.path[:200], error=type(error).__name__)
            self.last = True
        finally:
            server.leave(head.path)
        await exchange.finish()

    # --- the socket ---------------------------------------------------------------------------------------------------

    async def _receive(self, count: int) -> bytes:
        """At least one byte, or none at the end."""
        while True:
            try:
                return self.sock.recv(count)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self.sock)
            except OSError:
                raise Gone from None

    async def _write_now(self, data: bytes | memoryview) -> None:
        """All of it, under the present deadline."""
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

    async def _write(self, data: bytes) -> None:
        self._enter(Phase.WRITING, GRACE_SECONDS)
        await self._write_now(data)

    def _last_word(self) -> None:
        if self._asked and self.phase is Phase.READING:
            try:
                self.sock.send(plain(503, BUSY, self.server.date(), 1, close=True))
            except OSError:
                pass

    async def _part(self, word: bytes) -> None:
        """A last word to a client that may still be sending: closing at once would reset the connection under it."""
        with trio.CancelScope() as self.scope:
            try:
                await self._write(word)
                await self._linger()
            except Gone:
                pass

    async def _linger(self) -> None:
        self._enter(Phase.WRITING, LINGER_SECONDS)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        left = LINGER_BYTES
        while left > 0 and (data := await self._receive(SMALL_BYTES)):
            left -= len(data)


class Exchange:
    """One request and its answer, as ASGI sees them. An answer given in one piece is kept until the application has
    returned; one given in several is written as it comes."""

    def __init__(self, connection: Connection, head: Head, body: bytes) -> None:
        self._connection = connection
        self._head = head
        self._body: bytes | None = body
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._whole: bytes | None = None
        self._streaming = self._chunked = self._done = False
        self.broken = False  # the client went away under a streamed answer

    def scope(self) -> Scope:
        head, server = self._head, self._connection.server
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": f"1.{head.minor}",
            "method": head.method,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": self._connection.address,
            "server": server.address,
        }

    async def receive(self) -> Event:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        sock = self._connection.sock
        await trio.lowlevel.wait_readable(sock)
        try:
            more = sock.recv(1, socket.MSG_PEEK)
        except OSError:
            more = b""
        if more:  # its next request waits there: whether the client goes away can no longer be seen
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._status = event["status"]
            self._headers = [(bytes(name), bytes(value)) for name, value in event.get("headers", ())]
        elif event["type"] == "http.response.body" and not self._done:
            body = event.get("body", b"")
            self._done = not event.get("more_body", False)
            if self._done and not self._streaming:
                self._whole = body
            else:
                try:
                    await self._stream(body)
                except Gone:
                    self.broken = True
                    raise

    async def finish(self) -> None:
        """The application has returned: write what it left, or that it failed."""
        connection, server = self._connection, self._connection.server
        if self._streaming:
            if not self._done:
                connection.last = True  # cut off: only the end of the connection can say so
            return
        if self._whole is None:
            connection.last = True
            await connection._write(plain(500, "internal error", server.date(), close=True))
            return
        body = self._whole
        connection.last = connection.last or server.stopping
        if not connection._hold(connection.held + SMALL_BYTES * (connection.held > 0) + len(body)):
            await connection._write(plain(503, BUSY, server.date(), 1, connection.last))
            return
        if not self._named(b"content-length") and self._status not in (204, 304):
            self._headers.append((b"content-length", b"%d" % len(body)))
        head = head_bytes(self._status, self._headers, server.date(), connection.last)
        if self._head.method == "HEAD" or self._status in (204, 304):
            body = b""
        if len(body) <= SMALL_BYTES:
            await connection._write(head + body)
        else:
            await connection._write(head)
            await connection._write_now(body)

    def _named(self, name: bytes) -> bool:
        return any(key.lower() == name for key, _ in self._headers)

    async def _stream(self, body: bytes) -> None:
        connection = self._connection
        connection._enter(Phase.WRITING, GRACE_SECONDS)
        if not self._streaming:
            self._streaming = True
            if not self._named(b"content-length"):
                if self._head.minor == 1:
                    self._chunked = True
                    self._headers.append((b"transfer-encoding", b"chunked"))
                else:
                    connection.last = True
            head = head_bytes(self._status, self._headers, connection.server.date(), connection.last)
            await connection._write_now(head)
        if self._head.method != "HEAD":
            if self._chunked:
                body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if self._done else b"")
            await connection._write_now(body)
        connection._enter(Phase.WORKING)
