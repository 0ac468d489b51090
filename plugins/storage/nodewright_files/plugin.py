"""Registers the blob store ``files``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import BLOB, Dependencies, StorageSpec, StoreTools, setting
from nodewright.storage.lease import FILE_NAME, acquire
from nodewright_files.store import FileBlobStore


@attrs.define
class FilesConfig:
    path: str = setting("", help="folder of the blobs; empty is the slot's own folder in the data directory")


@asynccontextmanager
async def open_files(
    config: FilesConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[FileBlobStore]:
    folder = Path(environment.data_dir, config.path) if config.path else environment.data_dir
    lease = await environment.offload(acquire, folder, environment)
    try:
        store = FileBlobStore(folder, environment, lease)
        leftovers = await environment.offload(store.prepare)
        if leftovers:
            environment.logger.info("removed blobs that were being written when the node died", files=leftovers)
        try:
            yield store
        finally:
            store.close()
    finally:
        lease.release()


async def exists(config: FilesConfig, environment: Environment) -> bool:
    folder = Path(environment.data_dir, config.path) if config.path else environment.data_dir
    return (folder / FILE_NAME).exists()


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="files",
            summary="blobs as files of a folder: written aside, synced, renamed",
            open=open_files,
            config=FilesConfig,
            provides=frozenset({BLOB}),
            tools=StoreTools(exists=exists),
        )
    ]
