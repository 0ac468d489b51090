"""What every HTTP service of a node has: its server, its address while it runs, ``/health`` and ``/metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import NodeHandle
from nodewright.services.http import HttpServer, HttpSettings

C = TypeVar("C", bound=HttpSettings)


class HttpService(Generic[C]):
    """Base of a service with one server; its ``run`` ends with ``serve``. ``url`` is empty but while it is bound."""

    def __init__(self, config: C, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self.url = ""

    async def serve(
        self,
        app: ASGIApp,
        task_status: trio.TaskStatus[None],
        beside: Sequence[Callable[[], Awaitable[object]]] = (),
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        """Until cancelled; what stands ``beside`` runs as long. Raises AddressInUse, ConfigurationError."""
        server = HttpServer(app, self._config, self._environment, body_limits)
        self.url = server.url
        try:
            async with trio.open_nursery() as nursery:
                for run in beside:
                    nursery.start_soon(run)
                await server.serve(task_status)
        finally:
            self.url = ""


def supervision(node: NodeHandle, refresh: Callable[[], None] = lambda: None) -> list[Route]:
    """``/health``: 200 where the node is ready, else 503; ``/metrics``: ``refresh`` first, then all there are."""

    async def health(request: Request) -> Response:
        report = node.health.report()
        return JSONResponse(report, 200 if report.get("ready") else 503)

    async def metrics(request: Request) -> Response:
        refresh()
        return PlainTextResponse(node.metrics.render(), media_type="text/plain; version=0.0.4")

    return [Route("/health", health, methods=["GET"]), Route("/metrics", metrics, methods=["GET"])]
