"""A key-value store in memory, over a ``MemoryDisk``. Sorted, with snapshots, and gone with the process.

Every call is one step of the trio thread: nothing of another call is seen half-way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from nodewright.errors import StoreError
from nodewright.interfaces.storage import KeyValueReader, Page, WriteBatch
from nodewright.storage.limits import MAX_PAGE_BYTES, check_batch, check_keys, check_scan, check_table
from nodewright_memory.disk import MemoryDisk, Table

CAPABILITIES = frozenset({"ordered", "snapshot", "volatile"})


class MemoryReader:
    """Reads of one set of tables; a snapshot is one with copies of its own."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self._tables = tables

    def _check_open(self) -> dict[str, Table]:
        return self._tables

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        await trio.lowlevel.checkpoint()
        found = self._check_open().get(table)
        if found is None:
            return [None] * len(keys)
        return list(map(found.rows.get, keys))

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        await trio.lowlevel.checkpoint()
        found = self._check_open().get(table)
        if found is None:
            return Page([], None)
        keys = found.keys()
        start = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
        items: list[tuple[bytes, bytes]] = []
        size = 0
        for index in range(start, len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                break
            if len(items) == limit or size >= MAX_PAGE_BYTES:
                return Page(items, items[-1][0])
            value = found.rows[key]
            items.append((key, value))
            size += len(value)
        return Page(items, None)


class MemoryStore(MemoryReader):
    """Implements ``nodewright.interfaces.KeyValueStore``."""

    capabilities = CAPABILITIES

    def __init__(self, disk: MemoryDisk, owner: str) -> None:
        super().__init__(disk.live)
        self.disk = disk
        self._epoch = disk.attach(owner)
        self._closed = False

    def _check_open(self) -> dict[str, Table]:
        if self._closed:
            raise StoreError("this store is closed")
        self.disk.check(self._epoch)
        return self.disk.live

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        check_batch(batch)
        await trio.lowlevel.checkpoint()
        self._check_open()
        self.disk.commit(self._epoch, batch.tables, durable)

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        check_table(table)
        check_keys([start, end])
        await trio.lowlevel.checkpoint()
        found = self._check_open().get(table)
        if found is None or end <= start:
            return 0
        keys = found.keys()
        gone = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        if gone:
            self.disk.commit(self._epoch, {table: dict.fromkeys(gone)}, durable=True)
        return len(gone)

    async def tables(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return sorted(name for name, table in self._check_open().items() if table.rows)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        reader = MemoryReader({name: table.copy() for name, table in self._check_open().items()})
        await trio.lowlevel.checkpoint()
        yield reader

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.disk.detach(self._epoch)
