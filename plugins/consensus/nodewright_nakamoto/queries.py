"""Consensus reads by name.

``tips``: every branch end: ``{hash, height, branch_length, status}`` (status as in ``getchaintips``)
``mining_info``: ``{height, bits, difficulty, chain_work, pooled, assembled, chain}``
``difficulty``: of the next block, as a multiple of the easiest one of main network
``header_range`` (``start``, ``count`` at most 2000, as height or ``hash``): raw headers of the best chain, lowest first
``header`` (``id``): ``{raw, height, on_best_chain, confirmations, chain_work, next, median_time}``; None where unknown
``merkle_proof`` (``id``): ``{block, height, index, siblings, root, coinbase}`` of a transaction on the best chain, or None
``block_stats`` (``id`` or ``height``): ``{height, hash, transactions, size, bundles, fees, time, interval}``
``bundle`` (``id``): ``{hash, count, fees, size, conflicting, transactions: [{txid, fee, size}]}``, or None
``bundle_ids`` (``id``): 32·n bytes of transaction ids without the placeholder, or None
``bundle_data`` (``id``): the concatenated transactions in leaf order, or None
For peers that know Bitcoin's flat form (``flat`` says what is in each answer):
``locator``: ids from the tip back to genesis. ``headers_after`` (``locator``, ``stop``, ``count``): raw headers
``judge_headers`` (``headers`` raw, lowest first): what following them would bring
``flat_block`` (``id``, ``max_bytes``): header and all transactions, or None
``assembly``: ``{sealed, open, transactions, subtree_size, series}``
Ids are raw bytes on the way in and display hex on the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodewright.errors import UnknownQuery
from nodewright_nakamoto import merkle, subtree
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.chainindex import MAX_LOCATOR, Node
from nodewright_nakamoto.flat import FlatBlocks, locate_headers
from nodewright_nakamoto.header import target_of
from nodewright_nakamoto.messages import MAX_HEADERS
from nodewright_nakamoto.subtree import FirstSubtree

EASIEST_MAIN_TARGET = target_of(0x1D00FFFF)


def difficulty_of(bits: int) -> float:
    return EASIEST_MAIN_TARGET / target_of(bits)


class Queries:
    def __init__(self, chain: Chain, flat: FlatBlocks) -> None:
        self._chain = chain
        self._flat = flat

    async def query(self, kind: str, arguments: dict[str, Any]) -> Any:
        handler = getattr(self, f"_query_{kind}", None)
        if handler is None:
            known = sorted(name.removeprefix("_query_") for name in dir(self) if name.startswith("_query_"))
            raise UnknownQuery(f"nakamoto has no query {kind!r}; it has {', '.join(known)}")
        return await handler(**arguments)

    def _node(self, id: bytes | None, height: int | None) -> Node | None:
        active = self._chain.index.active
        if id is not None:
            return self._chain.index.get(id)
        return active[height] if height is not None and 0 <= height < len(active) else None

    async def _query_tips(self) -> list[dict[str, Any]]:
        index = self._chain.index
        found = []
        for node in index.tips():
            fork = index.fork_point(node, index.tip)
            if node is index.tip:
                status = "active"
            elif node.bad:
                status = "invalid"
            elif not node.have:
                status = "headers-only"
            else:
                status = "valid-fork" if node.connected else "valid-headers"
            length = node.height - fork.height
            found.append({"hash": display(node.id), "height": node.height, "branch_length": length, "status": status})
        return found

    async def _query_mining_info(self) -> dict[str, Any]:
        chain = self._chain
        bits = chain.difficulty.next_bits(chain.tip, chain.index.branch(chain.tip))
        return {
            "height": chain.tip.height,
            "bits": f"{bits:08x}",
            "difficulty": difficulty_of(bits),
            "chain_work": f"{chain.tip.work:064x}",
            "pooled": len(chain.pool),
            "assembled": len(chain.assembler),
            "chain": chain.genesis.document.get("network", ""),
        }

    async def _query_difficulty(self) -> float:
        chain = self._chain
        return difficulty_of(chain.difficulty.next_bits(chain.tip, chain.index.branch(chain.tip)))

    async def _query_header_range(self, start: int = 0, count: int = 1, hash: bytes | None = None) -> list[bytes]:
        index = self._chain.index
        if hash is not None:
            node = index.get(hash)
            if node is None or not index.on_active(node):
                return []
            start = node.height
        count = max(0, min(count, MAX_HEADERS))
        return [node.header.encode() for node in index.active[max(0, start) : max(0, start) + count]]

    async def _query_header(self, id: bytes | None = None, height: int | None = None) -> dict[str, Any] | None:
        index = self._chain.index
        node = self._node(id, height)
        if node is None:
            return None
        best = index.on_active(node)
        following = index.active[node.height + 1] if best and node is not index.tip else None
        return {
            "raw": node.header.encode(),
            "height": node.height,
            "on_best_chain": best,
            "confirmations": index.tip.height - node.height + 1 if best else -1,
            "chain_work": f"{node.work:064x}",
            "next": display(following.id) if following else None,
            "median_time": index.median_time(node),
            "difficulty": difficulty_of(node.bits),
        }

    async def _query_merkle_proof(self, id: bytes) -> dict[str, Any] | None:
        chain = self._chain
        (blocks,) = await chain.store.prologue_blocks([id])
        reference = chain.block_ref(blocks)
        if reference is not None:
            node = chain.index.nodes[reference.id]
            block, rows = await chain.read_block(node)
            first = FirstSubtree(rows[0].siblings) if rows else None
            siblings, index = subtree.coinbase_branch(first, block.subtrees, [row.leaves for row in rows]), 0
            return self._proof(node, index, siblings, id, True)
        (holders,) = await chain.store.holders([id])
        for bundle, leaf in holders:
            (row,) = await chain.store.bundle_rows([bundle])
            reference = chain.block_ref(row.blocks) if row is not None else None
            if row is not None and reference is not None:
                return await self._bundle_proof(chain.index.nodes[reference.id], bundle, leaf + row.placeholder, id)
        return None

    async def _bundle_proof(self, node: Node, bundle: bytes, leaf: int, id: bytes) -> dict[str, Any]:
        chain = self._chain
        block, rows = await chain.read_block(node)
        held = await chain.store.subtree(bundle)
        assert held is not None
        prologue_id = await chain.prologue_id(block.prologue)
        first, counts = FirstSubtree(rows[0].siblings), [row.leaves for row in rows]
        position = block.subtrees.index(bundle)
        siblings, index = await chain.environment.offload(
            subtree.transaction_branch, held, position, leaf, prologue_id, first, block.subtrees, counts
        )
        return self._proof(node, index, siblings, id, False)

    @staticmethod
    def _proof(node: Node, index: int, siblings: list[bytes], id: bytes, coinbase: bool) -> dict[str, Any]:
        assert merkle.climb(id, index, siblings) == node.header.merkle_root
        return {
            "block": display(node.id),
            "height": node.height,
            "index": index,
            "siblings": [display(one) for one in siblings],
            "root": display(node.header.merkle_root),
            "coinbase": coinbase,
        }

    async def _query_block_stats(self, id: bytes | None = None, height: int | None = None) -> dict[str, Any] | None:
        node = self._node(id, height)
        if node is None or not node.have:
            return None
        block, rows = await self._chain.read_block(node)
        return {
            "height": node.height,
            "hash": display(node.id),
            "transactions": block.transaction_count,
            "size": block.size,
            "bundles": len(rows),
            "fees": sum(row.fees for row in rows),
            "time": node.time,
            "interval": node.time - node.parent.time if node.parent else 0,
        }

    async def _query_bundle(self, id: bytes) -> dict[str, Any] | None:
        held = await self._chain.store.subtree(id)
        if held is None:
            return None
        rows = zip(subtree.split_ids(held.leaves), held.fees, held.sizes, strict=True)
        return {
            "hash": display(held.root),
            "count": len(held),
            "fees": sum(held.fees),
            "size": sum(held.sizes),
            "conflicting": [display(one) for one in held.conflicting],
            "transactions": [{"txid": display(one), "fee": fee, "size": size} for one, fee, size in rows],
        }

    async def _query_bundle_ids(self, id: bytes) -> bytes | None:
        return await self._chain.store.ids(id) if await self._chain.store.has_bundle(id) else None

    async def _query_bundle_data(self, id: bytes) -> bytes | None:
        return await self._chain.store.subtree_data(id)

    async def _query_locator(self) -> list[bytes]:
        return self._chain.index.locator(self._chain.index.best)

    async def _query_headers_after(
        self, locator: Sequence[bytes], stop: bytes = b"", count: int = MAX_HEADERS
    ) -> list[bytes]:
        return locate_headers(self._chain, locator[:MAX_LOCATOR], stop, max(0, min(count, MAX_HEADERS)))

    async def _query_judge_headers(self, headers: Sequence[bytes]) -> dict[str, Any]:
        return await self._flat.judge_headers(headers)

    async def _query_flat_block(self, id: bytes, max_bytes: int = 1 << 32) -> bytes | None:
        return await self._flat.flat_block(id, max_bytes)

    async def _query_assembly(self) -> dict[str, Any]:
        assembler = self._chain.assembler
        return {
            "sealed": len(assembler.sealed),
            "open": assembler.open_count,
            "transactions": len(assembler),
            "subtree_size": assembler.subtree_size,
            "series": assembler.series,
        }
