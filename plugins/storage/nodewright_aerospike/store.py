"""A key-value store over one Aerospike server: reads, ordered scans, and the way in to the journal.

Invariants:

- a commit returns when it is in the journal, synced; every commit is durable, and a killed node loses none that returned;
- readers look at what is not retired first (``overlay``), then at the server: a server that lost its last writes, or is
  just being given them again, shows nobody an older state;
- commits enter the journal one at a time, in the order in which they got the lock; a caller that is cancelled is cancelled
  before its commit or after it;
- an index of keys, once loaded, follows each commit in the same step as the overlay;
- ``aclose`` waits for calls that are running; calls that come later are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from nodewright.errors import LeaseLost, StoreCorrupt, StoreError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueReader, Page, WriteBatch
from nodewright.storage.gate import Gate, successor
from nodewright.storage.lease import Lease
from nodewright.storage.limits import MAX_PAGE_BYTES, check_batch, check_keys, check_scan, check_table
from nodewright.storage.utxo_records import SPENT, TX
from nodewright_aerospike.applier import Applier, large_tables
from nodewright_aerospike.entry import Tables, encode
from nodewright_aerospike.keyindex import KeyIndex
from nodewright_aerospike.layout import NUMBER, SPENDERS, STORE_BYTES, VALUE, parts_of, spender_place
from nodewright_aerospike.overlay import Commit

CAPABILITIES = frozenset({"ordered"})

_KEYS_AT_ONCE = 2000
_SCAN_KEYS = 128  # rows read at a time by a scan: each may hold 512 KiB
_PARTS_AT_ONCE = 16
_DELETE_SLICE = 5000
_SCAN_TRIES = 5

Held = bytes | tuple[int, int] | None  # a row; (size, commit number) of one in parts; none


class Interrupted(StoreError):
    """A walk over the server's records has to begin anew."""


