"""Refusals as the REST API writes them: ``{message, error_code, vm_error_code}`` under an HTTP status."""

from __future__ import annotations

from typing import Any, Final

from nodewright.interfaces.common import Refused
from nodewright_aptos.addresses import address_text

# In Aptos's order: in BCS a code is its place here.
ERROR_CODES: Final = (
    *("account_not_found", "resource_not_found", "module_not_found", "struct_field_not_found", "version_not_found"),
    *("transaction_not_found", "table_item_not_found", "block_not_found", "state_value_not_found"),
    *("version_pruned", "block_pruned", "invalid_input", "invalid_transaction_update", "sequence_number_too_old"),
    *("vm_error", "health_check_failed", "mempool_is_full", "internal_error", "web_framework_error"),
    *("bcs_not_supported", "api_disabled"),
)


class ApiError(Exception):
    def __init__(
        self, status: int, code: str, message: str, vm: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.document: dict[str, Any] = {"message": message, "error_code": code, "vm_error_code": vm}
        self.headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}


def invalid(message: str) -> ApiError:
    return ApiError(400, "invalid_input", message)


def not_found(code: str, message: str) -> ApiError:
    return ApiError(404, code, message)


def account_not_found(address: bytes, version: int) -> ApiError:
    return not_found(
        "account_not_found", f"Account not found by Address({address_text(address)}) and Ledger version({version})"
    )


def transaction_not_found(what: str) -> ApiError:
    return not_found("transaction_not_found", f"Transaction not found by {what}")


def refusal(refused: Refused) -> ApiError:
    """Of a submitted transaction. Validation statuses have their number; what is no verdict on the transaction itself can
    be tried again."""
    if refused.kind == "busy":
        seconds = float(refused.data.get("retry_after_seconds", 1))
        return ApiError(507, "mempool_is_full", f"the mempool is full: {refused.message}", retry_after=seconds)
    if refused.kind == "conflict":
        return ApiError(400, "invalid_transaction_update", f"Invalid transaction: {refused.message}")
    number = refused.data.get("vm_status", 0)
    if refused.code == "EXCEEDED_MAX_TRANSACTION_SIZE":
        return ApiError(413, "invalid_input", f"Invalid transaction: {refused.code}: {refused.message}", number or None)
    if not number:
        return invalid(f"Failed to deserialize input into SignedTransaction: {refused.message}")
    message = f"Invalid transaction: Type: Validation Code: {refused.code}: {refused.message}"
    return ApiError(400, "vm_error", message, number)
