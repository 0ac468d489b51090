"""Transactions in: Teranode's ``POST /tx`` and ``POST /txs``, ARC's ``/v1/tx`` family.

Invariants: an answer of success is given only after the pool has journalled the transaction; every failed transaction of a
batch has one line that names its txid; a batch is one pool call.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nodewright.interfaces.common import Admission, Admitted, Location, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.pool import TransactionStatus
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.split import SplitError, split_transactions
from nodewright_bsv_api import errors
from nodewright_bsv_api.bump import bump
from nodewright_bsv_api.config import BsvApiConfig
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.rpc import parse_json

OCTETS = "application/octet-stream"
MAX_TOKENS = 300_000  # braces, brackets and commas of one JSON body: several for each of the most transactions


class Submit:
    def __init__(self, config: BsvApiConfig, node: NodeHandle, environment: Environment) -> None:
        self._config = config
        self._node = node
        self._environment = environment

    def routes(self) -> list[Route]:
        return [
            Route("/txs", self.post_txs, methods=["POST"]),
            Route("/v1/tx", self.arc_post, methods=["POST"]),
            Route("/v1/txs", self.arc_post_many, methods=["POST"]),
            Route("/v1/tx/{txid}", self.arc_status, methods=["GET"]),
            Route("/v1/policy", self.arc_policy, methods=["GET"]),
            Route("/v1/health", self.arc_health, methods=["GET"]),
        ]

    # --- Teranode --------------------------------------------------------------------------------------------------

    async def tx(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /tx`` as a bare ASGI application: wallets post one by one, and routing would cost more than this."""
        if scope["method"] != "POST":
            await _answer(send, 405, "post one raw or extended transaction here", {"allow": "POST"})
            return
        raw: bytes = (await receive())["body"]
        if not raw:
            await _answer(send, 400, "the body is empty: send one raw or extended transaction")
            return
        (answer,) = await self._node.pool.submit([raw])
        if isinstance(answer, Admitted):
            await _answer(send, 200, display(answer.id))
            return
        txid = await self._txid(raw, answer)
        text = errors.sentence(answer)
        await _answer(send, errors.http_status(answer), f"{txid}: {text}" if txid else text, errors.retry_after(answer))

    async def post_txs(self, request: Request) -> Response:
        body = await request.body()
        try:
            raws = split_transactions(body, self._config.max_batch_count)
        except SplitError as error:
            return PlainTextResponse(f"malformed: {error}", 400)
        if not raws:
            return PlainTextResponse("the body is empty: send raw or extended transactions, one after the other", 400)
        answers = await self._node.pool.submit(raws)
        failed = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Refused)]
        if not failed:
            return PlainTextResponse("OK")
        lines, statuses = [], set()
        for index, answer in failed:
            txid = await self._txid(raws[index], answer)
            status = errors.http_status(answer)
            statuses.add(status)
            lines.append(f"{txid or f'#{index}'}: {status} {errors.sentence(answer)}")
        # One kind of failure answers with its own status; a mixture answers 400, or 503 if waiting helps some of them.
        status = statuses.pop() if len(statuses) == 1 else 503 if 503 in statuses else 400
        headers = {"retry-after": "1"} if status == 503 else {}
        return PlainTextResponse("\n".join(lines) + "\n", status, headers=headers)

    async def _txid(self, raw: bytes, answer: Refused) -> str | None:
        if answer.id is not None:
            return display(answer.id)
        (id,) = await self._node.execution.identify([raw])
        return display(id) if id is not None else None

    # --- ARC -------------------------------------------------------------------------------------------------------

    async def arc_post(self, request: Request) -> Response:
        body = await request.body()
        try:
            raw = _arc_raw(body, request.headers.get("content-type", ""))
        except ValueError as error:
            return _problem(400, "Bad request", str(error))
        (answer,) = await self._node.pool.submit([raw])
        if isinstance(answer, Admitted):
            return JSONResponse(await self._arc_accepted(answer))
        return await self._arc_refused(raw, answer)

    async def arc_post_many(self, request: Request) -> Response:
        body = await request.body()
        try:
            raws = _arc_raws(body, request.headers.get("content-type", ""), self._config.max_batch_count)
        except (ValueError, SplitError) as error:
            return _problem(400, "Bad request", str(error))
        answers: Sequence[Admission] = await self._node.pool.submit(raws) if raws else []
        documents = []
        for raw, answer in zip(raws, answers, strict=True):
            if isinstance(answer, Admitted):
                documents.append(await self._arc_accepted(answer))
            else:
                documents.append(errors.problem(answer, await self._txid(raw, answer)))
        return JSONResponse(documents)

    async def _arc_accepted(self, answer: Admitted) -> dict[str, Any]:
        return await self.arc_document(answer.id) or _arc_document(answer.id, "SEEN_ON_NETWORK", self._timestamp())

    async def _arc_refused(self, raw: bytes, answer: Refused) -> Response:
        document = errors.problem(answer, await self._txid(raw, answer))
        return JSONResponse(
            document,
            document["status"],
            media_type="application/problem+json",
            headers=errors.retry_after(answer),
        )

    async def arc_document(self, id: bytes) -> dict[str, Any] | None:
        """ARC's status of a transaction, or None where the node has never seen it."""
        (location,) = await self._node.consensus.locate([id])
        (status,) = await self._node.pool.status([id])
        if location is None and status is None:
            return None
        if location is not None and location.block is not None:
            return await self._mined(id, location)
        document = _arc_document(id, _arc_name(status), self._timestamp())
        if status is not None and status.status in ("rejected", "expired"):
            document["extraInfo"] = status.detail or status.status
        if status is not None and status.status == "replaced" and status.detail:
            document["competingTxs"] = [status.detail]
            document["extraInfo"] = f"replaced by {status.detail}"
        return document

    async def _mined(self, id: bytes, location: Location) -> dict[str, Any]:
        assert location.block is not None
        document = _arc_document(id, "MINED", self._timestamp())
        document["blockHash"] = display(location.block.id)
        document["blockHeight"] = location.block.height
        proof = await self._node.consensus.query("merkle_proof", id=id)
        if proof is not None and proof["siblings"]:
            document["merklePath"] = bump(id, proof).hex()
        return document

    async def arc_status(self, request: Request) -> Response:
        id = errors.parse_id(request.path_params["txid"])
        if id is None:
            return _problem(400, "Bad request", "a txid is 64 hexadecimal digits")
        document = await self.arc_document(id)
        if document is None:
            return _problem(404, "Not found", "this node has not seen that transaction")
        return JSONResponse(document)

    async def arc_policy(self, request: Request) -> Response:
        policy = await self._node.execution.query(HEAD, "policy")
        return JSONResponse(
            {
                "policy": {
                    "maxscriptsizepolicy": policy["max_transaction_bytes"],
                    "maxtxsigopscountspolicy": 2**32 - 1,
                    "maxtxsizepolicy": min(policy["max_transaction_bytes"], self._config.max_tx_bytes),
                    "miningFee": {"satoshis": policy["fee_per_kilobyte"], "bytes": 1000},
                },
                "timestamp": self._timestamp(),
            }
        )

    async def arc_health(self, request: Request) -> Response:
        state = self._node.consensus.status().get("state")
        return JSONResponse({"healthy": state == "running", "reason": None if state == "running" else str(state)})

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._environment.now(), UTC).isoformat().replace("+00:00", "Z")


