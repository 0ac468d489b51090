"""One request between Hypercorn and the application: handed on when it is whole, answered when the application is done.

Invariants
- The application is called, and a slot taken, only once the body has arrived; the slot is free again when it returns,
  however slowly the client then reads the answer.
- A body is never longer than its path's limit, nor in more pieces than its length warrants.
- What is refused is refused with a sentence; where the rest of the request has not arrived, the connection ends with it.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Message, Receive, Scope, Send

from nodewright.services.limits import SMALL_BYTES

if TYPE_CHECKING:
    from nodewright.services.connection import Connection

BUSY: Final = "busy: retry later"
# A piece costs some microseconds however small it is: beyond the free ones, they must hold this much on average.
FREE_PIECES: Final = 1024
LEAST_PIECE_BYTES: Final = 32


class Gone(OSError):
    """The client closed, or the socket broke: what ASGI's ``send`` raises then."""


class Refusal(Exception):
    """The answer to a request that the application does not get. ``retry`` in seconds; 0: not worth it."""

    def __init__(self, status: int, sentence: str, retry: int = 0, *, close: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry = retry
        self.close = close


def _fields(text: bytes, retry: int, close: bool) -> list[tuple[bytes, bytes]]:
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
    if retry:
        fields.append((b"retry-after", b"%d" % retry))
    if close:
        fields.append((b"connection", b"close"))
    return fields


def last_word(status: int, sentence: str) -> bytes:
    """A whole answer for a connection that ends, where Hypercorn has no request to answer."""
    text = sentence.encode()
    lines = [b"%s: %s" % field for field in _fields(text, 1 if status == 503 else 0, close=True)]
    return b"\r\n".join([b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()), *lines, b"", text])


class Exchange:
    """An answer given in one piece is kept until the application has returned; one given in several is sent as it comes."""

    def __init__(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        self._connection = connection
        self._server = connection.server
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body: bytes | None = None
        self._start: Message | None = None
        self._whole: Message | None = None
        self._streaming = self._done = False

    async def run(self) -> None:
        if self._scope["type"] != "http":
            await self._send({"type": "websocket.close"})
            return
        path: str = self._scope["path"]
        try:
            self._admit(path)
            self._body = await self._read(self._server.limit_for(path))
            await self._apply(path)
        except Refusal as refusal:
            await self._refuse(refusal)
        except Gone:
            pass

    # --- the request --------------------------------------------------------------------------------------------------

    def _admit(self, path: str) -> None:
        """Judge by the head alone. Raises Refusal."""
        version = self._scope["http_version"]
        if version not in ("1.1", "1.0"):
            raise Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here", close=True)
        length: int | None = None
        chunked = False
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        # Two readers could take where it ends in two ways.
        if chunked and (length is not None or version == "1.0"):
            raise Refusal(400, "Transfer-Encoding stands beside Content-Length, or in HTTP/1.0", close=True)
        wait = self._server.rate_limit.wait_for(self._connection.client)
        if wait > 0:
            raise Refusal(429, "too many requests: retry later", max(1, math.ceil(wait)), close=chunked or bool(length))
        limit = self._server.limit_for(path)
        if length is not None and length > limit:
            raise _too_large(limit)

    async def _read(self, limit: int) -> bytes:
        """Raises Refusal, Gone."""
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Gone
            piece = message.get("body", b"")
            if piece:
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(piece)
                if len(pieces) > FREE_PIECES + size // LEAST_PIECE_BYTES:
                    raise Refusal(400, "the chunks are too small: send larger ones", close=True)
                if not self._connection.hold(size):
                    raise Refusal(503, BUSY, 1, close=True)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # --- the application ----------------------------------------------------------------------------------------------

    async def _apply(self, path: str) -> None:
        connection, server = self._connection, self._server
        connection.work()
        if not server.enter(path):
            raise Refusal(503, BUSY, 1)
        self._scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}  # of it: ``send`` raises when the client has gone
        close = False
        try:
            await server.app(self._scope, self.receive, self.send)
        except Exception as error:  # one request's fault must not take the service down
            if connection.gone:
                raise Gone from error
            server.logger.exception("a request failed", path=path[:200], error=type(error).__name__)
            close = True
        finally:
            server.leave(path)
        if self._streaming:
            return  # one that is not complete is cut off by Hypercorn
        if self._start is None or self._whole is None:
            raise Refusal(500, "internal error", close=True)
        headers = self._start["headers"] = list(self._start.get("headers", ()))
        body = self._whole.get("body", b"")
        if not connection.hold(connection.held + SMALL_BYTES * (connection.held > 0) + len(body)):
            raise Refusal(503, BUSY, 1)
        if self._start["status"] not in (204, 304) and not any(name.lower() == b"content-length" for name, _ in headers):
            headers.append((b"content-length", b"%d" % len(body)))
        if close or server.stopping:
            headers.append((b"connection", b"close"))
        await self._answer(self._start, self._whole)

    async def receive(self) -> Message:
        """The whole body, then that the client has left."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None and not self._done:
            self._done = not message.get("more_body", False)
            if self._done and not self._streaming:
                self._whole = message
                return
            start = None if self._streaming else self._start
            self._streaming = True
            await self._answer(start, message)
            if self._connection.gone:
                raise Gone
            if not self._done:
                self._connection.pause()

    # --- the answer ---------------------------------------------------------------------------------------------------

    async def _refuse(self, refusal: Refusal) -> None:
        text = str(refusal).encode()
        fields: Any = _fields(text, refusal.retry, refusal.close or self._server.stopping)
        start = {"type": "http.response.start", "status": refusal.status, "headers": fields}
        await self._answer(start, {"type": "http.response.body", "body": text})

    async def _answer(self, start: Message | None, body: Message) -> None:
        """Through Hypercorn; head and body leave in one piece where they are small."""
        connection = self._connection
        connection.answer()
        try:
            if start is not None:
                connection.corked = True
                await self._send(start)
                connection.corked = False
            await self._send(body)
        except Exception as error:  # no HTTP: a forbidden header, more bytes than announced
            self._server.logger.exception("an answer could not be sent", error=type(error).__name__)
            connection.cut()


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the request body is larger than the {limit} bytes allowed here", close=True)
