"""Light-client proofs: that an outcome is in a chunk, the chunk's root in a block, and the block below a head; and the
blocks by which a client follows the chain from epoch to epoch.

The Merkle tree over block hashes is never kept whole. The roots of its full subtrees are had from the frontiers that the
blocks' infos hold, so that a proof reads O(log² n) blocks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from nodewright_near.borsh import encode
from nodewright_near.merkle import Left, MerkleStep, Right, combine, frontier_root, merklize
from nodewright_near.primitives import base58, hash256, key_text
from nodewright_near_api import params as take
from nodewright_near_api.chainviews import lite_view, stakes_view
from nodewright_near_api.errors import RpcError, handler_error, internal_error
from nodewright_near_api.outcomes import Outcomes
from nodewright_near_api.params import BlockReference, Params
from nodewright_near_api.reads import ChainReads, Found
from nodewright_near_api.views import path_view

MAX_SKIPPED: Final = 10_000


class LightClientMethods:
    def __init__(self, reads: ChainReads, outcomes: Outcomes) -> None:
        self._reads = reads
        self._outcomes = outcomes

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {
            "light_client_proof": self.execution_proof,
            "EXPERIMENTAL_light_client_proof": self.execution_proof,
            "EXPERIMENTAL_light_client_block_proof": self.block_proof,
            "next_light_client_block": self.next_block,
        }

    async def execution_proof(self, params: Params) -> dict[str, Any]:
        """Of a transaction or receipt (``type``), for a client that knows ``light_client_head``."""
        given = params.take(())
        kind = take.text(given, "type")
        name = "receipt_id" if kind == "receipt" else "transaction_hash"
        id = take.hash_of(take.want(given, name), name)
        head = await self._head(given)
        told = await self._outcomes.told(id)
        if told is None:
            raise self._unknown(id)
        found = await self._outcomes.path(told)
        showing = None if found is None else await self._showing(told.stored.block, told.stored.shard, head)
        if found is None or showing is None:
            raise handler_error(
                "NOT_CONFIRMED",
                f"{base58(id)} has not been confirmed",
                {"transaction_or_receipt_id": base58(id)},
            )
        chunks = showing.block.body.chunks
        _, paths = merklize([hash256(chunk.inner.prev_outcome_root) for chunk in chunks])
        return {
            "outcome_proof": await self._outcomes.view(told),
            "outcome_root_proof": path_view(paths[told.stored.shard]),
            "block_header_lite": lite_view(showing.block.header),
            "block_proof": path_view(await self._path(showing, head)),
        }

    async def block_proof(self, params: Params) -> dict[str, Any]:
        given = params.take(("block_hash", "light_client_head"))
        id = take.hash_of(take.want(given, "block_hash"), "block_hash")
        block = await self._reads.want(BlockReference(id=id, text=given["block_hash"]))
        head = await self._head(given)
        if block.info.ordinal >= head.info.ordinal:
            raise internal_error(f"block {base58(id)} is not below the head {base58(head.info.hash)}")
        return {"block_header_lite": lite_view(block.block.header), "block_proof": path_view(await self._path(block, head))}

    async def next_block(self, params: Params) -> dict[str, Any]:
        """For a client that knows ``last_block_hash``: the last final block of that block's epoch or of the one after, as
        far as there is one, with the next epoch's validators; an empty object where it knows it."""
        given = params.take(("last_block_hash",))
        id = take.hash_of(take.want(given, "last_block_hash"), "last_block_hash")
        last = await self._reads.want(BlockReference(id=id, text=given["last_block_hash"]))
        top = await self._reads.head()
        if top.info.epoch > last.info.epoch + 1:
            top = await self._end_of(last.info.epoch + 1, last, top)
        found = await self._signed_by_its_epoch(top)
        if found is None or found.info.height <= last.info.height:
            return {}
        after, then = [await self._on(found, ahead) for ahead in (1, 2)]
        epoch = await self._reads.node.consensus.query("epoch", id=found.info.next_epoch_id)
        if epoch is None:
            raise internal_error("the epoch after the block's is not known")
        lite = after.block.header.inner_lite
        return {
            **lite_view(found.block.header),
            "next_block_inner_hash": base58(combine(hash256(encode(lite)), hash256(encode(after.block.header.inner_rest)))),
            "next_bps": stakes_view([(one.account_id, key_text(one.public_key), one.stake) for one in epoch.validators]),
            "approvals_after_next": [
                None if one is None else key_text(one) for one in then.block.header.inner_rest.approvals
            ],
        }

    async def _on(self, block: Found, ahead: int) -> Found:
        """The block so many heights above a final one: those two are there, or it would not be final."""
        found = await self._reads.block(height=block.info.height + ahead)
        if found is None:
            raise internal_error(f"the block {ahead} above {base58(block.info.hash)} is not held")
        return found

    async def _signed_by_its_epoch(self, top: Found) -> Found | None:
        """The last block final by ``top`` that two blocks of its own epoch follow; None where there is none."""
        while True:
            found = await self._reads.block(id=top.info.last_final)
            if found is None or found.info.hash == top.info.hash or found.info.ordinal == 1:
                return None
            if (await self._on(found, 2)).info.epoch == found.info.epoch:
                return found
            top = found

    async def _end_of(self, epoch: int, last: Found, head: Found) -> Found:
        """The last block of an epoch that has ended."""
        low, high = last.info.ordinal, head.info.ordinal
        found = last
        while low < high:
            middle = (low + high + 1) // 2
            at = await self._at(middle, head)
            if at.info.epoch <= epoch:
                low, found = middle, at
            else:
                high = middle - 1
        return found

    def _unknown(self, id: bytes) -> RpcError:
        return handler_error(
            "UNKNOWN_TRANSACTION_OR_RECEIPT",
            f"{base58(id)} does not exist",
            {"transaction_or_receipt_id": base58(id)},
        )

    async def _head(self, given: Any) -> Found:
        id = take.hash_of(take.want(given, "light_client_head"), "light_client_head")
        return await self._reads.want(BlockReference(id=id, text=given["light_client_head"]))

    async def _showing(self, ran: bytes, shard: int, head: Found) -> Found | None:
        """The first block after ``ran`` with a new chunk of the shard: it publishes what the chunk there came to. None
        where it is not below ``head`` yet."""
        found = await self._reads.block(id=ran)
        height = None if found is None else found.info.height
        while height is not None and height < head.info.height - 1:
            height += 1
            found = await self._reads.block(height=height)
            if found is not None and found.info.ran[shard].height == height:
                return found if found.info.ordinal < head.info.ordinal else None
        return None

    # --- the tree over block hashes ----------------------------------------------------------------------------------

    async def _at(self, ordinal: int, near: Found) -> Found:
        """The block with this ordinal at or below ``near``: heights may be skipped, ordinals are not."""
        low, high = near.info.height - near.info.ordinal, near.info.height
        low = max(low, (await self._reads.network())["genesis_height"])
        found: Found | None = near
        while low <= high:
            middle = (low + high) // 2
            at, found = middle, await self._reads.block(height=middle)
            while found is None and at < high and at - middle < MAX_SKIPPED:
                at += 1
                found = await self._reads.block(height=at)
            if found is None or found.info.ordinal > ordinal:
                high = middle - 1
            elif found.info.ordinal == ordinal:
                return found
            else:
                low = at + 1
        raise internal_error(f"block number {ordinal} is not on this chain")

    async def _subtree(self, first: int, count: int, head: Found) -> bytes:
        """The root over leaves ``first`` … ``first + count - 1``; ``count`` is a power of two that divides ``first``.
        Leaf i is the hash of the block with ordinal i + 1."""
        last = await self._at(first + count, head)
        root = last.info.hash
        if count > 1:
            before = await self._at(first + count - 1, head)
            for left in reversed(before.info.frontier[-(count.bit_length() - 1) :]):
                root = combine(left, root)
        return root

    async def _path(self, block: Found, head: Found) -> list[MerkleStep]:
        """From the block's hash to the root that ``head`` carries, over all blocks before it."""
        leaves = head.info.ordinal - 1
        parent = await self._reads.block(id=head.info.prev)
        if parent is None:
            raise internal_error("the block before the head is not held")
        steps: list[MerkleStep] = []
        at, size = block.info.ordinal - 1, 1
        while size < leaves:
            sibling = (at // size) ^ 1
            first = sibling * size
            if first + size <= leaves:
                root = await self._subtree(first, size, head)
            elif first < leaves:
                # The last, incomplete one: what of the frontier stands for its leaves.
                full = (leaves // size).bit_count()
                root = frontier_root(parent.info.frontier[full:])
            else:
                size *= 2
                continue
            steps.append(MerkleStep(root, Left() if sibling < at // size else Right()))
            size *= 2
        return steps
