"""The service: one HTTP server over all routes, plus ``/health`` and ``/metrics``."""

from __future__ import annotations

from pathlib import Path

import trio
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nodewright.interfaces.service import NodeHandle
from nodewright.services.service import HttpService, supervision
from nodewright_bsv_api.asset import Asset
from nodewright_bsv_api.config import BsvApiConfig
from nodewright_bsv_api.rpc import JsonRpc, methods_of
from nodewright_bsv_api.rpc_auth import open_auth
from nodewright_bsv_api.rpc_chain import ChainMethods
from nodewright_bsv_api.rpc_control import ControlMethods
from nodewright_bsv_api.rpc_transactions import TransactionMethods
from nodewright_bsv_api.submit import Submit


class BsvApi(HttpService[BsvApiConfig]):
    """Bound while it runs; ``url`` is empty before."""

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        config = self._config
        auth = open_auth(config.rpc_user, Path(node.info["data_dir"]), self._environment)
        methods = (
            methods_of(ChainMethods(node, self._environment))
            | methods_of(TransactionMethods(node, config.max_batch_count))
            | methods_of(ControlMethods(node))
        )
        rpc = JsonRpc(methods, auth, self._environment.logger)

        validated = node.metrics.counter(
            "teranode_validator_transactions_count", "Transactions checked on their way into the pool, accepted or refused"
        )
        accepted = node.metrics.counter("nodewright_pool_accepted_total", "Transactions accepted and journalled")
        refused = node.metrics.counter("nodewright_pool_refused_total", "Transactions refused at submission")

        def refresh() -> None:
            validated.inc(accepted.value + refused.value - validated.value)

        submit = Submit(config, node, self._environment)
        routed = Starlette(
            routes=[
                Route("/", rpc.handle, methods=["POST"]),
                *supervision(node, refresh),
                *submit.routes(),
                *Asset(node).routes(),
            ]
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (submit.tx if scope["path"] == "/tx" else routed)(scope, receive, send)

        limits = {"/txs": config.max_batch_bytes, "/tx": config.max_tx_bytes, "/": config.max_rpc_bytes}
        await self.serve(app, task_status, body_limits=limits)
