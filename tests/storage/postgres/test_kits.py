"""The shipped kits on a real server: the store itself, its own ``utxo`` and ``blob``, and the core's adapters over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.storage.blob_adapter import KeyValueBlobStore, open_blobs
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import BlobStoreTests, KeyValueStoreTests, LeaseTests, StoreKit, UtxoStoreTests
from nodewright_postgres.blobs import PostgresBlobs, open_own_blobs
from nodewright_postgres.store import CAPABILITIES
from nodewright_postgres.utxo import PostgresUtxo, open_own_utxo


class OnPostgres(StoreKit):
    """A crash is one of the server: every process of it is killed, and it is started again on the same folder."""

    capabilities = CAPABILITIES
    can_crash = True
    examples = 5
    server: Any

    @pytest.fixture(autouse=True)
    def _with_server(self, postgres: Any) -> None:
        self.server = postgres

    def open_base(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.server.open(path)

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        self.server.kill()
        self.server.start()
        return path


class TestKeyValue(OnPostgres, KeyValueStoreTests):
    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)


class TestUtxo(OnPostgres, UtxoStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[PostgresUtxo]:
        async with self.open_base(path) as store, open_own_utxo(store, LocalEnvironment(path), cache_bytes=20_000) as utxo:
            yield utxo


class TestBlobs(OnPostgres, BlobStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[PostgresBlobs]:
        async with self.open_base(path) as store, open_own_blobs(store, LocalEnvironment(path)) as blobs:
            yield blobs


class TestUtxoByAdapter(OnPostgres, UtxoStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueUtxoStore]:
        async with self.open_base(path) as store, open_utxo(store, LocalEnvironment(path), cache_bytes=20_000) as utxo:
            yield utxo


class TestBlobsByAdapter(OnPostgres, BlobStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueBlobStore]:
        async with self.open_base(path) as store, open_blobs(store, LocalEnvironment(path)) as blobs:
            yield blobs


class TestLease(OnPostgres, LeaseTests):
    can_take_over = True

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)

    async def write(self, store: Any) -> None:
        batch = WriteBatch()
        batch.put("a", b"key", b"value")
        await store.commit(batch)

    def take_over(self, store: Any, path: Path) -> None:
        """What another owner's first statement is, once it holds the lock."""
        schema = self.server.config(path).schema
        self.server.sql(f"UPDATE {schema}._owner SET epoch = epoch + 1, node = 'another'", "nodewright")


class TestLeaseOfUtxo(TestLease):
    """What is fenced is the commit, whoever makes it."""

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[PostgresUtxo]:
        async with self.open_base(path) as store, open_own_utxo(store, LocalEnvironment(path)) as utxo:
            yield utxo

    async def write(self, store: Any) -> None:
        await store.spend_and_create([UtxoTransaction(b"\x01" * 32, (), b"\x01" + bytes(9))], 1, durable=True)
        await store.remove([UtxoTransaction(b"\x01" * 32, (), b"\x01" + bytes(9))], durable=True)


class TestLeaseOfBlobs(TestLease):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[PostgresBlobs]:
        async with self.open_base(path) as store, open_own_blobs(store, LocalEnvironment(path)) as blobs:
            yield blobs

    async def write(self, store: Any) -> None:
        await store.delete("tx", [b"id"])
        await store.put("tx", b"id", b"body")
