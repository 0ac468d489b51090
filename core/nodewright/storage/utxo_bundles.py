"""Which transactions are mined, kept per bundle: the part of the ``utxo`` adapter that knows bundles and blocks.

Invariants:

- every created transaction that is no coinbase is named in ``utxo_admitted`` (by itself, or through a bundle that was taken
  out of the chain) until some mined bundle that holds it was *compacted*: its transactions struck from ``utxo_admitted``;
- a mined bundle that was not compacted is in ``utxo_fresh``; so the unmined are: admitted, minus those of fresh bundles,
  minus those removed since;
- compaction begins between two commits and strikes only rows that were there then, and a bundle stays fresh if any was
  taken out of the chain meanwhile: a crash or a reorganisation in the middle repeats work and loses nothing;
- taking a bundle out makes every bundle mined up to ``REVIVED_BLOCKS`` below it fresh again: they may name the same
  transactions, and were put in before this one was taken out.

Changing a bundle's blocks costs rows per bundle and block, never per transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import trio

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import MAX_PAGE, KeyValueReader, KeyValueStore, WriteBatch
from nodewright.storage.utxo_records import (
    ADMITTED,
    BLOCK,
    BUNDLE,
    FRESH,
    IDS_PER_PAGE,
    META,
    MINED,
    block_key,
    bundle_key,
    decode_names,
    decode_refs,
    encode_names,
    encode_refs,
    split_ids,
)

REVIVED_BLOCKS = 100
COMPACTED_IDS = 1_000_000  # transactions of the bundles that one compaction strikes: bounds its memory
_CANDIDATES = 100_000
_SEQUENCE = b"sequence"
_IDS = b"\x00"
_REFERENCE = b"\x01"


class Mined:
    """Ids of bundles. Most rows of ``utxo_admitted`` name a run of a bundle, in its order, the next after that of the row
    before: those are known by a look at the bytes. The set is made when the first is not."""

    def __init__(self) -> None:
        self._columns: list[bytes] = []
        self._at: list[int] = []
        self._ids: set[bytes] | None = None

    def add(self, ids: bytes) -> None:
        self._columns.append(ids)
        self._at.append(0)
        self._ids = None

    def __len__(self) -> int:
        return sum(map(len, self._columns)) // 32

    def __contains__(self, txid: bytes) -> bool:
        if self._ids is None:
            self._ids = {id for column in self._columns for id in split_ids(column)}
        return txid in self._ids

    def goes_on_with(self, ids: bytes) -> bool:
        """Whether these (32·n bytes) are the next ones of a bundle, and so all in it."""
        for place, column in enumerate(self._columns):
            if column.startswith(ids, self._at[place]):
                self._at[place] += len(ids)
                return True
        return False


async def scan_all(store: KeyValueReader, table: str, prefix: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
    after: bytes | None = None
    while True:
        page = await store.scan(table, prefix, after, limit=64 if table == ADMITTED else MAX_PAGE)
        for item in page.items:
            yield item
        after = page.after
        if after is None:
            return


class Bundles:
    """Used under the adapter's lock, except ``unmined_ids``, which only reads, and ``compact``, which takes it for each
    commit: the rows of ``utxo_admitted`` are numbered, and numbers must reach the store in order."""

    def __init__(self, store: KeyValueStore, lock: trio.Lock) -> None:
        self._store = store
        self._lock = lock
        self._sequence = 0
        self._taken_out = 0

    async def load(self) -> None:
        (row,) = await self._store.get_many(META, [_SEQUENCE])
        self._sequence = int.from_bytes(row or b"", "big")

    def admit(self, batch: WriteBatch, txids: Sequence[bytes]) -> None:
        """Add one row (one per 32,768 transactions) that names them."""
        for start in range(0, len(txids), IDS_PER_PAGE):
            self._append(batch, _IDS + b"".join(txids[start : start + IDS_PER_PAGE]))

    def _append(self, batch: WriteBatch, row: bytes) -> None:
        batch.put(ADMITTED, self._sequence.to_bytes(8, "big"), row)
        self._sequence += 1
        batch.put(META, _SEQUENCE, self._sequence.to_bytes(8, "big"))

    async def assign(self, batch: WriteBatch, bundle: bytes, txids: bytes) -> None:
        (held,) = await self._store.get_many(MINED, [bundle])
        if held is not None:  # assigned after it was mined: what it names is still to be struck
            batch.put(FRESH, bundle, held[:8])
        count = len(txids) // 32
        pages = range(0, max(count, 1), IDS_PER_PAGE)
        for page, start in enumerate(pages):
            ids = txids[32 * start : 32 * (start + IDS_PER_PAGE)]
            batch.put(BUNDLE, bundle_key(bundle, page), ids if page else count.to_bytes(4, "big") + ids)

    async def read(self, reader: KeyValueReader, bundle: bytes) -> AsyncIterator[bytes]:
        """The bundle's txids in pages of 32·n bytes; nothing where it was never assigned."""
        (row,) = await reader.get_many(BUNDLE, [bundle_key(bundle, 0)])
        if row is None:
            return
        yield row[4:]
        for page in range(1, self._pages(row)):
            (row,) = await reader.get_many(BUNDLE, [bundle_key(bundle, page)])
            yield row or b""

    def _pages(self, first_row: bytes) -> int:
        return max(1, -(-int.from_bytes(first_row[:4], "big") // IDS_PER_PAGE))

    # --- in and out of the chain -------------------------------------------------------------------------------------

    async def put_in(self, batch: WriteBatch, block: BlockRef, bundles: Sequence[bytes]) -> None:
        """Rows that say that ``bundles`` are in ``block``."""
        if not bundles:
            return
        bundles = list(dict.fromkeys(bundles))
        rows = await self._store.get_many(MINED, bundles)
        for bundle, row in zip(bundles, rows, strict=True):
            refs = decode_refs(row)
            if block in refs:
                continue
            batch.put(MINED, bundle, encode_refs([*refs, block]))
            if not refs:
                batch.put(FRESH, bundle, block.height.to_bytes(8, "big"))
        key = block_key(block)
        (held,) = await self._store.get_many(BLOCK, [key])
        batch.put(BLOCK, key, encode_names(dict.fromkeys([*decode_names(held), *bundles])))

    async def take_out(self, batch: WriteBatch, bundles: Sequence[bytes], block: BlockRef | None, head: BlockRef) -> None:
        """Rows that say that ``bundles`` are no longer in ``block``; or, with None, in none beside or above ``head``."""
        if not bundles:
            return
        bundles = list(dict.fromkeys(bundles))
        rows = await self._store.get_many(MINED, bundles)
        emptied: dict[BlockRef, set[bytes]] = {}
        lowest: int | None = None
        for bundle, row in zip(bundles, rows, strict=True):
            refs = decode_refs(row)
            gone = [ref for ref in refs if (ref == block if block else ref.height >= head.height and ref != head)]
            for ref in gone:
                emptied.setdefault(ref, set()).add(bundle)
            if not gone:
                continue
            kept = [ref for ref in refs if ref not in gone]
            batch.tables.setdefault(MINED, {})[bundle] = encode_refs(kept) if kept else None
            if not kept:
                batch.delete(FRESH, bundle)
                self._append(batch, _REFERENCE + bundle)
                lowest = min(ref.height for ref in gone) if lowest is None else min(lowest, *(ref.height for ref in gone))
        keys = {ref: block_key(ref) for ref in emptied}
        for ref, held in zip(emptied, await self._store.get_many(BLOCK, list(keys.values())), strict=True):
            left = [bundle for bundle in decode_names(held) if bundle not in emptied[ref]]
            batch.tables.setdefault(BLOCK, {})[keys[ref]] = encode_names(left) if left else None
        if lowest is not None:
            self._taken_out += 1
            await self._revive(batch, lowest - REVIVED_BLOCKS)

    async def _revive(self, batch: WriteBatch, height: int) -> None:
        removed = {key for key, row in batch.tables.get(MINED, {}).items() if row is None}
        after = None if height <= 0 else (height - 1).to_bytes(8, "big") + b"\xff" * 64
        while True:
            page = await self._store.scan(BLOCK, after=after, limit=1000)
            for key, row in page.items:
                if int.from_bytes(key[:8], "big") >= height:
                    for bundle in decode_names(row):
                        if bundle not in removed:
                            batch.put(FRESH, bundle, key[:8])
            after = page.after
            if after is None:
                return

    # --- the unmined -------------------------------------------------------------------------------------------------

    async def unmined_ids(self, reader: KeyValueReader) -> AsyncIterator[list[bytes]]:
        """Groups of admitted transactions that are in no mined bundle, each once; removed ones are among them."""
        fresh = [bundle async for bundle, _ in scan_all(reader, FRESH)]
        seen: set[bytes] = set()
        group: dict[bytes, None] = {}
        async for _, row in scan_all(reader, ADMITTED):
            async for ids in self._expand(reader, row):
                group.update((txid, None) for txid in split_ids(ids) if txid not in seen)
                if len(group) >= _CANDIDATES:
                    yield await self._without_mined(reader, group, fresh, seen)
                    group = {}
        if group:
            yield await self._without_mined(reader, group, fresh, seen)

    async def _without_mined(
        self, reader: KeyValueReader, group: dict[bytes, None], fresh: Iterable[bytes], seen: set[bytes]
    ) -> list[bytes]:
        for bundle in fresh:
            async for ids in self.read(reader, bundle):
                for txid in split_ids(ids):
                    group.pop(txid, None)
        seen.update(group)
        return list(group)

    async def _expand(self, reader: KeyValueReader, row: bytes) -> AsyncIterator[bytes]:
        if row[:1] == _IDS:
            yield row[1:]
            return
        async for ids in self.read(reader, row[1:]):
            yield ids

    # --- compaction --------------------------------------------------------------------------------------------------

    async def compact(self) -> bool:
        """Strike the transactions of fresh bundles from ``utxo_admitted``; False where some are left for the next call.
        Takes the lock row by row: one call at a time, beside anything else."""
        async with self._lock:  # between commits: a row numbered below ``end`` is in the store, and so is its reason
            end = self._sequence
            taken_out = self._taken_out
        chosen: list[bytes] = []
        mined = Mined()
        complete = True
        async for bundle, _ in scan_all(self._store, FRESH):
            if chosen and len(mined) >= COMPACTED_IDS:
                complete = False
                break
            mined.add(b"".join([ids async for ids in self.read(self._store, bundle)]))
            chosen.append(bundle)
        if not chosen:
            return True
        async for key, row in scan_all(self._store, ADMITTED):
            if int.from_bytes(key, "big") < end:
                await self._strike(key, row, mined)
        async with self._lock:
            if taken_out != self._taken_out:
                return False
            batch = WriteBatch()
            batch.delete_many(FRESH, chosen)
            await self._store.commit(batch, durable=False)
        return complete

    async def _strike(self, key: bytes, row: bytes, mined: Mined) -> None:
        if row[:1] == _IDS:
            left = [] if mined.goes_on_with(row[1:]) else [txid for txid in split_ids(row[1:]) if txid not in mined]
            if 32 * len(left) < len(row) - 1:
                async with self._lock:
                    batch = WriteBatch()
                    batch.tables[ADMITTED] = {key: _IDS + b"".join(left) if left else None}
                    await self._store.commit(batch, durable=False)
            return
        total = 0
        kept: list[bytes] = []
        async for page in self.read(self._store, row[1:]):
            ids = split_ids(page)
            total += len(ids)
            kept += [txid for txid in ids if txid not in mined]
        if len(kept) < total or not total:
            async with self._lock:
                batch = WriteBatch()
                batch.delete(ADMITTED, key)
                self.admit(batch, kept)
                await self._store.commit(batch, durable=False)

    async def forget(self, batch: WriteBatch, block: BlockRef, bundles: Sequence[bytes]) -> None:
        """Drop a buried block and the bundles that are in no other."""
        rows = await self._store.get_many(MINED, bundles)
        for bundle, row in zip(bundles, rows, strict=True):
            kept = [ref for ref in decode_refs(row) if ref != block]
            if kept:
                batch.put(MINED, bundle, encode_refs(kept))
                continue
            batch.delete(MINED, bundle)
            (first,) = await self._store.get_many(BUNDLE, [bundle_key(bundle, 0)])
            if first is not None:
                batch.delete_many(BUNDLE, (bundle_key(bundle, page) for page in range(self._pages(first))))
        batch.delete(BLOCK, block_key(block))
