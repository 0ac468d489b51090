"""Registers the key-value store ``memory``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import KEY_VALUE, Dependencies, StorageSpec, setting
from nodewright_memory.disk import MemoryDisk, named_disk
from nodewright_memory.store import CAPABILITIES, MemoryStore


@attrs.define
class MemoryConfig:
    disk: str = setting("", help="name of a disk of this process that outlives the store (for tests and simulations)")
    max_bytes: int = setting(0, help="most bytes of keys and values it holds; 0 is no bound", minimum=0)


@asynccontextmanager
async def open_memory(
    config: MemoryConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[MemoryStore]:
    disk = (
        named_disk(config.disk, environment.node_name, environment.slot)
        if config.disk
        else MemoryDisk(environment.slot, keep_history=False)
    )
    disk.capacity_bytes = config.max_bytes or None
    store = MemoryStore(disk, f"node {environment.node_name!r}")
    try:
        yield store
    finally:
        store.close()


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="memory",
            summary="key-value store in memory: sorted, with snapshots, gone with the process",
            open=open_memory,
            config=MemoryConfig,
            provides=CAPABILITIES | {KEY_VALUE},
        )
    ]
