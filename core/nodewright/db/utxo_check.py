"""Whether the rows of the UTXO adapter agree with each other (tables in ``nodewright.storage.utxo_records``).

What is held to be true of a sound store:

- a transaction's row decodes to its last byte, and a paged one has all its pages and no other;
- each output that a transaction spends has a row that names this transaction and input; or its own transaction is gone,
  which happens only to those pruned: then the spender is buried, thus neither in an unburied block nor unmined;
- each spent row belongs to an output that exists; its spender exists and spends it, or was pruned: of one transaction's
  outputs no more spenders may be gone than ``utxo_buried`` counts;
- marks and counts belong to transactions that exist;
- a bundle is mined in a block exactly if the block names it; a fresh one is mined; bundles have all their pages;
- every transaction of an unburied block exists;
- undo records and the list of them name each other.

Bounded memory: pages of rows, marks (which the adapter holds as well), and at most ``SUSPECTS`` transaction ids.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import trio
from attrs import define, frozen

from nodewright.db.findings import Findings
from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import KeyValueStore
from nodewright.storage.utxo_bundles import Bundles
from nodewright.storage.utxo_records import (
    ADMITTED,
    BLOCK,
    BUNDLE,
    BURIED,
    FRESH,
    IDS_PER_PAGE,
    MARK,
    META,
    MINED,
    PAGE,
    PAGE_BYTES,
    SPENDS_PER_PAGE,
    SPENT,
    TX,
    TXMARK,
    UNDO,
    UNDONE,
    Mark,
    Record,
    block_key,
    bundle_key,
    compact_size,
    decode_mark,
    decode_names,
    decode_refs,
    output_offsets,
    page_keys,
    spender_of,
    split_ids,
)
from nodewright.storage.utxo_walk import read_spends, unspent_of

SUSPECTS = 500_000
_ROWS = 1000
_KEYS = 10_000
_BAD_ROW = (StoreCorrupt, struct.error, IndexError, ValueError)


@define
class Unspent:
    """The digest is that of the bitcoin family's ``gettxoutsetinfo``, on every store: the sum modulo 2**256 of the SHA-256
    of outpoint ‖ satoshis u64 ‖ script of every unspent output (little-endian), hashed with their number."""

    count: int = 0
    satoshis: int = 0
    _mixed: int = 0

    def add(self, outpoint: bytes, satoshis: int, script: bytes) -> None:
        row = hashlib.sha256(outpoint + satoshis.to_bytes(8, "little") + script).digest()
        self._mixed = (self._mixed + int.from_bytes(row, "little")) % (1 << 256)
        self.satoshis += satoshis
        self.count += 1

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._mixed.to_bytes(32, "little") + self.count.to_bytes(8, "little")).hexdigest()


@frozen
class Checked:
    applied: BlockRef | None
    transactions: int
    unspent: Unspent


class UtxoCheck:
    """One pass over the tables of an opened store that nobody else writes to. Reads only."""

    def __init__(self, store: KeyValueStore, slot: str, findings: Findings, advance: Callable[[int], None]) -> None:
        self._store = store
        self._slot = slot
        self._findings = findings
        self._advance = advance
        self._bundles = Bundles(store, trio.Lock())
        self._marks: dict[bytes, Mark] = {}
        self._suspects: set[bytes] = set()  # transactions that spend from one that is gone
        self._transactions = 0
        self._unspent = Unspent()

    async def run(self) -> Checked:
        applied = await self._meta()
        await self._outpoint_rows()
        await self._transaction_rows()
        await self._spent_rows()
        await self._page_rows()
        await self._bundle_rows()
        await self._mined_rows()
        await self._admitted_rows()
        await self._chain(exists=True)
        await self._undo_rows()
        return Checked(applied, self._transactions, self._unspent)

    def _damaged(self, what: str, where: str) -> None:
        self._findings.damaged(f"{self._slot}: {what}", where)

    async def _pages(self, table: str, limit: int = _ROWS) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        after: bytes | None = None
        while True:
            page = await self._store.scan(table, after=after, limit=limit)
            yield page.items
            self._advance(len(page.items))
            after = page.after
            if after is None:
                return

    async def _get(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those that are there."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            rows = await self._store.get_many(table, part)
            found.update((key, row) for key, row in zip(part, rows, strict=True) if row is not None)
        return found

    def _record(self, txid: bytes, row: bytes) -> Record | None:
        """None, and told, where the row does not decode to its last byte."""
        try:
            record = Record(row, complete=False)
            if record.paged is None:
                end = record.start
                if record.count:
                    at = output_offsets(row, record.start, record.count)[-1]
                    length, start = compact_size(row, at + 8)
                    end = start + length
                if end != len(row):
                    raise StoreCorrupt(f"{len(row) - end} bytes after its end")
        except _BAD_ROW as error:
            self._damaged("a transaction's row is unreadable", f"{txid[::-1].hex()} ({error})")
            return None
        return record

    # --- single tables -----------------------------------------------------------------------------------------------

    async def _meta(self) -> BlockRef | None:
        (row,) = await self._store.get_many(META, [b"applied"])
        try:
            return next(iter(decode_refs(row)), None)
        except _BAD_ROW:
            self._damaged("the marker of the applied block is unreadable", (row or b"").hex())
            return None

    async def _outpoint_rows(self) -> None:
        """Marks of outputs and transactions, counts of buried spenders."""
        async for items in self._pages(MARK):
            records = await self._records({outpoint[:32] for outpoint, _ in items})
            for outpoint, row in items:
                if not self._has(records, outpoint):
                    self._damaged("a mark of an output that does not exist", _name(outpoint))
                try:
                    self._marks[outpoint] = decode_mark(row)
                except _BAD_ROW:
                    self._damaged("a mark is unreadable", _name(outpoint))
        for table in (TXMARK, BURIED):
            async for items in self._pages(table):
                records = await self._records({txid for txid, _ in items})
                for txid, row in items:
                    record = records.get(txid)
                    if record is None:
                        self._damaged(f"a row of {table} of a transaction that does not exist", txid[::-1].hex())
                    elif table == BURIED and int.from_bytes(row, "big") >= max(1, record.count):
                        self._damaged("more buried spenders than a kept transaction can have", txid[::-1].hex())

    async def _records(self, txids: set[bytes]) -> dict[bytes, Record]:
        rows = await self._get(TX, sorted(txids))
        records = {}
        for txid, row in rows.items():
            try:
                records[txid] = Record(row, complete=False)
            except _BAD_ROW:
                continue  # told where the table itself is read
        return records

    def _has(self, records: dict[bytes, Record], outpoint: bytes) -> bool:
        record = records.get(outpoint[:32])
        return len(outpoint) == 36 and record is not None and int.from_bytes(outpoint[32:], "little") < record.count

    # --- transactions and what they spend ----------------------------------------------------------------------------

    async def _transaction_rows(self) -> None:
        async for items in self._pages(TX):
            records = [(txid, record) for txid, row in items if (record := self._record(txid, row)) is not None]
            whole = [
                (txid, record) for txid, record in records if record.paged is None or await self._has_pages(txid, record)
            ]
            self._transactions += len(items)
            await self._spends(whole)
            try:
                async for outpoint, _, satoshis, script in unspent_of(self._store, whole):
                    mark = self._marks.get(outpoint)
                    self._unspent.add(outpoint, satoshis, mark.script if mark and mark.script is not None else script)
            except _BAD_ROW as error:
                self._damaged("outputs are unreadable", str(error))
            if len(self._suspects) >= SUSPECTS:
                await self._chain(exists=False)
                self._suspects.clear()

    async def _has_pages(self, txid: bytes, record: Record) -> bool:
        assert record.paged is not None
        paged = record.paged
        sound = len(record.body) == 21 + 8 * paged.pages and paged.pages == -(-paged.outputs_bytes // PAGE_BYTES)
        for key in page_keys(txid, record):
            number = int.from_bytes(key[33:], "big")
            if key[32:33] == b"s":
                expected = 36 * min(SPENDS_PER_PAGE, paged.spends - number * SPENDS_PER_PAGE)
            else:
                expected = min(PAGE_BYTES, paged.outputs_bytes - number * PAGE_BYTES)
            (row,) = await self._store.get_many(PAGE, [key])
            sound = sound and row is not None and len(row) == expected
        if not sound:
            self._damaged("a large transaction's pages are not what its row says", txid[::-1].hex())
        return sound

    async def _spends(self, records: Sequence[tuple[bytes, Record]]) -> None:
        """Each spent output's row names this transaction, or its transaction is gone."""
        claims: dict[bytes, bytes] = {}
        for txid, record in records:
            for index, outpoint in enumerate(await read_spends(self._store, txid, record)):
                claims[outpoint] = spender_of(txid, index)
                if len(claims) >= _KEYS:
                    await self._claims(claims)
                    claims = {}
        await self._claims(claims)

    async def _claims(self, claims: dict[bytes, bytes]) -> None:
        rows = await self._get(SPENT, list(claims))
        odd = [outpoint for outpoint, spender in claims.items() if rows.get(outpoint) != spender]
        parents = await self._get(TX, sorted({outpoint[:32] for outpoint in odd}))
        for outpoint in odd:
            spender = claims[outpoint]
            if outpoint[:32] not in parents:
                self._suspects.add(spender[:32])
                continue
            held = rows.get(outpoint)
            told = "none" if held is None else f"transaction {held[:32][::-1].hex()}"
            where = f"{_name(outpoint)} is spent by {spender[:32][::-1].hex()}, its row names {told}"
            self._damaged("an output's spender is not the transaction that spends it", where)

    async def _spent_rows(self) -> None:
        gone: Counter[bytes] = Counter()
        async for items in self._pages(SPENT):
            records = await self._records({key[:32] for key, _ in items} | {spender[:32] for _, spender in items})
            for outpoint, spender in items:
                if not self._has(records, outpoint):
                    self._damaged("a spent row of an output that does not exist", _name(outpoint))
                elif len(spender) != 36:
                    self._damaged("a spent row is unreadable", _name(outpoint))
                elif (record := records.get(spender[:32])) is None:
                    gone[outpoint[:32]] += 1
                elif await self._spent_at(spender, record) != outpoint:
                    where = f"{_name(outpoint)} by {spender[:32][::-1].hex()}"
                    self._damaged("a spent row names a transaction that does not spend it", where)
            if len(gone) > SUSPECTS:
                gone = await self._buried(gone)
        await self._buried(gone)

    async def _spent_at(self, spender: bytes, record: Record) -> bytes | None:
        txid, index = spender[:32], int.from_bytes(spender[32:], "little")
        if record.paged is None:
            count = int.from_bytes(record.body[5:7], "little")
            return record.body[7 + 36 * index : 43 + 36 * index] if index < count else None
        page = txid + b"s" + (index // SPENDS_PER_PAGE).to_bytes(4, "big")
        (row,) = await self._store.get_many(PAGE, [page])
        at = 36 * (index % SPENDS_PER_PAGE)
        return None if row is None else row[at : at + 36]

    async def _buried(self, gone: Counter[bytes]) -> Counter[bytes]:
        counts = await self._get(BURIED, sorted(gone))
        for txid, missing in gone.items():
            if missing > int.from_bytes(counts.get(txid, b""), "big"):
                self._damaged("spenders are gone that were not pruned", f"of outputs of {txid[::-1].hex()}: {missing}")
        return Counter()

    async def _page_rows(self) -> None:
        async for items in self._pages(PAGE):
            records = await self._records({key[:32] for key, _ in items})
            for key, _ in items:
                record = records.get(key[:32])
                if record is None or record.paged is None or key not in page_keys(key[:32], record):
                    self._damaged("a page of a transaction that has no such page", key.hex())

    # --- bundles and blocks ------------------------------------------------------------------------------------------

    async def _bundle_rows(self) -> None:
        async for items in self._pages(BUNDLE, 64):
            for key, row in items:
                bundle, page = key[1:-4], int.from_bytes(key[-4:], "big")
                first = row if page == 0 else (await self._get(BUNDLE, [bundle_key(bundle, 0)])).get(bundle_key(bundle, 0))
                count = -1 if first is None else int.from_bytes(first[:4], "big")
                expected = 32 * min(IDS_PER_PAGE, count - page * IDS_PER_PAGE) + (0 if page else 4)
                sound = len(key) == 5 + key[0] and first is not None and len(row) == expected and (expected or not page)
                more = (page + 1) * IDS_PER_PAGE < count
                if sound and more:
                    sound = bool(await self._get(BUNDLE, [bundle_key(bundle, page + 1)]))
                if not sound:
                    self._damaged("a bundle's pages are not what it says", f"{bundle.hex()}, page {page}")

    async def _mined_rows(self) -> None:
        async for items in self._pages(MINED):
            for bundle, row in items:
                refs = self._refs(bundle, row)
                blocks = await self._get(BLOCK, [block_key(ref) for ref in refs])
                for ref in refs:
                    if bundle not in self._names(ref, blocks.get(block_key(ref), b"")):
                        self._damaged("a bundle is mined in a block that does not name it", f"{bundle.hex()} in {ref}")
        async for items in self._pages(BLOCK):
            for key, row in items:
                block = BlockRef(int.from_bytes(key[:8], "big"), key[8:])
                bundles = self._names(block, row)
                mined = await self._get(MINED, bundles)
                for bundle in bundles:
                    if block not in self._refs(bundle, mined.get(bundle, b"")):
                        self._damaged("a block names a bundle that is not mined in it", f"{bundle.hex()} in {block}")
        async for items in self._pages(FRESH):
            mined = await self._get(MINED, [bundle for bundle, _ in items])
            for bundle, _ in items:
                if bundle not in mined:
                    self._damaged("a fresh bundle is in no block", bundle.hex())

    def _refs(self, bundle: bytes, row: bytes) -> list[BlockRef]:
        try:
            return decode_refs(row)
        except _BAD_ROW:
            self._damaged("the blocks of a bundle are unreadable", bundle.hex())
            return []

    def _names(self, block: BlockRef, row: bytes) -> list[bytes]:
        try:
            return decode_names(row)
        except _BAD_ROW:
            self._damaged("the bundles of a block are unreadable", str(block))
            return []

    async def _admitted_rows(self) -> None:
        (row,) = await self._store.get_many(META, [b"sequence"])
        end = int.from_bytes(row or b"", "big")
        async for items in self._pages(ADMITTED, 64):
            for key, row in items:
                if len(key) != 8 or int.from_bytes(key, "big") >= end:
                    self._damaged("an admitted row has a number that was not given out", key.hex())
                if row[:1] not in (b"\x00", b"\x01") or (row[:1] == b"\x00" and len(row) % 32 != 1):
                    self._damaged("an admitted row is unreadable", key.hex())

    async def _chain(self, exists: bool) -> None:
        """Every transaction of an unburied block, and every unmined one, against the suspects; and whether it exists."""
        (cursor,) = await self._store.get_many(META, [b"prune"])
        async for items in self._pages(BLOCK):
            for key, row in items:
                done = int.from_bytes(cursor[:8], "big") if cursor is not None and cursor[8:] == key[8:] else 0
                block = BlockRef(int.from_bytes(key[:8], "big"), key[8:])
                for bundle in self._names(block, row):
                    async for ids in self._bundles.read(self._store, bundle):
                        txids = split_ids(ids)
                        await self._unburied(txids[done:], block, exists)
                        done = max(0, done - len(txids))
        if self._suspects:
            async for unmined in self._bundles.unmined_ids(self._store):
                self._orphans(unmined)

    async def _unburied(self, txids: list[bytes], block: BlockRef, exists: bool) -> None:
        self._orphans(txids)
        if not exists:
            return
        for start in range(0, len(txids), _KEYS):
            part = txids[start : start + _KEYS]
            known = await self._get(TX, part)
            for txid in part:
                if txid not in known:
                    self._damaged("a transaction of a block is gone", f"{txid[::-1].hex()} of {block}")

    def _orphans(self, txids: Sequence[bytes]) -> None:
        for txid in self._suspects.intersection(txids):
            self._damaged("a transaction spends from one that is gone and was not pruned", txid[::-1].hex())

    async def _undo_rows(self) -> None:
        listed: set[bytes] = set()
        async for items in self._pages(UNDONE):
            rows = await self._get(UNDO, [key[8:] for key, _ in items])
            for key, _ in items:
                listed.add(key[8:])
                if key[8:] not in rows:
                    self._damaged("an undo record is gone", f"of block {key[8:].hex()}")
        async for items in self._pages(UNDO):
            for block, _ in items:
                if block not in listed:
                    self._damaged("an undo record that is not listed", f"of block {block.hex()}")


def _name(outpoint: bytes) -> str:
    return f"{outpoint[:32][::-1].hex()}:{int.from_bytes(outpoint[32:], 'little')}"
