"""JSON-RPC 2.0 at ``POST /``: one call a request, as nodes of the family answer it.

A method is a coroutine that takes ``Params`` and returns JSON-ready data or raises ``RpcError``. The HTTP status is 200,
also for refusals, but 400 for what is no call, 408 for a wait that ran out, 500 and 503 for this node's own trouble.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nodewright.errors import NodewrightError
from nodewright.interfaces.service import Metrics
from nodewright_near_api.errors import RpcError, internal_error, parse_error, unknown_method
from nodewright_near_api.params import Params

# Braces, brackets and commas of one body: counted before it is parsed, since each can cost a hundred bytes when it is.
MAX_TOKENS: Final = 250_000

Method = Callable[[Params], Awaitable[Any]]


class JsonRpc:
    def __init__(self, methods: Mapping[str, Method], logger: Any, metrics: Metrics) -> None:
        self._methods = dict(methods)
        self._logger = logger
        self._calls = metrics.counter("near_http_rpc_requests_total", "JSON-RPC calls")
        self._failed = metrics.counter("near_rpc_errors_total", "JSON-RPC calls answered with an error")

    async def handle(self, request: Request) -> Response:
        self._calls.inc()
        id: Any = None
        try:
            document = parse_json(await request.body())
            if not isinstance(document, dict) or not isinstance(document.get("method"), str):
                raise parse_error("JSON RPC Request format was expected")
            id = document.get("id")
            answer = {"jsonrpc": "2.0", "result": await self._call(document), "id": id}
        except RpcError as error:
            self._failed.inc()
            answer = {"jsonrpc": "2.0", "error": error.document, "id": id}
            return _json(answer, error.status, error.headers)
        return _json(answer)

    async def _call(self, document: Mapping[str, Any]) -> Any:
        name = document["method"]
        method = self._methods.get(name)
        if method is None:
            raise unknown_method(name[:64])
        try:
            return await method(Params(document.get("params")))
        except RpcError:
            raise
        except NodewrightError as error:
            raise internal_error(str(error)) from error
        except Exception as error:  # one call's fault must not take the service down; it is logged with its trace
            self._logger.exception("rpc call failed", method=name)
            raise internal_error(f"internal error: {type(error).__name__}") from error


def parse_json(body: bytes) -> Any:
    """JSON without NaN and infinities, of bounded structure; a parse error for anything else."""
    if body.count(b"{") + body.count(b"[") + body.count(b",") > MAX_TOKENS:
        raise parse_error("the document has too many parts")
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise parse_error("the body is no JSON") from None


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # Escaped to ASCII: a lone surrogate that a client sent, and is shown again, has no other encoding.
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")
