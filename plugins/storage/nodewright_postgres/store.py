"""A key-value store in tables of PostgreSQL: reads, snapshots, and the way in to the writer.

Invariants:

- a table ``t`` of the store is the table ``kv_t (key bytea primary key, value bytea)`` of the schema, or one with columns
  of its own (``layouts``), which reads and writes the same rows; PostgreSQL orders bytea as Python orders bytes;
- a connection for reads is used only after it has shown every commit that had returned before it was opened: after a crash
  of the server the writer first repeats what was lost;
- a connection on which a call failed or was cancelled is dropped, never given to another call;
- ``aclose`` waits for calls that are running; calls that come later, also on a snapshot still held, are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

from nodewright.errors import NodewrightError, StoreError
from nodewright.interfaces.storage import KeyValueReader, Page, WriteBatch
from nodewright.storage.gate import Gate, successor
from nodewright.storage.limits import MAX_PAGE_BYTES, check_batch, check_keys, check_scan, check_table
from nodewright_postgres.layouts import Layout
from nodewright_postgres.problems import ConnectionGone
from nodewright_postgres.server import Server
from nodewright_postgres.statements import Tables
from nodewright_postgres.writer import NOTHING, Writer

T = TypeVar("T")

CAPABILITIES = frozenset({"ordered", "snapshot"})

KEYS_AT_ONCE = 5000
_DELETE_SLICE = 5000


class Reader:
    """Reads over ``_read``, which gives a connection to an asyncio function."""

    def __init__(self, writer: Writer, gate: Gate) -> None:
        self._writer = writer
        self._gate = gate

    async def _read(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        raise TypeError("a reader says where its connections are from")

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        with self._gate:
            if not keys or table not in self._writer.tables:
                await trio.lowlevel.checkpoint()
                return [None] * len(keys)
            found = await self._read(self._get, self._writer.layout(table), keys)
            return list(map(found.get, keys))

    async def _get(self, connection: Any, layout: Layout, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        query = f"SELECT {layout.selected} FROM {self._writer.relation(layout)} WHERE {layout.key} = ANY($1::bytea[])"
        join, plain = layout.join, len(layout.columns) == 1
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            rows = await connection.fetch(query, keys[start : start + KEYS_AT_ONCE])
            found.update(rows if plain else ((key, join(*columns)) for key, *columns in rows))
        return found

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        with self._gate:
            if table not in self._writer.tables:
                await trio.lowlevel.checkpoint()
                return Page([], None)
            layout = self._writer.layout(table)
            rows = await self._read(self._scan, layout, prefix, after, limit)
            items: list[tuple[bytes, bytes]] = []
            for whole, key, *columns in rows:
                if len(items) == limit or not whole:
                    return Page(items, items[-1][0])
                items.append((key, layout.join(*columns)))
            return Page(items, None)

    async def _scan(self, connection: Any, layout: Layout, prefix: bytes, after: bytes | None, limit: int) -> Any:
        """One row more than asked for; values beyond MAX_PAGE_BYTES are left with the server, and said not to be whole."""
        key = layout.key
        inclusive = after is None or after < prefix
        arguments: list[Any] = [prefix if inclusive else after, limit + 1, MAX_PAGE_BYTES]
        where = f"{key} {'>=' if inclusive else '>'} $1"
        end = successor(prefix)
        if end is not None:
            where += f" AND {key} < $4"
            arguments.append(end)
        wanted = ", ".join(f"CASE WHEN before < $3 THEN {name} END" for name in layout.names)
        return await connection.fetch(
            f"SELECT before < $3, {key}, {wanted} FROM (SELECT {layout.selected}, sum({layout.octets}) OVER "
            f"(ORDER BY {key} ROWS UNBOUNDED PRECEDING) - ({layout.octets}) AS before FROM {self._writer.relation(layout)} "
            f"WHERE {where} ORDER BY {key} LIMIT $2) AS page",
            *arguments,
        )


class PostgresStore(Reader):
    """Implements ``nodewright.interfaces.KeyValueStore``; made by ``plugin.open_postgres``."""

    capabilities = CAPABILITIES

    def __init__(self, server: Server, writer: Writer) -> None:
        super().__init__(writer, Gate())
        self._server = server
        self._idle: list[Any] = []
        self._slots = trio.Semaphore(server.config.readers)
        self._snapshot_slots = trio.Semaphore(server.config.snapshots)
        self._views: set[_Snapshot] = set()

    async def tables(self) -> list[str]:
        """Every table there is; see ``nodewright.interfaces.storage.TableListing``."""
        await trio.lowlevel.checkpoint()
        return sorted(self._writer.tables)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        size = check_batch(batch)
        with self._gate:
            async with self._writer.lock:
                if not batch and not durable:
                    self._writer.check()
                    return
                tables = {name: rows for name, rows in batch.tables.items() if rows}
                await self._commit(tables, size, durable, frozenset(batch.new))

    async def _commit(self, tables: Tables, size: int, durable: bool, promised: frozenset[str] = NOTHING) -> None:
        with trio.CancelScope(shield=True):  # a commit that has begun is finished, so that its caller never has to guess
            await self._writer.commit(tables, size, durable, promised)

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        """In pieces of 5,000 rows, each a commit of its own; other commits may come between them. The last is synced."""
        check_table(table)
        check_keys([start, end])
        deleted = 0
        with self._gate:
            if table not in self._writer.tables or end <= start:
                await trio.lowlevel.checkpoint()
                return 0
            while True:
                async with self._writer.lock:
                    self._writer.check()
                    gone = await self._read(self._range, self._writer.layout(table), start, end)
                    if gone:
                        last = len(gone) < _DELETE_SLICE
                        await self._commit({table: dict.fromkeys(gone)}, sum(map(len, gone)), durable=last)
                deleted += len(gone)
                if len(gone) < _DELETE_SLICE:
                    return deleted
                start = gone[-1] + b"\x00"

    async def _range(self, connection: Any, layout: Layout, start: bytes, end: bytes) -> list[bytes]:
        key, relation = layout.key, self._writer.relation(layout)
        rows = await connection.fetch(
            f"SELECT {key} FROM {relation} WHERE {key} >= $1 AND {key} < $2 ORDER BY {key} LIMIT $3",
            start,
            end,
            _DELETE_SLICE,
        )
        return [row[0] for row in rows]

    # --- connections for reads ---------------------------------------------------------------------------------------

    async def _read(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        patience = None
        while True:
            try:
                async with self._slots:
                    connection = await self._take()
                    result = await self._use(connection, function, *arguments)
                    self._idle.append(connection)
                    return result
            except ConnectionGone as error:
                patience = patience or self._server.patience()
                await patience.wait(error)

    async def _use(self, connection: Any, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        try:
            return await self._server.call(connection, function, *arguments)
        except BaseException:
            self._server.give_up(connection)
            raise

    async def _take(self) -> Any:
        """An idle connection, or a new one that shows every commit that has returned."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        wanted = self._writer.sequence
        connection = await self._server.connect()
        if await self._use(connection, self._sequence) >= wanted:
            return connection
        self._server.give_up(connection)
        await self._writer.restore()
        raise ConnectionGone("the server had lost commits, which are repeated now")

    async def _sequence(self, connection: Any) -> int:
        return int(await connection.fetchval(f"SELECT coalesce(max(sequence), 0) FROM {self._writer.schema}._commit"))

    async def query(self, statement: str, *arguments: Any) -> list[Any]:
        """Rows of one SELECT, tried again as any read is: for contracts that the store gives beside its own. ``{schema}``
        is the quoted schema."""
        with self._gate:
            return await self._read(_fetch, statement.format(schema=self._writer.schema), *arguments)

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        """Held as a transaction on the server: a long one keeps it from tidying up rows that were replaced since."""
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        async with self._snapshot_slots:
            with self._gate:
                view = _Snapshot(self, await self._begin())
            self._views.add(view)
            try:
                yield view
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(view)

    async def _begin(self) -> Any:
        patience = None
        while True:
            try:
                connection = await self._take()
                wanted = self._writer.sequence
                if await self._use(connection, self._begin_now) >= wanted:
                    return connection
                self._server.give_up(connection)
                raise ConnectionGone("the server has lost commits")
            except ConnectionGone as error:
                patience = patience or self._server.patience()
                await patience.wait(error)

    async def _begin_now(self, connection: Any) -> int:
        """The transaction's view is that of its first query."""
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return await self._sequence(connection)

    async def _end(self, view: _Snapshot) -> None:
        """Give the connection back, once no read is running on it."""
        if view not in self._views:
            return
        self._views.discard(view)
        connection = await view.leave()
        if connection is None:
            return
        try:
            await self._use(connection, _rollback)
        except (NodewrightError, ConnectionGone):
            return
        if self._gate.closed or len(self._idle) >= self._server.config.readers:
            await self._server.close(connection)
        else:
            self._idle.append(connection)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._gate.wait_empty()
            for view in list(self._views):
                await self._end(view)
            while self._idle:
                await self._server.close(self._idle.pop())


class _Snapshot(Reader):
    """One read at a time, on the connection that holds the transaction; lost with it."""

    def __init__(self, store: PostgresStore, connection: Any) -> None:
        super().__init__(store._writer, Gate())
        self._store = store
        self._connection = connection
        self._turn = trio.Lock()

    async def _read(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        async with self._turn:
            connection = self._connection
            if connection is None:
                raise StoreError(f"{self._store._server.place}: this snapshot was lost with its connection: take another")
            try:
                return await self._store._use(connection, function, *arguments)
            except ConnectionGone as error:
                self._connection = None
                raise StoreError(
                    f"{self._store._server.place}: the server went away while a snapshot was read ({error}): take another"
                ) from error
            except BaseException:
                self._connection = None  # given up with a call under way
                raise

    async def leave(self) -> Any:
        await self._gate.wait_empty()
        connection, self._connection = self._connection, None
        return connection


async def _fetch(connection: Any, statement: str, *arguments: Any) -> list[Any]:
    rows: list[Any] = await connection.fetch(statement, *arguments)
    return rows


async def _rollback(connection: Any) -> None:
    await connection.execute("ROLLBACK")
