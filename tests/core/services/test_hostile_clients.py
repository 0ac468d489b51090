"""Clients that send half, slowly, too much, or never read: honest ones are served, and what the server holds is bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from nodewright.services.http import HttpServer

GENEROUS_SECONDS = 60
HALF_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
HALF_HEAD = b"GET /hea"
WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nwhat"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SWITCHING = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\n"

ServerOf = Callable[..., HttpServer]


async def _echo(request: Request) -> Response:
    body = await request.body()
    return PlainTextResponse(str(len(body)))


async def _large(request: Request) -> Response:
    return Response(bytes(16 * 1024 * 1024))


async def _pieces(request: Request) -> Response:
    async def pieces() -> Any:
        for number in range(3):
            yield b"piece %d\n" % number

    return StreamingResponse(pieces())


async def _fault(request: Request) -> Response:
    raise RuntimeError("a fault")


async def _forbidden(request: Request) -> Response:
    return PlainTextResponse("split", headers={"x": "a\r\nb: c"})


async def _cut(request: Request) -> Response:
    async def pieces() -> Any:
        yield b"piece\n"
        raise RuntimeError("a fault")

    return StreamingResponse(pieces())


def _app(*extra: Route) -> Starlette:
    routes = [Route("/", _echo, methods=["POST", "GET"]), Route("/health", _echo), Route("/large", _large)]
    faults = [Route("/fault", _fault), Route("/forbidden", _forbidden), Route("/cut", _cut)]
    return Starlette(routes=[*routes, *faults, Route("/pieces", _pieces), *extra])


@asynccontextmanager
async def _serving(server: HttpServer) -> Any:
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


async def _connect(server: HttpServer) -> trio.SocketStream:
    host, port = server.address
    return await trio.open_tcp_stream(host, port)


async def _answer(stream: trio.SocketStream) -> tuple[int, bytes]:
    """(status, body) of an answer with a length; (0, b"") where the connection ends without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return 0, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        more = await stream.receive_some(65536)
        if not more:
            break
        body += more
    return int(head.split()[1]), body


async def _ask(server: HttpServer, request: bytes = WHOLE) -> tuple[int, bytes]:
    async with await _connect(server) as stream:
        await stream.send_all(request)
        return await _answer(stream)


async def test_honest_clients_are_served_at_once_while_900_half_requests_are_sent(server_of: ServerOf) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        server = server_of(_app(), max_concurrent=4, max_connections_per_client=100)
        async with _serving(server), AsyncExitStack() as stack, await _connect(server) as early:
            for number in range(900):
                stream = await stack.enter_async_context(await _connect(server))
                await stream.send_all(HALF_BODY if number % 2 else HALF_HEAD)
                if number % 100 == 99:
                    assert await _ask(server) == (200, b"4")
                    assert (await _ask(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200
            for _ in range(20):
                assert await _ask(server) == (200, b"4")
            assert len(server._connections) <= 100
            assert (await _answer(early))[0] in (0, 503)  # it made room


async def test_what_the_application_has_is_never_given_up(server_of: ServerOf) -> None:
    entered, leave = trio.Semaphore(0), trio.Event()

    async def wait(request: Request) -> Response:
        entered.release()
        await leave.wait()
        return PlainTextResponse("done")

    answers: list[tuple[int, bytes]] = []
    server = server_of(_app(Route("/wait", wait)), max_connections_per_client=8, max_connections=8)
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server), trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await _ask(server, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"))

            for _ in range(8):
                nursery.start_soon(ask)
                await entered.acquire()
            assert (await _ask(server))[0] == 503, "all connections are at work: the ninth is told to come back"
            leave.set()
    assert answers == [(200, b"done")] * 8


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),
        (HALF_HEAD, 408),
        (HALF_BODY, 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
    ],
)
async def test_half_a_request_has_a_deadline(
    server_of: ServerOf, autojump_clock: trio.testing.MockClock, sent: bytes, status: int
) -> None:
    async with _serving(server_of(_app())) as server, await _connect(server) as stream:
        await stream.send_all(sent)
        began = trio.current_time()
        assert (await _answer(stream))[0] == status
        assert trio.current_time() - began <= 61


async def test_a_dribbled_head_or_body_has_the_same_deadline(
    server_of: ServerOf, autojump_clock: trio.testing.MockClock
) -> None:
    for start in (HALF_HEAD, HALF_BODY):
        async with _serving(server_of(_app())) as server, await _connect(server) as stream:
            await stream.send_all(start)
            began = trio.current_time()

            async def dribble(stream: trio.SocketStream = stream) -> None:
                while True:
                    await trio.sleep(1)
                    await stream.send_all(b"a")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dribble)
                assert (await _answer(stream))[0] == 408
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began <= 15, "far below the 60 s a body may take at a fair rate"


