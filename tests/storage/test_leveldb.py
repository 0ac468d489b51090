"""What is LevelDB's own: damage, errors that stick, closing beside running calls, settings."""

from __future__ import annotations

import contextlib
import os
import shutil
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


async def filled(path: Path, commits: int) -> Path:
    """Some commits, of a row each, that are still in the log; as a process leaves them that is killed."""
    alive = path / "alive"
    async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(alive)) as store:
        for number in range(commits):
            batch = WriteBatch()
            batch.put("a", number.to_bytes(4, "big"), os.urandom(1000))
            await store.commit(batch, durable=number % 2 == 0)
        shutil.copytree(alive / DATABASE_FOLDER, path / "killed" / DATABASE_FOLDER)
    return path / "killed"


@pytest.mark.parametrize("at", [0.1, 0.5, 0.97])
async def test_a_damaged_log_is_not_passed_over(tmp_path: Path, at: float) -> None:
    """LevelDB by itself drops what it cannot read, and goes on with what comes after."""
    folder = await filled(tmp_path, 100)
    (log,) = (folder / DATABASE_FOLDER).glob("*.log")
    image = bytearray(log.read_bytes())
    image[int(at * len(image))] ^= 1
    log.write_bytes(image)
    with pytest.raises(StoreCorrupt, match=rf"{folder}.*{log.name} is not whole from byte.*nodewright db repair"):
        async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(folder)):
            pass


@pytest.mark.parametrize("tail", [b"", b"\x00" * 5000, b"\xa5" * 3000])
@pytest.mark.parametrize("paranoid", [False, True])
async def test_the_end_of_a_log_as_a_power_cut_leaves_it(tmp_path: Path, tail: bytes, paranoid: bool) -> None:
    """Cut off, followed by room that was never written, or by what was there before."""
    folder = await filled(tmp_path, 100)
    (log,) = (folder / DATABASE_FOLDER).glob("*.log")
    image = log.read_bytes()
    log.write_bytes(image[: len(image) * 2 // 3] + tail)
    opened = open_leveldb(LevelDBConfig(paranoid=paranoid), NONE, LocalEnvironment(folder))
    if paranoid and tail:
        with pytest.raises(StoreCorrupt, match="is not whole from byte"):
            await opened.__aenter__()
        return
    async with opened as store:
        keys = [key for key, _ in (await store.scan("a")).items]
        assert keys == [number.to_bytes(4, "big") for number in range(len(keys))] and 60 <= len(keys) <= 67


async def test_without_its_table_of_contents_a_database_is_not_begun_anew(tmp_path: Path) -> None:
    folder = await filled(tmp_path, 10)
    (folder / DATABASE_FOLDER / "CURRENT").unlink()
    before = sorted(path.name for path in (folder / DATABASE_FOLDER).iterdir())
    with pytest.raises(StoreCorrupt, match=r"CURRENT is gone.*nodewright db repair"):
        async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(folder)):
            pass
    assert sorted(path.name for path in (folder / DATABASE_FOLDER).iterdir()) == before


def image_of(folder: Path, target: Path) -> None:
    """Where LevelDB may be writing: small files copied, tables and logs linked, so that they stay when it deletes them."""
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix in (".ldb", ".log"):
            with contextlib.suppress(FileNotFoundError):
                os.link(path, target / path.name)
        elif path.name == "CURRENT" or path.name.startswith("MANIFEST"):
            shutil.copy(path, target)


@pytest.mark.parametrize("kept", [0.0, 0.5])
async def test_a_power_cut_at_the_exchange_of_logs_keeps_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    """Cut before the old log was written out as a table: the new one survives whole, of the old one what was synced, and
    perhaps a part of the rest."""
    synced: dict[int, int] = {}

    def fdatasync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    folder = tmp_path / "alive" / DATABASE_FOLDER
    cuts = 0
    async with open_leveldb(LevelDBConfig(write_buffer_mib=1), NONE, LocalEnvironment(tmp_path / "alive")) as store:
        for number in range(100):
            before = tmp_path / f"before{number}"
            image_of(folder, before)
            batch = WriteBatch()
            batch.put("a", number.to_bytes(4, "big"), os.urandom(50_000))
            await store.commit(batch, durable=False)
            new = {path.name for path in folder.glob("*.log")} - {path.name for path in before.glob("*.log")}
            if not new or not number:
                continue
            cuts += 1
            cut = tmp_path / f"cut{number}"
            shutil.copytree(before, cut / DATABASE_FOLDER)
            shutil.copy(folder / new.pop(), cut / DATABASE_FOLDER)
            for old in before.glob("*.log"):
                status = old.stat()
                size = max(synced.get(status.st_ino, 0), int(kept * status.st_size))
                os.truncate(cut / DATABASE_FOLDER / old.name, size)
            async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(cut)) as survived:
                keys = [int.from_bytes(key, "big") for key, _ in (await survived.scan("a", limit=10_000)).items]
                assert keys == list(range(number + 1)), "a commit is missing before a later one"
    assert cuts >= 3


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


@pytest.mark.parametrize("row", [(b"key", "text"), (b"key", 5), ("text", b""), (5, b""), (None, b""), ("text", None)])
async def test_what_is_not_bytes_is_refused_and_the_store_goes_on(tmp_path: Path, row: Any) -> None:
    """Whether its table is there yet or not, and nothing of its batch is written."""
    async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(tmp_path)) as store:
        for table in ("new", "a"):
            batch = WriteBatch()
            batch.put("a", b"beside", b"it")
            batch.tables.setdefault(table, {}).update([row])
            with pytest.raises(ValueError, match="not of bytes"):
                await store.commit(batch, durable=False)
        assert await store.tables() == []
        await store.commit(rows(3))
        assert len((await store.scan("a")).items) == 3


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
