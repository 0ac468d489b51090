"""The shipped kits on a real server: rows, unspent outputs in records of their own, blobs through the core's adapter."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodewright.errors import StoreError
from nodewright.interfaces import KeyValueStore, UtxoStore, WriteBatch
from nodewright.storage.blob_adapter import KeyValueBlobStore, open_blobs
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import BlobStoreTests, KeyValueStoreTests, LeaseTests, StoreKit, UtxoStoreTests
from nodewright_aerospike.store import CAPABILITIES
from nodewright_aerospike.utxo import AerospikeStore


class OnAerospike(StoreKit):
    """A crash is one of the node: its data folder is copied as it is, and opened by a node that the server's record lets
    in, because it has that folder's journal. Some of them take the server with them."""

    capabilities = CAPABILITIES
    can_crash = True
    examples = 8
    server: Any

    @pytest.fixture(autouse=True)
    def _with_server(self, aerospike: Any) -> None:
        self.server = aerospike

    def open_base(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.server.open(path)

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        base = store.store if isinstance(store, KeyValueBlobStore) else store
        base.rows.applier.stop(StoreError("this node is dead"))
        if keep >= 6 and self.server.can_restart:
            self.server.kill()
            self.server.start()
        survived = path.with_name(f"{path.name}-survived")
        shutil.copytree(path, survived)
        return survived


class TestKeyValue(OnAerospike, KeyValueStoreTests):
    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)


class TestUtxo(OnAerospike, UtxoStoreTests):
    capabilities = frozenset()  # outputs come in the server's order

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.server.open(path, cache_mib=1)


class TestBlobs(OnAerospike, BlobStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueBlobStore]:
        async with self.open_base(path) as store, open_blobs(store, LocalEnvironment(path)) as blobs:
            yield blobs


class TestLease(OnAerospike, LeaseTests):
    can_take_over = True

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        return self.open_base(path)

    async def write(self, store: Any) -> None:
        batch = WriteBatch()
        batch.put("a", b"key", b"value")
        await store.commit(batch)

    def take_over(self, store: Any, path: Path) -> None:
        """What another owner's first write is."""
        layout = store.rows.layout
        client = self.server.client()
        client.increment(layout.owner, "epoch", 1)
        client.put(layout.owner, {"node": "another"})
        client.close()


def test_it_is_a_store_of_all_kinds(aerospike: Any) -> None:
    assert issubclass(AerospikeStore, KeyValueStore)
    assert issubclass(AerospikeStore, UtxoStore)
