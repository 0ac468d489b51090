"""What the built-in stores offer to operators' tools beside their contracts."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from nodewright.interfaces import Compaction, KindListing, TableListing, WriteBatch
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import open_blobs
from nodewright.testing.environment import LocalEnvironment

EXAMPLES = Path(__file__).parents[3] / "examples" / "plugins"
STORES = ["leveldb", "memory", *(["sqlite"] if EXAMPLES.is_dir() else [])]


def opened(name: str, path: Path) -> AbstractAsyncContextManager[Any]:
    spec = PluginHost([EXAMPLES] if name == "sqlite" else []).registry.get("storage", name).value
    return spec.open(spec.config(), Dependencies(), LocalEnvironment(path))


@pytest.mark.parametrize("name", STORES)
async def test_tables_are_named_and_compaction_changes_nothing(name: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path) as store:
        assert isinstance(store, TableListing)
        assert await store.tables() == []
        batch = WriteBatch()
        for table in ("b", "a", "a_b"):
            batch.put_many(table, ((number.to_bytes(2, "big"), b"v" * 500) for number in range(2000)))
        await store.commit(batch)
        assert await store.tables() == ["a", "a_b", "b"]
        await store.delete_range("a", b"", b"\xff\xff\xff")
        assert {"a_b", "b"} <= set(await store.tables()) <= {"a", "a_b", "b"}
        if isinstance(store, Compaction):
            await store.compact()
        assert await store.get_many("a", [b"\x00\x01"]) == [None]
        assert await store.get_many("b", [b"\x00\x01"]) == [b"v" * 500]
        batch = WriteBatch()
        batch.put("c", b"", b"")
        await store.commit(batch)  # it is written on after
        assert "c" in await store.tables()


@pytest.mark.parametrize("name", ["files", *STORES])
async def test_kinds_are_named(name: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path) as store:
        if name == "files":
            await kinds_of(store)
        else:
            async with open_blobs(store, LocalEnvironment(tmp_path)) as blobs:
                await kinds_of(blobs)


async def kinds_of(blobs: Any) -> None:
    assert isinstance(blobs, KindListing)
    assert await blobs.kinds() == []
    for kind in ("tx", "t", "tx_2", "z" * 32):
        for id in (b"\x00", b"\xff" * 64):
            await blobs.put(kind, id, b"body")
    assert await blobs.kinds() == ["t", "tx", "tx_2", "z" * 32]
