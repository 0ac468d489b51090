"""Readers and writers beside one another over the wrappers, in virtual time: a read sees what had returned before it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from nodewright.errors import StoreError
from nodewright.interfaces import WriteBatch
from nodewright.testing.simulation import Simulation, simulate
from nodewright.testing.storage_keyvalue import batch_of
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_wrappers.cached import CachedStore
from nodewright_wrappers.write_behind import WriteBehindStore

Opened = AbstractAsyncContextManager[Any]


class Slow:
    """A store whose calls take random virtual time before and after they take effect; some commits are cancelled in it, and
    some fail without effect."""

    def __init__(self, inner: Any, dice: random.Random) -> None:
        self.inner = inner
        self.dice = dice
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def get_many(self, table: str, keys: Sequence[bytes]) -> Any:
        await trio.sleep(self.dice.random())
        values = await self.inner.get_many(table, keys)
        await trio.sleep(self.dice.random())
        return values

    async def commit(self, rows: WriteBatch, durable: bool = True) -> None:
        await trio.sleep(self.dice.random())
        if self.dice.random() < 0.1:
            raise StoreError("on purpose")
        await self.inner.commit(rows, durable)
        await trio.sleep(self.dice.random())


class Histories:
    """Each writer has keys of its own and writes versions; a reader may see any from the last one that had returned when it
    began to the last one begun when it ended. One that failed is never there, one that was cancelled is or is not."""

    WRITERS = 4
    KEYS = 3

    def __init__(self, store: Any, dice: random.Random) -> None:
        self.store = store
        self.dice = dice
        self.values: dict[bytes, list[bytes | None]] = {}  # by key, every version begun
        self.returned: dict[bytes, int] = {}
        self.checked = 0

    def keys(self, writer: int) -> list[bytes]:
        return [bytes([writer, key]) for key in range(self.KEYS)]

    async def write(self, writer: int) -> None:
        own = self.keys(writer)
        for key in own:
            self.values[key], self.returned[key] = [None], 0
        for turn in range(12):
            await trio.sleep(self.dice.random())
            kind = self.dice.random()
            changed = own if kind < 0.15 else self.dice.sample(own, self.dice.randint(1, self.KEYS))
            rows = [(key, None if kind < 0.15 or kind > 0.8 else bytes([writer, turn])) for key in changed]
            for key, value in rows:
                self.values[key].append(value)
            with trio.move_on_after(1.2 if 0.15 <= kind < 0.4 else 100) as scope:
                try:
                    if kind < 0.15:
                        await self.store.delete_range("t", own[0], own[-1] + b"\0")
                    else:
                        await self.store.commit(
                            batch_of([("t", key, value) for key, value in rows]), durable=self.dice.random() < 0.3
                        )
                except StoreError:
                    for key in changed:
                        self.values[key].pop()  # nobody may see it from now on
                    continue
            if scope.cancelled_caught:
                continue
            for key in changed:
                self.returned[key] = len(self.values[key]) - 1

    async def read(self) -> None:
        for _ in range(25):
            await trio.sleep(self.dice.random() / 2)
            keys = [key for writer in range(self.WRITERS) for key in self.keys(writer) if self.dice.random() < 0.5]
            before = {key: self.returned.get(key, 0) for key in keys}
            found = await self.store.get_many("t", keys)
            for key, value in zip(keys, found, strict=True):
                allowed = self.values.get(key, [None])[before[key] :]
                assert value in allowed, f"{key!r}: read {value!r} where {allowed!r} were allowed"
                self.checked += 1


def history(seed: int, wrap: Callable[[Any, Simulation], Opened]) -> int:
    async def story(simulation: Simulation) -> int:
        slow = Slow(MemoryStore(MemoryDisk("slow"), "test"), simulation.random)
        async with wrap(slow, simulation) as store:
            told = Histories(store, simulation.random)
            async with trio.open_nursery() as nursery:
                for writer in range(told.WRITERS):
                    nursery.start_soon(told.write, writer)
                for _ in range(4):
                    nursery.start_soon(told.read)
            keys = list(told.values)
            now = await store.get_many("t", keys)
            while True:
                try:
                    await store.commit(WriteBatch(), durable=True)
                    break
                except StoreError:
                    continue
            assert await slow.inner.get_many("t", keys) == now == await store.get_many("t", keys)
        return told.checked

    return simulate(story, seed).value


@asynccontextmanager
async def cache_of(slow: Any, simulation: Simulation, max_bytes: int = 60_000) -> AsyncIterator[Any]:
    yield CachedStore(slow, "stores.outer", max_bytes=max_bytes)


@asynccontextmanager
async def behind_of(slow: Any, simulation: Simulation) -> AsyncIterator[Any]:
    environment = simulation.environment("node", slot="stores.outer")
    store = WriteBehindStore(slow, environment, max_bytes=2_000, max_seconds=1.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        yield store
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def both_of(slow: Any, simulation: Simulation) -> AsyncIterator[Any]:
    async with behind_of(slow, simulation) as behind, cache_of(behind, simulation, 5_000) as store:
        yield store


@pytest.mark.parametrize("wrap", [cache_of, behind_of, both_of])
def test_every_read_sees_what_had_returned(wrap: Any, budget: int) -> None:
    for seed in range(25 * budget):
        assert history(seed, wrap) > 100


def test_commits_of_one_key_that_return_in_another_order() -> None:
    """Two commits beside one another: the cache does not know which the store took last, and asks it."""

    async def story(simulation: Simulation) -> None:
        slow = Slow(MemoryStore(MemoryDisk("slow"), "test"), simulation.random)
        store = CachedStore(slow, "stores.outer", max_bytes=60_000)

        async def write(value: bytes) -> None:
            try:
                await store.commit(batch_of([("t", b"k", value)]))
            except StoreError:
                pass

        for turn in range(20):
            await store.get_many("t", [b"k"])
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(write, bytes([turn, number]))
            assert await store.get_many("t", [b"k"]) == await slow.inner.get_many("t", [b"k"])

    for seed in range(10):
        simulate(story, seed)
