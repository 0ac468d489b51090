"""A store that fails on purpose, in front of any key-value store: for tests of what lies above.

Invariants:

- it keeps the contract: a commit that raises left nothing to be seen, and what a crash keeps is a prefix of the commits
  that holds every durable one;
- with ``lose_unsynced``, commits that are not durable stay in this process's memory until a durable one comes after them:
  a killed process then loses what a power cut would. Beyond ``unsynced_bytes`` the oldest are handed on. A scan, a
  snapshot or a range hands on all of them first;
- commits are handed on one by one, in order, each as it was made;
- which calls fail follows from the seed, the slot and the order of calls, and from nothing else;
- once broken (``break_after_commits``) or crashed, every call fails.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from nodewright.errors import LeaseLost, StoreError, StoreFull
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueReader, KeyValueStore, Page, WriteBatch
from nodewright.plugins.specs import KEY_VALUE, setting
from nodewright.storage.limits import check_batch, check_keys, check_scan, check_table
from nodewright_wrappers.base import ROW_BYTES, Layer, Wrapper, filled, look_up

BREAKS: dict[str, type[StoreError]] = {"error": StoreError, "full": StoreFull, "lease-lost": LeaseLost}


@attrs.define
class FaultyConfig:
    inner: str = setting(help="NAME of the [stores.NAME] behind it, which nothing else may use", store=KEY_VALUE)
    allow_faults: bool = setting(False, help="must be true: this store fails, and loses commits, on purpose")
    seed: int = setting(0, help="which calls fail follows from it", minimum=0)
    commit_error_rate: float = setting(0.0, help="share of commits that fail with StoreError", minimum=0, maximum=1)
    full_rate: float = setting(0.0, help="share of commits that fail with StoreFull", minimum=0, maximum=1)
    read_error_rate: float = setting(0.0, help="share of reads that fail with StoreError", minimum=0, maximum=1)
    delay_rate: float = setting(0.0, help="share of calls that take longer", minimum=0, maximum=1)
    max_delay_seconds: float = setting(0.01, help="the longest that such a call is held up", minimum=0, maximum=60)
    break_after_commits: int = setting(0, help="commits after which every call fails for good; 0 is never", minimum=0)
    break_as: str = setting("error", help="how it fails then", choices=tuple(BREAKS))
    lose_unsynced: bool = setting(
        False, help="a killed process loses commits that were not durable, as at a power cut, whatever is behind"
    )
    unsynced_mib: int = setting(64, help="MiB of such commits held at most", minimum=1, maximum=4096)


def check_faulty(config: FaultyConfig) -> list[str]:
    if config.allow_faults:
        return []
    return ["faulty fails and loses commits on purpose, for tests only: name another store, or set allow_faults = true"]


class FaultyStore(Wrapper):
    """Implements ``nodewright.interfaces.KeyValueStore``. A test may switch ``active`` off and on."""

    def __init__(self, inner: KeyValueStore, config: FaultyConfig, environment: Environment) -> None:
        super().__init__(inner, environment.slot)
        self._config = config
        self._environment = environment
        self._dice = random.Random(f"{config.seed} {environment.slot}")
        self._turn = trio.Lock()
        self._held: deque[tuple[WriteBatch, int]] = deque()  # not durable, oldest first, each with its bytes
        self._held_bytes = 0
        self._layer = Layer()  # their rows together
        self._commits = 0
        self._dead: StoreError | None = None
        self.active = True
        self.failed = 0  # calls that were made to fail

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _strike(self, writes: bool) -> None:
        """Before anything is done. The dice are thrown the same number of times for every call."""
        config = self._config
        delay, length, error, full = (self._dice.random() for _ in range(4))
        self._check_alive()
        if not self.active:
            return
        if delay < config.delay_rate:
            await self._environment.sleep(length * config.max_delay_seconds)
            self._check_alive()
        if writes and full < config.full_rate:
            self.failed += 1
            raise StoreFull(f"{self.slot}: faulty: no room, on purpose (seed {config.seed})")
        if error < (config.commit_error_rate if writes else config.read_error_rate):
            self.failed += 1
            raise StoreError(f"{self.slot}: faulty: failed on purpose (seed {config.seed})")

    def _check_alive(self) -> None:
        if self._dead is not None:
            raise type(self._dead)(*self._dead.args)

    def _count_commit(self) -> None:
        self._commits += 1
        config = self._config
        if self.active and config.break_after_commits and self._commits > config.break_after_commits:
            self._dead = BREAKS[config.break_as](
                f"{self.slot}: faulty: broken on purpose after {config.break_after_commits} commits (seed {config.seed})"
            )
            self._check_alive()

    async def crash(self, keep: int = 0) -> None:
        """The power goes: the oldest ``keep`` commits of those that were not durable had reached the store behind. Every
        call fails from now on."""
        async with self._turn:
            self._check_alive()
            for batch, _ in list(self._held)[:keep]:
                await self.inner.commit(batch, durable=True)
            self._dead = StoreError(f"{self.slot}: faulty: crashed on purpose")

    @property
    def unsynced(self) -> int:
        """Commits that a crash may lose."""
        return len(self._held)

    # --- reads -------------------------------------------------------------------------------------------------------

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        await self._strike(writes=False)
        found, missing = look_up(table, keys, [self._layer])
        if not missing:
            await trio.lowlevel.checkpoint()
            return found
        return filled(found, await self.inner.get_many(table, missing))

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        await self._strike(writes=False)
        await self._hand_on()
        return await self.inner.scan(table, prefix, after, limit)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        await self._strike(writes=False)
        await self._hand_on()
        async with self.inner.snapshot() as view:
            yield view

    async def tables(self) -> list[str]:
        self._check_alive()
        await self._hand_on()
        return await super().tables()

    # --- changes -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        size = check_batch(batch) + ROW_BYTES * len(batch)
        async with self._turn:
            await self._strike(writes=True)
            self._count_commit()
            if not self._config.lose_unsynced:
                await self.inner.commit(batch, durable)
            elif durable:
                await self._hand_on_held()
                await self.inner.commit(batch, durable=True)
            else:
                await self._hold(batch, size)

    async def _hold(self, batch: WriteBatch, size: int) -> None:
        while self._held and self._held_bytes + size > self._config.unsynced_mib << 20:
            await self._hand_on_oldest()
        copy = WriteBatch()
        copy.tables = {table: dict(rows) for table, rows in batch.tables.items()}
        self._held.append((copy, size))
        self._held_bytes += size
        self._layer.apply(copy.tables)

    async def _hand_on(self) -> None:
        if self._held:
            async with self._turn:
                await self._hand_on_held()

    async def _hand_on_held(self) -> None:
        while self._held:
            await self._hand_on_oldest()

    async def _hand_on_oldest(self) -> None:
        batch, size = self._held[0]
        with trio.CancelScope(shield=True):
            await self.inner.commit(batch, durable=False)
        self._held.popleft()
        self._held_bytes -= size
        if not self._held:
            self._layer = Layer()

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        check_table(table)
        check_keys([start, end])
        await self._strike(writes=True)
        await self._hand_on()
        return await self.inner.delete_range(table, start, end)

    async def aclose(self) -> None:
        """A clean stop loses nothing; a store that crashed or broke hands on nothing more."""
        if self._dead is None:
            with trio.CancelScope(shield=True):
                await self._hand_on()
