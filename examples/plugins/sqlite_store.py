"""A storage plugin in one file: the contract ``key-value`` on SQLite, which comes with Python.

Drop it in with ``--plugins-dir`` and name it in a profile::

    nodewright run teranode --plugins-dir examples/plugins --set stores.utxo.use=sqlite

Invariants: one call is inside SQLite at a time, and calls enter in the order in which they were made, so that a crash keeps
a prefix of the commits: SQLite's write-ahead log is read back up to its first torn frame, and a durable commit syncs the
log with all that came before. The lease is checked before every commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from nodewright.errors import StoreCorrupt, StoreError, StoreFull
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueReader, Page, WriteBatch
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import KEY_VALUE, Dependencies, StorageSpec, setting
from nodewright.storage.lease import Lease, acquire
from nodewright.storage.limits import MAX_PAGE_BYTES, check_batch, check_keys, check_scan, check_table

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS row (
    name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key)
) WITHOUT ROWID
"""


@attrs.define
class SqliteConfig:
    file: str = setting("store.sqlite", help="file of the database, in the slot's own folder of the data directory")
    cache_mib: int = setting(64, help="MiB of cached pages", minimum=1, maximum=65536)


class SqliteReader:
    """Reads through one connection."""

    def __init__(self, connection: sqlite3.Connection, environment: Environment) -> None:
        self._connection = connection
        self._environment = environment
        self._one_at_a_time = trio.Lock()

    async def _call(self, function: Callable[[], T]) -> T:
        """In a thread, where SQLite may wait for the disk; its errors become the contract's."""
        async with self._one_at_a_time:
            try:
                return await self._environment.offload(function)
            except sqlite3.Error as error:
                raise store_error(error) from error

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)

        def get() -> list[bytes | None]:
            found: list[bytes | None] = []
            for key in keys:
                row = self._connection.execute("SELECT value FROM row WHERE name = ? AND key = ?", (table, key)).fetchone()
                found.append(None if row is None else row[0])
            return found

        return await self._call(get)

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        beyond = after is not None and after >= prefix
        where = f"name = ? AND key {'>' if beyond else '>='} ?"
        arguments: list[str | bytes | int] = [table, after if beyond and after is not None else prefix]
        end = successor(prefix)
        if end is not None:
            where += " AND key < ?"
            arguments.append(end)

        def read() -> Page:
            rows = self._connection.execute(f"SELECT key, value FROM row WHERE {where} ORDER BY key", arguments)
            items: list[tuple[bytes, bytes]] = []
            size = 0
            for key, value in rows:
                if len(items) == limit or size >= MAX_PAGE_BYTES:
                    rows.close()
                    return Page(items, items[-1][0])
                items.append((key, value))
                size += len(value)
            return Page(items, None)

        return await self._call(read)


class SqliteStore(SqliteReader):
    def __init__(self, path: Path, connection: sqlite3.Connection, environment: Environment, lease: Lease) -> None:
        super().__init__(connection, environment)
        self._path = path
        self._lease = lease

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        check_batch(batch)
        put = [
            (name, key, value) for name, rows in batch.tables.items() for key, value in rows.items() if value is not None
        ]
        gone = [(name, key) for name, rows in batch.tables.items() for key, value in rows.items() if value is None]

        def write() -> None:
            self._lease.check()
            # FULL syncs the log at the commit, NORMAL leaves that to the next checkpoint.
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO row VALUES (?, ?, ?)", put)
                self._connection.executemany("DELETE FROM row WHERE name = ? AND key = ?", gone)
                if durable:  # a commit that changes no row writes nothing, and would sync nothing of the earlier ones
                    self._connection.execute("UPDATE synced SET count = count + 1")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

        await self._call(write)

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        check_table(table)
        check_keys([start, end])

        def delete() -> int:
            self._lease.check()
            self._connection.execute("PRAGMA synchronous = FULL")
            where = "name = ? AND key >= ? AND key < ?"
            return self._connection.execute(f"DELETE FROM row WHERE {where}", (table, start, end)).rowcount

        return await self._call(delete)

    async def tables(self) -> list[str]:
        """For the operator's ``nodewright db``: no part of the contract ``key-value``."""
        return await self._call(
            lambda: [name for (name,) in self._connection.execute("SELECT DISTINCT name FROM row ORDER BY name")]
        )

    async def compact(self) -> None:
        def vacuum() -> None:
            self._lease.check()
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        await self._call(vacuum)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        """A second connection inside a read transaction: it sees the database as it was when the transaction began."""

        def begin() -> sqlite3.Connection:
            connection = connect(self._path, 1)
            connection.execute("BEGIN")
            connection.execute("SELECT name FROM row LIMIT 1").fetchone()
            return connection

        connection = await self._call(begin)
        try:
            yield SqliteReader(connection, self._environment)
        finally:
            connection.close()


def successor(prefix: bytes) -> bytes | None:
    """The first key after all that start with ``prefix``; None where there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def store_error(error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull("the disk is full; make room and start the node again (nothing acknowledged is lost)")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"the database is damaged ({error}); restore the folder from a copy, or move it away")
    return StoreError(f"SQLite failed ({error}); check the disk and start the node again")


def connect(path: Path, cache_mib: int) -> sqlite3.Connection:
    # Calls come from different threads, one at a time. Transactions are ours to begin.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA cache_size = {-1024 * cache_mib}")
    return connection


@asynccontextmanager
async def open_sqlite(
    config: SqliteConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[SqliteStore]:
    lease = await environment.offload(acquire, environment.data_dir, environment)
    try:
        path = environment.data_dir / config.file

        def prepare() -> sqlite3.Connection:
            connection = connect(path, config.cache_mib)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(SCHEMA)
            connection.execute("CREATE TABLE IF NOT EXISTS synced (count INTEGER NOT NULL)")
            connection.execute("INSERT INTO synced SELECT 0 WHERE NOT EXISTS (SELECT * FROM synced)")
            return connection

        try:
            connection = await environment.offload(prepare)
        except sqlite3.Error as error:
            raise store_error(error) from error
        try:
            yield SqliteStore(path, connection, environment, lease)
        finally:
            connection.close()
    finally:
        lease.release()


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="sqlite",
            summary="key-value store in one SQLite file: sorted, with snapshots",
            open=open_sqlite,
            config=SqliteConfig,
            provides=frozenset({KEY_VALUE, "ordered", "snapshot"}),
        )
    ]
