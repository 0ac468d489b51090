"""What the handlers share: the committed ledger, and rows of it in the form that a client asks for.

Every answer is of committed blocks alone: what is told cannot be undone, and who sees a transaction succeed reads its
effects next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nodewright.errors import Pruned
from nodewright.interfaces.execution import FINAL
from nodewright.interfaces.service import NodeHandle
from nodewright_aptos import hashing
from nodewright_aptos.addresses import parse_address
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.queries import LedgerState, UnknownVersion
from nodewright_aptos.records import BlockRow, TransactionRow
from nodewright_aptos_api.encoded import Encoded
from nodewright_aptos_api.errors import ApiError, invalid, not_found
from nodewright_aptos_api.forms import BCS, Committed, Form, preferred
from nodewright_aptos_api.views import OLDEST, Views


def headers_of(ledger: LedgerState) -> dict[str, str]:
    return {
        "X-Aptos-Chain-Id": str(ledger.chain_id),
        "X-Aptos-Epoch": str(ledger.epoch),
        "X-Aptos-Ledger-Version": str(ledger.version),
        "X-Aptos-Ledger-Oldest-Version": OLDEST,
        "X-Aptos-Ledger-TimestampUsec": str(ledger.timestamp),
        "X-Aptos-Block-Height": str(ledger.height),
        "X-Aptos-Oldest-Block-Height": OLDEST,
    }


def address_of(request: Request) -> bytes:
    return read_address(request.path_params["address"])


def read_address(text: str) -> bytes:
    try:
        return parse_address(text)
    except Malformed as error:
        raise invalid(f"failed to parse parameter address: {error}") from None


def whole_number(request: Request, name: str, default: int | None = None) -> int | None:
    """A query parameter, u64."""
    text = request.query_params.get(name)
    return default if text is None or text == "" else parse_number(text, name)


def parse_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) >= 1 << 64:
        raise invalid(f"failed to parse parameter {name}: {text[:40]!r} is no whole number of 64 bits")
    return int(text)


def limit_of(request: Request, default: int, most: int) -> int:
    limit = whole_number(request, "limit", default)
    if limit == 0:
        raise invalid("limit must be at least 1")
    return min(limit or default, most)


def yes(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("true", "1")


class Ledger:
    def __init__(self, node: NodeHandle, views: Views, page_size: int) -> None:
        self.node = node
        self.views = views
        self.page_size = page_size
        self._encoded = Encoded()

    def form(self, request: Request) -> Form:
        """What the answer is to be written in."""
        return self._encoded if preferred(request.headers.get("accept", "")) == BCS else self.views

    async def ask(self, kind: str, **arguments: Any) -> Any:
        """Raises ApiError where the state is not held any more, or not there yet."""
        try:
            return await self.node.execution.query(FINAL, kind, **arguments)
        except Pruned as error:
            raise ApiError(410, "version_pruned", f"{error}") from error
        except UnknownVersion as error:
            raise not_found("version_not_found", f"Ledger version not found: {error}") from error

    async def state(self) -> LedgerState:
        state: LedgerState = await self.ask("ledger")
        return state

    async def answer(self, content: Any, status: int = 200, state: LedgerState | None = None, **headers: str) -> Response:
        """``content`` as a form wrote it: bytes are BCS. ``state``: what the headers tell of, where it is not the last."""
        all_headers = headers_of(state or await self.state()) | headers
        if isinstance(content, bytes):
            return Response(content, status, all_headers, BCS)
        return JSONResponse(content, status, all_headers)

    async def at(self, request: Request) -> dict[str, int]:
        """``ledger_version`` as the argument of a query; nothing for the last one."""
        version = whole_number(request, "ledger_version")
        return {} if version is None else {"version": version}

    def limit(self, request: Request) -> int:
        return limit_of(request, 25, self.page_size)

    # --- rows --------------------------------------------------------------------------------------------------------

    async def committed(self, row: TransactionRow) -> Committed:
        """With the root of the transaction accumulator that ends with this row."""
        info, siblings = await self.ask("transaction_proof", version=row.version, ledger_version=row.version)
        root, place = hashing.digest(hashing.TRANSACTION_INFO, info), row.version
        for sibling in siblings:
            pair = sibling + root if place & 1 else root + sibling
            root, place = hashing.digest(hashing.TRANSACTION_ACCUMULATOR, pair), place >> 1
        return row, root

    async def all_committed(self, rows: Sequence[TransactionRow]) -> list[Committed]:
        return [await self.committed(row) for row in rows]

    async def by_version(self, version: int) -> TransactionRow:
        row: TransactionRow | None = await self.ask("transaction", version=version)
        if row is not None:
            return row
        raise not_found("version_not_found", f"Ledger version not found by Ledger version({version})")

    async def by_hash(self, hash: bytes) -> TransactionRow | None:
        row: TransactionRow | None = await self.ask("transaction", hash=hash)
        return row

    async def block(self, form: Form, row: BlockRow | None, what: str, with_transactions: bool) -> Any:
        if row is None:
            raise not_found("block_not_found", f"Block not found by {what}")
        if not with_transactions:
            return form.block(row, None)
        listed: list[Committed] = []
        for start in range(row.first_version, row.version + 1, self.page_size):
            count = min(self.page_size, row.version + 1 - start)
            listed += await self.all_committed(await self.ask("transactions", start=start, limit=count))
        return form.block(row, listed)
