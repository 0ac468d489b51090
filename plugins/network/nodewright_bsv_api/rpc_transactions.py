"""JSON-RPC methods on transactions and outputs."""

from __future__ import annotations

from typing import Any

from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.encoding import ParseError
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api import documents, errors
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.reads import ChainReads
from nodewright_bsv_api.rpc import INVALID_PARAMETER, NOT_FOUND, RpcError, want_hex, want_id, want_int

MAX_OUTPOINTS = 10_000


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
        if not verbose:
            return found.raw.hex()
        document = documents.transaction_document(Transaction.parse(found.raw), found.raw)
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
            return documents.transaction_document(Transaction.parse(raw), raw)
        except ParseError as error:
            raise RpcError(errors.RPC_DESERIALIZATION, f"TX decode failed: {error}") from None

    async def gettxout(self, txid: Any, n: Any, include_mempool: Any = True) -> dict[str, Any] | None:
        """gettxout "txid" n ( include_mempool ): an unspent output, or null"""
        id = want_id(txid, "txid")
        outpoint = id + want_int(n, "n", 0, 2**32 - 1).to_bytes(4, "little")
        (output,) = await self._node.execution.query(HEAD, "outputs", outpoints=[outpoint])
        if output is None or output.spender is not None:
            return None
        (location,) = await self._node.consensus.locate([id])
        head = self._node.consensus.head()
        mined = location.block if location else None
        if mined is None and not output.coinbase and not include_mempool:
            return None
        height = output.height if output.coinbase else mined.height if mined else None
        return {
            "bestblock": display(head.id),
            "confirmations": head.height - height + 1 if height is not None else 0,
            "value": documents.coins(output.satoshis),
            "scriptPubKey": {"hex": output.script.hex()},
            "coinbase": output.coinbase,
        }

    async def gettxouts(self, txidvoutlist: Any, returnfields: Any, includemempool: Any = True) -> dict[str, Any]:
        """gettxouts [{"txid", "n"}, ...] ["value" | "scriptPubKey" | "confirmations"]: many outputs at once"""
        if not isinstance(txidvoutlist, list) or not all(isinstance(item, dict) for item in txidvoutlist):
            raise RpcError(INVALID_PARAMETER, 'send a list of {"txid", "n"}')
        if len(txidvoutlist) > MAX_OUTPOINTS:
            raise RpcError(INVALID_PARAMETER, f"more than {MAX_OUTPOINTS} outputs in one call")
        fields = {"value", "scriptPubKey", "confirmations"} if returnfields == ["*"] else set(returnfields or ())
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
                if "confirmations" in fields:
                    row["confirmations"] = head - location.block.height + 1 if location and location.block else 0
                rows.append(row)
        return {"txouts": rows}

    async def getrawmempool(self, verbose: Any = False) -> Any:
        """getrawmempool ( verbose ): txids of transactions that no block has yet"""
        pending = self._node.pool.pending()
        if not verbose:
            return [display(item.id) for item in pending]
        return {display(item.id): {"size": item.size, "fee": documents.coins(item.fee)} for item in pending}


def _code(answer: Refused) -> int:
    return errors.RPC_CODE.get(answer.kind, errors.RPC_VERIFY_REJECTED)
