"""The chain of a stopped node, read from its stores and checked on the way (``interfaces.audit.ChainAudit``).

What is held to be true:
- every header stored has its own key, its parent, the target that is due and a hash that meets it, a time after the median;
- every block on the way from genesis to the applied one is stored, is what its header commits to (subtrees and coinbase
  compose to its Merkle root, counts and sizes are right) and is found from its coinbase;
- every subtree of it has its row, which names the block, its blob, whose leaves give its root, and its bodies;
- every transaction is found through the index, in no other bundle of the chain;
- blocks beside the chain have their bodies and their subtrees' rows: a reorganisation would need them.

Bodies are handed on in pieces of a few megabytes: whether they are the transactions of the leaves is the execution's to
say, and is reported by whoever asks it (``ChainPart.ids``). Reads only.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence

from nodewright.errors import StoreError
from nodewright.interfaces.audit import ChainPart, Identify, Report
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import BlobStore, KeyValueStore
from nodewright_nakamoto import blockwire
from nodewright_nakamoto import subtree as formats
from nodewright_nakamoto.blockwire import Block
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.chainindex import ChainIndex, Node
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.genesis import Genesis
from nodewright_nakamoto.header import HEADER_BYTES, Header, meets_target
from nodewright_nakamoto.store import MARKS, SUBTREE, SUBTREE_DATA, BundleRow, ChainStore
from nodewright_nakamoto.subtree import Subtree, split_ids

PIECE_BYTES = 4 * 1024 * 1024
PIECE_COUNT = 4096
_UNREADABLE = (StoreError, MalformedError, struct.error, ValueError, IndexError)
_BLOCKS = "restore the data directory from a snapshot, or start anew in another --data-dir: the node follows its peers"


class NakamotoAudit:
    def __init__(
        self,
        genesis: Genesis,
        chain: KeyValueStore,
        blobs: BlobStore,
        store: ChainStore,
        identify: Identify,
        report: Report,
    ) -> None:
        self._genesis = genesis
        self._chain = chain
        self._blobs = blobs
        self._store = store
        self._report = report
        self._index = ChainIndex(genesis.block.header)
        self._path: list[Node] = []
        self._bundles: set[bytes] = set()  # those of the chain: a transaction in two of them is mined twice
        self._identify = identify
        self._whole = True
        self._told = False
        self.highest = 0

    @property
    def whole(self) -> bool:
        return self._whole

    def _differs(self, kind: str, where: str, hides: bool = False) -> None:
        """``hides``: transactions of the chain cannot be read because of it."""
        self._whole = self._whole and not hides
        if not self._told:
            self._report.differs(kind, where, _BLOCKS)

    # --- headers -----------------------------------------------------------------------------------------------------

    async def load(self, applied: BlockRef | None) -> None:
        index, root = self._index, self._index.root
        marker = await self._store.meta("genesis")
        if marker and marker != root.id:
            self._differs(
                "stores.chain begins with another genesis block", f"{display(marker)}, not {display(root.id)}", True
            )
        await self._headers()
        if applied is None:
            return
        node = index.get(applied.id)
        if node is None or not node.connected:
            self._differs("the block that the state is of, or one before it, is not in stores.chain", str(applied), True)
            return
        self._path = index.path(root, node)
        index.active = [root, *self._path]
        if index.best is not node:
            fork = index.fork_point(node, index.best)
            self._report.note(
                f"the best chain stored ends with block {index.best.height} ({display(index.best.id)}), the state is of "
                f"block {node.height}: the next start takes back {node.height - fork.height} blocks and applies "
                f"{index.best.height - fork.height}"
            )
        settled = await self._store.meta("settled")
        if settled and settled not in index:
            self._differs("the marker of the last settled block names one that is not stored", display(settled))
        await self._beside()

    async def _headers(self) -> None:
        ahead = 0
        marked: list[tuple[Node, str, str]] = []
        after: bytes | None = None
        with self._report.progress("headers", None) as advance:
            while True:
                page = await self._chain.scan("headers", after=after, limit=5000)
                for key, value in page.items:
                    ahead += not self._header(key, value, marked)
                advance(len(page.items))
                after = page.after
                if after is None:
                    break
        for node, mark, reason in marked:
            self._index.mark(node, mark, reason)
        if ahead:
            self._report.note(f"{ahead} headers stored without their parents: the next start fetches them again")

    def _header(self, key: bytes, value: bytes, marked: list[tuple[Node, str, str]]) -> bool:
        """False where its parent is not there."""
        kind = "a row of the headers table is not what was stored"
        try:
            header = Header.decode(value[:HEADER_BYTES])
            sequence, mark, reason = int.from_bytes(value[80:88], "little"), MARKS[value[88]], value[89:].decode()
        except _UNREADABLE as error:
            self._differs(kind, f"{key[4:][::-1].hex()}: {error}", True)
            return True
        if header.id != key[4:]:
            self._differs(kind, f"under {key[4:][::-1].hex()} stands {display(header.id)}", True)
            return True
        if header.previous not in self._index:
            return False
        node = self._index.add(header)
        parent = node.parent
        assert parent is not None
        where = f"{display(node.id)} at height {node.height}"
        if int.from_bytes(key[:4], "big") != node.height:
            self._differs(kind, f"{where} is stored under height {int.from_bytes(key[:4], 'big')}")
        due = self._genesis.difficulty.next_bits(parent, self._index.branch(parent))
        if header.bits != due or not meets_target(node.id, header.bits):
            self._differs("a header does not meet the target that is due", where)
        if header.time <= self._index.median_time(parent):
            self._differs("a header's time is not after the median of the eleven before it", where)
        if sequence:
            self._index.stored(node, sequence)
            self.highest = max(self.highest, node.height)
        if mark:
            marked.append((node, mark, reason))
        return True

    async def _beside(self) -> None:
        """Blocks that are stored and not on the way to the applied one."""
        count = 0
        for node in self._index.nodes.values():
            if node.have and not self._index.on_active(node):
                block = await self._block(node, hides=False)
                count += 1
                if block is not None:
                    await self._rows(node, block, hides=False)
        if count:
            self._report.note(f"{count} blocks are stored beside the chain that the state is of")

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def parts(self) -> AsyncIterator[ChainPart]:
        with self._report.progress("blocks", len(self._path)) as advance:
            for node in self._path:
                async for part in self._parts(node):
                    yield part
                advance(1)
        self._told = True

    async def loose(self) -> AsyncIterator[ChainPart]:
        for id in split_ids(await self._store.meta("restoring")):
            node = self._index.get(id)
            if node is None or self._index.on_active(node) or not node.have:
                continue
            block = await self._block(node, hides=False)
            rows = await self._rows(node, block, hides=False) if block is not None else None
            for bundle, row in zip(block.subtrees if block and rows else (), rows or (), strict=True):
                async for part in self._bundle(node, bundle, row, index=False):
                    yield part

    async def _block(self, node: Node, hides: bool) -> Block | None:
        where = f"{display(node.id)} at height {node.height}"
        try:
            wire = await self._store.block(node.id)
            if wire is None:
                self._differs("a block is in the headers table and its body is gone", where, hides)
                return None
            return blockwire.decode(wire, height=node.height)
        except _UNREADABLE as error:
            self._differs("a block's body is damaged", f"{where}: {error}", hides)
            return None

    async def _rows(self, node: Node, block: Block, hides: bool) -> list[BundleRow] | None:
        rows: list[BundleRow] = []
        for bundle in block.subtrees:
            where = f"{display(bundle)} of block {node.height}"
            try:
                (row,) = await self._store.bundle_rows([bundle])
            except _UNREADABLE as error:
                self._differs("a subtree's row is damaged", f"{where}: {error}", hides)
                return None
            if row is None:
                self._differs("a subtree of a block has no row in stores.chain", where, hides)
                return None
            if node.id not in row.blocks:
                self._differs("a subtree's row does not name a block that holds it", where)
            rows.append(row)
        return rows

    async def _parts(self, node: Node) -> AsyncIterator[ChainPart]:
        block = await self._block(node, hides=True)
        if block is None:
            return
        (prologue_id,) = self._identify([block.prologue]) if block.prologue else (bytes(32),)
        if block.prologue:
            (blocks,) = await self._store.prologue_blocks([prologue_id or bytes(32)])
            if node.id not in blocks:
                self._differs("a block is not found from its coinbase", f"{display(node.id)} at height {node.height}")
            yield ChainPart(node.ref, prologue_id or bytes(32), [block.prologue], f"block {node.height}", prologue=True)
        rows = await self._rows(node, block, hides=True)
        if rows is None:
            return
        problem = Chain._structure(node, block, rows, prologue_id or bytes(32))
        if problem:
            self._differs(
                "a block is not what its header commits to", f"{display(node.id)} at height {node.height}: {problem}"
            )
        self._bundles.update(block.subtrees)
        for bundle, row in zip(block.subtrees, rows, strict=True):
            async for part in self._bundle(node, bundle, row):
                yield part

    async def _bundle(self, node: Node, id: bytes, row: BundleRow, index: bool = True) -> AsyncIterator[ChainPart]:
        where = f"{display(id)} of block {node.height}"
        found = await self._subtree(id, where)
        if found is None:
            return
        stated = (len(found), found.count, sum(found.sizes), sum(found.fees))
        if (row.leaves, row.count, row.size, row.fees) != stated:
            self._differs("a subtree's row is not what its blob says", where)
        ids, sizes = found.ids, found.body_sizes()
        try:
            size = await self._blobs.size(SUBTREE_DATA, id)
            if size is None:
                self._differs("the bodies of a subtree are gone from stores.blobs", where, True)
                return
            if size != sum(sizes):
                kind = "the bodies of a subtree have another size than its leaves say"
                self._differs(kind, f"{where}: {size} bytes, not {sum(sizes)}", True)
                return
            start = offset = 0
            while start < len(sizes):
                end, length = _piece(sizes, start)
                data = await self._blobs.read(SUBTREE_DATA, id, offset, length)
                part = ids[32 * start : 32 * end]
                if index:
                    await self._indexed(part, start, id)
                bodies = formats.split_data(data or b"", sizes[start:end])
                yield ChainPart(node.ref, part, bodies, f"subtree {where}")
                start, offset = end, offset + length
        except _UNREADABLE as error:
            self._differs("the bodies of a subtree cannot be read", f"{where}: {error}", True)

    async def _subtree(self, id: bytes, where: str) -> Subtree | None:
        try:
            data = await self._blobs.get(SUBTREE, id)
            if data is None:
                self._differs("a subtree of a block is gone from stores.blobs", where, True)
                return None
            found = formats.decode(data)
            problem = formats.check_leaves(found.leaves, id)
        except _UNREADABLE as error:
            problem = str(error)
        if problem:
            self._differs("a subtree's blob is damaged", f"{where}: {problem}", True)
            return None
        return found

    async def _indexed(self, ids: bytes, start: int, bundle: bytes) -> None:
        txids = split_ids(ids)
        for at, (txid, holders) in enumerate(zip(txids, await self._store.holders(txids), strict=True), start):
            if (bundle, at) not in holders:
                self._differs(
                    "a transaction of a block is not in the index", f"{display(txid)} of subtree {display(bundle)}"
                )
            for other, _ in holders:
                if other != bundle and other in self._bundles:
                    where = f"{display(txid)} in subtrees {display(other)} and {display(bundle)}"
                    self._differs("a transaction is in the chain twice", where)


def _piece(sizes: Sequence[int], start: int) -> tuple[int, int]:
    """(end, bytes) of the transactions from ``start`` on that are read at once: at least one."""
    end, length = start, 0
    while end < len(sizes) and end - start < PIECE_COUNT and (end == start or length + sizes[end] <= PIECE_BYTES):
        length += sizes[end]
        end += 1
    return end, length
