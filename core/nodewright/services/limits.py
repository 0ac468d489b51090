"""ASGI middleware that bounds a request before the application sees it: body bytes, requests per client, requests at once.

Invariants: a body is cut off at the limit whether or not its length was declared; a client's bucket never holds more than
its burst; the table of clients is bounded (the stalest go first); what is refused answers at once and says when to retry.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio
from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CLIENTS = 4096


async def _plain(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = text.encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


class BodyLimit:
    """413 for a request body over ``max_bytes``; ``by_path`` gives other limits for path prefixes (longest wins).

    408 for a body that has not arrived whole after ``timeout_seconds``: a slow sender holds no memory for ever."""

    def __init__(
        self,
        app: Application,
        max_bytes: int,
        by_path: dict[str, int] | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds
        self.by_path = sorted((by_path or {}).items(), key=lambda item: -len(item[0]))

    def limit_for(self, path: str) -> int:
        return next((limit for prefix, limit in self.by_path if path.startswith(prefix)), self.max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit_for(scope["path"])
        refusal = f"the request body is larger than the {limit} bytes allowed here"
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > limit):
                await _plain(send, 413, refusal, ((b"connection", b"close"),))
                return
        received = 0
        started = complete = False
        deadline = trio.current_time() + self.timeout_seconds

        async def counted() -> Event:
            nonlocal received, complete
            if complete:
                return await receive()
            with trio.move_on_at(deadline) as timer:
                event = await receive()
            if timer.cancelled_caught:
                raise HTTPException(408, "the request body did not arrive in time")
            complete = event["type"] != "http.request" or not event.get("more_body", False)
            if event["type"] == "http.request":
                received += len(event.get("body", b""))
                if received > limit:
                    raise HTTPException(413, refusal)
            return event

        async def noted(event: Event) -> None:
            nonlocal started
            started = started or event["type"] == "http.response.start"
            await send(event)

        try:
            await self.app(scope, counted, noted)
        except HTTPException as refused:  # from an application that does not answer these itself, as Starlette does
            if started:
                raise
            await _plain(send, refused.status_code, refused.detail, ((b"connection", b"close"),))


class RateLimit:
    """A token bucket per client address: ``rate`` requests a second, ``burst`` at once; 429 with Retry-After.

    ``rate`` 0 switches it off. ``clock`` is the environment's monotonic clock in seconds."""

    def __init__(self, app: Application, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self.app = app
        self.rate = rate
        self.burst = max(1, burst)
        self.clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, client: str) -> float:
        """Take one token; 0.0 if there was one, else the seconds until there will be."""
        now = self.clock()
        tokens, at = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - at) * self.rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self.rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.rate > 0:
            client = scope.get("client")
            wait = self.wait_for(client[0] if client else "")
            if wait > 0:
                after = str(max(1, math.ceil(wait))).encode()
                await _plain(send, 429, "too many requests: retry later", ((b"retry-after", after),))
                return
        await self.app(scope, receive, send)


# What a supervisor asks must be answered however busy the node is.
ALWAYS_ANSWERED = frozenset({"/health", "/metrics"})


class ConcurrencyLimit:
    """At most ``limit`` requests inside the application; the rest answer 503 with Retry-After at once."""

    def __init__(self, app: Application, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        if self.inside >= self.limit:
            await _plain(send, 503, "busy: retry later", ((b"retry-after", b"1"),))
            return
        self.inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside -= 1
