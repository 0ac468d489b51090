"""Registers the key-value store ``leveldb``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from nodewright.errors import MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import KEY_VALUE, Dependencies, Repair, StorageSpec, StoreTools, setting
from nodewright.storage.lease import acquire
from nodewright_leveldb.repair import repair_database
from nodewright_leveldb.store import CAPABILITIES, LevelDBStore, open_database

MIB = 1024 * 1024
DATABASE_FOLDER = "leveldb"


@attrs.define
class LevelDBConfig:
    path: str = setting("", help="folder of the database; empty is the slot's own folder in the data directory")
    write_buffer_mib: int = setting(
        32, help="MiB of rows kept in memory before they become a table file", minimum=1, maximum=1024
    )
    block_cache_mib: int = setting(64, help="MiB of cached table blocks", minimum=1, maximum=65536)
    bloom_bits: int = setting(
        10, help="bits per key of the filter that spares reads of absent keys; 0 is none", minimum=0, maximum=32
    )
    max_open_files: int = setting(512, help="table files kept open", minimum=64, maximum=65536)
    table_file_mib: int = setting(8, help="MiB of one table file", minimum=1, maximum=1024)
    compression: str = setting("none", help="of table blocks; ids and scripts hardly shrink", choices=("none", "snappy"))
    verify_checksums: bool = setting(True, help="check the checksum of every block that is read from disk")
    sync: str = setting(
        "durable",
        help="durable: a commit that need not be durable may be lost at a power cut, with all after it, and none when only "
        "the process dies; every: each commit is on the disk before it returns",
        choices=("durable", "every"),
    )
    paranoid: bool = setting(False, help="refuse to open where the end of a log is damaged, as after a power cut")
    read_slice: int = setting(256, help="rows read before other tasks get a turn", minimum=1, maximum=10_000)
    inline_kib: int = setting(
        512, help="KiB of rows up to which an unsynced commit does not go to a thread", minimum=0, maximum=65536
    )


def database_options(config: LevelDBConfig) -> dict[str, Any]:
    """As plyvel takes them."""
    return {
        "write_buffer_size": config.write_buffer_mib * MIB,
        "lru_cache_size": config.block_cache_mib * MIB,
        "bloom_filter_bits": config.bloom_bits,
        "max_open_files": config.max_open_files,
        "max_file_size": config.table_file_mib * MIB,
        "compression": None if config.compression == "none" else config.compression,
    }


@asynccontextmanager
async def open_leveldb(
    config: LevelDBConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[LevelDBStore]:
    try:
        from plyvel import DB
    except ImportError as error:
        raise MissingDriver("plyvel", "leveldb") from error

    folder = _folder(config, environment)
    lease = await environment.offload(acquire, folder, environment)
    try:
        path = folder / DATABASE_FOLDER

        def open_now() -> LevelDBStore:
            database = open_database(DB, path, strict=config.paranoid, **database_options(config))
            return LevelDBStore(
                database,
                path,
                environment,
                lease,
                verify=config.verify_checksums,
                read_slice=config.read_slice,
                inline_bytes=config.inline_kib * 1024,
                sync_every=config.sync == "every",
            )

        store = await environment.offload(open_now)
        try:
            yield store
        finally:
            await store.aclose()
    finally:
        lease.release()


def _folder(config: LevelDBConfig, environment: Environment) -> Path:
    return Path(environment.data_dir, config.path) if config.path else environment.data_dir


async def exists(config: LevelDBConfig, environment: Environment) -> bool:
    path = _folder(config, environment) / DATABASE_FOLDER
    return path.is_dir() and any(path.iterdir())


async def repair(config: LevelDBConfig, environment: Environment) -> Repair:
    try:
        from plyvel import DB, repair_db
    except ImportError as error:
        raise MissingDriver("plyvel", "leveldb") from error

    folder = _folder(config, environment)
    lease = await environment.offload(acquire, folder, environment)
    try:
        path = folder / DATABASE_FOLDER
        return await environment.offload(repair_database, DB, repair_db, path, database_options(config))
    finally:
        lease.release()


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="leveldb",
            summary="embedded key-value store on disk: sorted, with snapshots, one folder, no server",
            open=open_leveldb,
            config=LevelDBConfig,
            provides=CAPABILITIES | {KEY_VALUE},
            tools=StoreTools(exists=exists, repair=repair),
        )
    ]
