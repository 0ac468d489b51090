"""What one commit says to the server. Pure but for ``copy_rows``: no connection, no state.

A commit is a transaction: its number and the rows of its smaller tables in one statement, then a binary COPY for every
large table whose keys are promised to be new (``WriteBatch.new``). The primary key is what checks the promise: an output
that was spent has a row already, and the whole transaction is refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from nodewright_postgres.config import MIB
from nodewright_postgres.layouts import Columns, Layout

Rows = dict[bytes, bytes | None]
Tables = dict[str, Rows]

ROWS_AT_ONCE = 10_000
BYTES_AT_ONCE = 16 * MIB
COPY_ROWS = 64  # fewer go with the others, in one round trip


def _upsert(layout: Layout, promised: bool) -> str:
    """The end of an INSERT. Of a promised key with another value no row is written: fewer are counted than were sent."""
    names = layout.names
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    end = f"ON CONFLICT ({layout.key}) DO UPDATE SET {changes}"
    if not promised:
        return end
    held, wanted = (", ".join(f"{of}.{name}" for name in names) for of in (f'"{layout.relation}"', "excluded"))
    return f"{end} WHERE ({held}) IS NOT DISTINCT FROM ({wanted})" if len(names) > 1 else f"{end} WHERE {held} = {wanted}"


def _arrays(layout: Layout, first: int) -> str:
    """The rows of a message, from parameter ``first`` on: one array for each column."""
    types = ("bytea", *(type for _, type in layout.columns))
    parts = ", ".join(f"${number}::{type}[]" for number, type in enumerate(types, first))
    return f"unnest({parts}) AS rows ({layout.selected})"


@frozen
class Guarded:
    """``query`` gives one row: whether the epoch holds, and how many of the promised rows were written; ``expected`` is how
    many there are. With another epoch nothing is written."""

    query: str
    arguments: list[Any]
    expected: int


def guarded(schema: str, epoch: int, number: int, tables: Mapping[Layout, Rows], promised: Container[Layout]) -> Guarded:
    """The number of a commit, inserted under a share of the owner's row, with all rows of ``tables``."""
    arguments: list[Any] = [epoch, number]
    parts = [
        f"held AS (SELECT epoch FROM {schema}._owner WHERE epoch = $1 FOR SHARE)",
        f"made AS (INSERT INTO {schema}._commit SELECT $2::bigint FROM held RETURNING true)",
    ]
    counted = []
    expected = 0
    for position, (layout, rows) in enumerate(tables.items()):
        table = f'{schema}."{layout.relation}"'
        gone = [key for key, value in rows.items() if value is None]
        if gone:
            arguments.append(gone)
            which = f"{layout.key} = ANY(${len(arguments)}::bytea[]) AND EXISTS (SELECT FROM made)"
            parts.append(f"d{position} AS (DELETE FROM {table} WHERE {which})")
        puts = in_key_order(layout, rows)
        if puts:
            rows_of = _arrays(layout, len(arguments) + 1)
            arguments += columns_of(puts)
            then = _upsert(layout, layout in promised)
            taken = f"SELECT rows.* FROM made, {rows_of}"
            parts.append(f"p{position} AS (INSERT INTO {table} ({layout.selected}) {taken} {then} RETURNING true)")
            if layout in promised:
                counted.append(f"(SELECT count(*) FROM p{position})")
                expected += len(puts)
    query = f"WITH {', '.join(parts)} SELECT EXISTS (SELECT FROM made), {' + '.join(counted) or '0'}"
    return Guarded(query, arguments, expected)


def in_key_order(layout: Layout, rows: Rows) -> list[Columns]:
    """The puts, key and columns: neighbours in the index one after another."""
    puts = rows.items() if None not in rows.values() else [item for item in rows.items() if item[1] is not None]
    return layout.records(sorted(puts))  # type: ignore[arg-type]


def columns_of(puts: Sequence[Columns]) -> list[list[Any]]:
    return list(map(list, zip(*puts, strict=True)))


def pieces(layout: Layout, rows: Rows) -> Iterator[list[Columns]]:
    """Puts, in key order, in pieces that one message can hold."""
    piece: list[Columns] = []
    size = 0
    for key, value in sorted((key, value) for key, value in rows.items() if value is not None):
        piece.append((key, *layout.split(value)))
        size += len(value)
        if len(piece) == ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


async def copy_rows(loop: Any, connection: Any, schema: str, layout: Layout, rows: Rows) -> None:
    """asyncio, on ``loop``. Binary COPY; raises asyncpg's UniqueViolationError where a key is there. A connection that is
    lost while asyncpg waits for room to send would leave it waiting: it is watched beside."""
    ended = loop.create_future()

    def end(_: Any) -> None:
        if not ended.done():
            ended.set_result(None)

    copying = loop.create_task(
        connection.copy_records_to_table(
            layout.relation, schema_name=schema, columns=(layout.key, *layout.names), records=in_key_order(layout, rows)
        )
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


async def write_rows(connection: Any, schema: str, layout: Layout, rows: Rows, promised: bool) -> bool:
    """asyncio. Of any size, piece by piece. False where a promised key had another value."""
    table = f'{schema}."{layout.relation}"'
    gone = [key for key, value in rows.items() if value is None]
    for start in range(0, len(gone), ROWS_AT_ONCE):
        keys = gone[start : start + ROWS_AT_ONCE]
        await connection.execute(f"DELETE FROM {table} WHERE {layout.key} = ANY($1::bytea[])", keys)
    query = f"INSERT INTO {table} ({layout.selected}) SELECT * FROM {_arrays(layout, 1)} {_upsert(layout, promised)}"
    for piece in pieces(layout, rows):
        status = await connection.execute(query, *columns_of(piece))
        if promised and int(status.rpartition(" ")[2]) < len(piece):
            return False
    return True
