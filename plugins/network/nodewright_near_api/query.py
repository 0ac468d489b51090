"""The method ``query``: accounts, keys, code and state of contracts, and calls that change nothing.

Two quirks are deliberate: an access key that is not there, and a contract that fails, are *successful* results with an
``error`` in them; and ``["account/alice", ""]`` is a query by path. An access key of an account that is not there says so
of the account, not of the key.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, Final

from nodewright.interfaces.execution import HEAD, View
from nodewright_near.accounts import Account
from nodewright_near.contracts.beside import ViewsBusy, ViewTooLong
from nodewright_near.contracts.calls import CallOutcome
from nodewright_near.errors import ErrorValue
from nodewright_near.primitives import NO_HASH, base58, key_text
from nodewright_near_api import params as take
from nodewright_near_api.errors import RpcError, busy, handler_error, parse_error, timeout_error
from nodewright_near_api.params import OPTIMISTIC, Params
from nodewright_near_api.reads import ChainReads, Found, NotYet
from nodewright_near_api.views import access_key_view, account_view, encoded

MAX_PATH_DATA: Final = 10 * 1024
MAX_ARGUMENTS: Final = 4 * 1024 * 1024

Answer = dict[str, Any]
Read = Callable[[View, Found], Awaitable[Answer]]

_TRAPS: Final = {
    "An `unreachable` opcode was executed.": "Unreachable",
    "Memory out of bounds trap.": "MemoryOutOfBounds",
    "Call indirect incorrect signature trap.": "IncorrectCallIndirectSignature",
    "An arithmetic exception, e.g. divided by zero.": "IllegalArithmetic",
    "Stack overflow.": "StackOverflow",
    "Generic": "GenericTrap",
}
_HOST: Final = {
    "Exceeded the prepaid gas.": "GasExceeded",
    "Exceeded the maximum amount of gas allowed to burn per contract.": "GasLimitExceeded",
    "Integer overflow.": "IntegerOverflow",
    "Accessed memory outside the bounds.": "MemoryAccessViolation",
    "String encoding is bad UTF-8 sequence.": "BadUTF8",
    "String encoding is bad UTF-16 sequence.": "BadUTF16",
}


def quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def failure_text(error: ErrorValue) -> str:
    """A contract's failure as clients of the family match it: the node's debug form behind a fixed beginning."""
    return f"wasm execution failed with error: {_debug(error)}"


def _debug(error: ErrorValue) -> str:
    if isinstance(error, str):
        return error
    ((name, inner),) = error.items()
    if name == "ExecutionError" and isinstance(inner, str):
        return _debug_execution(inner)
    if isinstance(inner, str):
        return f"{name}({inner})"
    if all(isinstance(value, Mapping) for value in inner.values()):
        ((deeper, fields),) = inner.items()
        shown = ", ".join(f"{key}: {quoted(value) if isinstance(value, str) else value}" for key, value in fields.items())
        return f"{name}({deeper} {{ {shown} }})"
    return f"{name}({_debug(inner)})"


def _debug_execution(sentence: str) -> str:
    beginning, colon, rest = sentence.partition(": ")
    if beginning == "Smart contract panicked" and colon:
        return f"HostError(GuestPanic {{ panic_msg: {quoted(rest)} }})"
    if beginning == "WebAssembly trap" and colon:
        return f"WasmTrap({_TRAPS.get(rest, 'GenericTrap')})"
    if beginning == "Link Error" and colon:
        return f"LinkError {{ msg: {quoted(rest)} }}"
    method, view, _ = sentence.partition(" is not allowed in view calls")
    if view:
        return f"HostError(ProhibitedInView {{ method_name: {quoted(method)} }})"
    return f"HostError({_HOST.get(sentence, quoted(sentence))})"


def soft_error(sentence: str, found: Found) -> Answer:
    return {"error": sentence, "logs": [], **found.place()}


def unknown_account(account: str, found: Found) -> RpcError:
    info = {"requested_account_id": account, **found.place()}
    return handler_error("UNKNOWN_ACCOUNT", f"account {account} does not exist while viewing", info)


class QueryMethods:
    def __init__(self, reads: ChainReads, max_state_bytes: int) -> None:
        self._reads = reads
        self._execution = reads.node.execution
        self._max_state_bytes = max_state_bytes

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {"query": self.query}

    async def query(self, params: Params) -> Answer:
        path = bool(params.positional)
        found: Mapping[str, Any] = by_path(params) if path else params.take(())
        reference = OPTIMISTIC if path else take.block_reference(found)
        kind = take.text(found, "request_type")
        account = take.account(take.want(found, "account_id"))
        read = self._reader(kind, account, found, reference.finality == "final")
        return await self._reads.at(reference, account, read)

    def _reader(self, kind: str, account: str, found: Mapping[str, Any], final: bool) -> Read:
        match kind:
            case "view_account":
                return lambda view, at: self._account(view, at, account)
            case "view_access_key":
                key = take.public_key(take.want(found, "public_key"))
                return lambda view, at: self._access_key(view, at, account, key, final)
            case "view_access_key_list":
                return lambda view, at: self._access_key_list(view, at, account)
            case "view_code":
                return lambda view, at: self._code(view, at, account)
            case "view_state":
                prefix = take.base64_bytes(found.get("prefix_base64", ""), "prefix_base64", MAX_PATH_DATA)
                return lambda view, at: self._state(view, at, account, prefix)
            case "call_function":
                method = take.text(found, "method_name")
                args = take.base64_bytes(found.get("args_base64", ""), "args_base64", MAX_ARGUMENTS)
                tries = count()
                return lambda view, at: self._call(view, at, account, method, args, next(tries) > 0)
        raise parse_error(f"Failed parsing args: unknown variant `{kind[:40]}` of request_type")

    async def _account_of(self, view: View, at: Found, account: str) -> Account:
        found: Account | None = await self._execution.query(view, "account", account_id=account)
        if found is None:
            raise unknown_account(account, at)
        return found

    async def _account(self, view: View, at: Found, account: str) -> Answer:
        return {**account_view(await self._account_of(view, at, account)), **at.place()}

    async def _access_key(self, view: View, at: Found, account: str, key: bytes, final: bool) -> Answer:
        """Who has made or deleted a key and asks for the final state at once is answered when that has it too."""
        found = await self._execution.query(view, "access_key", account_id=account, public_key=key)
        if found is not None:
            answer = {**access_key_view(found), **at.place()}
        elif await self._execution.query(view, "account", account_id=account) is None:
            answer = soft_error(f"account {account} does not exist while viewing", at)
        else:
            answer = soft_error(f"access key {key_text(key)} does not exist while viewing", at)
        if final:
            head = await self._execution.query(HEAD, "access_key", account_id=account, public_key=key)
            if (head is None) != (found is None):
                raise NotYet(answer)
        return answer

    async def _access_key_list(self, view: View, at: Found, account: str) -> Answer:
        found = await self._execution.query(view, "access_keys", account_id=account)
        if not found:
            await self._account_of(view, at, account)
        keys = [{"public_key": key_text(key), "access_key": access_key_view(one)} for key, one in found.items()]
        return {"keys": keys, **at.place()}

    async def _code(self, view: View, at: Found, account: str) -> Answer:
        held = await self._account_of(view, at, account)
        code: bytes | None = await self._execution.query(view, "code", account_id=account)
        if code is None:
            info = {"contract_account_id": account, **at.place()}
            sentence = f"Contract code for contract ID #{account} has never been observed on the node"
            raise handler_error("NO_CONTRACT_CODE", sentence, info)
        return {"code_base64": encoded(code), "hash": base58(held.code_hash), **at.place()}

    async def _state(self, view: View, at: Found, account: str, prefix: bytes) -> Answer:
        held = await self._account_of(view, at, account)
        size = held.storage_usage
        if size > self._max_state_bytes and held.code_hash != NO_HASH:
            size -= len(await self._execution.query(view, "code", account_id=account) or b"")
        if size > self._max_state_bytes:
            info = {"contract_account_id": account, **at.place()}
            raise handler_error("TOO_LARGE_CONTRACT_STATE", f"State of contract {account} is too large to be viewed", info)
        rows = await self._execution.query(view, "state", account_id=account, prefix=prefix)
        values = [{"key": encoded(key), "value": encoded(value)} for key, value in rows.items()]
        return {"values": values, **at.place()}

    async def _call(self, view: View, at: Found, account: str, method: str, args: bytes, steady: bool) -> Answer:
        """``steady``: the state went away under the call before."""
        try:
            outcome: CallOutcome | None = await self._execution.query(
                view,
                "call",
                account_id=account,
                method=method,
                args=args,
                height=at.info.height,
                timestamp=at.block.header.inner_lite.timestamp,
                epoch=at.info.epoch,
                steady=steady,
            )
        except ViewsBusy as error:
            raise busy(str(error), 1) from error
        except ViewTooLong as error:
            raise timeout_error(str(error)) from error
        if outcome is None:
            raise unknown_account(account, at)
        if outcome.error is not None:
            return soft_error(failure_text(outcome.error), at)
        value = outcome.value if isinstance(outcome.value, bytes) else b""
        return {"result": list(value), "logs": list(outcome.logs), **at.place()}


def by_path(params: Params) -> dict[str, Any]:
    """``[path, data]``: ``account/A``, ``access_key/A[/K]``, ``code/A``, ``contract/A``, ``call/A/method``; base58."""
    given = params.take(("path", "data"))
    path, data = take.text(given, "path"), given.get("data", "")
    command, _, rest = path.partition("/")
    account, slash, extra = rest.partition("/")
    found: dict[str, Any] = {"account_id": account}
    if command == "account":
        found["request_type"] = "view_account"
    elif command == "access_key" and slash:
        found |= {"request_type": "view_access_key", "public_key": extra}
    elif command == "access_key":
        found["request_type"] = "view_access_key_list"
    elif command == "code":
        found["request_type"] = "view_code"
    elif command == "contract":
        found |= {"request_type": "view_state", "prefix_base64": encoded(take.base58_bytes(data, "data"))}
    elif command == "call" and slash:
        args = encoded(take.base58_bytes(data, "data"))
        found |= {"request_type": "call_function", "method_name": extra, "args_base64": args}
    elif command == "call":
        raise parse_error("Method name is missing")
    else:
        raise parse_error(f"Unknown path {command[:40]}")
    return found
