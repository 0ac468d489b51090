"""What one commit says to the server. Pure but for ``copy_rows``: no connection, no state.

A commit is a transaction: its number and the rows of its smaller tables in one statement, then a binary COPY for every
large table whose keys are promised to be new (``WriteBatch.new``). The primary key is what checks the promise: an output
that was spent has a row already, and the whole transaction is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from nodewright_postgres.config import MIB

Rows = dict[bytes, bytes | None]
Tables = dict[str, Rows]

ROWS_AT_ONCE = 10_000
BYTES_AT_ONCE = 16 * MIB
COPY_ROWS = 64  # fewer go with the others, in one round trip
CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY, value bytea NOT NULL)",
    # Values are ids, scripts and compressed bodies: the server is not asked to compress them again.
    "ALTER TABLE {table} ALTER COLUMN value SET STORAGE EXTERNAL",
)
UPSERT = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def upsert(table: str, promised: bool) -> str:
    """The end of an INSERT. Of a promised key with another value no row is written: fewer are counted than were sent."""
    return f"{UPSERT} WHERE {table}.value = excluded.value" if promised else UPSERT


@frozen
class Guarded:
    """``query`` gives one row: whether the epoch holds, and how many of the promised rows were written; ``expected`` is how
    many there are. With another epoch nothing is written."""

    query: str
    arguments: list[Any]
    expected: int


def guarded(schema: str, epoch: int, number: int, tables: Mapping[str, Rows], promised: frozenset[str]) -> Guarded:
    """The number of a commit, inserted under a share of the owner's row, with all rows of ``tables`` (by quoted name)."""
    arguments: list[Any] = [epoch, number]
    parts = [
        f"held AS (SELECT epoch FROM {schema}._owner WHERE epoch = $1 FOR SHARE)",
        f"made AS (INSERT INTO {schema}._commit SELECT $2::bigint FROM held RETURNING true)",
    ]
    counted = []
    expected = 0
    for position, (table, rows) in enumerate(tables.items()):
        gone = [key for key, value in rows.items() if value is None]
        if gone:
            arguments.append(gone)
            which = f"key = ANY(${len(arguments)}::bytea[]) AND EXISTS (SELECT FROM made)"
            parts.append(f"d{position} AS (DELETE FROM {table} WHERE {which})")
        puts = in_key_order(rows)
        if puts:
            arguments += [[key for key, _ in puts], [value for _, value in puts]]
            rows_of = f"unnest(${len(arguments) - 1}::bytea[], ${len(arguments)}::bytea[]) AS rows (key, value)"
            then = upsert(table.rpartition(".")[2], table in promised)
            taken = f"SELECT rows.key, rows.value FROM made, {rows_of}"
            parts.append(f"p{position} AS (INSERT INTO {table} {taken} {then} RETURNING true)")
            if table in promised:
                counted.append(f"(SELECT count(*) FROM p{position})")
                expected += len(puts)
    query = f"WITH {', '.join(parts)} SELECT EXISTS (SELECT FROM made), {' + '.join(counted) or '0'}"
    return Guarded(query, arguments, expected)


def in_key_order(rows: Rows) -> list[tuple[bytes, bytes]]:
    """The puts: neighbours in the index one after another."""
    return sorted((key, value) for key, value in rows.items() if value is not None)


def pieces(rows: Rows) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Puts, in key order, in pieces that one message can hold."""
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    for key, value in in_key_order(rows):
        keys.append(key)
        values.append(value)
        size += len(value)
        if len(keys) == ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield keys, values
            keys, values, size = [], [], 0
    if keys:
        yield keys, values


async def copy_rows(loop: Any, connection: Any, schema: str, table: str, rows: Rows) -> None:
    """asyncio, on ``loop``. Binary COPY; raises asyncpg's UniqueViolationError where a key is there. A connection that is
    lost while asyncpg waits for room to send would leave it waiting: it is watched beside."""
    ended = loop.create_future()

    def end(_: Any) -> None:
        if not ended.done():
            ended.set_result(None)

    copying = loop.create_task(
        connection.copy_records_to_table(table, schema_name=schema, columns=("key", "value"), records=in_key_order(rows))
    )
    copying.add_done_callback(end)
    connection.add_termination_listener(end)
    try:
        await ended
        if not copying.done():
            raise ConnectionResetError("the connection was lost in a COPY")
        await copying
    finally:
        connection.remove_termination_listener(end)
        copying.cancel()


async def write_rows(connection: Any, table: str, rows: Rows, promised: bool) -> bool:
    """asyncio. Of any size, piece by piece. False where a promised key had another value."""
    gone = [key for key, value in rows.items() if value is None]
    for start in range(0, len(gone), ROWS_AT_ONCE):
        await connection.execute(f"DELETE FROM {table} WHERE key = ANY($1::bytea[])", gone[start : start + ROWS_AT_ONCE])
    query = (
        f"INSERT INTO {table} SELECT * FROM unnest($1::bytea[], $2::bytea[]) {upsert(table.rpartition('.')[2], promised)}"
    )
    for keys, values in pieces(rows):
        status = await connection.execute(query, keys, values)
        if promised and int(status.rpartition(" ")[2]) < len(keys):
            return False
    return True
