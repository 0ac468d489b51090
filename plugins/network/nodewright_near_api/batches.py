"""``POST /txs``: many transactions in one request, for what NEAR's JSON-RPC has no call.

The body (``application/octet-stream``) is Borsh of ``Vec<Vec<u8>>``: u32 count, then for each its u32 length and the signed
transaction's own bytes. The answer is ``OK`` once all are in the pool, journalled; else 400, or 503 where waiting helps
some of them, with one line ``id: why`` for each refused one. What is sent again is known, and that is success. The content
type is asked for because no web page can send it without asking this node first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nodewright.interfaces.common import Refused
from nodewright.interfaces.pool import TransactionPool
from nodewright_near.borsh import Malformed
from nodewright_near.primitives import base58
from nodewright_near.transactions import MAX_TRANSACTION_BYTES

MAX_BATCH: Final = 4096
OCTETS: Final = "application/octet-stream"


def split(body: bytes) -> list[bytes]:
    """Raises Malformed."""
    count = int.from_bytes(body[:4], "little")
    if len(body) < 4 or not 0 < count <= MAX_BATCH:
        raise Malformed(f"a batch has 1 to {MAX_BATCH} transactions behind their count")
    at, raws = 4, []
    for index in range(count):
        size = int.from_bytes(body[at : at + 4], "little")
        if size > MAX_TRANSACTION_BYTES or at + 4 + size > len(body):
            raise Malformed(f"transaction {index} does not end in the body, or is too large")
        raws.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(body):
        raise Malformed(f"{len(body) - at} bytes follow the last transaction")
    return raws


def join(raws: Sequence[bytes]) -> bytes:
    """What ``split`` reads."""
    parts = [len(raws).to_bytes(4, "little")]
    for raw in raws:
        parts += (len(raw).to_bytes(4, "little"), raw)
    return b"".join(parts)


class Batches:
    def __init__(self, pool: TransactionPool) -> None:
        self._pool = pool

    async def handle(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != OCTETS:
            return PlainTextResponse(f"send {OCTETS}: count, then length and bytes of each transaction\n", 415)
        try:
            raws = split(await request.body())
        except Malformed as error:
            return PlainTextResponse(f"malformed: {error}\n", 400)
        answers = await self._pool.submit(raws, "rpc")
        refused = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Refused)]
        if not refused:
            return PlainTextResponse("OK")
        lines = [f"{base58(one.id) if one.id else f'#{index}'}: {_why(one)}\n" for index, one in refused]
        full = any(one.kind == "busy" and "error" not in one.data for _, one in refused)
        return PlainTextResponse("".join(lines), 503 if full else 400, {"retry-after": "1"} if full else None)


def _why(refused: Refused) -> str:
    """NEAR's error object where there is one."""
    error = refused.data.get("error")
    return refused.message if error is None else json.dumps(error)
