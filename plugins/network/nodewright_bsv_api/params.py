"""Parameters of JSON-RPC calls: each is checked here before a method uses it. Errors carry Bitcoin's codes."""

from __future__ import annotations

import binascii
from typing import Any

from nodewright_bsv_api.errors import parse_id

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMETERS = -32602
MISC_ERROR = -1
NOT_FOUND = -5
INVALID_PARAMETER = -8

LARGEST = 2**63 - 1


class RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def want_id(value: Any, what: str) -> bytes:
    """32 bytes from a parameter in display hex."""
    id = parse_id(want_text(value, what))
    if id is None:
        raise RpcError(INVALID_PARAMETER, f"{what} must be 64 hexadecimal digits")
    return id


def want_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RpcError(MISC_ERROR, f"{what} is not a string as expected")
    return value


def want_int(value: Any, what: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RpcError(MISC_ERROR, f"{what} is not an integer as expected")
    if not -LARGEST <= value <= LARGEST:
        raise RpcError(MISC_ERROR, f"{what} is an integer out of range")
    if not least <= value <= most:
        raise RpcError(INVALID_PARAMETER, f"{what} must be between {least} and {most}")
    return value


def want_bool(value: Any, what: str) -> bool:
    """Clients send 0 and 1 too."""
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise RpcError(MISC_ERROR, f"{what} is not a boolean as expected")


def want_hex(value: Any, what: str) -> bytes:
    try:
        return binascii.unhexlify(want_text(value, what))
    except ValueError:
        raise RpcError(INVALID_PARAMETER, f"{what} must be hexadecimal text") from None


def want_choice(value: Any, what: str, names: dict[str, int]) -> int:
    """A number of ``names``, its name, or a boolean for 0 and 1."""
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, (bool, int)) and int(value) in names.values():
        return int(value)
    raise RpcError(INVALID_PARAMETER, f"{what} is one of {', '.join(f'{n} ({name})' for name, n in names.items())}")
