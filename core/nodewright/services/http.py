"""Serve one ASGI application under trio by Hypercorn, with bounds. Every HTTP service of the node goes through here.

Hypercorn speaks HTTP/1.1 and ASGI (``connection``, ``exchange``); here connections are taken and what they use is guarded.
The socket is bound before anything is served, so that a taken port is one clear error and port 0 is resolved at once.

Invariants
- At most ``max_connections`` are open (and half of the process's files), at most ``max_connections_per_client`` of one
  address. A newcomer is taken and the least useful connection given up for it: honest clients get through a crowd of
  half-sent requests. None whose request the application has is given up.
- At most ``max_concurrent`` requests are inside the application, all of them whole; /health and /metrics are answered
  beside them. The rest is told at once to retry.
- Bodies that are arriving and answers that are being read hold at most ``max_held_bytes``, beside a small part for each
  connection; when that is full, the slowest of them is given up.
"""

from __future__ import annotations

import errno
import resource
import socket
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import trio
from starlette.types import ASGIApp

from nodewright.errors import AddressInUse, ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.plugins.specs import setting
from nodewright.services.exchange import BUSY, last_word
from nodewright.services.limits import GRACE_SECONDS, Budget, RateLimit

if TYPE_CHECKING:
    from nodewright.services.connection import Connection

# What a supervisor asks must be answered however busy the node is.
ALWAYS_ANSWERED = frozenset({"/health", "/metrics"})
STOP_SECONDS = 2.0
SWEEP_SECONDS = 1.0
ACCEPT_PAUSE_SECONDS = 0.1
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@attrs.define(kw_only=True)
class HttpSettings:
    """The keys every HTTP service has; a service's own config class extends it."""

    listen: str = setting("127.0.0.1:0", help="host:port to bind; port 0 picks a free one")
    max_body_bytes: int = setting(32 * 1024 * 1024, help="largest request body", minimum=1024, maximum=4 * 1024**3)
    max_concurrent: int = setting(256, help="requests served at once; the rest answer 503", minimum=1)
    requests_per_second: float = setting(0.0, help="per client address; 0 means no limit", minimum=0)
    burst: int = setting(200, help="requests a client may send at once under requests_per_second", minimum=1)
    keep_alive_seconds: float = setting(75.0, help="an idle connection is closed after this", minimum=1)
    head_timeout_seconds: float = setting(10.0, help="a request's head must have arrived within this", minimum=1)
    body_timeout_seconds: float = setting(60.0, help="a request's body must have arrived within this", minimum=1)
    least_bytes_per_second: int = setting(4096, help="slower bodies and readers are cut off after some seconds", minimum=1)
    max_connections: int = setting(1024, help="open at once; half-sent and idle ones make room for new ones", minimum=8)
    max_connections_per_client: int = setting(512, help="of them per client address", minimum=8)
    max_held_bytes: int = setting(
        256 * 1024 * 1024, help="memory for bodies arriving and answers not yet read", minimum=1024 * 1024
    )
    backlog: int = setting(1024, help="connections that may wait to be taken", minimum=1, maximum=65535)
    socket_kib: int = setting(
        0, help="KiB of a connection's buffers, each way; 0: as the system has it", minimum=0, maximum=65536
    )
    congestion_control: str = setting("", help="of TCP, such as bbr, where the system has it; empty: the system's own")


