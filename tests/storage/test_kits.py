"""The shipped kits on every built-in store, and on the adapters over memory and LevelDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import KeyValueBlobStore, open_blobs
from nodewright.storage.lease import take_over
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import BlobStoreTests, FolderKit, KeyValueStoreTests, LeaseTests, StoreKit, UtxoStoreTests
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_leveldb.store import CAPABILITIES as LEVELDB
from nodewright_memory.disk import MemoryDisk, named_disk
from nodewright_memory.plugin import MemoryConfig, open_memory
from nodewright_memory.store import CAPABILITIES as MEMORY

NONE = Dependencies()


def disk_of(path: Path) -> MemoryDisk:
    return named_disk(str(path), "test", "node")


class OnMemory(StoreKit):
    """Disks are named by path, and outlive the store that is opened on them."""

    capabilities = MEMORY
    can_crash = True

    def open_base(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return open_memory(MemoryConfig(disk=str(path)), NONE, LocalEnvironment(path))

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        disk = disk_of(path)
        disk.crash(min(keep, len(disk.unsynced)))
        return path


class OnLevelDB(FolderKit):
    capabilities = LEVELDB

    def open_base(self, path: Path) -> AbstractAsyncContextManager[Any]:
        config = LevelDBConfig(write_buffer_mib=1, block_cache_mib=1, read_slice=3)
        return open_leveldb(config, NONE, LocalEnvironment(path))


class KeyValue(KeyValueStoreTests):
    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)


class Utxo(UtxoStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueUtxoStore]:
        async with self.open_base(path) as store, open_utxo(store, LocalEnvironment(path)) as utxo:
            yield utxo


class SmallCacheUtxo(UtxoStoreTests):
    """A cache of a few records: nearly everything is read from the store."""

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueUtxoStore]:
        async with self.open_base(path) as store, open_utxo(store, LocalEnvironment(path), cache_bytes=20_000) as utxo:
            yield utxo


class Blobs(BlobStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueBlobStore]:
        async with self.open_base(path) as store, open_blobs(store, LocalEnvironment(path)) as blobs:
            yield blobs


class KeyValueLease(LeaseTests):
    can_take_over = True

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)

    async def write(self, store: Any) -> None:
        batch = WriteBatch()
        batch.put("a", b"key", b"value")
        await store.commit(batch)


class TestMemoryKeyValue(OnMemory, KeyValue): ...


class TestMemoryUtxo(OnMemory, Utxo): ...


class TestMemoryUtxoWithSmallCache(OnMemory, SmallCacheUtxo): ...


class TestMemoryBlobs(OnMemory, Blobs): ...


class TestMemoryLease(OnMemory, KeyValueLease):
    def take_over(self, store: Any, path: Path) -> None:
        disk_of(path).take_over()


class TestLevelDBKeyValue(OnLevelDB, KeyValue): ...


class TestLevelDBUtxo(OnLevelDB, Utxo): ...


class TestLevelDBUtxoWithSmallCache(OnLevelDB, SmallCacheUtxo): ...


class TestLevelDBBlobs(OnLevelDB, Blobs): ...


class TestLevelDBLease(OnLevelDB, KeyValueLease):
    def take_over(self, store: Any, path: Path) -> None:
        take_over(path, LocalEnvironment(path, "another")).release()


class TestVolatileMemory(KeyValueStoreTests):
    capabilities = MEMORY
    volatile = True

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return open_memory(MemoryConfig(), NONE, LocalEnvironment(path))


class TestFilesBlobs(FolderKit, BlobStoreTests):
    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return open_files(FilesConfig(), NONE, LocalEnvironment(path))


class TestFilesLease(LeaseTests):
    can_take_over = True
    written = 0

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return open_files(FilesConfig(), NONE, LocalEnvironment(path))

    async def write(self, store: Any) -> None:
        self.written += 1
        await store.put("tx", bytes([self.written]), b"body")

    def take_over(self, store: Any, path: Path) -> None:
        take_over(path, LocalEnvironment(path, "another")).release()
