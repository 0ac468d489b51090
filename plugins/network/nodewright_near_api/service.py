"""The service: one HTTP server: JSON-RPC at ``POST /``, ``POST /txs``, and ``GET /status``, ``/health``, ``/metrics``."""

from __future__ import annotations

import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import NodeHandle
from nodewright.services.http import HttpServer
from nodewright.services.pulse import Pulse
from nodewright_near_api.batches import Batches
from nodewright_near_api.chain import ChainMethods
from nodewright_near_api.changes import ChangeMethods
from nodewright_near_api.config import NearApiConfig
from nodewright_near_api.errors import RpcError
from nodewright_near_api.lightclient import LightClientMethods
from nodewright_near_api.outcomes import Outcomes
from nodewright_near_api.query import QueryMethods
from nodewright_near_api.reads import ChainReads
from nodewright_near_api.rpc import JsonRpc
from nodewright_near_api.sandbox import SandboxMethods
from nodewright_near_api.transactions import TransactionMethods

# Numbers of the consensus's status, as gauges near_NAME.
CONSENSUS_GAUGES = {
    "witness_bytes": "Bytes of the state witnesses made here",
    "witnesses_judged": "State witnesses of others that were checked here",
    "chunks_missing": "Shards whose newest chunk is older than the head",
}


class NearApi:
    """Bound while it runs; ``url`` is empty before."""

    def __init__(self, config: NearApiConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self.url = ""

    def _app(self, node: NodeHandle, pulse: Pulse) -> Starlette:
        reads = ChainReads(node, pulse)
        outcomes = Outcomes(node)
        chain = ChainMethods(reads, self._environment, lambda: self.url)
        transactions = TransactionMethods(reads, outcomes, self._config)
        batches = Batches(node.pool, transactions.expired)
        rpc = JsonRpc(
            {
                **chain.methods(),
                **QueryMethods(reads, self._config.max_state_bytes).methods(),
                **transactions.methods(),
                **LightClientMethods(reads, outcomes).methods(),
                **ChangeMethods(reads).methods(),
                **SandboxMethods(node, self._config.sandbox).methods(),
            },
            self._environment.logger,
            node.metrics,
        )

        async def status(request: Request) -> Response:
            try:
                return JSONResponse(await chain.status())
            except RpcError as error:
                return JSONResponse(error.document, 503)

        async def health(request: Request) -> Response:
            report = node.health.report()
            return JSONResponse(report, 200 if report.get("ready") else 503)

        gauges = [(name, node.metrics.gauge(f"near_{name}", help)) for name, help in CONSENSUS_GAUGES.items()]

        async def metrics(request: Request) -> Response:
            state = node.consensus.status()
            for name, gauge in gauges:
                gauge.set(float(state.get(name, 0)))
            return PlainTextResponse(node.metrics.render(), media_type="text/plain; version=0.0.4")

        origins = self._config.allowed_origins
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        return Starlette(
            routes=[
                Route("/", rpc.handle, methods=["POST"]),
                Route("/txs", batches.handle, methods=["POST"]),
                Route("/status", status, methods=["GET"]),
                Route("/health", health, methods=["GET"]),
                Route("/metrics", metrics, methods=["GET"]),
            ],
            middleware=[cors] if origins else [],
        )

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        pulse = Pulse(node.events)
        server = HttpServer(self._app(node, pulse), self._config, self._environment)
        self.url = server.url
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pulse.run)
                await server.serve(task_status)
        finally:
            self.url = ""
