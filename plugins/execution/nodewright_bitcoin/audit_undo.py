"""Whether the last blocks could be taken back: the part of ``audit`` that knows undo records and lists of subtrees.

What is held to be true, of every block less than ``UNDO_BLOCKS`` below the highest: the store has its undo record, which
names the block's parent, its coinbase and subtrees; and the store's lists of those subtrees are the block's transactions in
their order, or one is gone where the block may have been pruned. A reorganisation finds by these, and by nothing else, what
to make pending again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.audit import ChainPart
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import UtxoStore, UtxoTransaction
from nodewright.storage.utxo_adapter import UNDO_BLOCKS
from nodewright_bitcoin.audit_sums import same_outputs
from nodewright_bitcoin.undo import Undo


class UndoAudit:
    """Given the chain's parts in order; ``end`` after the last. Keeps no more than a hash of the block at hand.
    ``highest`` is the greatest height of any block stored: it may have been applied. Blocks up to ``pruned`` may have been
    pruned."""

    def __init__(self, store: UtxoStore, highest: int, pruned: int, differs: Callable[[str, str], None]) -> None:
        self._store = store
        self._from = highest - UNDO_BLOCKS + 1
        self._pruned = pruned
        self._differs = differs
        self._parent: BlockRef | None = None
        self._block: BlockRef | None = None
        self._coinbase: UtxoTransaction | None = None
        self._ids = hashlib.sha256()

    async def part(self, part: ChainPart, prologue: UtxoTransaction | None) -> None:
        """``prologue`` is the effect of a part that is the block's first transaction."""
        if part.block != self._block:
            await self.end()
            self._parent, self._block = self._block, part.block
            self._coinbase, self._ids = None, hashlib.sha256()
        if part.prologue:
            self._coinbase = prologue
        else:
            self._ids.update(part.ids)

    async def end(self) -> None:
        if self._block is not None and self._block.height >= self._from:
            await self._compare(self._block)

    async def _compare(self, block: BlockRef) -> None:
        row = await self._store.undo(block.id)
        if row is None:
            self._differs("the record by which a block is taken back is gone from the store", str(block))
            return
        kind = "the record by which a block is taken back is not the block's"
        try:
            undo = Undo.decode(row)
        except StoreCorrupt as error:
            self._differs(kind, f"{block}: {error}")
            return
        if undo.parent.height != block.height - 1 or (self._parent is not None and undo.parent != self._parent):
            self._differs(kind, f"{block}: it names {undo.parent} as the block before")
        if not _same(undo.coinbase, self._coinbase):
            self._differs(kind, f"{block}: it has another coinbase")
        ids = hashlib.sha256()
        for bundle in undo.bundles:
            found = await self._store.bundle(bundle)
            if found is None:
                if block.height <= self._pruned:
                    return
                self._differs(
                    "the list of a subtree's transactions is gone from the store", f"{bundle[::-1].hex()} of block {block}"
                )
                return
            ids.update(found)
        if ids.digest() != self._ids.digest():
            self._differs("the store's lists of a block's subtrees are not the block's transactions", str(block))


def _same(one: UtxoTransaction | None, other: UtxoTransaction | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.txid == other.txid and (one.outputs == other.outputs or same_outputs(one.outputs, other.outputs))
