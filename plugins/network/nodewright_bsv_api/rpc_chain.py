"""JSON-RPC methods that read the chain."""

from __future__ import annotations

from typing import Any

from nodewright.interfaces.common import BlockRecord
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bsv_api import documents
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.reads import ChainReads
from nodewright_bsv_api.rpc import INVALID_PARAMETER, NOT_FOUND, RpcError, want_id, want_int


class ChainMethods:
    def __init__(self, node: NodeHandle) -> None:
        self._node = node
        self._reads = ChainReads(node)

    async def getbestblockhash(self) -> str:
        """getbestblockhash: the hash of the best chain's tip"""
        return display(self._node.consensus.head().id)

    async def getblockcount(self) -> int:
        """getblockcount: the height of the best chain's tip"""
        return self._node.consensus.head().height

    async def getblockhash(self, height: Any) -> str:
        """getblockhash height: the hash of the block at that height on the best chain"""
        return display((await self._at(height)).ref.id)

    async def getblockheader(self, hash: Any, verbose: Any = True) -> Any:
        """getblockheader "hash" ( verbose ): a header as a document, or as 80 bytes of hex"""
        record = await self._by_hash(hash)
        return await self._reads.header_document(record) if verbose else record.header.hex()

    async def getblock(self, blockhash: Any, verbosity: Any = 1) -> Any:
        """getblock "blockhash" ( verbosity ): 0 the block's wire bytes as hex, 1 a document with its txids"""
        return await self._block(await self._by_hash(blockhash), verbosity)

    async def getblockbyheight(self, height: Any, verbosity: Any = 1) -> Any:
        """getblockbyheight height ( verbosity ): getblock for the block at that height"""
        return await self._block(await self._at(height), verbosity)

    async def getchaintips(self) -> list[dict[str, Any]]:
        """getchaintips: every known tip with its height, branch length and status"""
        return [
            {
                "height": tip["height"],
                "hash": tip["hash"],
                "branchlen": tip["branch_length"],
                "status": tip["status"],
            }
            for tip in await self._node.consensus.query("tips")
        ]

    async def getdifficulty(self) -> float:
        """getdifficulty: the proof-of-work difficulty as a multiple of the minimum"""
        return float((await self._node.consensus.query("mining_info"))["difficulty"])

    async def getblockchaininfo(self) -> dict[str, Any]:
        """getblockchaininfo: chain, heights, best block, difficulty, median time, work"""
        head = self._node.consensus.head()
        record = await self._node.consensus.block(head.id)
        detail = record.detail if record else {}
        state = self._node.consensus.status()
        return {
            "chain": self._node.info.get("network", ""),
            "blocks": head.height,
            "headers": state.get("headers", head.height),
            "bestblockhash": display(head.id),
            "difficulty": detail.get("difficulty", 0.0),
            "mediantime": detail.get("median_time", record.time if record else 0),
            "verificationprogress": 1.0 if state.get("state") == "running" else 0.0,
            "chainwork": detail.get("chain_work", ""),
            "pruned": False,
        }

    async def getinfo(self) -> dict[str, Any]:
        """getinfo: version, height, connections, difficulty"""
        transport = self._node.transport
        return {
            "version": self._node.info.get("version", ""),
            "protocolversion": 70016,
            "blocks": self._node.consensus.head().height,
            "connections": len(transport.peers()) if transport else 0,
            "difficulty": await self.getdifficulty(),
            "testnet": self._node.info.get("network") not in ("main", "mainnet"),
            "errors": "",
        }

    async def getmininginfo(self) -> dict[str, Any]:
        """getmininginfo: height, difficulty, pooled transactions, chain"""
        return {
            "blocks": self._node.consensus.head().height,
            "difficulty": await self.getdifficulty(),
            "pooledtx": len(self._node.pool),
            "chain": self._node.info.get("network", ""),
            "errors": "",
        }

    async def gettxoutsetinfo(self) -> dict[str, Any]:
        """gettxoutsetinfo: tip, number and total of the unspent outputs, and a digest over all of them (reads them all)"""
        document: dict[str, Any] = await self._node.execution.query(HEAD, "unspent_digest")
        return document

    async def version(self) -> dict[str, Any]:
        """version: the software's version"""
        return {"version": self._node.info.get("version", ""), "subversion": "/Nodewright/"}

    async def _block(self, record: BlockRecord, verbosity: Any) -> Any:
        if verbosity in (0, False):
            return record.raw.hex()
        if verbosity not in (1, True):
            raise RpcError(INVALID_PARAMETER, "verbosity is 0 or 1")
        document = await self._reads.header_document(record) | {"size": record.size}
        txids = [display(record.prologue_id)] if record.prologue_id else []
        for bundle in record.bundles:
            ids = await self._node.consensus.query("bundle_ids", id=bundle.id)
            if ids is None:
                raise RpcError(NOT_FOUND, f"subtree {display(bundle.id)} is not held here")
            txids += [display(ids[at : at + 32]) for at in range(0, len(ids), 32)]
        return document | {"tx": txids, "subtrees": documents.block_summary(record)["subtrees"]}

    async def _by_hash(self, hash: Any) -> BlockRecord:
        record = await self._node.consensus.block(want_id(hash, "hash"))
        if record is None:
            raise RpcError(NOT_FOUND, "Block not found")
        return record

    async def _at(self, height: Any) -> BlockRecord:
        record = await self._node.consensus.block_at(want_int(height, "height", 0, 2**31))
        if record is None:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return record
