"""The one connection that commits.

Invariants:

- commits are numbered without gaps and made one at a time; the number is inserted into ``_commit`` by the commit itself, so
  that the highest one there says which commits the server has;
- a commit whose connection was lost is repeated only after a new connection holds the schema's lock and has read that
  number: it is made once. One whose fate cannot be found out in time stops the writer for good;
- commits that were not durable are kept, within ``replay_mib``, until one is: a server that crashed and lost them is given
  them again, in order, before anything else is read or written. Beyond the budget a commit is made durable;
- what a batch promises to be new is checked by the primary key, in the commit: where it is not, nothing of it is made;
- a number that is lower than what was durable, or an epoch that is not ours, stops the writer for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import trio

from nodewright.errors import LeaseLost, NodewrightError, StoreError
from nodewright.storage.lease import this_process
from nodewright_postgres import lease
from nodewright_postgres.config import MIB
from nodewright_postgres.layouts import LAYOUTS, TABLE_PREFIX, Layout, layout_of
from nodewright_postgres.migrations import migrate, pending, quoted
from nodewright_postgres.problems import ConnectionGone, is_gone, sqlstate, store_error
from nodewright_postgres.server import Server
from nodewright_postgres.statements import (
    BYTES_AT_ONCE,
    COPY_ROWS,
    ROWS_AT_ONCE,
    Tables,
    copy_rows,
    guarded,
    write_rows,
)

NOTHING: frozenset[str] = frozenset()
OWN = tuple(LAYOUTS)  # tables that a migration has made

_UNIQUE_VIOLATION = "23505"
_TIDY_EVERY = 256
_LOCK_PAUSE = 0.05


class Writer:
    """Made by ``open_writer``. ``tables`` are the names of the store's tables that exist; readers share the set."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.schema = quoted(server.place.schema)
        self.tables: set[str] = set()
        self.sequence = 0
        self.epoch = 0
        self.lock = trio.Lock()  # held by whoever commits, also over reads that the commit depends on
        self._mending = trio.Lock()  # held over every use of the connection; inside of ``lock``
        self._connection: Any = None
        self._backend = 0
        self._unsynced: deque[tuple[int, Tables, int]] = deque()
        self._unsynced_bytes = 0
        self._doubtful = False
        self._stopped: str | None = None
        self._lease_lost = False

    def layout(self, name: str) -> Layout:
        return layout_of(name)

    def relation(self, layout: Layout) -> str:
        return f'{self.schema}."{layout.relation}"'

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        patience = self.server.patience()
        while True:
            try:
                self._connection = await self.server.connect()
                break
            except ConnectionGone as error:
                cause = error.__cause__
                if cause is None or getattr(cause, "sqlstate", None) is None:
                    raise _not_there(self.server, error) from error
                await patience.wait(error)
        try:
            await self._take()
        except ConnectionGone as error:
            raise self.server.away(error) from error

    async def _take(self) -> None:
        server, place, connection = self.server, self.server.place, self._connection
        await server.check(connection)
        await self._wait_for_lock(connection)
        await server.call_long(connection, migrate, place)
        owner = this_process(server.environment)
        self.epoch = await server.call(connection, lease.next_epoch, place.schema, owner)
        self._backend = connection.get_server_pid()
        self.sequence = await server.call(connection, self._highest)
        self.tables.update(OWN, await server.call(connection, self._names))

    async def _wait_for_lock(self, connection: Any) -> None:
        server, place, environment = self.server, self.server.place, self.server.environment
        end = environment.monotonic() + server.config.lock_seconds
        while not await server.call(connection, lease.try_lock, place.schema):
            if environment.monotonic() >= end:
                await server.call(connection, pending, place)  # a newer version is the better reason
                raise lease.locked(place, await server.call(connection, lease.read_owner, place.schema))
            await environment.sleep(_LOCK_PAUSE)

    async def _highest(self, connection: Any) -> int:
        return int(await connection.fetchval(f"SELECT coalesce(max(sequence), 0) FROM {self.schema}._commit"))

    async def _names(self, connection: Any) -> list[str]:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r' "
            "AND starts_with(relname, $2)",
            self.schema,
            TABLE_PREFIX,
        )
        return [row[0][len(TABLE_PREFIX) :] for row in rows]

    # --- committing --------------------------------------------------------------------------------------------------

    async def commit(self, tables: Tables, size: int, durable: bool, promised: frozenset[str] = NOTHING) -> None:
        """Under ``lock``; not to be cancelled. Returns once the commit is made, or raises with nothing of it made.
        ``promised`` are the tables of ``WriteBatch.new``."""
        async with self._mending:
            await self._commit(tables, size, durable, promised)

    async def _commit(self, tables: Tables, size: int, durable: bool, promised: frozenset[str]) -> None:
        self.check()
        durable = durable or self._unsynced_bytes + size > self.server.config.replay_mib * MIB
        patience: Any = None
        number = self.sequence + 1
        try:
            while True:
                try:
                    if self._connection is None:
                        await self._connect_again(number)
                        if self.sequence == number:  # made before its connection was lost
                            self.tables.update(tables)
                            if not durable:
                                break
                            number, tables, size = number + 1, {}, 0  # has it synced: the server may not have waited
                    new = tables.keys() - self.tables
                    await self.server.call(self._connection, self._apply, number, tables, durable, new, promised)
                    break
                except ConnectionGone as error:
                    self._drop()
                    patience = patience or self.server.patience()
                    await patience.wait(error)
        except BaseException as error:
            if self._doubtful:
                self._stop("the connection was lost in a commit, and whether it was made is not known", error)
            raise
        self._made(number, tables, size, durable)

    def _made(self, number: int, tables: Tables, size: int, durable: bool) -> None:
        self.sequence = number
        self.tables.update(tables)
        if durable:
            self._unsynced.clear()
            self._unsynced_bytes = 0
        else:
            self._unsynced.append((number, {name: dict(rows) for name, rows in tables.items()}, size))
            self._unsynced_bytes += size

    async def _apply(
        self,
        connection: Any,
        number: int,
        tables: Tables,
        durable: bool,
        new: Iterable[str],
        promised: frozenset[str] = NOTHING,
    ) -> None:
        """asyncio. One commit, whole or nothing; ``_doubtful`` while only the server knows which."""
        copied = {
            name
            for name in promised & tables.keys()
            if len(tables[name]) >= COPY_ROWS and name in self.tables and None not in tables[name].values()
        }
        try:
            await self._transaction(connection, number, tables, durable, new, promised, copied)
        except Exception as error:
            if sqlstate(error) != _UNIQUE_VIOLATION or not copied:
                raise
            # The same value may be there: told apart without COPY, which says only that some key is.
            await self._transaction(connection, number, tables, durable, new, promised, set())

    async def _transaction(
        self,
        connection: Any,
        number: int,
        tables: Tables,
        durable: bool,
        new: Iterable[str],
        promised: frozenset[str],
        copied: set[str],
    ) -> None:
        self._doubtful = False
        await connection.execute("BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit TO off")
        try:
            rest = {name: rows for name, rows in tables.items() if name not in copied}
            whole = not new and _is_small(rest)
            await self._number(connection, number, rest if whole else {}, promised)
            for name in sorted(new):
                await self._create(connection, name)
            for name, rows in () if whole else rest.items():
                if not await write_rows(connection, self.schema, self.layout(name), rows, name in promised):
                    raise self._broken_promise()
            for name in copied:
                schema = self.server.place.schema
                await copy_rows(self.server.loop, connection, schema, self.layout(name), tables[name])
            if not number % _TIDY_EVERY:
                await connection.execute(f"DELETE FROM {self.schema}._commit WHERE sequence < $1", number)
        except Exception as error:
            if isinstance(error, LeaseLost):
                self._lease_lost, self._stopped = True, str(error)
            if isinstance(error, NodewrightError) or not is_gone(error):
                await connection.execute("ROLLBACK")
            raise
        self._doubtful = True
        try:
            status = await connection.execute("COMMIT")
        except Exception as error:
            self._doubtful = is_gone(error)
            raise
        self._doubtful = False
        if status != "COMMIT":
            raise StoreError(f"{self.server.place}: the server rolled a commit back; see its log")

    async def _create(self, connection: Any, name: str) -> None:
        for statement in self.layout(name).create(self.schema):
            await connection.execute(statement)

    async def _number(self, connection: Any, number: int, tables: Tables, promised: frozenset[str]) -> None:
        """The commit's number, and these rows. Raises LeaseLost where the epoch is another's."""
        layouts = {self.layout(name): rows for name, rows in tables.items()}
        statement = guarded(self.schema, self.epoch, number, layouts, {self.layout(name) for name in promised})
        made, written = await connection.fetchrow(statement.query, *statement.arguments)
        if not made:
            raise lease.lost(self.server.place, await lease.read_owner(connection, self.server.place.schema))
        if written != statement.expected:
            raise self._broken_promise()

    def _broken_promise(self) -> StoreError:
        return StoreError(
            f"{self.server.place}: rows that are new to this node are there with other values: another program writes to "
            "this schema; stop it and start the node again"
        )

    # --- a connection that was lost ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises if this writer was stopped."""
        if self._stopped is not None:
            raise LeaseLost(self._stopped) if self._lease_lost else StoreError(self._stopped)

    def _stop(self, why: str, cause: BaseException | None = None) -> StoreError:
        self._stopped = (
            f"{self.server.place}: {why}{f' ({cause})' if cause else ''}; nothing more is written, start the node again"
        )
        return StoreError(self._stopped)

    def _drop(self) -> None:
        if self._connection is not None:
            self.server.give_up(self._connection)
            self._connection = None

    async def restore(self) -> None:
        """Make sure that the server is there and has every commit that has returned; for readers that lost a connection.
        Raises ConnectionGone where it is away."""
        async with self._mending:
            self.check()
            if self._connection is not None:
                try:
                    await self.server.call(self._connection, self._highest)
                    return
                except BaseException:
                    self._drop()
                    raise
            with trio.CancelScope(shield=True):
                await self._connect_again(None)

    async def _connect_again(self, attempted: int | None) -> None:
        """Take the schema's lock in a new session, and bring the server to where it was. ``attempted`` is the number of a
        commit of which it is not known whether it was made; ``sequence`` is that number afterwards if it was."""
        server, place = self.server, self.server.place
        connection = await server.connect()
        try:
            owner = await server.call(connection, lease.read_owner, place.schema)
            if owner is None or owner.epoch != self.epoch:
                self._stopped, self._lease_lost, self._doubtful = str(lease.lost(place, owner)), True, False
                raise LeaseLost(self._stopped)
            if not await server.call(connection, lease.try_lock, place.schema):
                await server.call(connection, lease.end_session, place.schema, self._backend)
                raise ConnectionGone("the lock of the schema is held by a session that is ending")
            self._backend = connection.get_server_pid()
            held = await server.call(connection, self._highest)
            self._doubtful = False
            if held == attempted:
                self.sequence = held
            elif held > self.sequence:
                raise self._stop(f"the server has commit {held}, this node has made {self.sequence}")
            elif held < self.sequence:
                await self._repeat(connection, held)
        except BaseException:
            server.give_up(connection)
            raise
        self._connection = connection

    async def _repeat(self, connection: Any, held: int) -> None:
        """Make again what a crashed server lost, in the order of its first time, and have it synced."""
        again = [entry for entry in self._unsynced if entry[0] > held]
        if [number for number, _, _ in again] != list(range(held + 1, self.sequence + 1)):
            raise self._stop(
                f"the server has lost commits that it had synced (it has {held} of {self.sequence}; fsync off, or an older "
                "copy restored?)"
            )
        for number, tables, _ in again:
            await self.server.call(connection, self._apply, number, tables, number == self.sequence, tables)
        self._unsynced.clear()
        self._unsynced_bytes = 0
        self.server.environment.logger.warning(
            "postgres_commits_repeated", commits=len(again), server=self.server.place.server
        )

    # --- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Sync what is unsynced, free the lock. One attempt: a server that is away is not waited for."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with trio.CancelScope(shield=True):
            try:
                if self._unsynced and self._stopped is None:
                    await self.server.call(connection, self._apply, self.sequence + 1, {}, True, ())
                await self.server.call(connection, lease.unlock, self.server.place.schema)
            except (NodewrightError, ConnectionGone) as error:
                self.server.environment.logger.warning("postgres_closed_unsynced", error=str(error))
                self.server.give_up(connection)
            else:
                await self.server.close(connection)


def _is_small(tables: Tables) -> bool:
    """Whether one message can hold them."""
    if sum(map(len, tables.values())) > ROWS_AT_ONCE:
        return False
    return sum(len(value) for rows in tables.values() for value in rows.values() if value is not None) <= BYTES_AT_ONCE


def _not_there(server: Server, error: ConnectionGone) -> Exception:
    return store_error(error.__cause__ or error, server.place)