async def _answer(send: Send, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
    fields = [(b"content-type", b"text/plain; charset=utf-8")]
    fields += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": text.encode()})


def _arc_document(id: bytes, status: str, timestamp: str) -> dict[str, Any]:
    return {
        "txid": display(id),
        "txStatus": status,
        "status": 200,
        "title": "OK",
        "timestamp": timestamp,
        "blockHash": "",
        "blockHeight": 0,
        "merklePath": None,
        "extraInfo": "",
        "competingTxs": None,
    }


def _arc_name(status: TransactionStatus | None) -> str:
    if status is None:
        return "SEEN_ON_NETWORK"
    return {"rejected": "REJECTED", "expired": "REJECTED", "replaced": "REJECTED"}.get(status.status, "SEEN_ON_NETWORK")


def _problem(status: int, title: str, detail: str) -> Response:
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "txid": None,
        "extraInfo": detail,
    }
    return JSONResponse(document, status, media_type="application/problem+json")


def _arc_raw(body: bytes, content_type: str) -> bytes:
    """One transaction in any form ARC takes: JSON ``{"rawTx": hex}``, hex text, or bytes. ValueError with a sentence."""
    if content_type.startswith(OCTETS):
        raw = body
    elif content_type.startswith("application/json"):
        document = parse_json(body, MAX_TOKENS)
        raw = _hex(document.get("rawTx") if isinstance(document, dict) else None)
    else:
        raw = _hex(body.decode("ascii", "replace").strip())
    if not raw:
        raise ValueError("the body holds no transaction")
    return raw


def _arc_raws(body: bytes, content_type: str, limit: int) -> list[bytes]:
    if content_type.startswith(OCTETS):
        return split_transactions(body, limit)
    if content_type.startswith("application/json"):
        document = parse_json(body, MAX_TOKENS)
        if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
            raise ValueError('send a list of {"rawTx": hex}')
        raws = [_hex(item.get("rawTx")) for item in document]
    else:
        raws = [_hex(line.strip()) for line in body.decode("ascii", "replace").splitlines() if line.strip()]
    if len(raws) > limit:
        raise ValueError(f"more than {limit} transactions in one request")
    return raws


def _hex(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError('rawTx is missing: send {"rawTx": hex}')
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise ValueError("rawTx is not hexadecimal") from None
