"""Serve one ASGI application under trio by Hypercorn, with bounds. Every HTTP service of the node goes through here.

The socket is bound by us before Hypercorn starts, so that a taken port is one clear error and port 0 is resolved at once.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

import attrs
import trio

from nodewright.errors import AddressInUse, ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.plugins.specs import setting
from nodewright.services.limits import Application, BodyLimit, ConcurrencyLimit, RateLimit


@attrs.define(kw_only=True)
class HttpSettings:
    """The keys every HTTP service has; a service's own config class extends it."""

    listen: str = setting("127.0.0.1:0", help="host:port to bind; port 0 picks a free one")
    max_body_bytes: int = setting(32 * 1024 * 1024, help="largest request body", minimum=1024, maximum=4 * 1024**3)
    max_concurrent: int = setting(256, help="requests served at once; the rest answer 503", minimum=1)
    requests_per_second: float = setting(0.0, help="per client address; 0 means no limit", minimum=0)
    burst: int = setting(200, help="requests a client may send at once under requests_per_second", minimum=1)
    keep_alive_seconds: float = setting(75.0, help="an idle connection is closed after this", minimum=1)
    body_timeout_seconds: float = setting(60.0, help="a request must have arrived whole within this", minimum=1)


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


def bind(listen: str, slot: str) -> socket.socket:
    """A listening TCP socket, or AddressInUse / ConfigurationError naming the slot."""
    host, port = split_address(listen, slot)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(1024)
        bound.setblocking(False)
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
    """One bound application. ``url`` is valid from construction on."""

    def __init__(
        self,
        app: Application,
        settings: HttpSettings,
        environment: Environment,
        body_limits: dict[str, int] | None = None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._socket = bind(settings.listen, environment.slot)
        self.url = bound_url(self._socket)
        limited: Application = BodyLimit(app, settings.max_body_bytes, body_limits, settings.body_timeout_seconds)
        limited = ConcurrencyLimit(limited, settings.max_concurrent)
        self._app = RateLimit(limited, settings.requests_per_second, settings.burst, environment.monotonic)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; requests under way then get ``graceful_timeout`` to finish."""
        from hypercorn.config import Config, Sockets
        from hypercorn.trio.run import worker_serve
        from hypercorn.utils import wrap_app

        config = Config()
        config.graceful_timeout = 2.0
        config.keep_alive_timeout = self._settings.keep_alive_seconds
        config.read_timeout = None
        config.h11_max_incomplete_size = 64 * 1024
        config.errorlog = None
        config.accesslog = None
        config.include_server_header = False
        stop = trio.Event()
        app: Any = wrap_app(self._app, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]

        async def shielded(task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
            # Cancelling from outside sets ``stop`` instead, so that requests under way can end.
            with trio.CancelScope(shield=True):
                await worker_serve(
                    app,
                    config,
                    sockets=Sockets([], [self._socket], []),
                    shutdown_trigger=stop.wait,
                    task_status=task_status,
                )

        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(shielded)
                task_status.started()
                await trio.sleep_forever()
            finally:
                stop.set()
