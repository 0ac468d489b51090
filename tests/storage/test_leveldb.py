"""What is LevelDB's own: damage, errors that stick, closing beside running calls, settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import StoreCorrupt, StoreError, StoreFull
from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.gate import successor
from nodewright.testing.environment import LocalEnvironment
from nodewright_leveldb.plugin import DATABASE_FOLDER, LevelDBConfig, open_leveldb, register_storage
from nodewright_leveldb.store import LevelDBStore, store_error

NONE = Dependencies()


def rows(count: int, size: int = 100) -> WriteBatch:
    batch = WriteBatch()
    batch.put_many("a", {number.to_bytes(4, "big"): os.urandom(size) for number in range(count)})
    return batch


@pytest.mark.parametrize("damaged", ["table", "manifest"])
async def test_damage_is_named_with_the_fix(tmp_path: Path, damaged: str) -> None:
    config = LevelDBConfig(write_buffer_mib=1)
    async with open_leveldb(config, NONE, LocalEnvironment(tmp_path)) as store:
        for _ in range(4):
            await store.commit(rows(8000), durable=False)
    folder = tmp_path / DATABASE_FOLDER
    for path in folder.glob("*.ldb" if damaged == "table" else "MANIFEST-*"):
        image = bytearray(path.read_bytes())
        for at in range(0, len(image), 64):
            image[at] ^= 0xFF
        path.write_bytes(image)
    with pytest.raises(StoreCorrupt, match="restore the folder from a copy"):
        async with open_leveldb(config, NONE, LocalEnvironment(tmp_path)) as store:
            await store.get_many("a", [number.to_bytes(4, "big") for number in range(8000)])


def test_errors_of_the_driver_become_the_contract_s(tmp_path: Path) -> None:
    full = store_error(OSError("IO error: /x/000003.log: No space left on device"), tmp_path)
    assert isinstance(full, StoreFull) and "make room" in str(full)
    assert isinstance(store_error(OSError("Corruption: bad block"), tmp_path), StoreCorrupt)
    other = store_error(OSError("IO error: /x: Input/output error"), tmp_path)
    assert type(other) is StoreError and "check the disk" in str(other)


async def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path) -> None:
    class FullOnce(LocalEnvironment):
        full = False

        async def offload(self, function: Any, *arguments: Any) -> Any:
            if self.full:
                self.full = False
                raise OSError("IO error: 000003.log: No space left on device")
            return await super().offload(function, *arguments)

    environment = FullOnce(tmp_path)
    async with open_leveldb(LevelDBConfig(), NONE, environment) as store:
        await store.commit(rows(1))
        environment.full = True
        with pytest.raises(StoreFull):
            await store.commit(rows(5))
        with pytest.raises(StoreError, match="start the node again"):
            await store.commit(rows(5), durable=False)
        assert len((await store.scan("a")).items) == 1
    async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(tmp_path)) as store:
        await store.commit(rows(5))


async def test_closing_waits_for_calls_and_refuses_later_ones(tmp_path: Path) -> None:
    kept: list[LevelDBStore] = []
    environment = LocalEnvironment(tmp_path)
    async with trio.open_nursery() as nursery, open_leveldb(LevelDBConfig(read_slice=10), NONE, environment) as store:
        kept.append(store)
        await store.commit(rows(2000))
        for _ in range(5):
            nursery.start_soon(store.commit, rows(2000, 1000))
            nursery.start_soon(store.get_many, "a", [bytes(4)] * 500)
        snapshot = store.snapshot()
        view = await snapshot.__aenter__()
        await trio.lowlevel.checkpoint()
    for reader in (kept[0], view):
        with pytest.raises(StoreError, match="closed"):
            await reader.get_many("a", [bytes(4)])
    with pytest.raises(StoreError, match="closed"):
        await kept[0].commit(rows(1))
    await snapshot.__aexit__(None, None, None)


async def test_a_relative_path_lies_in_the_data_folder(tmp_path: Path) -> None:
    async with open_leveldb(LevelDBConfig(path="elsewhere"), NONE, LocalEnvironment(tmp_path)):
        assert (tmp_path / "elsewhere" / DATABASE_FOLDER).is_dir()


def test_the_spec() -> None:
    (spec,) = register_storage()
    assert spec.provides == {"key-value", "ordered", "snapshot"}
    spec.config()


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_the_successor_bounds_a_prefix(prefix: bytes, rest: bytes) -> None:
    prefix = b"\x00\x01" + prefix
    end = successor(prefix)
    assert end is not None and prefix + rest < end and not end.startswith(prefix)
