"""The wrappers: the shipped kits over memory and LevelDB, crash points included, and what is particular to each."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nodewright.errors import LeaseLost, StoreError, StoreFull
from nodewright.interfaces import WriteBatch
from nodewright.node.metrics import Registry
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import KeyValueBlobStore, open_blobs
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright.testing.storage import BlobStoreTests, FolderKit, KeyValueStoreTests, StoreKit, UtxoStoreTests
from nodewright.testing.storage_keyvalue import batch_of
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_leveldb.store import CAPABILITIES as LEVELDB
from nodewright_memory.disk import MemoryDisk, named_disk
from nodewright_memory.plugin import MemoryConfig, open_memory
from nodewright_memory.store import CAPABILITIES as MEMORY
from nodewright_memory.store import MemoryStore
from nodewright_wrappers.cached import CachedStore
from nodewright_wrappers.faulty import FaultyConfig, FaultyStore
from nodewright_wrappers.plugin import CachedConfig, WriteBehindConfig, open_cached, open_faulty, open_write_behind
from nodewright_wrappers.write_behind import WriteBehindStore

Opened = AbstractAsyncContextManager[Any]
NONE = Dependencies()


def batch(*rows: tuple[bytes, bytes | None]) -> WriteBatch:
    return batch_of([("t", key, value) for key, value in rows])


@asynccontextmanager
async def cached(inner: Any, path: Path, max_bytes: int = 60_000) -> AsyncIterator[CachedStore]:
    yield CachedStore(inner, "stores.outer", max_bytes=max_bytes)


@asynccontextmanager
async def write_behind(
    inner: Any, path: Path, max_bytes: int = 3_000, max_seconds: float = 0.005
) -> AsyncIterator[WriteBehindStore]:
    store = WriteBehindStore(inner, LocalEnvironment(path), max_bytes=max_bytes, max_seconds=max_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        yield store
        nursery.cancel_scope.cancel()
        await store.aclose()


@asynccontextmanager
async def losing(inner: Any, path: Path) -> AsyncIterator[FaultyStore]:
    config = FaultyConfig("inner", lose_unsynced=True, delay_rate=0.2, max_delay_seconds=0.0001)
    store = FaultyStore(inner, config, LocalEnvironment(path))
    yield store
    await store.aclose()


# --- the kits ---------------------------------------------------------------------------------------------------------


class Wrapped(KeyValueStoreTests):
    """``wrap`` in front of what ``open_base`` opens. ``examples`` are few: two bases, each under every wrapper."""

    examples = 15
    wrap: Callable[..., Opened]
    open_base: Callable[[Path], Opened]

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[Any]:
        async with self.open_base(path) as inner, type(self).wrap(inner, path) as store:
            yield store


class OnMemory(StoreKit):
    capabilities = MEMORY
    can_crash = True

    def open_base(self, path: Path) -> Opened:
        return open_memory(MemoryConfig(disk=str(path)), NONE, LocalEnvironment(path))

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        disk = named_disk(str(path), "test", "node")
        disk.crash(min(keep, len(disk.unsynced)))
        return path


class OnLevelDB(FolderKit):
    capabilities = LEVELDB

    def open_base(self, path: Path) -> Opened:
        return open_leveldb(LevelDBConfig(write_buffer_mib=1, block_cache_mib=1), NONE, LocalEnvironment(path))


class TestCachedOnMemory(OnMemory, Wrapped):
    wrap = cached


class TestCachedOnLevelDB(OnLevelDB, Wrapped):
    wrap = cached


class TestWriteBehindOnMemory(OnMemory, Wrapped):
    wrap = write_behind


class TestWriteBehindOnLevelDB(OnLevelDB, Wrapped):
    wrap = write_behind


@asynccontextmanager
async def held_for_long(inner: Any, path: Path) -> AsyncIterator[Any]:
    async with write_behind(inner, path, max_bytes=1 << 24, max_seconds=1000) as store:
        yield store


class TestWriteBehindThatHoldsAll(OnLevelDB, Wrapped):
    wrap = held_for_long


class TestFaultyOnMemory(OnMemory, Wrapped):
    """Its own crash: what it holds is lost but for the oldest, and then the disk loses what it had not synced."""

    wrap = losing

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        await store.crash(keep)
        return await super().crash(store, path, 0)


class TestFaultyOnLevelDB(OnLevelDB, Wrapped):
    wrap = losing


@asynccontextmanager
async def stack(inner: Any, path: Path) -> AsyncIterator[Any]:
    async with losing(inner, path) as faulty, write_behind(faulty, path) as behind, cached(behind, path) as store:
        yield store


class TestAllOnMemory(OnMemory, Wrapped):
    wrap = stack

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        await store.inner.inner.crash(keep)
        return await super().crash(store, path, 0)


class TestUtxoOverAll(OnLevelDB, UtxoStoreTests):
    examples = 10

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueUtxoStore]:
        async with (
            self.open_base(path) as inner,
            stack(inner, path) as store,
            open_utxo(store, LocalEnvironment(path), cache_bytes=20_000) as utxo,
        ):
            yield utxo


class TestBlobsOverAll(OnLevelDB, BlobStoreTests):
    examples = 10

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[KeyValueBlobStore]:
        async with (
            self.open_base(path) as inner,
            stack(inner, path) as store,
            open_blobs(store, LocalEnvironment(path)) as blobs,
        ):
            yield blobs


# --- cached -----------------------------------------------------------------------------------------------------------


class Counting:
    """A store that counts what is asked of it, and fails when told to."""

    capabilities = MEMORY

    def __init__(self) -> None:
        self.store = MemoryStore(MemoryDisk("counted"), "test")
        self.read: list[list[bytes]] = []
        self.commits: list[tuple[WriteBatch, bool]] = []
        self.fail: StoreError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def get_many(self, table: str, keys: Sequence[bytes]) -> Any:
        self.read.append(list(keys))
        return await self.store.get_many(table, keys)

    async def commit(self, rows: WriteBatch, durable: bool = True) -> None:
        if self.fail is not None:
            raise self.fail
        await self.store.commit(rows, durable)
        self.commits.append((rows, durable))


def given(inner: Any, metrics: Registry) -> Dependencies:
    return Dependencies({"stores.disk": inner, "metrics": metrics})


async def test_what_was_read_is_read_once_and_what_is_absent_too(tmp_path: Path) -> None:
    inner, metrics = Counting(), Registry()
    await inner.store.commit(batch((b"a", b"1"), (b"b", b"2")))
    async with open_cached(CachedConfig("disk"), given(inner, metrics), LocalEnvironment(tmp_path)) as store:
        for _ in range(2):
            assert await store.get_many("t", [b"a", b"x", b"b", b"a"]) == [b"1", None, b"2", b"1"]
        assert await store.get_many("other", [b"a"]) == [None]
        assert inner.read == [[b"a", b"x", b"b", b"a"], [b"a"]]
        await store.commit(batch((b"x", b"3"), (b"b", None), (b"new", b"4")))
        assert await store.get_many("t", [b"a", b"x", b"b", b"new"]) == [b"1", b"3", None, b"4"]
        assert len(inner.read) == 2
        text = metrics.render()
    assert 'nodewright_store_memory_hits_total{slot="node"} 8' in text
    assert 'nodewright_store_memory_misses_total{slot="node"} 5' in text


async def test_a_commit_that_failed_or_was_not_to_be_kept(tmp_path: Path) -> None:
    inner = Counting()
    store = CachedStore(inner, "stores.outer", max_bytes=60_000, keep_written=False)
    await store.commit(batch((b"a", b"1"), (b"b", b"1")))
    assert await store.get_many("t", [b"a"]) == [b"1"] and inner.read == [[b"a"]]
    await store.commit(batch((b"a", b"2"), (b"b", b"2")))
    assert await store.get_many("t", [b"a", b"b"]) == [b"2", b"2"] and inner.read == [[b"a"], [b"b"]]
    inner.fail = StoreFull("full")
    with pytest.raises(StoreFull):
        await store.commit(batch((b"a", b"3")))
    assert await store.get_many("t", [b"a"]) == [b"2"] and inner.read[-1] == [b"a"]


async def test_the_cache_takes_no_more_memory_than_it_was_given() -> None:
    budget = 4_000_000
    inner = Counting()
    dice = random.Random(1)
    for value_bytes in (0, 60, 4_000):
        keys = [dice.randbytes(32) for _ in range(3 * budget // (value_bytes + 200))]
        await inner.store.commit(batch(*[(key, dice.randbytes(value_bytes)) for key in keys]))
        inner.read.clear()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        store = CachedStore(inner, "stores.outer", max_bytes=budget)
        for start in range(0, len(keys), 500):
            # Copies: in a real store values and keys are the cache's own.
            part = [bytes(bytearray(key)) for key in keys[start : start + 500]]
            await store.get_many("t", part)
            assert store.used <= budget
        del part
        inner.read.clear()
        own = (value_bytes + 33) * len(store)  # of values, which here are those of the store behind
        taken = tracemalloc.get_traced_memory()[0] - before + own
        tracemalloc.stop()
        assert budget / 3 < taken < 1.35 * budget, f"{taken:,} bytes for rows of {value_bytes}"
        assert await store.get_many("t", keys[-10:]) == await inner.store.get_many("t", keys[-10:])
        assert inner.read == []


async def test_what_is_larger_than_a_sixteenth_is_not_held() -> None:
    inner = Counting()
    store = CachedStore(inner, "stores.outer", max_bytes=16_000)
    await store.commit(batch((b"a", b"1"), (b"b", b"x" * 2_000)))
    await store.commit(batch((b"a", b"y" * 2_000)))
    assert await store.get_many("t", [b"a", b"b"]) == [b"y" * 2_000, b"x" * 2_000]
    assert (len(store), store.used) == (0, 0)


# --- write-behind -----------------------------------------------------------------------------------------------------


async def test_many_commits_are_handed_on_as_one(tmp_path: Path) -> None:
    inner, metrics = Counting(), Registry()
    config = WriteBehindConfig("disk", max_seconds=1000)
    async with open_write_behind(config, given(inner, metrics), LocalEnvironment(tmp_path)) as store:
        for number in range(100):
            await store.commit(batch((b"counter", bytes([number])), (bytes([number]), b"")), durable=False)
        assert inner.commits == []
        assert await store.get_many("t", [b"counter", bytes([7]), b"x"]) == [bytes([99]), b"", None]
        assert inner.read == [[b"x"]]
        await store.commit(batch((bytes([7]), None)), durable=True)
        ((whole, durable),) = inner.commits
        assert durable and len(whole) == 101
        assert await inner.store.get_many("t", [b"counter", bytes([7])]) == [bytes([99]), None]
        await store.commit(batch((b"last", b"")), durable=False)
        text = metrics.render()
    assert 'nodewright_store_flushes_total{slot="node"} 1' in text
    assert await inner.store.get_many("t", [b"last"]) == [b""], "a clean stop hands on what is held"


async def test_held_rows_are_handed_on_by_time_and_by_bytes(autojump_clock: trio.testing.MockClock) -> None:
    inner = Counting()
    environment = SimulatedEnvironment(slot="stores.outer")
    store = WriteBehindStore(inner, environment, max_bytes=10_000, max_seconds=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.commit(batch((b"a", b"1")), durable=False)
        await trio.sleep(1.9)
        assert inner.commits == []
        await trio.sleep(0.2)
        assert len(inner.commits) == 1 and store.held_bytes == 0
        await store.commit(batch((b"b", b"x" * 6_000)), durable=False)  # half of the budget: at once, beside others
        await store.commit(batch((b"c", b"1")), durable=False)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inner.commits) >= 2 and await inner.store.get_many("t", [b"b"]) == [b"x" * 6_000]
        await store.commit(batch((b"d", b"x" * 20_000)), durable=False)  # over the budget: before it returns
        assert await inner.store.get_many("t", [b"c", b"d"]) == [b"1", b"x" * 20_000]
        assert store.held_bytes == 0 and not any(durable for _, durable in inner.commits)
        nursery.cancel_scope.cancel()


async def test_a_store_that_fails_in_the_background(autojump_clock: trio.testing.MockClock) -> None:
    """What is held stays, to be seen and to be handed on later; until then every commit is refused."""
    inner = Counting()
    environment = SimulatedEnvironment(slot="stores.outer")
    store = WriteBehindStore(inner, environment, max_bytes=10_000, max_seconds=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        inner.fail = StoreFull("the disk is full")
        await store.commit(batch((b"a", b"1"), (b"b", b"1")), durable=False)
        await trio.sleep(5)
        assert [line["reason"] for line in environment.log][:1] == ["the disk is full"]
        for durable in (False, True):
            with pytest.raises(StoreFull):
                await store.commit(batch((b"b", b"2")), durable)
        assert await store.get_many("t", [b"a", b"b"]) == [b"1", b"1"]
        inner.fail = None
        await store.commit(batch((b"b", b"3")), durable=False)
        assert await inner.store.get_many("t", [b"a", b"b"]) == [b"1", b"3"]
        await store.commit(batch((b"c", b"1")), durable=False)
        assert len(inner.commits) == 1, "it holds commits again"
        nursery.cancel_scope.cancel()


# --- faulty -----------------------------------------------------------------------------------------------------------


def faulty(inner: Any, **settings: Any) -> FaultyStore:
    return FaultyStore(inner, FaultyConfig("inner", True, **settings), SimulatedEnvironment(slot="stores.outer"))


async def outcomes(store: FaultyStore) -> list[str]:
    said = []
    for number in range(200):
        try:
            await store.get_many("t", [b"k"])
            await store.commit(batch((bytes([number]), b"")), durable=bool(number % 2))
            said.append("")
        except StoreError as error:
            said.append(type(error).__name__)
    return said


async def test_one_seed_fails_alike_and_another_does_not() -> None:
    rates = {"commit_error_rate": 0.1, "full_rate": 0.1, "read_error_rate": 0.1}
    first, second, other = [await outcomes(faulty(Counting(), seed=seed, **rates)) for seed in (1, 1, 2)]
    assert first == second != other
    assert {"", "StoreError", "StoreFull"} == set(first)
    assert 80 < first.count("") < 190


async def test_what_failed_on_purpose_left_nothing() -> None:
    inner = Counting()
    store = faulty(inner, commit_error_rate=0.5)
    said = await outcomes(store)
    held = {key for key, _ in (await inner.store.scan("t")).items}
    assert held == {bytes([number]) for number, error in enumerate(said) if not error}
    assert store.failed == sum(map(bool, said))


@pytest.mark.parametrize(("how", "error"), [("error", StoreError), ("full", StoreFull), ("lease-lost", LeaseLost)])
async def test_broken_for_good(how: str, error: type[StoreError]) -> None:
    inner = Counting()
    store = faulty(inner, break_after_commits=3, break_as=how)
    for number in range(3):
        await store.commit(batch((bytes([number]), b"")))
    for _ in range(2):
        with pytest.raises(error, match="broken on purpose after 3 commits"):
            await store.commit(batch((b"k", b"")))
        with pytest.raises(error):
            await store.get_many("t", [b"k"])
    assert len(inner.commits) == 3


async def test_delays_take_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    store = faulty(Counting(), delay_rate=1.0, max_delay_seconds=60.0)
    before = trio.current_time()
    for _ in range(20):
        await store.commit(batch((b"k", b"")))
    assert 100 < trio.current_time() - before < 1200


async def test_commits_that_are_not_durable_wait_in_memory(tmp_path: Path) -> None:
    inner = Counting()
    config = FaultyConfig("disk", True, lose_unsynced=True)
    async with open_faulty(config, given(inner, Registry()), LocalEnvironment(tmp_path)) as store:
        await store.commit(batch((b"a", b"1")), durable=False)
        await store.commit(batch((b"a", b"2")), durable=False)
        assert inner.commits == [] and store.unsynced == 2
        assert await store.get_many("t", [b"a"]) == [b"2"]
        await store.commit(batch((b"b", b"1")), durable=True)
        assert [durable for _, durable in inner.commits] == [False, False, True] and store.unsynced == 0
        await store.commit(batch((b"c", b"1")), durable=False)
        await store.commit(batch((b"d", b"1")), durable=False)
        await store.crash(keep=1)
        with pytest.raises(StoreError, match="crashed"):
            await store.get_many("t", [b"a"])
    assert await inner.store.get_many("t", [b"a", b"c", b"d"]) == [b"2", b"1", None]


def test_a_profile_has_to_allow_faults() -> None:
    from nodewright_wrappers.plugin import register_storage

    (spec,) = [spec for spec in register_storage() if spec.name == "faulty"]
    assert spec.check is not None
    assert spec.check(FaultyConfig("disk", allow_faults=True)) == []
    assert "allow_faults = true" in spec.check(attrs.evolve(FaultyConfig("disk")))[0]
