"""A read cache within a budget of bytes, in front of any key-value store.

Invariants:

- a row that is held is the one in the store behind as of the last commit that returned, or a row that was absent there;
- so a commit changes what is held after the store behind has taken it and before it returns. Where its fate is not known
  (it raised, it was cancelled) or its order among commits that ran beside it is not, the rows it names are dropped;
- a row that was on its way from the store while a commit or a range named it is not kept: every read in flight has the set
  of its keys, and whoever changes one strikes it out;
- what is held takes at most the budget, ``ROW_BYTES`` counted for each row beside its key and value. What was used longest
  ago goes first; a row over a sixteenth of the budget is not held.

Scans and snapshots go to the store behind, past the cache, and leave it as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from nodewright.interfaces.storage import KeyValueReader, KeyValueStore, Page, WriteBatch
from nodewright.storage.limits import check_keys, check_table
from nodewright_wrappers.base import ABSENT, ROW_BYTES, Changes, Wrapper, filled


class CachedStore(Wrapper):
    """Implements ``nodewright.interfaces.KeyValueStore``. ``count(hits, misses)`` is told of every ``get_many``."""

    def __init__(
        self,
        inner: KeyValueStore,
        slot: str,
        *,
        max_bytes: int,
        keep_written: bool = True,
        count: Callable[[int, int], None] = lambda hits, misses: None,
    ) -> None:
        super().__init__(inner, slot)
        self._budget = max_bytes
        self._keep_written = keep_written
        self._count = count
        self._rows: OrderedDict[tuple[str, bytes], bytes | None] = OrderedDict()
        self.used = 0
        self._reads: dict[int, tuple[str, set[bytes]]] = {}  # of each get_many in flight, the keys that may be kept
        self._read = 0
        self._changing = 0  # commits and ranges in flight
        self._changes = 0  # commits and ranges begun

    def __len__(self) -> int:
        return len(self._rows)

    # --- reads -------------------------------------------------------------------------------------------------------

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        rows = self._rows
        found: list[Any] = []
        missing: list[bytes] = []
        for key in keys:
            where = (table, key)
            value: Any = rows.get(where, ABSENT)
            if value is ABSENT:
                missing.append(key)
            else:
                rows.move_to_end(where)
            found.append(value)
        self._count(len(keys) - len(missing), len(missing))
        if not missing:
            await trio.lowlevel.checkpoint()
            return found
        return filled(found, await self._fetch(table, missing))

    async def _fetch(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        self._read += 1
        number, kept = self._read, set(keys)
        self._reads[number] = (table, kept)
        try:
            values = await self.inner.get_many(table, keys)
        finally:
            del self._reads[number]
        for key, value in zip(keys, values, strict=True):
            if key in kept:
                self._keep((table, key), value)
        self._shrink()
        return values

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        return await self.inner.scan(table, prefix, after, limit)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self.inner.snapshot()

    # --- changes -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        beside, number = self._begin()
        learn = False
        try:
            await self.inner.commit(batch, durable)
            learn = not beside and number == self._changes
        finally:
            self._changing -= 1
            self._strike(batch.tables)
            self._replace(batch.tables, learn)

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        self._begin()
        try:
            return await self.inner.delete_range(table, start, end)
        finally:
            self._changing -= 1
            for read_table, keys in self._reads.values():
                if read_table == table:
                    keys.difference_update([key for key in keys if start <= key < end])
            for where in [where for where in self._rows if where[0] == table and start <= where[1] < end]:
                self._drop(where)

    def _begin(self) -> tuple[bool, int]:
        """Whether other changes are in flight, and the number of this one."""
        beside = self._changing > 0
        self._changing += 1
        self._changes += 1
        return beside, self._changes

    def _strike(self, changes: Changes) -> None:
        for table, keys in self._reads.values():
            rows = changes.get(table)
            if rows:
                keys.difference_update(rows)

    def _replace(self, changes: Changes, learn: bool) -> None:
        """Hold the rows as written, or drop them where they are not known to be those of the store."""
        for table, rows in changes.items():
            for key, value in rows.items():
                where = (table, key)
                if learn and (self._keep_written or where in self._rows):
                    self._keep(where, value)
                elif not learn and where in self._rows:
                    self._drop(where)
        self._shrink()

    # --- what is held ------------------------------------------------------------------------------------------------

    def _keep(self, where: tuple[str, bytes], value: bytes | None) -> None:
        rows = self._rows
        size = len(value) if value is not None else 0
        old: Any = rows.get(where, ABSENT)
        if (ROW_BYTES + len(where[1]) + size) * 16 > self._budget:
            if old is not ABSENT:
                self._drop(where)
            return
        if old is ABSENT:
            self.used += ROW_BYTES + len(where[1]) + size
        else:
            self.used += size - (len(old) if old is not None else 0)
            rows.move_to_end(where)
        rows[where] = value

    def _drop(self, where: tuple[str, bytes]) -> None:
        value = self._rows.pop(where)
        self.used -= ROW_BYTES + len(where[1]) + (len(value) if value is not None else 0)

    def _shrink(self) -> None:
        rows = self._rows
        while self.used > self._budget:
            (_, key), value = rows.popitem(last=False)
            self.used -= ROW_BYTES + len(key) + (len(value) if value is not None else 0)
