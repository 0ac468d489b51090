"""JSON-RPC methods on transactions and outputs."""

from __future__ import annotations

from typing import Any

import trio

from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.encoding import ParseError
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api import documents, errors, script_text
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.params import (
    INVALID_PARAMETER,
    INVALID_PARAMETERS,
    NOT_FOUND,
    RpcError,
    want_bool,
    want_hex,
    want_id,
    want_int,
)
from nodewright_bsv_api.reads import ChainReads

MAX_OUTPOINTS = 10_000
OUTPUT_FIELDS = ("scriptPubKey", "scriptPubKeyLen", "value", "isStandard", "confirmations")
PARSED_AT_ONCE = 200


class TransactionMethods:
    def __init__(self, node: NodeHandle, max_batch_count: int) -> None:
        self._node = node
        self._reads = ChainReads(node)
        self._max_batch_count = max_batch_count

    async def sendrawtransaction(self, hexstring: Any, allowhighfees: Any = False, dontcheckfee: Any = False) -> str:
        """sendrawtransaction "hex": submit one raw or extended transaction; answers its txid"""
        (answer,) = await self._node.pool.submit([want_hex(hexstring, "the transaction")])
        if isinstance(answer, Admitted):
            return display(answer.id)
        raise RpcError(_code(answer), errors.sentence(answer))

    async def sendrawtransactions(self, transactions: Any) -> dict[str, Any]:
        """sendrawtransactions [{"hex": "..."}, ...]: submit many; answers those that were refused"""
        if not isinstance(transactions, list) or not all(isinstance(item, dict) for item in transactions):
            raise RpcError(INVALID_PARAMETER, 'send a list of {"hex": "..."}')
        if len(transactions) > self._max_batch_count:
            raise RpcError(INVALID_PARAMETER, f"more than {self._max_batch_count} transactions in one call")
        raws = [want_hex(item.get("hex"), "hex") for item in transactions]
        answers = await self._node.pool.submit(raws) if raws else []
        invalid, known = [], []
        for raw, answer in zip(raws, answers, strict=True):
            if isinstance(answer, Admitted):
                if answer.known:
                    known.append(display(answer.id))
                continue
            id = answer.id or (await self._node.execution.identify([raw]))[0]
            invalid.append(
                {
                    "txid": display(id) if id else None,
                    "reject_code": _code(answer),
                    "reject_reason": errors.sentence(answer),
                    "collidedWith": [{"txid": winner}] if (winner := errors.winner_of(answer)) else [],
                }
            )
        return {"known": known, "invalid": invalid} if known or invalid else {}

    async def getrawtransaction(self, txid: Any, verbose: Any = False) -> Any:
        """getrawtransaction "txid" ( verbose ): a transaction's bytes as hex, or a document"""
        found = await self._reads.transaction(want_id(txid, "txid"))
        if found is None:
            raise RpcError(NOT_FOUND, "No such mempool or blockchain transaction")
        if not want_bool(verbose, "verbose"):
            return found.raw.hex()
        document = documents.transaction_document(Transaction.parse(found.raw), await self._reads.chain())
        if found.block is not None:
            record = await self._node.consensus.block(found.block.id)
            document |= {
                "blockhash": display(found.block.id),
                "blockheight": found.block.height,
                "confirmations": self._node.consensus.head().height - found.block.height + 1,
            }
            if record is not None:
                document |= {"time": record.time, "blocktime": record.time}
        return document

    async def decoderawtransaction(self, hexstring: Any) -> dict[str, Any]:
        """decoderawtransaction "hex": a transaction as a document, without submitting it"""
        raw = want_hex(hexstring, "the transaction")
        try:
            return documents.transaction_document(Transaction.parse(raw), await self._reads.chain())
        except ParseError as error:
            raise RpcError(errors.RPC_DESERIALIZATION, f"TX decode failed: {error}") from None

    async def gettxout(self, txid: Any, n: Any, include_mempool: Any = True) -> dict[str, Any] | None:
        """gettxout "txid" n ( include_mempool ): an unspent output, or null"""
        id = want_id(txid, "txid")
        outpoint = id + want_int(n, "n", 0, 2**32 - 1).to_bytes(4, "little")
        with_pool = want_bool(include_mempool, "include_mempool")
        (output,) = await self._node.execution.query(HEAD, "outputs", outpoints=[outpoint])
        if output is None or output.spender is not None:
            return None
        (location,) = await self._node.consensus.locate([id])
        head = self._node.consensus.head()
        mined = location.block if location else None
        if mined is None and not output.coinbase and not with_pool:
            return None
        height = output.height if output.coinbase else mined.height if mined else None
        return {
            "bestblock": display(head.id),
            "confirmations": head.height - height + 1 if height is not None else 0,
            "value": documents.coins(output.satoshis),
            "scriptPubKey": script_text.locking(output.script, await self._reads.chain()),
            "coinbase": output.coinbase,
            "confiscation": False,
        }

    async def gettxouts(self, txidvoutlist: Any, returnfields: Any, includemempool: Any = True) -> dict[str, Any]:
        """gettxouts [{"txid", "n"}, ...] ["*" | "value" | "scriptPubKey" | …]: many outputs at once"""
        if not isinstance(txidvoutlist, list) or not all(isinstance(item, dict) for item in txidvoutlist):
            raise RpcError(INVALID_PARAMETER, 'send a list of {"txid", "n"}')
        if len(txidvoutlist) > MAX_OUTPOINTS:
            raise RpcError(INVALID_PARAMETER, f"more than {MAX_OUTPOINTS} outputs in one call")
        fields = _fields(returnfields)
        chain = await self._reads.chain()
        ids = [want_id(item.get("txid"), "txid") for item in txidvoutlist]
        numbers = [want_int(item.get("n"), "n", 0, 2**32 - 1) for item in txidvoutlist]
        outpoints = [id + number.to_bytes(4, "little") for id, number in zip(ids, numbers, strict=True)]
        outputs = await self._node.execution.query(HEAD, "outputs", outpoints=outpoints)
        locations = await self._node.consensus.locate(ids) if "confirmations" in fields else [None] * len(ids)
        head = self._node.consensus.head().height
        rows: list[dict[str, Any]] = []
        for output, location in zip(outputs, locations, strict=True):
            if output is None:
                rows.append({"error": "missing"})
            elif output.spender is not None:
                rows.append({"error": "spent", "collidedWith": {"txid": display(output.spender[:32])}})
            else:
                row: dict[str, Any] = {}
                if "value" in fields:
                    row["value"] = documents.coins(output.satoshis)
                if "scriptPubKey" in fields:
                    row["scriptPubKey"] = output.script.hex()
                if "scriptPubKeyLen" in fields:
                    row["scriptPubKeyLen"] = len(output.script)
                if "isStandard" in fields:
                    row["isStandard"] = script_text.locking(output.script, chain)["type"] != "nonstandard"
                if "confirmations" in fields:
                    row["confirmations"] = head - location.block.height + 1 if location and location.block else 0
                rows.append(row)
        return {"txouts": rows}

    async def getrawmempool(self, verbose: Any = False) -> Any:
        """getrawmempool ( verbose ): txids of transactions that no block has yet, or a document of each"""
        pending = self._node.pool.pending()
        if not want_bool(verbose, "verbose"):
            return [display(item.id) for item in pending]
        found: dict[str, Any] = {}
        height = self._node.consensus.head().height
        ids = {item.id for item in pending}
        for at in range(0, len(pending), PARSED_AT_ONCE):
            part = pending[at : at + PARSED_AT_ONCE]
            await trio.lowlevel.checkpoint()
            for item, raw in zip(part, self._node.pool.bodies([item.id for item in part]), strict=True):
                if raw is not None:
                    parents = dict.fromkeys(spent.outpoint[:32] for spent in Transaction.parse(raw).inputs)
                    fee = documents.coins(item.fee)
                    found[display(item.id)] = {
                        "size": item.size,
                        "fee": fee,
                        "modifiedfee": fee,
                        "height": height,
                        "depends": [display(parent) for parent in parents if parent in ids],
                    }
        return found

    async def getmempoolinfo(self) -> dict[str, Any]:
        """getmempoolinfo: how many transactions no block has yet, and their bytes"""
        pool = self._node.pool
        return {"size": len(pool), "journalsize": len(pool), "bytes": pool.bytes_used, "usage": pool.bytes_used}


def _fields(names: Any) -> set[str]:
    if names == ["*"]:
        return set(OUTPUT_FIELDS)
    if not isinstance(names, list) or not names:
        raise RpcError(INVALID_PARAMETERS, f"returnfields is a list of: *, {', '.join(OUTPUT_FIELDS)}")
    for name in names:
        if name not in OUTPUT_FIELDS:
            raise RpcError(INVALID_PARAMETERS, f"Wrong return field: {str(name)[:64]}")
    return set(names)


def _code(answer: Refused) -> int:
    return errors.RPC_CODE.get(answer.kind, errors.RPC_VERIFY_REJECTED)
