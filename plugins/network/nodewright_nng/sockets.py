"""nng sockets under trio. The only module that imports the driver; itself imported when the transport is opened.

Invariants:
- One PairSocket carries one connection in its whole life: when that goes, ``down`` is set, whoever waits in ``send`` or
  ``receive`` gets LinkClosed, and the socket takes no other.
- A message above ``max_bytes`` is refused by nng before memory is taken for it.
- nng calls back on threads of its own: nothing there touches state of the trio thread but through ``run_sync_soon``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynng
import trio

from nodewright.errors import AddressInUse, ConfigurationError, TransportError
from nodewright.transport.link import LinkClosed

RECEIVE_AHEAD = 4  # messages nng may hold for an authenticated peer


class NoFreePort(TransportError):
    """Every port of the range is taken."""


def host_of(address: str) -> str:
    return address.rpartition(":")[0]


def bound_port(socket: Any) -> int:
    return int(str(socket.listeners[0].local_address).rpartition(":")[2])


class PairSocket:
    def __init__(self, max_bytes: int, only_host: str | None = None) -> None:
        """``only_host``: a connection from elsewhere is cut before it counts."""
        self.up = trio.Event()
        self.down = trio.Event()
        self.remote = ""
        self._only_host = only_host
        self._pipe: int | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._socket = pynng.Pair0(recv_max_size=max_bytes, recv_buffer_size=0, send_buffer_size=0)
        self._socket.add_pre_pipe_connect_cb(self._before)
        self._socket.add_post_pipe_connect_cb(self._connected)
        self._socket.add_post_pipe_remove_cb(self._removed)

    # On nng's threads ----------------------------------------------------------------------------------------------

    def _before(self, pipe: Any) -> None:
        if self._pipe is not None or (self._only_host is not None and host_of(_remote(pipe)) != self._only_host):
            pipe.close()

    def _connected(self, pipe: Any) -> None:
        if self._pipe is None:
            self._pipe = pipe.id
            self._soon(self._set_up, _remote(pipe))

    def _removed(self, pipe: Any) -> None:
        if pipe.id == self._pipe:
            self._soon(self.close)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            pass

    # On the trio thread --------------------------------------------------------------------------------------------

    def _set_up(self, remote: str) -> None:
        self.remote = remote
        self.up.set()

    def listen(self, host: str, ports: range, start: int) -> int:
        """Bind to a free port (of ``ports``, tried from the ``start``-th on) and return it. Raises NoFreePort."""
        for turn in range(max(1, len(ports))):
            port = ports[(start + turn) % len(ports)] if ports else 0
            try:
                self._socket.listen(f"tcp://{host}:{port}")
            except pynng.NNGException:
                continue
            return bound_port(self._socket)
        raise NoFreePort(f"no free port on {host} for another peer")

    def dial(self, url: str) -> None:
        """Begins; ``up`` is set when it is done. Raises LinkClosed where the address makes no sense."""
        try:
            self._socket.dial(url, block=False)
        except pynng.NNGException as error:
            raise LinkClosed(f"{url}: {error}") from error

    def trust(self) -> None:
        """The peer is authenticated: nng may read ahead for it."""
        try:
            self._socket.recv_buffer_size = RECEIVE_AHEAD
        except pynng.NNGException:
            pass  # it went away meanwhile: who reads next is told

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.asend(message)
        except pynng.NNGException as error:
            raise LinkClosed("the connection was closed") from error

    async def receive(self) -> bytes:
        try:
            message: bytes = await self._socket.arecv()
        except pynng.NNGException as error:
            raise LinkClosed("the connection was closed") from error
        return message

    def close(self) -> None:
        if not self.down.is_set():
            self.down.set()
            self._socket.close()


def _remote(pipe: Any) -> str:
    try:
        return str(pipe.remote_address)
    except pynng.NNGException:
        return "?:0"  # it has gone already


class RendezvousSocket:
    """The listening end: one small question, one small answer, from anybody."""

    def __init__(self, url: str, slot: str, max_bytes: int) -> None:
        """Raises AddressInUse, ConfigurationError."""
        self._socket = pynng.Rep0(recv_max_size=max_bytes, recv_buffer_size=1)
        try:
            self._socket.listen(url)
        except pynng.AddressInUse as error:
            self._socket.close()
            raise AddressInUse(url.removeprefix("tcp://"), slot) from error
        except pynng.NNGException as error:
            self._socket.close()
            raise ConfigurationError(
                f"{slot}: cannot listen on {url.removeprefix('tcp://')} ({error}): use an address of this machine with "
                f"--set {slot}.listen=HOST:PORT"
            ) from error
        self.port = bound_port(self._socket)

    async def run(self, answer: Callable[[bytes, str], bytes | None], workers: int) -> None:
        """Until cancelled; the socket is then closed. ``answer`` is given the question and the host it came from; where
        it answers None the asker is cut off."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(workers):
                    nursery.start_soon(self._serve, answer)
        finally:
            self._socket.close()

    async def _serve(self, answer: Callable[[bytes, str], bytes | None]) -> None:
        with self._socket.new_context() as context:  # closed before the socket is: nng wants it so
            while True:
                try:
                    question = await context.arecv_msg()
                    pipe = question.pipe
                    host = host_of(_remote(pipe)) if pipe is not None else "?"
                    reply = answer(question.bytes, host)
                    if reply is not None:
                        with trio.move_on_after(2.0):
                            await context.asend(reply)
                    elif pipe is not None:
                        pipe.close()
                except pynng.NNGException:
                    continue  # the asker has gone


async def ask(url: str, question: bytes, max_bytes: int, seconds: float) -> bytes | None:
    """One question to a rendezvous. None where nobody answers in time. Raises LinkClosed where the address makes no
    sense."""
    with pynng.Req0(recv_max_size=max_bytes) as socket, trio.move_on_after(seconds):
        try:
            socket.dial(url, block=False)
            await socket.asend(question)
            reply: bytes = await socket.arecv()
        except pynng.NNGException as error:
            raise LinkClosed(f"{url}: {error}") from error
        return reply
    return None