def split_address(listen: str, slot: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``."""
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ConfigurationError(
            f'{slot}.listen = "{listen}" is no address: write host:port, for example "127.0.0.1:0" for a free port'
        )
    return host, int(port)


def check_settings(settings: HttpSettings) -> list[str]:
    """Problems that a type cannot express, for a service spec's ``check``."""
    try:
        split_address(settings.listen, "service")
    except ConfigurationError as error:
        return [f"listen: {error.problems[0].partition(' = ')[2]}"]
    return []


def _tune(bound: socket.socket, settings: HttpSettings, slot: str) -> None:
    """What connections take over from the socket that listens for them. Raises ConfigurationError."""
    if settings.socket_kib:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            bound.setsockopt(socket.SOL_SOCKET, option, settings.socket_kib * 1024)
    name = settings.congestion_control
    if name:
        try:
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except (AttributeError, OSError) as error:
            raise ConfigurationError(
                f"{slot}.congestion_control = {name!r} is not to be had on this system ({error}): name one of "
                "net.ipv4.tcp_available_congestion_control, or leave it empty"
            ) from None


def bind(listen: str, slot: str, settings: HttpSettings | None = None) -> socket.socket:
    """A listening TCP socket, or AddressInUse / ConfigurationError naming the slot."""
    settings = settings or HttpSettings()
    host, port = split_address(listen, slot)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _tune(bound, settings, slot)
        bound.bind((host, port))
        bound.listen(settings.backlog)
        bound.setblocking(False)
    except ConfigurationError:
        bound.close()
        raise
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(listen, slot) from None
        raise ConfigurationError(f"{slot}.listen = {listen!r} cannot be bound: {error.strerror or error}") from None
    return bound


def bound_url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer:
    """One bound application. ``url`` is valid from construction on; ``body_limits`` gives single paths
    limits of their own. There is no lifespan, no websocket, no TLS: put a proxy before a node that faces the world."""

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        environment: Environment,
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.logger = environment.logger
        self._socket = bind(settings.listen, environment.slot, settings)
        self.url = bound_url(self._socket)
        self.address = self._socket.getsockname()[:2]
        self._body_limits = dict(body_limits or {})
        self.rate_limit = RateLimit(settings.requests_per_second, settings.burst, environment.monotonic)
        self.budget = Budget(settings.max_held_bytes)
        self.stopping = False
        self._inside = 0
        self._connections: dict[Connection, None] = {}
        self._clients: Counter[str] = Counter()
        # Half of what the process may open: the stores and peers need files too.
        self._most = min(settings.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    # --- what a connection asks ---------------------------------------------------------------------------------------

    def limit_for(self, path: str) -> int:
        return self._body_limits.get(path, self.settings.max_body_bytes)

    def enter(self, path: str) -> bool:
        """Take a slot; False where all are taken."""
        if path in ALWAYS_ANSWERED:
            return True
        if self._inside >= self.settings.max_concurrent:
            return False
        self._inside += 1
        return True

    def leave(self, path: str) -> None:
        if path not in ALWAYS_ANSWERED:
            self._inside -= 1

    def take(self, connection: Connection, count: int) -> bool:
        """Room in the budget for ``count`` bytes more. What is slowest to come or go makes room for what is faster."""
        while not self.budget.take(connection.client, count, connection.held):
            full = self.budget.of.get(connection.client, 0) + count > self.budget.share
            slow = [
                other
                for other in self._connections
                if other.held
                and other is not connection
                and not other.working
                and (other.client == connection.client or not full)
                and trio.current_time() - other.since > GRACE_SECONDS
            ]
            if not slow:
                return False
            self._give_up(min(slow, key=lambda other: other.rate))
        return True

    # --- connections --------------------------------------------------------------------------------------------------

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; what the application is doing then has STOP_SECONDS to be answered."""
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._run, stop)
                task_status.started()
                await trio.sleep_forever()
            finally:
                stop.set()

    async def _run(self, stop: trio.Event) -> None:
        # Cancelling from outside sets ``stop`` instead, so that requests under way can end.
        with trio.CancelScope(shield=True), self._socket:
            async with trio.open_nursery() as handlers:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept, handlers)
                    accepting.start_soon(self._sweep)
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                self.stopping = True
                self._socket.close()
                for connection in list(self._connections):
                    connection.finish()
                handlers.cancel_scope.deadline = trio.current_time() + STOP_SECONDS

    async def _accept(self, handlers: trio.Nursery) -> None:
        from nodewright.services.connection import opener  # only what serves loads Hypercorn

        connect = opener(self)
        while True:
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError as error:
                if error.errno in NO_ROOM:
                    self.logger.warning("no connection can be taken", reason=error.strerror, open=len(self._connections))
                    self._make_room(None)
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = str(address[0])
            full = len(self._connections) >= self._most and not self._make_room(None)
            if full or (self._clients[client] >= self.settings.max_connections_per_client and not self._make_room(client)):
                self._refuse(sock)
                continue
            connection = connect(sock, address)
            self._connections[connection] = None
            self._clients[client] += 1
            handlers.start_soon(self._handle, connection)
            await trio.lowlevel.checkpoint()

    async def _sweep(self) -> None:
        """Ends connections that are past their deadline. A timer each would cost a request more than its parsing."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            now = trio.current_time()
            for connection in list(self._connections):
                if connection.deadline < now:
                    connection.expire()

    async def _handle(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if self._connections.pop(connection, connection) is None:
            self._clients[connection.client] -= 1
            if not self._clients[connection.client]:
                del self._clients[connection.client]

    def _give_up(self, connection: Connection) -> None:
        connection.give_up()
        self._forget(connection)

    def _make_room(self, client: str | None) -> bool:
        """End a connection of this client (or of the one with most of them) that keeps the application from nothing: the
        one longest in a half-sent request, else the longest idle, else the longest in writing."""
        if client is None and self._clients:
            client = max(self._clients, key=self._clients.__getitem__)
        waiting = [item for item in self._connections if item.client == client and not item.working]
        if not waiting:
            return False
        self._give_up(min(waiting, key=lambda item: item.use))
        return True

    def _refuse(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.send(last_word(503, BUSY))
            except OSError:
                pass
