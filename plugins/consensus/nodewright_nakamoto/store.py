"""What nakamoto keeps: headers, blocks, bundles and a transaction index in ``stores.chain``; bodies in ``stores.blobs``.

Tables:
``headers``  height u32 big-endian ‖ id → header80 ‖ sequence u64 ‖ mark u8 ‖ reason (sequence 0: body not stored)
``blocks``   id → the block's wire bytes
``bundles``  id → ``BundleRow``
``txs``      txid → k × (bundle32 ‖ index u32): every stored bundle that holds it, written once per bundle
``prologues`` prologue id → k × block32
``meta``     ``settled``, ``restoring``, ``genesis``
Blobs: ``subtree`` (the full form) and ``subtree_data``.

Invariants:
- a ``bundles`` row is there only after both its blobs are durable, and its index rows come in the same batch;
- a ``blocks`` row is written durably, after the rows of all its bundles, and with itself added to their ``blocks``;
- ``overlaps`` is symmetric: two stored bundles that share a transaction name each other, so that "no transaction twice on
  one chain" is a question about bundles, not about transactions;
- one writer (``_writing``): rows are read, changed and written under it.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Sequence

import trio
from attrs import evolve, frozen

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import BlobStore, KeyValueStore, WriteBatch
from nodewright_nakamoto import subtree as formats
from nodewright_nakamoto.header import HEADER_BYTES, Header
from nodewright_nakamoto.offsets import Offsets
from nodewright_nakamoto.subtree import FirstSubtree, Subtree

SUBTREE = "subtree"
SUBTREE_DATA = "subtree_data"
RECORDS_AT = formats.PREFIX.size  # where the leaf records start in the full form
MARKS = ("", "invalid", "manual")
READ_CHUNK = 50_000
_ROW = struct.Struct("<IIQQHHI")


@frozen
class BundleRow:
    """A stored bundle. ``leaves`` counts a placeholder, ``count`` does not. ``siblings`` is the branch of leaf 0 where it
    is the placeholder (empty otherwise); ``blocks`` and ``overlaps`` are ids."""

    leaves: int
    count: int
    size: int
    fees: int
    siblings: tuple[bytes, ...] = ()
    blocks: tuple[bytes, ...] = ()
    overlaps: tuple[bytes, ...] = ()

    @property
    def placeholder(self) -> bool:
        return self.leaves != self.count

    def encode(self) -> bytes:
        numbers = (self.leaves, self.count, self.size, self.fees, len(self.siblings), len(self.blocks), len(self.overlaps))
        return _ROW.pack(*numbers) + b"".join((*self.siblings, *self.blocks, *self.overlaps))

    @classmethod
    def decode(cls, data: bytes) -> BundleRow:
        leaves, count, size, fees, siblings, blocks, overlaps = _ROW.unpack_from(data)
        ids = formats.split_ids(data[_ROW.size :])
        if len(ids) != siblings + blocks + overlaps:
            raise StoreCorrupt("a row of the table bundles has the wrong length")
        cut = siblings + blocks
        return cls(leaves, count, size, fees, tuple(ids[:siblings]), tuple(ids[siblings:cut]), tuple(ids[cut:]))


@frozen
class HeaderRow:
    header: Header
    sequence: int
    mark: str
    reason: str


def _index_rows(
    bundle: bytes, ids: Sequence[bytes], before: Sequence[bytes | None]
) -> tuple[list[tuple[bytes, bytes]], set[bytes]]:
    """The index rows of a new bundle, and the bundles that hold some of its transactions already."""
    rows: list[tuple[bytes, bytes]] = []
    others: set[bytes] = set()
    for i, (id, old) in enumerate(zip(ids, before, strict=True)):
        entry = bundle + i.to_bytes(4, "little")
        if old:
            others.update(old[k : k + 32] for k in range(0, len(old), 36))
            entry = old + entry
        rows.append((id, entry))
    return rows, others


class ChainStore:
    def __init__(self, chain: KeyValueStore, blobs: BlobStore, environment: Environment) -> None:
        self.chain = chain
        self.blobs = blobs
        self._environment = environment
        self._writing = trio.Lock()
        self._offsets = Offsets(blobs, environment, SUBTREE, SUBTREE_DATA)

    async def _get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) <= READ_CHUNK:
            return await self.chain.get_many(table, keys)
        found: list[bytes | None] = []
        for start in range(0, len(keys), READ_CHUNK):
            found += await self.chain.get_many(table, keys[start : start + READ_CHUNK])
        return found

    # --- headers and blocks ---

    async def headers(self) -> AsyncIterator[HeaderRow]:
        """Every stored header, parents first."""
        after: bytes | None = None
        while True:
            page = await self.chain.scan("headers", after=after, limit=5000)
            for _, value in page.items:
                header = Header.decode(value[:HEADER_BYTES])
                sequence = int.from_bytes(value[80:88], "little")
                yield HeaderRow(header, sequence, MARKS[value[88]], value[89:].decode())
            if page.after is None:
                return
            after = page.after

    @staticmethod
    def _header_row(batch: WriteBatch, height: int, header: Header, sequence: int, mark: str, reason: str) -> None:
        row = header.encode() + sequence.to_bytes(8, "little") + bytes((MARKS.index(mark),)) + reason.encode()
        batch.put("headers", height.to_bytes(4, "big") + header.id, row)

    async def put_marks(self, marks: Iterable[tuple[int, Header, int, str, str]]) -> None:
        """(height, header, sequence, mark, reason) of headers whose mark changed. Durable."""
        batch = WriteBatch()
        for height, header, sequence, mark, reason in marks:
            self._header_row(batch, height, header, sequence, mark, reason)
        if batch:
            await self.chain.commit(batch)

    async def put_block(
        self, header: Header, height: int, sequence: int, wire: bytes, bundles: Sequence[bytes], prologue_id: bytes
    ) -> None:
        """Durable, and with it everything written before. Idempotent."""
        async with self._writing:
            batch = WriteBatch()
            id = header.id
            self._header_row(batch, height, header, sequence, "", "")
            batch.put("blocks", id, wire)
            for bundle, row in zip(bundles, await self.bundle_rows(bundles), strict=True):
                if row is None:
                    raise StoreCorrupt(f"bundle {bundle[::-1].hex()} is not stored and its block is to be")
                if id not in row.blocks:
                    batch.put("bundles", bundle, evolve(row, blocks=(*row.blocks, id)).encode())
            if prologue_id:
                (old,) = await self.chain.get_many("prologues", [prologue_id])
                if id not in formats.split_ids(old or b""):
                    batch.put("prologues", prologue_id, (old or b"") + id)
            await self.chain.commit(batch)

    async def block(self, id: bytes) -> bytes | None:
        return (await self.chain.get_many("blocks", [id]))[0]

    async def prologue_blocks(self, ids: Sequence[bytes]) -> list[list[bytes]]:
        """The blocks that have each of these as their prologue."""
        return [formats.split_ids(value or b"") for value in await self._get_many("prologues", ids)]

    # --- markers ---

    async def meta(self, name: str) -> bytes:
        return (await self.chain.get_many("meta", [name.encode()]))[0] or b""

    async def put_meta(self, name: str, value: bytes, durable: bool) -> None:
        batch = WriteBatch()
        batch.put("meta", name.encode(), value)
        await self.chain.commit(batch, durable)

    # --- bundles ---

    async def bundle_rows(self, ids: Sequence[bytes]) -> list[BundleRow | None]:
        return [BundleRow.decode(value) if value else None for value in await self._get_many("bundles", ids)]

    async def has_bundle(self, id: bytes) -> bool:
        return (await self.chain.get_many("bundles", [id]))[0] is not None

    async def put_bundle(self, subtree: Subtree, bodies: Sequence[bytes]) -> BundleRow:
        """Store a checked subtree and its bodies (in leaf order, without the placeholder). Idempotent."""
        async with self._writing:
            (known,) = await self.bundle_rows([subtree.root])
            if known is not None:
                return known
            offload = self._environment.offload
            await self.blobs.put(SUBTREE_DATA, subtree.root, b"".join(bodies))
            await self.blobs.put(SUBTREE, subtree.root, await offload(formats.encode, subtree))
            ids = formats.split_ids(subtree.ids)
            before = await self._get_many("txs", ids)
            rows, others = await offload(_index_rows, subtree.root, ids, before)
            siblings: tuple[bytes, ...] = ()
            if subtree.has_placeholder:
                siblings = (await offload(FirstSubtree.of, subtree.leaves)).siblings
            row = BundleRow(
                len(subtree), subtree.count, sum(map(len, bodies)), sum(subtree.fees), siblings, (), tuple(sorted(others))
            )
            batch = WriteBatch()
            batch.put_many("txs", rows)
            batch.put("bundles", subtree.root, row.encode())
            for other, its in zip(row.overlaps, await self.bundle_rows(row.overlaps), strict=True):
                if its is not None and subtree.root not in its.overlaps:
                    batch.put("bundles", other, evolve(its, overlaps=(*its.overlaps, subtree.root)).encode())
            await self.chain.commit(batch, durable=False)
            return row

    async def drop_bundle(self, id: bytes) -> bool:
        """Forget a bundle that no block names (True), with its index rows and blobs; False where a block does."""
        async with self._writing:
            (row,) = await self.bundle_rows([id])
            if row is None or row.blocks:
                return row is None
            subtree = await self.subtree(id)
            batch = WriteBatch()
            batch.delete("bundles", id)
            if subtree is not None:
                ids = formats.split_ids(subtree.ids)
                for txid, old in zip(ids, await self._get_many("txs", ids), strict=True):
                    entries = [old[k : k + 36] for k in range(0, len(old or b""), 36)] if old else []
                    kept = b"".join(entry for entry in entries if entry[:32] != id)
                    if kept:
                        batch.put("txs", txid, kept)
                    else:
                        batch.delete("txs", txid)
            for other, its in zip(row.overlaps, await self.bundle_rows(row.overlaps), strict=True):
                if its is not None:
                    kept_ids = tuple(one for one in its.overlaps if one != id)
                    batch.put("bundles", other, evolve(its, overlaps=kept_ids).encode())
            # Durable before the blobs go: a row may never name a body that is not there.
            await self.chain.commit(batch)
            self._offsets.forget(id)
            await self.blobs.delete(SUBTREE, [id])
            await self.blobs.delete(SUBTREE_DATA, [id])
            return True

    async def unmined(self) -> list[bytes]:
        """Stored bundles that no block names (found once, on open)."""
        found, after = [], None
        while True:
            page = await self.chain.scan("bundles", after=after, limit=5000)
            found += [key for key, value in page.items if not BundleRow.decode(value).blocks]
            after = page.after
            if after is None:
                return found

    async def subtree_bytes(self, id: bytes) -> bytes | None:
        return await self.blobs.get(SUBTREE, id)

    async def subtree_data(self, id: bytes) -> bytes | None:
        return await self.blobs.get(SUBTREE_DATA, id)

    async def subtree(self, id: bytes) -> Subtree | None:
        data = await self.blobs.get(SUBTREE, id)
        return None if data is None else await self._environment.offload(formats.decode, data)

    async def ids(self, id: bytes) -> bytes:
        """The transaction ids of a stored bundle, without a placeholder, 32·n bytes."""
        data = await self.blobs.get(SUBTREE, id)
        if data is None:
            raise StoreCorrupt(f"bundle {id[::-1].hex()} is not in stores.blobs")
        leaves = await self._environment.offload(formats.decode_leaves, data)
        return leaves[32:] if leaves[:32] == formats.PLACEHOLDER else leaves

    async def bodies(self, subtree: Subtree) -> list[bytes]:
        """The bodies of a stored bundle in leaf order."""
        data = await self.blobs.get(SUBTREE_DATA, subtree.root)
        if data is None:
            raise StoreCorrupt(f"the bodies of bundle {subtree.root[::-1].hex()} are not in stores.blobs")
        return await self._environment.offload(formats.split_data, data, subtree.body_sizes())

    # --- transactions ---

    async def holders(self, ids: Sequence[bytes]) -> list[list[tuple[bytes, int]]]:
        """Per transaction the (bundle, index) of every stored bundle that holds it."""
        return [
            [(value[k : k + 32], int.from_bytes(value[k + 32 : k + 36], "little")) for k in range(0, len(value), 36)]
            if value
            else []
            for value in await self._get_many("txs", ids)
        ]

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Bodies of transactions in stored bundles or as prologues of stored blocks."""
        wanted: dict[bytes, list[tuple[int, int]]] = {}
        for at, holders in enumerate(await self.holders(ids)):
            if holders:
                bundle, index = holders[0]
                wanted.setdefault(bundle, []).append((at, index))
        found: list[bytes | None] = [None] * len(ids)
        for (bundle, places), row in zip(wanted.items(), await self.bundle_rows(list(wanted)), strict=True):
            if row is None:
                continue
            if len(places) * 8 > row.count:
                subtree = await self.subtree(bundle)
                if subtree is not None:
                    bodies = await self.bodies(subtree)
                    for at, index in places:
                        found[at] = bodies[index]
                continue
            some = await self._offsets.bodies(bundle, [index + row.placeholder for _, index in places], row.leaves)
            for at, index in places:
                found[at] = some.get(index + row.placeholder)
        return found
