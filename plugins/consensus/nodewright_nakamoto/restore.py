"""Transactions of blocks that left the chain go back to the pool. Its invariant is stated in ``chain``.

The list of reverted blocks (``restoring``) is durable before the first is reverted and cleared after the last of their
transactions went through ``pool.restore``. Which of them return is decided after the new chain stands, from the
transaction index alone, so that a restart finds the same answer. They stand before the rest of the assembly: their parents
are on the chain or among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nodewright.errors import StoreFull
from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import Timed
from nodewright_nakamoto.assembler import Leaf
from nodewright_nakamoto.chainindex import Node
from nodewright_nakamoto.subtree import split_ids

if TYPE_CHECKING:
    from nodewright_nakamoto.chain import Chain


class Restorer:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def begin(self, reverted: Sequence[Node]) -> None:
        """Durable before the first revert. Adds to what an earlier, unfinished move left."""
        store = self._chain.store
        known = split_ids(await store.meta("restoring"))
        new = [node.id for node in reverted if node.id not in known]
        await store.put_meta("restoring", b"".join([*known, *new]), durable=True)

    async def finish(self) -> None:
        chain = self._chain
        ids = split_ids(await chain.store.meta("restoring"))
        if not ids:
            return
        nodes = [node for id in ids if (node := chain.index.get(id)) is not None and not chain.index.on_active(node)]
        pairs: dict[bytes, bytes] = {}
        for node in sorted(nodes, key=lambda node: node.height):
            block, _ = await chain.read_block(node)
            for bundle in block.subtrees:
                await self._collect(bundle, pairs)
        try:
            leaves = await self._restore(list(pairs.items())) if pairs else []
        except StoreFull as error:
            # Pending in the pool, and not in its journal: the list stays until they are, with the next block at the latest.
            chain.environment.logger.warning("restored transactions are not in the journal yet", reason=str(error))
            return
        if leaves:
            front = {leaf.id for leaf in leaves}
            chain.assembler.rebuild([*leaves, *(leaf for leaf in chain.assembler.leaves() if leaf.id not in front)])
        if isinstance(chain.execution, Timed):
            # What was ripe on the old chain may not be on this one: it is chosen again when it is.
            chain.pool.give_back(chain.assembler.remove(await chain.execution.unripe()))
        await chain.store.put_meta("restoring", b"", durable=True)
        if ids:
            chain.environment.logger.info("transactions restored", blocks=len(nodes), restored=len(leaves))

    async def _collect(self, bundle: bytes, pairs: dict[bytes, bytes]) -> None:
        """The transactions of a bundle that the new chain does not hold."""
        chain = self._chain
        subtree = await chain.store.subtree(bundle)
        if subtree is None:
            return
        ids = split_ids(subtree.ids)
        bodies = await chain.store.bodies(subtree)
        for id, body, mined in zip(ids, bodies, await self.on_chain(ids), strict=True):
            if not mined:
                pairs.setdefault(id, body)

    async def _restore(self, pairs: list[tuple[bytes, bytes]]) -> list[Leaf]:
        """All in one call: the pool puts what a later call restores before what an earlier one did."""
        chain = self._chain
        leaves: list[Leaf] = []
        replaced: dict[bytes, bytes] = {}
        rejected: dict[bytes, str] = {}
        for (id, raw), answer in zip(pairs, await chain.pool.restore(pairs), strict=True):
            if isinstance(answer, Admitted):
                leaves.append(Leaf(id, len(raw), answer.fee))
            else:
                self._lost(id, answer, replaced, rejected)
        if replaced or rejected:
            await chain.pool.settle(rejected=rejected, replaced=replaced)
            lost = [{"id": id[::-1].hex(), "winner": winner[::-1].hex()} for id, winner in replaced.items()]
            lost += [{"id": id[::-1].hex(), "reason": reason} for id, reason in rejected.items()]
            chain.events.publish("evicted", {"transactions": lost, "reason": "a reorganisation"})
        return leaves

    @staticmethod
    def _lost(id: bytes, answer: Refused, replaced: dict[bytes, bytes], rejected: dict[bytes, str]) -> None:
        """A conflict names the winner; what misses a parent that gave way has given way to the same winner."""
        winner = answer.data.get("winner") if answer.kind == "conflict" else None
        if winner is None:
            winner = next((replaced[parent] for parent in answer.data.get("missing", ()) if parent in replaced), None)
        if isinstance(winner, bytes):
            replaced[id] = winner
        else:
            rejected[id] = f"after a reorganisation: {answer.code}: {answer.message}"

    async def on_chain(self, ids: Sequence[bytes]) -> list[bool]:
        """Whether each transaction is in a bundle of the active chain."""
        chain = self._chain
        holders = await chain.store.holders(ids)
        bundles = sorted({bundle for found in holders for bundle, _ in found})
        rows = await chain.store.bundle_rows(bundles)
        mined = {
            bundle
            for bundle, row in zip(bundles, rows, strict=True)
            if row is not None and chain.block_ref(row.blocks) is not None
        }
        return [any(bundle in mined for bundle, _ in found) for found in holders]
