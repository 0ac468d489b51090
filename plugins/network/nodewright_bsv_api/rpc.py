"""JSON-RPC 1.0 at ``POST /`` as Bitcoin nodes speak it: basic authentication, single calls and batches, named parameters.

An error is HTTP 500 with ``{"result": null, "error": {code, message}, "id"}`` (404 for an unknown method, 401 without the
right credentials), as clients of the family expect. Methods are plain coroutines in ``rpc_chain``, ``rpc_transactions`` and
``rpc_control``; their first docstring line is what ``help`` prints.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nodewright.errors import NodewrightError
from nodewright_bsv_api.rpc_auth import BasicAuth

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMETERS = -32602
MISC_ERROR = -1
TYPE_ERROR = -3
NOT_FOUND = -5
INVALID_PARAMETER = -8

MAX_BATCH = 1000

Method = Callable[..., Awaitable[Any]]


class RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class JsonRpc:
    """The dispatcher. ``methods`` maps a name to a coroutine function whose parameters are the call's."""

    def __init__(self, methods: dict[str, Method], auth: BasicAuth, logger: Any) -> None:
        self._methods = methods | {"help": self.help}
        self._auth = auth
        self._logger = logger

    async def help(self, command: str = "") -> str:
        """help ( "command" ): all commands, or what one does"""
        if command:
            if command not in self._methods:
                raise RpcError(METHOD_NOT_FOUND, f"help: unknown command: {command}")
            return inspect.cleandoc(self._methods[command].__doc__ or command)
        return "\n".join((method.__doc__ or name).strip().splitlines()[0] for name, method in sorted(self._methods.items()))

    async def handle(self, request: Request) -> Response:
        if not self._auth.allows(request.headers.get("authorization")):
            return Response(status_code=401, headers={"www-authenticate": 'Basic realm="jsonrpc"'})
        body = await request.body()
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return _answer(None, RpcError(PARSE_ERROR, "Parse error: the body is no JSON"), None)
        if isinstance(document, list):
            if len(document) > MAX_BATCH:
                return _answer(None, RpcError(INVALID_REQUEST, f"more than {MAX_BATCH} calls in one batch"), None)
            return JSONResponse([(await self._call(item))[0] for item in document])
        answer, status = await self._call(document)
        return JSONResponse(answer, status)

    async def _call(self, document: Any) -> tuple[dict[str, Any], int]:
        id = document.get("id") if isinstance(document, dict) else None
        try:
            return {"result": await self._run(document), "error": None, "id": id}, 200
        except RpcError as error:
            status = 404 if error.code == METHOD_NOT_FOUND else 500
            return {"result": None, "error": {"code": error.code, "message": error.message}, "id": id}, status
        except NodewrightError as error:
            return {"result": None, "error": {"code": MISC_ERROR, "message": str(error)}, "id": id}, 500
        except Exception as error:  # one call's fault must not take the service down; it is logged with its trace
            self._logger.exception("rpc call failed", method=str(document.get("method"))[:64])
            return {"result": None, "error": {"code": MISC_ERROR, "message": f"internal error: {error!r}"}, "id": id}, 500

    async def _run(self, document: Any) -> Any:
        if not isinstance(document, dict) or not isinstance(document.get("method"), str):
            raise RpcError(INVALID_REQUEST, "a call is an object with method and params")
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
                raise RpcError(INVALID_PARAMETERS, "params is a list or an object")
        except TypeError:
            usage = (method.__doc__ or document["method"]).strip().splitlines()[0]
            raise RpcError(MISC_ERROR, f"wrong number of parameters: {usage}") from None
        return await method(*bound.args, **bound.kwargs)


def _answer(result: Any, error: RpcError, id: Any) -> Response:
    return JSONResponse({"result": result, "error": {"code": error.code, "message": error.message}, "id": id}, 500)


def methods_of(holder: object) -> dict[str, Method]:
    """The public coroutine methods of an object, by name."""
    return {
        name: method for name, method in inspect.getmembers(holder, inspect.iscoroutinefunction) if not name.startswith("_")
    }


def want_id(value: Any, what: str) -> bytes:
    """32 bytes from a parameter in display hex."""
    from nodewright_bsv_api.errors import parse_id

    id = parse_id(value) if isinstance(value, str) else None
    if id is None:
        raise RpcError(INVALID_PARAMETER, f"{what} must be 64 hexadecimal digits")
    return id


def want_int(value: Any, what: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RpcError(TYPE_ERROR, f"{what} must be a whole number")
    if not least <= value <= most:
        raise RpcError(INVALID_PARAMETER, f"{what} must be between {least} and {most}")
    return value


def want_hex(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise RpcError(TYPE_ERROR, f"{what} must be hexadecimal text")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise RpcError(INVALID_PARAMETER, f"{what} must be hexadecimal text") from None
