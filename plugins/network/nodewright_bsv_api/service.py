"""The service: one HTTP server over all routes, plus ``/health`` and ``/metrics``."""

from __future__ import annotations

from pathlib import Path

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import NodeHandle
from nodewright.services.http import HttpServer
from nodewright_bsv_api.asset import Asset
from nodewright_bsv_api.config import BsvApiConfig
from nodewright_bsv_api.rpc import JsonRpc, methods_of
from nodewright_bsv_api.rpc_auth import open_auth
from nodewright_bsv_api.rpc_chain import ChainMethods
from nodewright_bsv_api.rpc_control import ControlMethods
from nodewright_bsv_api.rpc_transactions import TransactionMethods
from nodewright_bsv_api.submit import Submit


class BsvApi:
    """Bound while it runs; ``url`` is empty before."""

    def __init__(self, config: BsvApiConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self.url = ""

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        config = self._config
        auth = open_auth(config.rpc_user, Path(node.info["data_dir"]), self._environment)
        methods = (
            methods_of(ChainMethods(node, self._environment))
            | methods_of(TransactionMethods(node, config.max_batch_count))
            | methods_of(ControlMethods(node))
        )
        rpc = JsonRpc(methods, auth, self._environment.logger)

        async def health(request: Request) -> Response:
            report = node.health.report()
            return JSONResponse(report, 200 if report.get("ready") else 503)

        validated = node.metrics.counter(
            "teranode_validator_transactions_count", "Transactions checked on their way into the pool, accepted or refused"
        )
        accepted = node.metrics.counter("nodewright_pool_accepted_total", "Transactions accepted and journalled")
        refused = node.metrics.counter("nodewright_pool_refused_total", "Transactions refused at submission")

        async def metrics(request: Request) -> Response:
            validated.inc(accepted.value + refused.value - validated.value)
            return PlainTextResponse(node.metrics.render(), media_type="text/plain; version=0.0.4")

        submit = Submit(config, node, self._environment)
        routed = Starlette(
            routes=[
                Route("/", rpc.handle, methods=["POST"]),
                Route("/health", health, methods=["GET"]),
                Route("/metrics", metrics, methods=["GET"]),
                *submit.routes(),
                *Asset(node).routes(),
            ]
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (submit.tx if scope["path"] == "/tx" else routed)(scope, receive, send)

        limits = {"/txs": config.max_batch_bytes, "/tx": config.max_tx_bytes, "/": config.max_rpc_bytes}
        server = HttpServer(app, config, self._environment, limits)
        self.url = server.url
        try:
            await server.serve(task_status)
        finally:
            self.url = ""