class Rows:
    """Implements ``nodewright.interfaces.KeyValueStore``; made by ``plugin.open_aerospike``."""

    capabilities = CAPABILITIES

    def __init__(self, applier: Applier, lease: Lease, environment: Environment) -> None:
        self.applier = applier
        self.server = applier.server
        self.layout = applier.layout
        self._log = applier.log
        self._ownership = applier.ownership
        self._overlay = applier.overlay
        self._lease = lease
        self._environment = environment
        self._writing = trio.Lock()
        self._indexes: dict[str, KeyIndex] = {}
        self._gate = Gate()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        with self._gate:
            await trio.lowlevel.checkpoint()
            return await self._get(table, keys)

    async def _get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = keys[start : start + _KEYS_AT_ONCE]
            for key, held in zip(part, await self._held(table, part), strict=True):
                found.append(await self.whole(table, key, held) if isinstance(held, tuple) else held)
        return found

    async def _held(self, table: str, keys: Sequence[bytes]) -> list[Held]:
        newest = self._overlay.rows.get(table)
        if not newest:
            return await self._fetch(table, keys) if table in self._ownership.tables else [None] * len(keys)
        known: dict[bytes, Held] = {key: newest[key] for key in keys if key in newest}
        missing = [key for key in keys if key not in known]
        if missing:
            known.update(zip(missing, await self._fetch(table, missing), strict=True))
        return [known[key] for key in keys]

    async def _fetch(self, table: str, keys: Sequence[bytes]) -> list[Held]:
        return await self.server.patiently(self._read_spent if table == SPENT else self._read, table, keys)

    def _read(self, table: str, keys: Sequence[bytes]) -> list[Held]:
        name = self.layout.bin_of(table)
        return [held_in(bins, name) for bins in self.server.read(self.layout.keys(table, keys), [name, NUMBER])]

    def _read_spent(self, table: str, keys: Sequence[bytes]) -> list[Held]:
        places = list(map(spender_place, keys))
        records = list(dict.fromkeys(key for key, _ in places))
        rows = self.server.read(self.layout.keys(TX, records), [SPENDERS])
        spenders = {key: (bins or {}).get(SPENDERS) or {} for key, bins in zip(records, rows, strict=True)}
        return [spenders[key].get(index) for key, index in places]

    async def whole(self, table: str, key: bytes, held: tuple[int, int]) -> bytes | None:
        """A value in parts; read again where it was written over between its record and its parts."""
        while True:
            size, number = held
            parts = await self.server.patiently(self._read_parts, table, key, size, number)
            if parts is not None:
                return parts
            (again,) = await self._held(table, [key])
            if not isinstance(again, tuple):
                return again
            if again == held:
                raise StoreCorrupt(f"{self.server.place}: a part of a value is gone; restore the server's data from a copy")
            held = again

    def _read_parts(self, table: str, key: bytes, size: int, number: int) -> bytes | None:
        pieces: list[bytes] = []
        for first in range(0, parts_of(size), _PARTS_AT_ONCE):
            last = min(parts_of(size), first + _PARTS_AT_ONCE)
            for bins in self.server.read(self.layout.part_keys(table, key, first, last), [VALUE, NUMBER]):
                if bins is None or bins.get(NUMBER) != number or VALUE not in bins:
                    return None
                pieces.append(bins[VALUE])
        return b"".join(pieces)

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        with self._gate:
            await trio.lowlevel.checkpoint()
            if table not in self._ownership.tables:
                return Page([], None)
            index = await self._index(table)
            inclusive = after is None or after < prefix
            keys = index.range(prefix if after is None or inclusive else after, inclusive, successor(prefix), limit + 1)
            items: list[tuple[bytes, bytes]] = []
            size = 0
            for start in range(0, min(limit, len(keys)), _SCAN_KEYS):
                part = keys[start : min(limit, start + _SCAN_KEYS)]
                for key, held in zip(part, await self._held(table, part), strict=True):
                    if size >= MAX_PAGE_BYTES:
                        return Page(items, items[-1][0])
                    value = await self.whole(table, key, held) if isinstance(held, tuple) else held
                    if value is not None:  # else it was deleted since the index was asked
                        items.append((key, value))
                        size += len(value)
            return Page(items, keys[limit - 1] if len(keys) > limit else None)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        raise StoreError(f"{self.server.place}: Aerospike has no snapshots; use a store that has them, such as leveldb")

    async def tables(self) -> list[str]:
        """See ``nodewright.interfaces.storage.TableListing``."""
        await trio.lowlevel.checkpoint()
        return sorted(self._ownership.tables)

    # --- the order of keys -------------------------------------------------------------------------------------------

    async def _index(self, table: str) -> KeyIndex:
        index = self._indexes.get(table)
        if index is None:
            async with self._writing:
                index = self._indexes.get(table)
                if index is None:
                    index = self._indexes[table] = KeyIndex(await self._all_keys(table))
        return index

    async def _all_keys(self, table: str) -> list[bytes]:
        for _ in range(_SCAN_TRIES - 1):
            try:
                return await self._scanned(table)
            except Interrupted:
                continue
        return await self._scanned(table)

    async def _scanned(self, table: str) -> list[bytes]:
        name = SPENDERS if table == SPENT else self.layout.bin_of(table)
        bins = [name] if table == SPENT else [NUMBER]
        limit = self.server.config.index_keys
        keys: list[bytes] = []
        async for page in self.walk(TX if table == SPENT else table, bins, name):
            for key, row in page:
                if table == SPENT:
                    keys += [key[:32] + index.to_bytes(4, "little") for index in row.get(SPENDERS) or ()]
                elif table != TX or len(key) == 32:
                    keys.append(key)
            if len(keys) > limit:
                raise StoreError(
                    f"{self.server.place}: the table {table} has more than {limit} keys and cannot be scanned in order; "
                    f"raise {self.server.place.slot}.index_keys, or use a store that sorts, such as leveldb"
                )
        return keys

    async def walk(self, table: str, bins: list[str], present: str) -> AsyncIterator[list[tuple[bytes, dict[str, Any]]]]:
        """(key, bins) of every record of a table that has the bin ``present``, in no order, as the server has it: commits
        made since the walk began may be missing. Raises Interrupted where the server is restarted meanwhile: what is not
        retired could be missing from the rest."""
        incarnation = await self.applier.written()
        walk = await self.server.patiently(self.server.walk, self.layout.set_of(table), bins, present)
        while (page := await self.server.patiently(walk.page)) is not None:
            if incarnation != await self.server.patiently(self.server.incarnation):
                raise Interrupted(f"{self.server.place}: the server was restarted during a scan of it; try again")
            yield [(key[STORE_BYTES:], row) for key, row in page if self.layout.owns(key)]

    # --- writing -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        size = check_batch(batch)
        with self._gate:
            async with self._writing:
                await self._commit({name: dict(rows) for name, rows in batch.tables.items() if rows}, size)

    async def _commit(self, tables: Tables, size: int) -> None:
        """Under the lock."""
        if any(len(key) != 36 for key in tables.get(SPENT, ())) or any(len(key) != 32 for key in tables.get(TX, ())):
            raise ValueError(f"a key of {TX} has 32 bytes, one of {SPENT} has 36")
        await self.applier.room()
        self.applier.check()
        try:
            self._lease.check()
            number = self._log.next_sequence
            await self.server.patiently(self._ownership.start, number, set(tables), large_tables(tables))
        except LeaseLost as error:
            self.applier.stop(error)
            raise
        if not tables:
            return
        payload = encode(tables)
        with trio.CancelScope(shield=True):  # a commit that has begun is finished, so that its caller never has to guess
            number = await self._log.append([payload])
            self.applier.add(Commit(number, tables, size))
            for table in tables.keys() & self._indexes.keys():
                self._indexes[table].update(tables[table])

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        """In pieces of 5,000 rows, each a commit of its own; other commits may come between them."""
        check_table(table)
        check_keys([start, end])
        deleted = 0
        with self._gate:
            await trio.lowlevel.checkpoint()
            if table not in self._ownership.tables or end <= start:
                return 0
            index = await self._index(table)
            while True:
                async with self._writing:
                    gone: dict[bytes, bytes | None] = dict.fromkeys(index.range(start, True, end, _DELETE_SLICE))
                    if gone:
                        await self._commit({table: gone}, sum(map(len, gone)))
                deleted += len(gone)
                if len(gone) < _DELETE_SLICE:
                    return deleted

    async def aclose(self) -> None:
        """Waits for running calls, then for the server to keep what is in the journal; frees the store for any owner."""
        with trio.CancelScope(shield=True):
            await self._gate.wait_empty()
            finished = await self.applier.finished(self.server.config.close_seconds)
            if not finished:
                self._environment.logger.warning("aerospike_closed_behind", store=self.server.place.store)
                return
            try:
                await self._environment.offload(self._ownership.finish, self._log.next_sequence - 1)
            except Exception as error:
                self._environment.logger.warning("aerospike_closed_unclean", error=str(error))


def held_in(bins: dict[str, Any] | None, name: str) -> Held:
    if bins is None:
        return None
    value = bins.get(name)
    if isinstance(value, int):
        number = bins.get(NUMBER)
        assert isinstance(number, int)
        return value, number
    assert value is None or isinstance(value, bytes)
    return value
