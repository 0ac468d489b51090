"""A key-value store on one LevelDB, through plyvel.

Invariants:

- a table is a two-byte prefix of the key, given out once and kept under the prefix ``00 00``; the row that gives it out
  is synced before the first row of the table is written;
- commits are serialised: one enters LevelDB at a time, in the order in which they were called, so that a crash keeps a
  prefix of them. A log that LevelDB exchanges for a new one is synced before anything is written to the new one
  (``logs.RotationGuard``), so that a power cut keeps a prefix as well, and a synced record means that all before it are;
- after a failed write nothing more is written: LevelDB may hold half a record at the end of its log, behind which a later
  commit could be lost. The store has to be opened again;
- ``aclose`` waits for calls that are running; calls that come later, also on a snapshot still held, are refused;
- the lease of the folder is checked before every commit.

Reads and small writes run on the trio thread, in slices with a checkpoint between. plyvel lets go of the interpreter lock
at every single read, so that a batch of reads in another thread loses the lock to a busy trio thread at every key: some
hundred times slower than reading in place. What waits for the disk, a sync or a large write, goes to ``offload``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import trio

from nodewright.errors import StoreCorrupt, StoreError, StoreFull
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import MAX_KEY_BYTES, MAX_VALUE_BYTES, KeyValueReader, Page, WriteBatch
from nodewright.storage.gate import Gate, successor
from nodewright.storage.lease import Lease
from nodewright.storage.limits import MAX_PAGE_BYTES, check_keys, check_scan, check_table
from nodewright_leveldb.logs import RotationGuard, data_files, first_damage, log_files

Tables = dict[str, dict[bytes, bytes | None]]

CAPABILITIES = frozenset({"ordered", "snapshot"})

NAMES = b"\x00\x00"
_MAX_TABLES = 0xFFFE
_DELETE_SLICE = 1000
_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def store_error(error: Exception, path: Path) -> StoreError:
    """plyvel's exception as one of the contract's, with the fix. Looks at the exception's own module, so that the
    driver is needed only where a database is open."""
    said = error.args[0] if error.args else ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(error)
    if any(reason in text for reason in _DISK_FULL):
        return StoreFull(f"{path}: the disk is full; make room and start the node again (nothing acknowledged is lost)")
    if type(error).__name__ == "CorruptionError" or "Corruption" in text or "does not exist (create_if_missing" in text:
        return damaged(path, text)
    return StoreError(f"{path}: LevelDB failed ({text}); check the disk and start the node again")


def damaged(path: Path, what: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{path}: the database is damaged ({what}); stop the node and restore the folder from a copy, or save what is "
        "whole with  nodewright db repair  , or move the folder away and start again to fetch the chain anew"
    )


class LevelDBReader:
    """Reads of a database or of one snapshot of it (both have plyvel's ``get`` and ``iterator``)."""

    def __init__(
        self, source: Any, prefixes: dict[str, bytes], path: Path, gate: Gate, verify: bool, read_slice: int
    ) -> None:
        self._source = source
        self._prefixes = prefixes
        self._path = path
        self._gate = gate
        self._verify = verify
        self._slice = read_slice

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        with self._gate:
            await trio.lowlevel.checkpoint()
            prefix = self._prefixes.get(table)
            if prefix is None:
                return [None] * len(keys)
            get, verify = self._source.get, self._verify
            found: list[bytes | None] = []
            try:
                for start in range(0, len(keys), self._slice):
                    if start:
                        await trio.lowlevel.checkpoint()
                    found += [get(prefix + key, verify_checksums=verify) for key in keys[start : start + self._slice]]
            except Exception as error:
                raise store_error(error, self._path) from error
            return found

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        with self._gate:
            await trio.lowlevel.checkpoint()
            table_prefix = self._prefixes.get(table)
            if table_prefix is None:
                return Page([], None)
            first = table_prefix + (prefix if after is None or after < prefix else after)
            with self._iterator(first, successor(table_prefix + prefix), after is None or after < prefix) as rows:
                return await self._page(rows, limit)

    async def _page(self, rows: Any, limit: int) -> Page:
        items: list[tuple[bytes, bytes]] = []
        size = 0
        try:
            for key, value in rows:
                if len(items) == limit or size >= MAX_PAGE_BYTES:
                    return Page(items, items[-1][0])
                items.append((key[2:], value))
                size += len(value)
                if not len(items) % self._slice:
                    await trio.lowlevel.checkpoint()
        except Exception as error:
            raise store_error(error, self._path) from error
        return Page(items, None)

    def _iterator(self, start: bytes, stop: bytes | None, include_start: bool, values: bool = True) -> Any:
        return self._source.iterator(
            start=start,
            stop=stop,
            include_start=include_start,
            include_value=values,
            verify_checksums=self._verify,
            fill_cache=False,
        )


class LevelDBStore(LevelDBReader):
    """Implements ``nodewright.interfaces.KeyValueStore``; made by ``plugin.open_leveldb``."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        database: Any,
        path: Path,
        environment: Environment,
        lease: Lease,
        *,
        verify: bool,
        read_slice: int,
        inline_bytes: int,
        sync_every: bool,
    ) -> None:
        super().__init__(database, read_names(database, path), path, Gate(), verify, read_slice)
        self._database = database
        self._environment = environment
        self._lease = lease
        self._inline_bytes = inline_bytes
        self._sync_every = sync_every
        self._logs = RotationGuard(path)
        self._nothing = database.write_batch().write
        self._writing = trio.Lock()
        self._unsynced = False
        self._failed = False
        self._snapshots: dict[Any, Gate] = {}

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        durable = durable or self._sync_every
        with self._gate:
            rows = self._rows(batch.tables, durable)
            async with self._writing:
                await self._write(batch.tables, rows, durable)

    def _rows(self, tables: Tables, durable: bool) -> Any:
        """A batch of plyvel's, having checked everything; None, having checked it too, where a table has no prefix yet."""
        batch = self._database.write_batch(sync=durable)
        whole = True
        for name, changes in tables.items():
            prefix = self._prefixes.get(name)
            if prefix is None:
                check_table(name)
                whole = whole and not changes
            if changes:
                add(batch, name, prefix or NAMES, changes)
        return batch if whole else None

    async def _write(self, tables: Tables, rows: Any, durable: bool) -> None:
        if self._failed:
            raise StoreError(f"{self._path}: an earlier write failed, nothing more is written; start the node again")
        self._lease.check()
        try:
            if rows is not None and self._is_quick(rows, durable):
                rows.write()
            else:
                with trio.CancelScope(shield=True):  # what has begun is finished, so that the caller never has to guess
                    await self._put(tables, rows, durable)
        except StoreError:
            self._failed = True
            raise
        except Exception as error:
            self._failed = True
            raise store_error(error, self._path) from error
        self._unsynced = not durable

    def _is_quick(self, rows: Any, durable: bool) -> bool:
        """Whether nothing of this commit has to wait for the disk. Asks for a new log, if one is due."""
        return not durable and rows.approximate_size() <= self._inline_bytes and not self._logs.rotated(self._nothing)

    async def _put(self, tables: Tables, rows: Any, durable: bool) -> None:
        if rows is None:
            for name in [name for name, changes in tables.items() if changes and name not in self._prefixes]:
                await self._name(name)
            rows = self._rows(tables, durable)
        await self._environment.offload(self._write_apart, rows.write)

    def _write_apart(self, write: Callable[[], None]) -> None:
        """In a thread: what waits for the disk."""
        if self._logs.rotated(self._nothing):
            self._logs.settle()
        write()

    async def _name(self, table: str) -> None:
        """Give a new table its prefix, durably: it happens once for every table of a database."""
        number = 1 + max((int.from_bytes(prefix, "big") for prefix in self._prefixes.values()), default=0)
        if number > _MAX_TABLES:
            raise ValueError(f"{self._path}: more than {_MAX_TABLES} tables")
        prefix = number.to_bytes(2, "big")

        def keep() -> None:
            self._database.put(NAMES + table.encode(), prefix, sync=True)

        await self._environment.offload(self._write_apart, keep)
        self._prefixes[table] = prefix

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        """In pieces of 1,000 rows, each a commit of its own; other commits may come between them. The last is synced."""
        check_table(table)
        check_keys([start, end])
        deleted = 0
        with self._gate:
            prefix = self._prefixes.get(table)
            if prefix is None or end <= start:
                await trio.lowlevel.checkpoint()
                return 0
            while True:
                with self._iterator(prefix + start, prefix + end, True, values=False) as keys:
                    gone = [key[2:] for key in islice(keys, _DELETE_SLICE)]
                if gone:
                    async with self._writing:
                        changes: Tables = {table: dict.fromkeys(gone)}
                        durable = len(gone) < _DELETE_SLICE or self._sync_every
                        await self._write(changes, self._rows(changes, durable), durable)
                    deleted += len(gone)
                if len(gone) < _DELETE_SLICE:
                    return deleted
                start = gone[-1] + b"\x00"

    async def tables(self) -> list[str]:
        with self._gate:
            await trio.lowlevel.checkpoint()
            return sorted(self._prefixes)

    async def compact(self) -> None:
        """Rewrites every table file, beside reads; commits wait. Interrupted, it leaves the database as it was."""
        with self._gate:
            async with self._writing:
                self._lease.check()
                try:
                    await self._environment.offload(self._database.compact_range)
                except Exception as error:
                    raise store_error(error, self._path) from error

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        gate = Gate()
        with self._gate:
            source = self._database.snapshot()
            self._snapshots[source] = gate
            await trio.lowlevel.checkpoint()
        try:
            yield LevelDBReader(source, dict(self._prefixes), self._path, gate, self._verify, self._slice)
        finally:
            if self._snapshots.pop(source, None) is not None:
                gate.closed = True
                source.close()

    async def aclose(self) -> None:
        """Wait for running calls, sync what is unsynced, close snapshots and database."""
        with trio.CancelScope(shield=True):
            await self._gate.wait_empty()
            for source, gate in list(self._snapshots.items()):
                await gate.wait_empty()
                if self._snapshots.pop(source, None) is not None:
                    source.close()
            try:
                if self._unsynced and not self._failed:
                    await self._environment.offload(self._logs.sync)
            finally:
                self._logs.close()
                await self._environment.offload(self._database.close)


def add(batch: Any, table: str, prefix: bytes, changes: dict[bytes, bytes | None]) -> None:
    """A table's rows, at least one, into a batch of plyvel's; its checks are some of those of the contract.

    Raises ValueError where a row is over a limit or no bytes. This is what a commit costs beside LevelDB's own work: a key
    is measured at the speed of C, a value only where the whole batch is larger than one value may be."""
    put, delete = batch.put, batch.delete
    try:
        longest = max(map(len, changes))
        if longest > MAX_KEY_BYTES:
            raise ValueError(f"table {table!r}: a key of {longest} bytes is over the limit of {MAX_KEY_BYTES}")
        for key, value in changes.items():
            if value is None:
                delete(prefix + key)
            else:
                put(prefix + key, value)
    except TypeError as error:
        raise ValueError(f"table {table!r}: a row is not of bytes ({error})") from error
    if batch.approximate_size() > MAX_VALUE_BYTES:
        largest = max((len(value) for value in changes.values() if value is not None), default=0)
        if largest > MAX_VALUE_BYTES:
            raise ValueError(f"table {table!r}: a value of {largest} bytes is over the limit of {MAX_VALUE_BYTES}")


def read_names(database: Any, path: Path) -> dict[str, bytes]:
    """Prefix by table name; closes the database where that cannot be read."""
    try:
        return {key[2:].decode(): value for key, value in database.iterator(prefix=NAMES, verify_checksums=True)}
    except Exception as error:
        database.close()
        raise store_error(error, path) from error


def open_database(factory: Callable[..., Any], path: Path, *, strict: bool, create: bool = True, **options: Any) -> Any:
    """Open with plyvel's ``DB`` as ``factory``; its failures become the contract's.

    Opened with every check that LevelDB has. Where that fails at the end of the newest log, as a power cut leaves it, what
    was never synced is given up (LevelDB does so without a word wherever the damage is); not where ``strict``."""
    if path.is_dir() and not (path / "CURRENT").exists() and data_files(path):
        raise damaged(path, "the file CURRENT is gone")  # LevelDB would begin anew and delete the others
    try:
        return factory(str(path), create_if_missing=create, paranoid_checks=True, **options)
    except Exception as error:
        refused = store_error(error, path)
        if not isinstance(refused, StoreCorrupt):
            raise refused from error
        torn = [found for log in log_files(path) if (found := first_damage(log)) is not None]
        if not torn:
            raise refused from error
        first = torn[0]
        if strict or not first.at_end or first.path != log_files(path)[-1]:
            what = f"{first.path.name} is not whole from byte {first.good} of {first.size} on"
            raise damaged(path, what) from error
    try:
        return factory(str(path), create_if_missing=create, **options)
    except Exception as error:
        raise store_error(error, path) from error
