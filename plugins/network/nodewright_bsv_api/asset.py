"""Teranode's asset reads under ``/api/v1``: raw bytes with no suffix, hex with ``/hex``, documents with ``/json``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api import documents
from nodewright_bsv_api.bump import bump
from nodewright_bsv_api.errors import display, parse_id
from nodewright_bsv_api.reads import ChainReads, FoundTransaction

MAX_LIST = 1000

Handler = Callable[[Request], Awaitable[Response]]


def _not_found(what: str) -> Response:
    return JSONResponse({"status": 404, "code": 404, "error": f"{what} not found"}, 404)


def _bad(sentence: str) -> Response:
    return JSONResponse({"status": 400, "code": 400, "error": sentence}, 400)


def _bytes(raw: bytes, form: str) -> Response:
    if form == "hex":
        return PlainTextResponse(raw.hex())
    return Response(raw, media_type="application/octet-stream")


def _count(request: Request, name: str, default: int, most: int = MAX_LIST) -> int:
    """A number of the query, cut at ``most``. Anything else is answered 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(400, f"{name} must be a whole number from 0 to 999999999")
    return min(most, int(text))


class Asset:
    def __init__(self, node: NodeHandle) -> None:
        self._node = node
        self._reads = ChainReads(node)

    def routes(self) -> list[Route]:
        forms: dict[str, Handler] = {
            "/tx/{id}": self.tx,
            "/header/{id}": self.header,
            "/headers/{id}": self.headers,
            "/block/{id}": self.block,
            "/subtree/{id}": self.subtree,
            "/subtree_data/{id}": self.subtree_data,
            "/utxo/{id}": self.utxos,
            "/utxos/{id}": self.utxos,
            "/merkle_proof/{id}": self.merkle_proof,
        }
        plain: dict[str, Handler] = {
            "/txmeta/{id}": self.txmeta,
            "/txmeta/{id}/json": self.txmeta,
            "/bestblockheader": self.best_header,
            "/bestblockheader/{form}": self.best_header,
            "/blocks": self.blocks,
            "/lastblocks": self.blocks,
            "/blockstats": self.block_stats,
            "/search": self.search,
            "/height/{id}": self.block,
        }
        routes = [Route("/api/v1" + path, handler, methods=["GET"]) for path, handler in plain.items()]
        for path, handler in forms.items():
            routes.append(Route("/api/v1" + path, handler, methods=["GET"]))
            routes.append(Route("/api/v1" + path + "/{form:str}", handler, methods=["GET"]))
        return routes

    def _form(self, request: Request) -> str:
        return str(request.path_params.get("form", ""))

    async def _transaction(self, request: Request) -> FoundTransaction | Response:
        id = parse_id(request.path_params["id"])
        if id is None:
            return _bad("a txid is 64 hexadecimal digits")
        return await self._reads.transaction(id) or _not_found("transaction")

    async def tx(self, request: Request) -> Response:
        found = await self._transaction(request)
        if isinstance(found, Response):
            return found
        form = self._form(request)
        if form != "json":
            return _bytes(found.raw, form)
        document = documents.transaction_document(Transaction.parse(found.raw), await self._reads.chain())
        if found.block is not None:
            document |= {"blockhash": display(found.block.id), "blockheight": found.block.height}
        return JSONResponse(document)

    async def txmeta(self, request: Request) -> Response:
        found = await self._transaction(request)
        if isinstance(found, Response):
            return found
        tx = Transaction.parse(found.raw)
        location = found.location
        return JSONResponse(
            {
                "txid": display(tx.txid),
                "sizeInBytes": len(found.raw),
                "parentTxHashes": list(dict.fromkeys(display(item.outpoint[:32]) for item in tx.inputs)),
                "isCoinbase": tx.is_coinbase,
                "lockTime": tx.locktime,
                "subtree": display(location.bundle) if location else None,
                "subtreeIndex": location.index if location else None,
                "blockHashes": [display(found.block.id)] if found.block else [],
                "blockHeights": [found.block.height] if found.block else [],
            }
        )

    async def header(self, request: Request) -> Response:
        record = await self._reads.block_by(request.path_params["id"])
        if record is None:
            return _not_found("header")
        form = self._form(request)
        return JSONResponse(await self._reads.header_document(record)) if form == "json" else _bytes(record.header, form)

    async def best_header(self, request: Request) -> Response:
        record = await self._node.consensus.block(self._node.consensus.head().id)
        if record is None:
            return _not_found("header")
        form = self._form(request)
        return JSONResponse(await self._reads.header_document(record)) if form == "json" else _bytes(record.header, form)

    async def headers(self, request: Request) -> Response:
        """Backwards from a block, ``?n=`` of them (100)."""
        record = await self._reads.block_by(request.path_params["id"])
        if record is None:
            return _not_found("header")
        records = []
        for _ in range(_count(request, "n", 100)):
            if record is None:
                break
            records.append(record)
            record = await self._node.consensus.block(record.parent)
        form = self._form(request)
        if form == "json":
            return JSONResponse([await self._reads.header_document(item) for item in records])
        return _bytes(b"".join(item.header for item in records), form)

    async def block(self, request: Request) -> Response:
        record = await self._reads.block_by(request.path_params["id"])
        if record is None:
            return _not_found("block")
        form = self._form(request)
        if form != "json":
            return _bytes(record.raw, form)
        document = await self._reads.header_document(record) | documents.block_summary(record)
        return JSONResponse(document)

    async def blocks(self, request: Request) -> Response:
        """Newest first: ``?n=`` or ``?limit=`` (10), ``?offset=`` from the head, or ``?fromHeight=``."""
        head = self._node.consensus.head().height
        top = _count(request, "fromHeight", head - _count(request, "offset", 0, head), head)
        records = await self._reads.last_blocks(top, _count(request, "limit", _count(request, "n", 10), 100))
        return JSONResponse([documents.block_summary(record) for record in records])

    async def subtree(self, request: Request) -> Response:
        id = parse_id(request.path_params["id"])
        raw = await self._node.consensus.bundle(id) if id else None
        if raw is None or id is None:
            return _not_found("subtree")
        form = self._form(request)
        if form != "json":
            return _bytes(raw, form)
        return JSONResponse(await self._node.consensus.query("bundle", id=id))

    async def subtree_data(self, request: Request) -> Response:
        id = parse_id(request.path_params["id"])
        raw = await self._node.consensus.query("bundle_data", id=id) if id else None
        return _not_found("subtree data") if raw is None else _bytes(raw, self._form(request))

    async def utxos(self, request: Request) -> Response:
        """Every output of a transaction with its state."""
        found = await self._transaction(request)
        if isinstance(found, Response):
            return found
        tx = Transaction.parse(found.raw)
        start = _count(request, "offset", 0, 2**31)
        chosen = range(start, min(len(tx.outputs), start + _count(request, "limit", MAX_LIST)))
        outpoints = [tx.txid + index.to_bytes(4, "little") for index in chosen]
        stored = await self._node.execution.query(HEAD, "outputs", outpoints=outpoints)
        rows: list[dict[str, Any]] = []
        for index, output in zip(chosen, stored, strict=True):
            made = tx.outputs[index]
            row: dict[str, Any] = {
                "txid": display(tx.txid),
                "vout": index,
                "satoshis": made.satoshis,
                "lockingScript": (output.script if output is not None else made.script).hex(),
                "status": "NOT_FOUND",
            }
            if output is not None:
                row["status"] = "SPENT" if output.spender else "FROZEN" if output.frozen else "OK"
                if output.spender:
                    row["spendingTxId"] = display(output.spender[:32])
                    row["spendingVin"] = int.from_bytes(output.spender[32:], "little")
            rows.append(row)
        return JSONResponse(rows)

    async def merkle_proof(self, request: Request) -> Response:
        id = parse_id(request.path_params["id"])
        if id is None:
            return _bad("a txid is 64 hexadecimal digits")
        proof = await self._node.consensus.query("merkle_proof", id=id)
        if proof is None:
            return _not_found("mined transaction")
        form = self._form(request)
        if form != "json":
            return _bytes(bump(id, proof), form)
        return JSONResponse({"txid": display(id), **proof})

    async def block_stats(self, request: Request) -> Response:
        """Of the block ``?id=`` or ``?height=``, by default the head."""
        text = request.query_params.get("id") or request.query_params.get("height")
        record = await self._reads.block_by(text or str(self._node.consensus.head().height))
        if record is None:
            return _not_found("block")
        return JSONResponse(await self._node.consensus.query("block_stats", id=record.ref.id))

    async def search(self, request: Request) -> Response:
        """``?q=``: what a hash or height is: block, subtree or transaction."""
        text = request.query_params.get("q", "").strip()
        id = parse_id(text)
        record = await self._reads.block_by(text)
        if record is not None:
            return JSONResponse({"type": "block", "hash": display(record.ref.id)})
        if id is None:
            return _bad("search for 64 hexadecimal digits or a block height")
        if await self._node.consensus.bundle(id) is not None:
            return JSONResponse({"type": "subtree", "hash": text})
        if await self._reads.transaction(id) is not None:
            return JSONResponse({"type": "tx", "hash": text})
        return _not_found("hash")
