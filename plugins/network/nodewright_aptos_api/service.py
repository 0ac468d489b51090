"""The service ``aptos_api``: Aptos's REST API under ``/v1``, and ``/health``, ``/metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nodewright.interfaces.service import NodeHandle
from nodewright.services.pulse import Pulse
from nodewright.services.service import HttpService, supervision
from nodewright_aptos.installed import installed_functions
from nodewright_aptos_api.accounts import Accounts
from nodewright_aptos_api.config import AptosApiConfig
from nodewright_aptos_api.errors import ApiError
from nodewright_aptos_api.reading import Reading
from nodewright_aptos_api.reads import Ledger, whole_number
from nodewright_aptos_api.requests import Requests
from nodewright_aptos_api.submit import Submissions
from nodewright_aptos_api.views import Views

Handler = Callable[[Request], Awaitable[Response]]
SHOWN_HEADERS = [
    "X-Aptos-Chain-Id",
    "X-Aptos-Epoch",
    "X-Aptos-Ledger-Version",
    "X-Aptos-Ledger-Oldest-Version",
    "X-Aptos-Ledger-TimestampUsec",
    "X-Aptos-Block-Height",
    "X-Aptos-Oldest-Block-Height",
    "X-Aptos-Cursor",
]


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.document, error.status, error.headers)


async def framework(request: Request, error: Exception) -> Response:
    """A path that is none, a method that it has not."""
    assert isinstance(error, HTTPException)
    document = {"message": error.detail, "error_code": "web_framework_error", "vm_error_code": None}
    return JSONResponse(document, error.status_code, error.headers)


def application(routes: list[Route], origins: list[str]) -> Starlette:
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=SHOWN_HEADERS,
    )
    return Starlette(
        routes=routes,
        middleware=[cors] if origins else [],
        exception_handlers={ApiError: refused, HTTPException: framework},
    )


class AptosApi(HttpService[AptosApiConfig]):
    """Bound while it runs; ``url`` is empty before."""

    def _app(self, node: NodeHandle, pulse: Pulse) -> Starlette:
        # A third party's functions are those of the execution that this node runs.
        functions = getattr(node.execution, "functions", None) or installed_functions()
        ledger = Ledger(node, Views(functions), self._config.page_size)
        accounts = Accounts(ledger, self._config)
        submissions = Submissions(ledger, Requests(functions), self._config, self._environment)
        reading = Reading(ledger, self._config, pulse)

        async def index(request: Request) -> Response:
            software = f"nodewright {node.info.get('version', '')}".strip()
            state = await ledger.state()
            return await ledger.answer(ledger.form(request).index(state, software), state=state)

        async def healthy(request: Request) -> Response:
            """With ``duration_secs``: whether the ledger is no older than that."""
            within, state = whole_number(request, "duration_secs"), await ledger.state()
            age = self._environment.now() - state.timestamp / 1e6
            if within is not None and age > within:
                raise ApiError(503, "health_check_failed", f"the ledger is {age:.0f} s old, more than {within} s")
            return await ledger.answer(ledger.form(request).healthy())

        gets: dict[str, Handler] = {
            "/v1": index,
            "/v1/": index,
            "/v1/-/healthy": healthy,
            "/v1/estimate_gas_price": submissions.estimate_gas_price,
            "/v1/accounts/{address}": accounts.account,
            "/v1/accounts/{address}/balance/{asset}": accounts.balance,
            "/v1/accounts/{address}/resources": accounts.resources,
            "/v1/accounts/{address}/resource/{type}": accounts.resource,
            "/v1/accounts/{address}/modules": accounts.modules,
            "/v1/accounts/{address}/module/{name}": accounts.module,
            "/v1/accounts/{address}/transactions": accounts.transactions,
            "/v1/accounts/{address}/events/{creation_number}": accounts.events,
            "/v1/accounts/{address}/events/{handle}/{field}": accounts.events_by_handle,
            "/v1/transactions": reading.transactions,
            "/v1/transactions/stream": reading.stream,
            "/v1/transactions/by_hash/{hash}": reading.by_hash,
            "/v1/transactions/wait_by_hash/{hash}": reading.wait_by_hash,
            "/v1/transactions/by_version/{version}": reading.by_version,
            "/v1/blocks/by_height/{height}": reading.block_by_height,
            "/v1/blocks/by_version/{version}": reading.block_by_version,
        }
        posts: dict[str, Handler] = {
            "/v1/transactions": submissions.submit,
            "/v1/transactions/batch": submissions.batch,
            "/v1/transactions/simulate": submissions.simulate,
            "/v1/transactions/encode_submission": submissions.encode,
            "/v1/view": reading.view,
            "/v1/tables/{handle}/item": accounts.table_item,
            "/v1/tables/{handle}/raw_item": accounts.raw_table_item,
            "/v1/experimental/state_values/raw": accounts.raw_state_value,
        }
        routes = [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
        routes += [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
        return application([*routes, *supervision(node)], self._config.allowed_origins)

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        pulse = Pulse(node.events)
        await self.serve(self._app(node, pulse), task_status, beside=[pulse.run])
