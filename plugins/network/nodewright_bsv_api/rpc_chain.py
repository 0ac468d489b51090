"""JSON-RPC methods that read the chain."""

from __future__ import annotations

from typing import Any

from nodewright.interfaces.common import BlockRecord
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.encoding import write_compact_size
from nodewright_bitcoin.split import split_transactions
from nodewright_bsv_api import documents
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.params import INVALID_PARAMETER, LARGEST, NOT_FOUND, RpcError, want_choice, want_id, want_int
from nodewright_bsv_api.reads import ChainReads

HEADER_FORMS = {"RAW_HEADER": 0, "DECODE_HEADER": 1, "DECODE_HEADER_AND_COINBASE": 2}
BLOCK_FORMS = {"RAW_BLOCK": 0, "DECODE_HEADER": 1, "DECODE_TRANSACTIONS": 2, "DECODE_HEADER_AND_COINBASE": 3}
PROTOCOL = 70016
USER_AGENT = "/Nodewright:{}/"
# Blocks can be of any size; one answer cannot. Larger ones are read by subtree from the asset routes.
MAX_RAW_BYTES = 32 * 1024 * 1024
MAX_DECODED_BYTES = 4 * 1024 * 1024
RATE_BLOCKS = 120  # over how many blocks the network's rate of hashes is estimated


class ChainMethods:
    def __init__(self, node: NodeHandle, environment: Environment) -> None:
        self._node = node
        self._environment = environment
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
        """getblockheader "hash" ( verbose ): 80 bytes of hex (0), a document (1), or with the coinbase (2)"""
        form = want_choice(verbose, "verbose", HEADER_FORMS)
        record = await self._by_hash(hash)
        if form == 0:
            return record.header.hex()
        document = await self._reads.header_document(record)
        return document if form == 1 else document | {"tx": await self._decoded([record.prologue])}

    async def getblock(self, blockhash: Any, verbosity: Any = 1) -> Any:
        """getblock "blockhash" ( verbosity ): hex (0), a document with txids (1), transactions (2), the coinbase (3)"""
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
            "softforks": [],
        }

    async def getinfo(self) -> dict[str, Any]:
        """getinfo: version, height, connections, difficulty"""
        chain = await self._reads.chain()
        return {
            "version": documents.version_number(self._node.info.get("version", "")),
            "protocolversion": PROTOCOL,
            "initcomplete": self._node.consensus.status().get("state") == "running",
            "blocks": self._node.consensus.head().height,
            "timeoffset": 0,
            "connections": await self.getconnectioncount(),
            "proxy": "",
            "difficulty": await self.getdifficulty(),
            "testnet": chain.name == "test",
            "stn": False,
            "relayfee": await self._relay_fee(),
            "errors": "",
        }

    async def getnetworkinfo(self) -> dict[str, Any]:
        """getnetworkinfo: version, protocol, connections, relay fee"""
        text = self._node.info.get("version", "")
        return {
            "version": documents.version_number(text),
            "subversion": USER_AGENT.format(text),
            "protocolversion": PROTOCOL,
            "localrelay": True,
            "timeoffset": 0,
            "networkactive": self._node.transport is not None,
            "connections": await self.getconnectioncount(),
            "networks": [],
            "relayfee": await self._relay_fee(),
            "localaddresses": [],
            "warnings": "",
        }

    async def getconnectioncount(self) -> int:
        """getconnectioncount: connected peers"""
        return len(self._node.transport.peers()) if self._node.transport else 0

    async def getmininginfo(self) -> dict[str, Any]:
        """getmininginfo: height, what the next block would hold, difficulty, the network's hashes a second, chain"""
        mining = await self._node.consensus.query("mining_info")
        head = self._node.consensus.head()
        last = await self._node.consensus.block(head.id)
        first = await self._node.consensus.block_at(max(0, head.height - RATE_BLOCKS))
        pool = self._node.pool
        return {
            "blocks": head.height,
            "currentblocksize": pool.bytes_used,
            "currentblocktx": mining["assembled"],
            "difficulty": float(mining["difficulty"]),
            "errors": "",
            "networkhashps": documents.network_hashes(first, last) if first and last else 0.0,
            "pooledtx": len(pool),
            "chain": self._node.info.get("network", ""),
        }

    async def gettxoutsetinfo(self) -> dict[str, Any]:
        """gettxoutsetinfo: tip, number and total of the unspent outputs, and a digest over all of them (reads them all)"""
        document: dict[str, Any] = await self._node.execution.query(HEAD, "unspent_digest")
        return document

    async def version(self) -> dict[str, Any]:
        """version: the software's version"""
        return {
            "version": self._node.info.get("version", ""),
            "subversion": USER_AGENT.format(self._node.info.get("version", "")),
        }

    async def _relay_fee(self) -> float:
        """Coins for a thousand bytes."""
        return documents.coins((await self._node.execution.query(HEAD, "policy"))["fee_per_kilobyte"])

    async def _block(self, record: BlockRecord, verbosity: Any) -> Any:
        form = want_choice(verbosity, "verbosity", BLOCK_FORMS)
        if form == 0:
            raws = await self._bodies(record, MAX_RAW_BYTES)
            return b"".join((record.header, write_compact_size(record.transactions), *raws)).hex()
        if form == 1:
            transactions: list[Any] = await self._txids(record)
        elif form == 2:
            transactions = await self._decoded(await self._bodies(record, MAX_DECODED_BYTES))
        else:
            transactions = await self._decoded([record.prologue])
        document = await self._reads.header_document(record)
        return document | {"tx": transactions, "subtrees": documents.block_summary(record)["subtrees"]}

    async def _txids(self, record: BlockRecord) -> list[str]:
        txids = [display(record.prologue_id)] if record.prologue_id else []
        for bundle in record.bundles:
            ids = await self._node.consensus.query("bundle_ids", id=bundle.id)
            if ids is None:
                raise RpcError(NOT_FOUND, f"subtree {display(bundle.id)} is not held here")
            txids += [display(ids[at : at + 32]) for at in range(0, len(ids), 32)]
        return txids

    async def _bodies(self, record: BlockRecord, most: int) -> list[bytes]:
        """The block's transactions in order, if they are at most ``most`` bytes."""
        if record.size > most:
            text = f"the block has {record.size} bytes, more than the {most} of one answer: read its subtrees from"
            raise RpcError(INVALID_PARAMETER, f"{text} /api/v1/subtree_data")
        raws = [record.prologue]
        for bundle in record.bundles:
            data = await self._node.consensus.query("bundle_data", id=bundle.id)
            if data is None:
                raise RpcError(NOT_FOUND, f"subtree {display(bundle.id)} is not held here")
            raws += split_transactions(data, record.transactions)
        return raws

    async def _decoded(self, raws: list[bytes]) -> list[dict[str, Any]]:
        chain = await self._reads.chain()
        return await self._environment.offload(documents.transaction_documents, raws, chain)

    async def _by_hash(self, hash: Any) -> BlockRecord:
        record = await self._node.consensus.block(want_id(hash, "hash"))
        if record is None:
            raise RpcError(NOT_FOUND, "Block not found")
        return record

    async def _at(self, height: Any) -> BlockRecord:
        number = want_int(height, "height", -LARGEST, LARGEST)
        record = await self._node.consensus.block_at(number) if 0 <= number <= self._node.consensus.head().height else None
        if record is None:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return record
