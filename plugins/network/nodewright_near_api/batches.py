"""``POST /txs``: many transactions in one request, for what NEAR's JSON-RPC has no call.

The body (``application/octet-stream``) is Borsh of ``Vec<Vec<u8>>``: u32 count, then for each its u32 length and the signed
transaction's own bytes. The answer is ``OK`` once all are in the pool, journalled; else 400, or 503 where waiting helps
some of them, with one line ``id: why`` for each refused one. What is sent again is known, and that is success. The content
type is asked for because no web page can send it without asking this node first.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nodewright.interfaces.common import Refused
from nodewright.interfaces.pool import TransactionPool
from nodewright_near.borsh import Malformed
from nodewright_near.primitives import base58
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, SignedTransaction

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
    """``expired`` says of a transaction whether the block it names is unknown or too old."""

    def __init__(self, pool: TransactionPool, expired: Callable[[SignedTransaction], Awaitable[bool]]) -> None:
        self._pool = pool
        self._expired = expired

    async def _current(self, raws: Sequence[bytes]) -> tuple[dict[int, bytes], list[SignedTransaction]]:
        """What goes to the pool, by its place, and what is too old for it: that would hold its nonce for nothing."""
        fresh: dict[int, bytes] = {}
        old: list[SignedTransaction] = []
        answers: dict[bytes, bool] = {}
        for place, raw in enumerate(raws):
            try:
                signed = SignedTransaction.decode(raw)
            except Malformed:
                fresh[place] = raw  # the pool says what is wrong
                continue
            block = signed.transaction.block_hash
            if block not in answers:
                answers[block] = await self._expired(signed)
            if answers[block] and await self._expired(signed):  # not one that was taken in before
                old.append(signed)
            else:
                fresh[place] = raw
        return fresh, old

    async def handle(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != OCTETS:
            return PlainTextResponse(f"send {OCTETS}: count, then length and bytes of each transaction\n", 415)
        try:
            raws = split(await request.body())
        except Malformed as error:
            return PlainTextResponse(f"malformed: {error}\n", 400)
        fresh, old = await self._current(raws)
        answers = await self._pool.submit(list(fresh.values()), "rpc") if fresh else []
        lines = [f'{base58(signed.id)}: "Expired"\n' for signed in old]
        full = False
        for place, answer in zip(fresh, answers, strict=True):
            if isinstance(answer, Refused):
                lines.append(f"{base58(answer.id) if answer.id else f'#{place}'}: {_why(answer)}\n")
                full = full or (answer.kind == "busy" and "error" not in answer.data)
        if not lines:
            return PlainTextResponse("OK")
        return PlainTextResponse("".join(lines), 503 if full else 400, {"retry-after": "1"} if full else None)


def _why(refused: Refused) -> str:
    """NEAR's error object where there is one."""
    error = refused.data.get("error")
    return refused.message if error is None else json.dumps(error)
