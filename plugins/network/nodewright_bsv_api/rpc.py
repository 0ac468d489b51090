"""JSON-RPC 1.0 at ``POST /`` as Bitcoin nodes speak it: basic authentication, single calls and batches, named parameters.

An error is ``{"result": null, "error": {code, message}, "id"}`` with HTTP 500, as nodes of the family answer: 400 for what
is no call, 404 for an unknown method, 401 without the right credentials. Methods are plain coroutines in ``rpc_chain``,
``rpc_transactions`` and ``rpc_control``; their first docstring line is what ``help`` prints.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nodewright.errors import NodewrightError
from nodewright_bsv_api.params import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISC_ERROR,
    PARSE_ERROR,
    RpcError,
    want_text,
)
from nodewright_bsv_api.rpc_auth import BasicAuth

MAX_BATCH = 1000
# Braces, brackets and commas of one body: counted before it is parsed, since each can cost a hundred bytes when it is.
MAX_TOKENS = 250_000

Method = Callable[..., Awaitable[Any]]


class JsonRpc:
    """The dispatcher. ``methods`` maps a name to a coroutine function whose parameters are the call's."""

    def __init__(self, methods: dict[str, Method], auth: BasicAuth, logger: Any) -> None:
        self._methods = methods | {"help": self.help}
        self._auth = auth
        self._logger = logger

    async def help(self, command: Any = "") -> str:
        """help ( "command" ): all commands, or what one does"""
        if command:
            if want_text(command, "command") not in self._methods:
                return f"help: unknown command: {command}"
            return inspect.cleandoc(self._methods[command].__doc__ or command)
        return "\n".join((method.__doc__ or name).strip().splitlines()[0] for name, method in sorted(self._methods.items()))

    async def handle(self, request: Request) -> Response:
        if not self._auth.allows(request.headers.get("authorization")):
            return Response(status_code=401, headers={"www-authenticate": 'Basic realm="jsonrpc"'})
        try:
            document = parse_json(await request.body(), MAX_TOKENS)
        except ValueError as error:
            return _json(*_failure(RpcError(PARSE_ERROR, f"Parse error: {error}"), None))
        if isinstance(document, list):
            if len(document) > MAX_BATCH:
                return _json(*_failure(RpcError(INVALID_REQUEST, f"more than {MAX_BATCH} calls in one batch"), None))
            return _json([(await self._call(item))[0] for item in document])
        if not isinstance(document, dict):
            return _json(*_failure(RpcError(PARSE_ERROR, "Top-level object parse error"), None))
        return _json(*await self._call(document))

    async def _call(self, document: Any) -> tuple[dict[str, Any], int]:
        id = document.get("id") if isinstance(document, dict) else None
        if not isinstance(id, (str, int, float)):
            id = None
        try:
            return {"result": await self._run(document), "error": None, "id": id}, 200
        except RpcError as error:
            return _failure(error, id)
        except NodewrightError as error:
            return _failure(RpcError(MISC_ERROR, str(error)), id)
        except Exception as error:  # one call's fault must not take the service down; it is logged with its trace
            self._logger.exception("rpc call failed", method=str(document.get("method"))[:64])
            return _failure(RpcError(MISC_ERROR, f"internal error: {type(error).__name__}"), id)

    async def _run(self, document: Any) -> Any:
        if not isinstance(document, dict):
            raise RpcError(INVALID_REQUEST, "Invalid Request object")
        if "method" not in document:
            raise RpcError(INVALID_REQUEST, "Missing method")
        if not isinstance(document["method"], str):
            raise RpcError(INVALID_REQUEST, "Method must be a string")
        method = self._methods.get(document["method"])
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {document['method'][:64]}")
        parameters = document.get("params")
        if parameters is None:
            parameters = []
        signature = inspect.signature(method)
        try:
            if isinstance(parameters, dict):
                bound = signature.bind(**parameters)
            elif isinstance(parameters, list):
                bound = signature.bind(*parameters)
            else:
                raise RpcError(INVALID_REQUEST, "Params must be an array or object")
        except TypeError:
            usage = (method.__doc__ or document["method"]).strip().splitlines()[0]
            raise RpcError(MISC_ERROR, f"wrong number of parameters: {usage}") from None
        return await method(*bound.args, **bound.kwargs)


def parse_json(body: bytes, max_tokens: int) -> Any:
    """JSON without NaN and infinities, of bounded structure; ValueError with a sentence for anything else."""
    if body.count(b"{") + body.count(b"[") + body.count(b",") > max_tokens:
        raise ValueError("the document has too many parts")
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _failure(error: RpcError, id: Any) -> tuple[dict[str, Any], int]:
    status = {METHOD_NOT_FOUND: 404, INVALID_REQUEST: 400}.get(error.code, 500)
    return {"result": None, "error": {"code": error.code, "message": error.message}, "id": id}, status


def _json(document: Any, status: int = 200) -> Response:
    # Escaped to ASCII: a lone surrogate that a client sent, and is shown again, has no other encoding.
    return Response(json.dumps(document, separators=(",", ":")).encode(), status, media_type="application/json")


def methods_of(holder: object) -> dict[str, Method]:
    """The public coroutine methods of an object, by name."""
    return {
        name: method for name, method in inspect.getmembers(holder, inspect.iscoroutinefunction) if not name.startswith("_")
    }
