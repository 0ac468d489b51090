"""Registers the store ``postgres``: key-value, with its own ``utxo`` and ``blob``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nodewright.errors import MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import BLOB, KEY_VALUE, UTXO, Dependencies, StorageSpec, StoreMigration, StoreTools
from nodewright.storage.lease import Owner
from nodewright_postgres.blobs import open_own_blobs
from nodewright_postgres.bridge import open_bridge
from nodewright_postgres.config import PostgresConfig, check_config
from nodewright_postgres.lease import read_owner
from nodewright_postgres.migrations import applied, pending
from nodewright_postgres.problems import ConnectionGone, store_error
from nodewright_postgres.server import Server
from nodewright_postgres.store import CAPABILITIES, PostgresStore
from nodewright_postgres.utxo import open_own_utxo
from nodewright_postgres.writer import Writer


def _need_drivers() -> None:
    for driver in ("asyncpg", "trio_asyncio"):
        try:
            __import__(driver)
        except ImportError as error:
            raise MissingDriver(driver, "postgres") from error


@asynccontextmanager
async def open_postgres(
    config: PostgresConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[PostgresStore]:
    _need_drivers()
    async with open_bridge() as bridge:
        server = Server(bridge, config, environment)
        writer = Writer(server)
        try:
            await writer.open()
            store = PostgresStore(server, writer)
            try:
                yield store
            finally:
                await store.aclose()
        finally:
            await writer.aclose()


@asynccontextmanager
async def _connected(config: PostgresConfig, environment: Environment) -> AsyncIterator[tuple[Server, Any]]:
    """A connection that takes no lock and changes nothing."""
    _need_drivers()
    async with open_bridge() as bridge:
        server = Server(bridge, config, environment)
        try:
            connection = await server.connect()
        except ConnectionGone as error:
            raise store_error(error.__cause__ or error, server.place) from error
        try:
            yield server, connection
        except ConnectionGone as error:
            raise server.away(error) from error
        finally:
            await server.close(connection)


async def exists(config: PostgresConfig, environment: Environment) -> bool:
    async with _connected(config, environment) as (server, connection):
        return bool(await server.call(connection, applied, server.place.schema))


async def to_migrate(config: PostgresConfig, environment: Environment) -> list[StoreMigration]:
    async with _connected(config, environment) as (server, connection):
        todo = await server.call(connection, pending, server.place)
        return [StoreMigration(migration.number, migration.name) for migration in todo]


async def owner(config: PostgresConfig, environment: Environment) -> Owner | None:
    async with _connected(config, environment) as (server, connection):
        return await server.call(connection, read_owner, server.place.schema)


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="postgres",
            summary="key-value store in a schema of a PostgreSQL server: sorted, with snapshots, one node at a time",
            open=open_postgres,
            config=PostgresConfig,
            provides=CAPABILITIES | {KEY_VALUE},
            check=check_config,
            extra="postgres",
            tools=StoreTools(exists=exists, pending=to_migrate, owner=owner),
            native={UTXO: open_own_utxo, BLOB: open_own_blobs},
        )
    ]
