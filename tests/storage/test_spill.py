"""Blobs by their size in one of two stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from nodewright.cli.app import invoke
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import open_blobs
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import BlobStoreTests, FolderKit
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_wrappers.spill import SpillStore

NONE = Dependencies()
KIB = 1024


@asynccontextmanager
async def both(path: Path, limit: int) -> AsyncIterator[tuple[Any, Any, SpillStore]]:
    """LevelDB for what is small, files for the rest."""
    async with AsyncExitStack() as stack:
        rows = await stack.enter_async_context(open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(path / "rows")))
        small = await stack.enter_async_context(open_blobs(rows, LocalEnvironment(path / "rows")))
        large = await stack.enter_async_context(open_files(FilesConfig(), NONE, LocalEnvironment(path / "files")))
        yield small, large, SpillStore(small, large, limit)


class TestSpill(FolderKit, BlobStoreTests):
    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[SpillStore]:
        async with both(path, 4 * KIB) as (_, _, store):
            yield store


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 700):
        yield data[start : start + 700]


async def test_each_body_is_in_one_of_the_two(tmp_path: Path) -> None:
    limit = 4 * KIB
    async with both(tmp_path, limit) as (small, large, store):
        for number, size in enumerate((0, 1, limit, limit + 1, 9 * limit)):
            for id, data in ((b"w%d" % number, bytes(size)), (b"s%d" % number, pieces(bytes(size)))):
                await store.put("tx", id, data)
                await store.put("tx", id, bytes(size))  # again
                there = [await one.size("tx", id) for one in (small, large)]
                assert there == ([size, None] if size <= limit else [None, size])
                assert await store.get("tx", id) == bytes(size)
        await store.put("block", b"large", bytes(2 * limit))
        assert set(await store.kinds()) >= {"block", "tx"}


async def test_another_limit_finds_what_is_there(tmp_path: Path) -> None:
    async with both(tmp_path, 4 * KIB) as (_, _, store):
        await store.put("tx", b"a", bytes(5000))
        await store.put("tx", b"b", bytes(3000))
    async with both(tmp_path, 8 * KIB) as (small, _, store):
        for id, size in ((b"a", 5000), (b"b", 3000)):
            await store.put("tx", id, bytes(size))
            assert await store.size("tx", id) == size
        assert [id async for id in store.iterate("tx")] == [b"b", b"a"]
        assert await small.exists("tx", [b"a"]) == [False]
        await store.delete("tx", [b"a", b"b"])
        assert await store.exists("tx", [b"a", b"b"]) == [False, False]


def test_a_profile_names_both(tmp_path: Path) -> None:
    chosen = {
        "stores.blobs.use": "spill",
        "stores.blobs.small": "bodies",
        "stores.blobs.large": "bulk",
        "stores.bodies.use": "leveldb",
        "stores.bulk.use": "files",
    }
    settings = [f"--set={key}={value}" for key, value in chosen.items()]
    assert invoke(["check", "teranode", *settings]) == 0
    assert invoke(["check", "teranode", *settings, "--set=stores.blobs.large=bodies"]) == 2
