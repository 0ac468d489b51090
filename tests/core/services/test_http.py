"""The HTTP server every service goes through: bounds on requests, taken ports, requests under way at a stop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodewright.errors import AddressInUse, ConfigurationError
from nodewright.services.http import HttpServer, split_address

ServerOf = Callable[..., HttpServer]


async def _echo(request: Request) -> Response:
    body = await request.body()
    return PlainTextResponse(str(len(body)))


def _app(*extra: Route) -> Starlette:
    return Starlette(routes=[Route("/", _echo, methods=["POST", "GET"]), *extra])


@pytest.mark.parametrize("listen", ["", "8080", "host:", "host:99999", ":80", "a:b"])
def test_a_bad_address_names_the_fix(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"services\.web\.listen.*write host:port"):
        split_address(listen, "services.web")


def test_a_taken_port_is_one_sentence_with_the_fix(server_of: ServerOf) -> None:
    first = server_of(_app())
    port = first.url.rpartition(":")[2]
    with pytest.raises(AddressInUse, match=rf"{port} is taken.*--set services\.web\.listen"):
        server_of(_app(), listen=f"127.0.0.1:{port}")


async def test_connections_have_the_buffers_and_the_congestion_control_that_were_asked_for(server_of: ServerOf) -> None:
    plain, tuned = server_of(_app()), server_of(_app(), socket_kib=128, congestion_control="reno", backlog=7)
    for server, kib in ((plain, None), (tuned, 128)):
        taken: list[socket.socket] = []
        with server._socket.dup() as listening, socket.create_connection(server.address) as client:
            listening.setblocking(True)
            taken.append(listening.accept()[0])
            with taken[0] as one:
                size = one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                assert (size == 2 * 128 * 1024) == (kib is not None)  # the system counts its own part too
                name = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
                assert kib is None or name == b"reno"
            assert client.fileno() >= 0
    with pytest.raises(ConfigurationError, match=r"congestion_control = 'none such'.*leave it empty"):
        server_of(_app(), congestion_control="none such")


async def test_a_body_over_the_limit_is_413_declared_or_not(server_of: ServerOf) -> None:
    server = server_of(_app(), max_body_bytes=2000)

    async def undeclared() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.post("/", content=b"x" * 2000)).text == "2000"
            assert (await client.post("/", content=b"x" * 2001)).status_code == 413
            answer = await client.post("/", content=undeclared())
            assert answer.status_code == 413
            assert "2000 bytes" in answer.text
        nursery.cancel_scope.cancel()


async def test_a_client_over_its_rate_is_told_when_to_retry(server_of: ServerOf) -> None:
    server = server_of(_app(), requests_per_second=0.5, burst=3)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with httpx.AsyncClient(base_url=server.url) as client:
            statuses = [(await client.get("/")).status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
            assert int((await client.get("/")).headers["retry-after"]) >= 1
        nursery.cancel_scope.cancel()


async def test_more_at_once_than_allowed_is_503_and_the_rest_finish(server_of: ServerOf) -> None:
    entered, leave = trio.Event(), trio.Event()

    async def wait(request: Request) -> Response:
        entered.set()
        await leave.wait()
        return PlainTextResponse("done")

    server = server_of(_app(Route("/wait", wait), Route("/health", _echo)), max_concurrent=1)
    answers: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with httpx.AsyncClient(base_url=server.url) as client:

            async def slow() -> None:
                answers.append((await client.get("/wait")).status_code)

            async with trio.open_nursery() as requests:
                requests.start_soon(slow)
                await entered.wait()
                refused = await client.get("/")
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
                assert (await client.get("/health")).status_code == 200
                leave.set()
        nursery.cancel_scope.cancel()
    assert answers == [200]


async def test_a_request_under_way_ends_when_the_service_stops(server_of: ServerOf) -> None:
    entered, leave = trio.Event(), trio.Event()

    async def wait(request: Request) -> Response:
        entered.set()
        await leave.wait()
        return PlainTextResponse("done")

    server = server_of(_app(Route("/wait", wait)))
    answers: list[str] = []
    async with trio.open_nursery() as outer, httpx.AsyncClient(base_url=server.url) as client:

        async def ask() -> None:
            answers.append((await client.get("/wait")).text)

        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            outer.start_soon(ask)
            await entered.wait()
            nursery.cancel_scope.cancel()
            leave.set()
        while not answers:
            await trio.lowlevel.checkpoint()
    assert answers == ["done"]


async def test_garbage_on_the_socket_leaves_the_server_answering(server_of: ServerOf) -> None:
    server = server_of(_app())
    host, port = server.url.removeprefix("http://").split(":")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        for junk in (b"\x00\xff" * 500, b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream:
                try:
                    await stream.send_all(junk)
                    await stream.receive_some(100)
                except trio.BrokenResourceError:
                    pass
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/")).status_code == 200
        nursery.cancel_scope.cancel()
