"""Transactions, blocks and views out of the node: ``GET /v1/transactions…``, ``/v1/blocks…``, ``POST /v1/view``.

A hash that was answered with 202 is ``pending_transaction`` until it is committed. One that was rejected or has expired is
404, and the message says which: a client that waits learns why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from nodewright.services.pulse import Pulse
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.queries import ViewFailed
from nodewright_aptos.records import BlockRow
from nodewright_aptos.transactions import MAX_FUNCTION_ARGUMENTS
from nodewright_aptos.typetags import MAX_ARGUMENTS
from nodewright_aptos_api.config import AptosApiConfig
from nodewright_aptos_api.document import content_type, json_part
from nodewright_aptos_api.errors import ApiError, invalid, not_found, transaction_not_found
from nodewright_aptos_api.forms import Form
from nodewright_aptos_api.reads import Ledger, headers_of, parse_number, whole_number, yes
from nodewright_aptos_api.views import hexadecimal

VIEW_BCS: Final = "application/x.aptos.view_function+bcs"
STREAM_PAGE: Final = 25
PULSE_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 15.0  # a comment is sent after this, so that proxies keep the connection


class Reading:
    def __init__(self, ledger: Ledger, config: AptosApiConfig, pulse: Pulse) -> None:
        self._ledger = ledger
        self._config = config
        self._pulse = pulse
        self._streams: Counter[str] = Counter()  # readers by client

    # --- transactions ------------------------------------------------------------------------------------------------

    async def by_hash(self, request: Request) -> Response:
        return await self._ledger.answer(await self._find(self._ledger.form(request), _hash(request)))

    async def wait_by_hash(self, request: Request) -> Response:
        """As ``by_hash``, once the transaction is no longer pending or after ``wait_seconds``."""
        hash = _hash(request)
        with trio.move_on_after(self._config.wait_seconds):
            while await self._pending(hash):
                await self._pulse.wait(PULSE_SECONDS)
        return await self._ledger.answer(await self._find(self._ledger.form(request), hash))

    async def _pending(self, hash: bytes) -> bool:
        if await self._ledger.by_hash(hash) is not None:
            return False
        (status,) = await self._ledger.node.pool.status([hash])
        return status is None or status.status in ("pending", "committed")

    async def _find(self, form: Form, hash: bytes) -> Any:
        for _ in range(2):
            row = await self._ledger.by_hash(hash)
            if row is not None:
                return form.committed(await self._ledger.committed(row))
            (raw,) = self._ledger.node.pool.bodies([hash])
            if raw is not None:
                return form.pending(raw)
            # It left the pool between the two looks, or was never here.
        (status,) = await self._ledger.node.pool.status([hash])
        what = f"Transaction hash({hexadecimal(hash)})"
        if status is None:
            raise transaction_not_found(what)
        why = f": {status.detail}" if status.detail else ""
        raise transaction_not_found(f"{what}: it was accepted and then {status.status}{why}")

    async def by_version(self, request: Request) -> Response:
        version = parse_number(request.path_params["version"], "txn_version")
        one = await self._ledger.committed(await self._ledger.by_version(version))
        return await self._ledger.answer(self._ledger.form(request).committed(one))

    async def transactions(self, request: Request) -> Response:
        start, limit = whole_number(request, "start"), self._ledger.limit(request)
        if start is not None:
            await self._ledger.by_version(start)
        rows = await self._ledger.ask("transactions", start=start, limit=limit)
        found = await self._ledger.all_committed(rows)
        return await self._ledger.answer(self._ledger.form(request).transactions(found))

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def block_by_height(self, request: Request) -> Response:
        height = parse_number(request.path_params["height"], "block_height")
        row = await self._ledger.ask("block", height=height)
        return await self._block(request, row, f"Block height({height})")

    async def block_by_version(self, request: Request) -> Response:
        version = parse_number(request.path_params["version"], "version")
        await self._ledger.by_version(version)
        row = await self._ledger.ask("block", version=version)
        return await self._block(request, row, f"Version({version})")

    async def _block(self, request: Request, row: BlockRow | None, what: str) -> Response:
        form = self._ledger.form(request)
        return await self._ledger.answer(await self._ledger.block(form, row, what, yes(request, "with_transactions")))

    # --- views -------------------------------------------------------------------------------------------------------

    async def view(self, request: Request) -> Response:
        at = await self._ledger.at(request)
        call: dict[str, Any]
        if content_type(request) == VIEW_BCS:
            call = {"payload": await request.body()}
        else:
            document = await json_part(request)
            call = {
                "function": document.field("function").text(),
                "type_arguments": [one.text() for one in document.each("type_arguments", MAX_ARGUMENTS)],
                "arguments": [one.value for one in document.each("arguments", MAX_FUNCTION_ARGUMENTS)],
            }
        form = self._ledger.form(request)
        try:
            values = await self._ledger.ask("view", encoded=form.encoded, **call, **at)
            return await self._ledger.answer(form.values(values))
        except Malformed as error:
            raise invalid(str(error)) from None
        except ViewFailed as error:
            raise ApiError(400, "invalid_input", f"{error}", None if error.abort is None else 4016) from error

    # --- the stream --------------------------------------------------------------------------------------------------

    async def stream(self, request: Request) -> Response:
        """Server-sent events: each committed transaction once, in order; the id of an event is its ledger version. Begins
        after ``Last-Event-ID``, at ``start_version``, or with what is committed next."""
        client = request.client.host if request.client is not None else ""
        full = self._streams.total() >= self._config.max_streams
        if full or self._streams[client] >= self._config.max_streams_per_client:
            raise ApiError(503, "internal_error", "too many readers of this stream: try again later", retry_after=5)
        last = request.headers.get("last-event-id")
        state = await self._ledger.state()
        if last is not None:
            start = parse_number(last, "Last-Event-ID") + 1
        else:
            start = whole_number(request, "start_version", state.version + 1) or 0
        if start > state.version + 1:
            raise not_found("version_not_found", f"Ledger version({start}) is beyond the next one, {state.version + 1}")
        headers = headers_of(state) | {"Cache-Control": "no-cache"}
        return StreamingResponse(self._events(start, client), headers=headers, media_type="text/event-stream")

    async def _events(self, version: int, client: str) -> AsyncIterator[bytes]:
        self._streams[client] += 1
        try:
            quiet = trio.current_time()
            yield b": committed transactions\n\n"
            while True:
                rows = await self._ledger.ask("transactions", start=version, limit=STREAM_PAGE)
                for row in rows:
                    shown = self._ledger.views.committed(await self._ledger.committed(row))
                    text = json.dumps(shown, separators=(",", ":"))
                    yield f"id: {row.version}\nevent: transaction\ndata: {text}\n\n".encode()
                    version, quiet = row.version + 1, trio.current_time()
                if not rows:
                    await self._pulse.wait(PULSE_SECONDS)
                    if trio.current_time() - quiet > QUIET_SECONDS:
                        yield b": nothing new\n\n"
                        quiet = trio.current_time()
        finally:
            self._streams[client] -= 1
            self._streams += Counter()  # those with none are forgotten


def _hash(request: Request) -> bytes:
    text = request.path_params["hash"]
    try:
        hash = bytes.fromhex(text.removeprefix("0x"))
        if len(hash) != 32:
            raise ValueError
    except ValueError:
        raise invalid(f"failed to parse parameter txn_hash: {text[:80]!r} is no hash of 32 bytes") from None
    return hash
