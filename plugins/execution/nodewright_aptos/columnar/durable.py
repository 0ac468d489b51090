"""A columnar ledger on disk, written little: what each block changed as a few dense rows, and the base in turns.

A row for each account would cost, of every touched account, its key and its values whole, and a store like LevelDB then
writes them again and again as it merges its files. Here a block is one record: of the touched rows, ascending, the
distance to the one before and four numbers (``ledgerkernels.encode``, about a dozen bytes). So that records need not be
kept for ever, each block also writes one in ``ROUND`` of the base's pages as they are after it; a record is deleted once
every page is newer.

Tables (numbers in keys big-endian):
- ``columns_meta``: ``applied`` -> height u64 ‖ accounts u64 ‖ supply u128 ‖ root 32, little-endian.
- ``columns_changes``: height u64 ‖ part u16 -> bytes of the block's record.
- ``columns_pages``: page u32 -> height u64 of the block it was written after ‖ rows of PAGE accounts, shrunk by zlib.
- ``columns_addresses``: page u32 -> its addresses, written with the page they were new in.

Invariants
- One commit for each block holds its record, its pages and the marker: what can be read is the state after ``applied``.
- A row after loading = its page, then every record above the page's height in order. The root of what was loaded is
  computed and compared.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np
from attrs import define

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright_aptos.columnar import layout, ledgerkernels
from nodewright_aptos.columnar.ledger import TWO_KEYS, ColumnarLedger, Executed, Part

META: Final = "columns_meta"
CHANGES: Final = "columns_changes"
PAGES: Final = "columns_pages"
ADDRESSES: Final = "columns_addresses"
APPLIED: Final = b"applied"
PAGE: Final = 8192  # rows
ROUND: Final = 128  # blocks in which every page is written once
RECORD_BYTES: Final = 4 * 1024 * 1024
ZLIB_LEVEL: Final = 1

Array = Any


@define
class Applied:
    height: int
    accounts: int
    supply: int
    root: bytes

    def encode(self) -> bytes:
        numbers = self.height.to_bytes(8, "little") + self.accounts.to_bytes(8, "little")
        return numbers + self.supply.to_bytes(16, "little") + self.root


def read_applied(raw: bytes) -> Applied:
    if len(raw) != 64:
        raise StoreCorrupt("stores.state has a marker of another length: restore this store from a copy")
    number = int.from_bytes
    return Applied(number(raw[:8], "little"), number(raw[8:16], "little"), number(raw[16:32], "little"), raw[32:])


def _key(number: int, part: int | None = None) -> bytes:
    return number.to_bytes(4, "big") if part is None else number.to_bytes(8, "big") + part.to_bytes(2, "big")


class DurableLedger:
    """Writes what a ``ColumnarLedger`` executed. ``record`` looks at the rows, ``commit`` does not: between them the next
    block may run."""

    def __init__(self, ledger: ColumnarLedger, store: KeyValueStore, environment: Environment) -> None:
        self._ledger = ledger
        self._store = store
        self._environment = environment
        self._paged = 0  # accounts whose addresses are written
        self._parts: dict[int, int] = {}  # height -> parts of its record, of those that are kept
        self.written_bytes = 0

    async def found(self, height: int, root: bytes) -> None:
        """The whole state, into an empty store; its marker comes last."""
        ledger = self._ledger
        for page in range(-(-ledger.count // PAGE)):
            batch = WriteBatch()
            await self._environment.offload(self._page, batch, page, height)
            await self._commit(batch, durable=False)
        self._paged = ledger.count
        batch = WriteBatch()
        batch.put(META, APPLIED, Applied(height, ledger.count, ledger.supply, root).encode())
        await self._commit(batch)

    def record(self, height: int, executed: Executed) -> WriteBatch:
        """Blocking. The block's record and pages; the marker, which has the root, is added by ``commit``."""
        ledger, batch = self._ledger, WriteBatch()
        ids = executed.ids
        parts, begin = 0, 0
        whole = bool((executed.changed[ids] & ledgerkernels.MADE).any())
        room = RECORD_BYTES // (ledgerkernels.MOST_BYTES if whole else ledgerkernels.MOST_NUMBERS)
        while begin < len(ids):
            # A part begins with a row's own number, not a distance: parts are decoded apart from each other.
            own = ids[begin : begin + room]
            out = np.empty(len(own) * ledgerkernels.MOST_BYTES + 8, np.uint8)
            size = ledgerkernels.encode(ledger.rows, own, executed.changed, out)
            batch.put(CHANGES, _key(height, parts), out[:size].tobytes())
            parts += 1
            begin += len(own)
        self._parts[height] = parts
        pages = -(-ledger.count // PAGE)
        new = range(self._paged // PAGE, pages) if ledger.count > self._paged else range(0)
        for page in sorted({*range(height % ROUND, pages, ROUND), *new}):
            self._page(batch, page, height)
        self._paged = ledger.count
        gone = height - ROUND
        if gone in self._parts:
            batch.delete_many(CHANGES, [_key(gone, part) for part in range(self._parts.pop(gone))])
        batch.put(META, APPLIED, Applied(height, ledger.count, ledger.supply, bytes(32)).encode())
        return batch

    def _page(self, batch: WriteBatch, page: int, height: int) -> None:
        ledger = self._ledger
        own = slice(page * PAGE, min((page + 1) * PAGE, ledger.count))
        # Column by column, so that what is alike lies together.
        columns = np.ascontiguousarray(self._bare(own).T).tobytes()
        batch.put(PAGES, _key(page), height.to_bytes(8, "little") + zlib.compress(columns, ZLIB_LEVEL))
        if own.stop > self._paged or height == 0:
            batch.put(ADDRESSES, _key(page), ledger.addresses[own].tobytes())

    def _bare(self, own: slice) -> Array:
        """Rows without what follows from their addresses: each 32 bytes that equal the address become zeroes."""
        rows = self._ledger.rows[own].copy()
        _blank(rows, self._ledger.addresses[own])
        return rows

    async def commit(self, batch: WriteBatch, root: bytes) -> None:
        """Durable."""
        raw = batch.tables[META][APPLIED] or b""
        batch.put(META, APPLIED, raw[:32] + root)
        await self._commit(batch)

    async def _commit(self, batch: WriteBatch, durable: bool = True) -> None:
        self.written_bytes += sum(
            len(key) + len(value or b"") for rows in batch.tables.values() for key, value in rows.items()
        )
        await self._store.commit(batch, durable)


_ADDRESS_PLACES: Final = (1, 65, 113, layout.DEPOSITS_AT + 16, layout.WITHDRAWALS_AT + 16)
_BLANKED: Final = layout.FLAGS_AT + 1  # bit i: the i-th place held the address


def _blank(rows: Array, addresses: Array) -> None:
    for bit, place in enumerate(_ADDRESS_PLACES):
        same = (rows[:, place : place + 32] == addresses).all(axis=1)
        rows[same, place : place + 32] = 0
        rows[:, _BLANKED] |= same.astype(np.uint8) << bit


def _fill(rows: Array, addresses: Array) -> None:
    for bit, place in enumerate(_ADDRESS_PLACES):
        same = (rows[:, _BLANKED] >> bit & 1).astype(bool)
        rows[same, place : place + 32] = addresses[same]
    rows[:, _BLANKED] = 0


async def load(
    store: KeyValueStore, environment: Environment, parts: tuple[Part, ...] = TWO_KEYS, secret: int = 1
) -> tuple[ColumnarLedger, DurableLedger, Applied] | None:
    """What was committed last; None of an empty store. Raises StoreCorrupt where it has another root than it should."""
    (raw,) = await store.get_many(META, [APPLIED])
    if raw is None:
        return None
    applied = read_applied(raw)
    ledger = ColumnarLedger(parts, secret=secret)
    durable = DurableLedger(ledger, store, environment)
    stamps = np.zeros(applied.accounts, np.int64)
    rows = np.zeros((applied.accounts, layout.ROW_BYTES), np.uint8)
    names = np.zeros((applied.accounts, 32), np.uint8)
    for page in range(-(-applied.accounts // PAGE)):
        (values,), (addresses,) = await store.get_many(PAGES, [_key(page)]), await store.get_many(ADDRESSES, [_key(page)])
        own = slice(page * PAGE, min((page + 1) * PAGE, applied.accounts))
        if values is None or addresses is None:
            raise StoreCorrupt(f"stores.state lacks page {page} of its accounts: restore this store from a copy")
        stamps[own] = int.from_bytes(values[:8], "little")
        columns = np.frombuffer(zlib.decompress(values[8:]), np.uint8)
        rows[own] = columns.reshape(layout.ROW_BYTES, -1).T
        names[own] = np.frombuffer(addresses, np.uint8).reshape(-1, 32)
        _fill(rows[own], names[own])
    after: bytes | None = b""
    while after is not None:
        page_of_rows = await store.scan(CHANGES, after=after or None, limit=16)
        for key, record in page_of_rows.items:
            height = int.from_bytes(key[:8], "big")
            data = np.frombuffer(bytearray(record), np.uint8)
            await environment.offload(ledgerkernels.decode, rows, data, stamps, height)
            durable._parts[height] = durable._parts.get(height, 0) + 1
        after = page_of_rows.after
    wrong = StoreCorrupt("stores.state has other accounts than its root says: restore this store from a copy")
    try:
        await environment.offload(ledger.restore, names, rows, applied.supply)
    except ValueError as error:
        raise wrong from error
    durable._paged = ledger.count
    if ledger.tree is not None and ledger.tree.root() != applied.root:
        raise wrong
    return ledger, durable, applied
