"""The service: one HTTP server: JSON-RPC at ``POST /``, ``POST /txs``, and ``GET /status``, ``/health``, ``/metrics``."""

from __future__ import annotations

import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nodewright.interfaces.service import NodeHandle
from nodewright.services.pulse import Pulse
from nodewright.services.service import HttpService, supervision
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


class NearApi(HttpService[NearApiConfig]):
    """Bound while it runs; ``url`` is empty before."""

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

        gauges = [(name, node.metrics.gauge(f"near_{name}", help)) for name, help in CONSENSUS_GAUGES.items()]

        def refresh() -> None:
            state = node.consensus.status()
            for name, gauge in gauges:
                gauge.set(float(state.get(name, 0)))

        origins = self._config.allowed_origins
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        return Starlette(
            routes=[
                Route("/", rpc.handle, methods=["POST"]),
                Route("/txs", batches.handle, methods=["POST"]),
                Route("/status", status, methods=["GET"]),
                *supervision(node, refresh),
            ],
            middleware=[cors] if origins else [],
        )

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        pulse = Pulse(node.events)
        await self.serve(self._app(node, pulse), task_status, beside=[pulse.run])
