"""Numbered migrations of a schema: its own tables, and those of the store that have columns (``layouts``); the others
(``kv_<table>``) are made when they are first written.

Each runs once, in a transaction with the row that says so, under the lock of the schema. A released one never changes;
a new number is added at the end.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from nodewright.errors import FormatMismatch
from nodewright_postgres.columns import BLOBS, OUTPUTS
from nodewright_postgres.layouts import plain
from nodewright_postgres.problems import Place
from nodewright_postgres.views import VIEWS


@frozen
class Migration:
    number: int
    name: str
    statements: tuple[str, ...]  # {schema} is the quoted name of the schema


def _tables(*names: str) -> tuple[str, ...]:
    return tuple(create for name in names for create in plain(name).create("{schema}"))


MIGRATIONS = (
    Migration(
        1,
        "owner and commits",
        (
            "CREATE TABLE {schema}._owner (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL, "
            "node text NOT NULL, pid bigint NOT NULL, host text NOT NULL, since double precision NOT NULL)",
            "INSERT INTO {schema}._owner (epoch, node, pid, host, since) VALUES (0, '', 0, '', 0)",
            "CREATE TABLE {schema}._commit (sequence bigint PRIMARY KEY)",
            "INSERT INTO {schema}._commit VALUES (0)",
        ),
    ),
    Migration(
        2,
        "unspent outputs and blobs to be read in SQL: views and functions",
        (*_tables("utxo_tx", "utxo_spent", "blob_index"), *VIEWS),
    ),
    Migration(3, "blobs in columns", (*_tables("blob_data"), *BLOBS)),
    Migration(4, "unspent outputs in columns", OUTPUTS),
)


def quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


async def applied(connection: Any, schema: str) -> list[int]:
    """asyncio. Numbers of the migrations that the schema has had; empty where there is no schema."""
    if await connection.fetchval("SELECT to_regclass($1)", f"{quoted(schema)}._migration") is None:
        return []
    return [row[0] for row in await connection.fetch(f"SELECT number FROM {quoted(schema)}._migration ORDER BY number")]


async def pending(connection: Any, place: Place) -> list[Migration]:
    """asyncio. What ``migrate`` would apply, in order: a dry run. Raises FormatMismatch where the schema is newer."""
    done = await applied(connection, place.schema)
    newest = MIGRATIONS[-1].number
    if done and done[-1] > newest:
        raise FormatMismatch(
            f"{place} was written by a newer version (schema version {done[-1]}, this node knows {newest}): install that "
            f"version of nodewright, or choose another schema with --set {place.slot}.schema=NAME"
        )
    return [migration for migration in MIGRATIONS if migration.number not in done]


async def migrate(connection: Any, place: Place) -> list[Migration]:
    """asyncio. Apply what is pending, each in one transaction; returns what was applied."""
    todo = await pending(connection, place)
    if not todo:
        return []
    schema = quoted(place.schema)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", place.schema):
        await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {schema}._migration (number integer PRIMARY KEY, name text NOT NULL, "
        "applied timestamptz NOT NULL DEFAULT now())"
    )
    for migration in todo:
        async with connection.transaction():
            for statement in migration.statements:
                await connection.execute(statement.format(schema=schema))
            await connection.execute(
                f"INSERT INTO {schema}._migration (number, name) VALUES ($1, $2)", migration.number, migration.name
            )
    return todo
