"""Errors as NEAR's clients read them: ``{name, cause: {name, info}, code, message, data}``.

``name`` says who is at fault: ``REQUEST_VALIDATION_ERROR`` (the request cannot be understood), ``HANDLER_ERROR`` (a reason
that clients tell apart by ``cause.name``), ``INTERNAL_ERROR`` (this node). ``data`` is always there: clients index it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PARSE_ERROR: Final = -32700
METHOD_NOT_FOUND: Final = -32601
SERVER_ERROR: Final = -32000


class RpcError(Exception):
    """``status`` is the HTTP status beside it; ``headers`` go with the answer."""

    def __init__(
        self,
        name: str,
        cause: str,
        info: Mapping[str, Any] | None,
        data: Any,
        code: int = SERVER_ERROR,
        message: str = "Server error",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{cause}: {data}")
        self.cause = cause
        self.status = status
        self.headers = dict(headers or {})
        reason: dict[str, Any] = {"name": cause}
        if info is not None:
            reason["info"] = dict(info)
        self.document: dict[str, Any] = {"name": name, "cause": reason, "code": code, "message": message, "data": data}


def parse_error(sentence: str) -> RpcError:
    info = {"error_message": sentence}
    return RpcError("REQUEST_VALIDATION_ERROR", "PARSE_ERROR", info, sentence, PARSE_ERROR, "Parse error", 400)


def unknown_method(method: str) -> RpcError:
    info = {"method_name": method}
    return RpcError("REQUEST_VALIDATION_ERROR", "METHOD_NOT_FOUND", info, method, METHOD_NOT_FOUND, "Method not found", 400)


def handler_error(cause: str, sentence: str, info: Mapping[str, Any] | None = None) -> RpcError:
    """``info`` None leaves it out: some causes have none."""
    return RpcError("HANDLER_ERROR", cause, info, sentence)


def internal_error(sentence: str) -> RpcError:
    info = {"error_message": sentence}
    return RpcError("INTERNAL_ERROR", "INTERNAL_ERROR", info, sentence, status=500)


def busy(sentence: str, retry_after_seconds: float) -> RpcError:
    """Nothing was taken; the same request may be made again."""
    headers = {"retry-after": str(max(1, round(retry_after_seconds)))}
    info = {"error_message": sentence}
    return RpcError("INTERNAL_ERROR", "INTERNAL_ERROR", info, sentence, status=503, headers=headers)


def timeout_error(sentence: str) -> RpcError:
    """HTTP 408: clients ask again, which is safe, since a transaction is the same however often it is sent."""
    return RpcError("HANDLER_ERROR", "TIMEOUT_ERROR", None, sentence, status=408)


def invalid_transaction(error: Any) -> RpcError:
    """``error`` as it stands under ``InvalidTxError``."""
    return RpcError("HANDLER_ERROR", "INVALID_TRANSACTION", {}, {"TxExecutionError": {"InvalidTxError": error}})


def unknown_block(sentence: str, reference: Mapping[str, Any] | None = None) -> RpcError:
    """``query`` alone says which block was asked for in ``info``."""
    return handler_error("UNKNOWN_BLOCK", sentence, {} if reference is None else {"block_reference": reference})