async def test_an_idle_connection_and_a_reader_that_does_not_read_are_closed(
    server_of: ServerOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with _serving(server_of(_app(), max_concurrent=1)) as server:
        async with await _connect(server) as idle:
            await idle.send_all(WHOLE)
            assert await _answer(idle) == (200, b"4")
            assert await idle.receive_some(1) == b""
            assert 75 <= trio.current_time() <= 77 + 75
        async with await _connect(server) as deaf:
            await deaf.send_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            while not any(item.held for item in server._connections):
                await trio.lowlevel.checkpoint()
            assert await _ask(server) == (200, b"4"), "the only slot is free while the answer waits to be read"
            await trio.sleep(60)
            assert not server._connections
            assert server.budget.used == 0


async def test_bodies_in_flight_are_bounded_and_the_slowest_makes_room(
    server_of: ServerOf, autojump_clock: trio.testing.MockClock
) -> None:
    mib = 1024 * 1024
    server = server_of(_app(), max_held_bytes=8 * mib, max_body_bytes=8 * mib, least_bytes_per_second=100_000)
    begin = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with _serving(server), AsyncExitStack() as stack:
        slow = []
        for _ in range(3):
            stream = await stack.enter_async_context(await _connect(server))
            await stream.send_all(begin % (2 * mib) + bytes(3 * mib // 2))
            slow.append(stream)
        while server.budget.used < 2 * mib:
            await trio.lowlevel.checkpoint()
        assert server.budget.used <= 4 * mib, "half of it for one client"
        await trio.sleep(6)
        assert await _ask(server, begin % (3 * mib) + bytes(3 * mib)) == (200, b"%d" % (3 * mib))
        assert await _ask(server) == (200, b"4"), "small ones are never in the way"
    assert server.budget.used == 0
    assert server.budget.of == {}


async def test_a_body_without_an_end_stops_at_its_limit(server_of: ServerOf) -> None:
    async def endless(stream: trio.SocketStream) -> None:
        try:
            while True:
                await stream.send_all(b"1000\r\n" + bytes(4096) + b"\r\n")
        except trio.BrokenResourceError:
            pass

    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app(), max_body_bytes=200_000)) as server, await _connect(server) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(endless, stream)
                assert (await _answer(stream))[0] == 413
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(300)), 431),
        (b"\xff\xfe\x00garbage\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (CHUNKED + b"nonsense\r\n", 400),
        (CHUNKED + b"5" * 40_000, 431),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000, 431),
        (CHUNKED + b"1\r\nx\r\n" * 20_000, 400),
        (SWITCHING % b"websocket" + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n", 403),
        (
            SWITCHING % b"websocket" + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n\x81\x7f\xff",
            (400, 403),
        ),  # which is seen first
        (SWITCHING % b"websocket" + b"\r\n", 400),
        (SWITCHING % b"h2c" + b"HTTP2-Settings: AAMAAABk\r\n\r\n", 200),
        (b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
)
async def test_what_cannot_be_served_is_one_answer(
    server_of: ServerOf, request_bytes: bytes, status: int | tuple[int, int]
) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app())) as server:
            got, body = await _ask(server, request_bytes)
            assert got in ((status,) if isinstance(status, int) else status)
            assert b"Traceback" not in body
            assert await _ask(server) == (200, b"4")


async def test_pipelined_requests_are_answered_in_order(server_of: ServerOf) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app())) as server, await _connect(server) as stream:
            await stream.send_all(
                b"".join(WHOLE.replace(b"Length: 4", b"Length: %d" % n) + bytes(n - 4) for n in range(4, 304))
            )
            data = b""
            while data.count(b"HTTP/1.1 200 ") < 300 or not data.endswith(b"303"):
                more = await stream.receive_some(65536)
                assert more
                data += more
            lengths = [part.partition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 200 ")[1:]]
            assert lengths == [b"%d" % n for n in range(4, 304)]


async def test_streamed_answers_heads_only_and_continue(server_of: ServerOf) -> None:
    async def whole(request: bytes) -> bytes:
        async with await _connect(server) as stream:
            await stream.send_all(request)
            data = b""
            while more := await stream.receive_some(65536):
                data += more
            return data

    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app())) as server:
            answer = await whole(b"GET /pieces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.endswith(b"8\r\npiece 0\n\r\n8\r\npiece 1\n\r\n8\r\npiece 2\n\r\n0\r\n\r\n")
            answer = await whole(b"GET /pieces HTTP/1.0\r\n\r\n")
            assert answer.endswith(b"\r\n\r\npiece 0\npiece 1\npiece 2\n")
            answer = await whole(b"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.endswith(b"\r\n\r\n6\r\npiece\n\r\n"), "it says nowhere that it is whole"
            answer = await whole(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.endswith(b"\r\n\r\n")
            assert b"content-length: 1\r\n" in answer
            expecting = WHOLE.replace(b"\r\n\r\nwhat", b"\r\nExpect: 100-continue\r\n\r\n")
            async with await _connect(server) as stream:
                await stream.send_all(expecting)
                assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
                await stream.send_all(b"what")
                assert await _answer(stream) == (200, b"4")


async def test_a_client_that_leaves_is_seen_by_an_application_that_waits_for_it(server_of: ServerOf) -> None:
    gone = trio.Event()

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(app)) as server:
            async with await _connect(server) as stream:
                await stream.send_all(WHOLE)
            await gone.wait()


async def test_a_client_that_leaves_an_idle_connection_is_forgotten(server_of: ServerOf) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app())) as server:
            async with await _connect(server) as stream:
                await stream.send_all(WHOLE)
                assert await _answer(stream) == (200, b"4")
                assert len(server._connections) == 1
            while server._connections:
                await trio.lowlevel.checkpoint()


async def test_a_client_that_only_shuts_its_side_is_answered(server_of: ServerOf) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app())) as server, await _connect(server) as stream:
            await stream.send_all(WHOLE)
            await stream.send_eof()
            assert await _answer(stream) == (200, b"4")
            assert await stream.receive_some(1) == b""


async def test_a_refusal_is_read_by_a_client_that_sends_its_whole_body_first(server_of: ServerOf) -> None:
    with trio.fail_after(GENEROUS_SECONDS):
        async with _serving(server_of(_app(), max_body_bytes=1024)) as server, await _connect(server) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + bytes(9_000_000))
            assert (await _answer(stream))[0] == 413
