"""Registers the key-value store ``postgres``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodewright.errors import MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import KEY_VALUE, Dependencies, StorageSpec
from nodewright_postgres.bridge import open_bridge
from nodewright_postgres.config import PostgresConfig, check_config
from nodewright_postgres.server import Server
from nodewright_postgres.store import CAPABILITIES, PostgresStore
from nodewright_postgres.writer import Writer


@asynccontextmanager
async def open_postgres(
    config: PostgresConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[PostgresStore]:
    for driver in ("asyncpg", "trio_asyncio"):
        try:
            __import__(driver)
        except ImportError as error:
            raise MissingDriver(driver, "postgres") from error

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
        )
    ]
