"""Registers the wrappers: key-value stores in front of another one, named in ``inner``, and ``spill`` for blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from nodewright.errors import StoreError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Metrics
from nodewright.interfaces.storage import BlobStore, KeyValueStore
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import BLOB, KEY_VALUE, Dependencies, StorageSpec, setting
from nodewright_wrappers.base import INHERITED
from nodewright_wrappers.cached import CachedStore
from nodewright_wrappers.faulty import FaultyConfig, FaultyStore, check_faulty
from nodewright_wrappers.spill import KIB, SpillConfig, SpillStore, check_spill
from nodewright_wrappers.write_behind import WriteBehindStore

MIB = 1024 * 1024


@attrs.define
class CachedConfig:
    inner: str = setting(help="NAME of the [stores.NAME] behind it, which nothing else may use", store=KEY_VALUE)
    max_mib: int = setting(128, help="MiB of rows held in memory", minimum=1, maximum=1024 * 1024)
    keep_written: bool = setting(True, help="hold rows when they are written, too, and not only when they are read")


@attrs.define
class WriteBehindConfig:
    inner: str = setting(help="NAME of the [stores.NAME] behind it, which nothing else may use", store=KEY_VALUE)
    max_mib: int = setting(64, help="MiB of commits held in memory", minimum=1, maximum=1024 * 1024)
    max_seconds: float = setting(
        1.0, help="the longest that a commit is held; a killed process loses those that were not durable", minimum=0.001,
        maximum=3600,
    )  # fmt: skip


def _inner(name: str, dependencies: Dependencies) -> KeyValueStore:
    return dependencies.typed(f"stores.{name}", KeyValueStore)  # type: ignore[type-abstract]


def _reads(dependencies: Dependencies, slot: str) -> Callable[[int, int], None]:
    """Counters of rows found in memory and not; none where a tool opens a store without a node."""
    if "metrics" not in dependencies:
        return lambda hits, misses: None
    metrics = dependencies.typed("metrics", Metrics)  # type: ignore[type-abstract]
    hit = metrics.counter("nodewright_store_memory_hits_total", "Rows read that a wrapper held in memory").labels(slot=slot)
    miss = metrics.counter("nodewright_store_memory_misses_total", "Rows read from the store behind").labels(slot=slot)

    def count(hits: int, misses: int) -> None:
        hit.inc(hits)
        miss.inc(misses)

    return count


def _held_bytes(dependencies: Dependencies, slot: str, held: Callable[[], int]) -> None:
    if "metrics" in dependencies:
        metrics = dependencies.typed("metrics", Metrics)  # type: ignore[type-abstract]
        gauge = metrics.gauge("nodewright_store_memory_bytes", "Bytes of rows that a wrapper holds in memory")
        gauge.labels(slot=slot).set_function(held)


def _flushes(dependencies: Dependencies, slot: str) -> Callable[[], None]:
    if "metrics" not in dependencies:
        return lambda: None
    metrics = dependencies.typed("metrics", Metrics)  # type: ignore[type-abstract]
    counter = metrics.counter("nodewright_store_flushes_total", "Commits in which a write cache handed on what it held")
    flushes: Callable[[], None] = counter.labels(slot=slot).inc
    return flushes


@asynccontextmanager
async def open_cached(
    config: CachedConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[CachedStore]:
    slot = environment.slot
    store = CachedStore(
        _inner(config.inner, dependencies),
        slot,
        max_bytes=config.max_mib * MIB,
        keep_written=config.keep_written,
        count=_reads(dependencies, slot),
    )
    _held_bytes(dependencies, slot, lambda: store.used)
    yield store


@asynccontextmanager
async def open_write_behind(
    config: WriteBehindConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[WriteBehindStore]:
    slot = environment.slot
    store = WriteBehindStore(
        _inner(config.inner, dependencies),
        environment,
        max_bytes=config.max_mib * MIB,
        max_seconds=config.max_seconds,
        count=_reads(dependencies, slot),
        flushed=_flushes(dependencies, slot),
    )
    _held_bytes(dependencies, slot, lambda: store.held_bytes)
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        try:
            yield store
        except BaseException as error:  # it leaves below as it was raised, not in a group
            raised = error
        nursery.cancel_scope.cancel()
    try:
        await store.aclose()
    except StoreError as error:
        if raised is None:
            raise
        environment.logger.warning("commits that were not durable are lost", reason=str(error), bytes=store.held_bytes)
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None


@asynccontextmanager
async def open_faulty(
    config: FaultyConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[FaultyStore]:
    environment.logger.warning("this store fails on purpose", inner=config.inner, seed=config.seed)
    store = FaultyStore(_inner(config.inner, dependencies), config, environment)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def open_spill(
    config: SpillConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[SpillStore]:
    small, large = (
        dependencies.typed(f"stores.{name}", BlobStore)  # type: ignore[type-abstract]
        for name in (config.small, config.large)
    )
    yield SpillStore(small, large, config.max_kib * KIB)


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="cached",
            summary="read cache of a bounded size in front of another key-value store",
            open=open_cached,
            config=CachedConfig,
            provides=frozenset({KEY_VALUE}),
            inherits=INHERITED,
        ),
        StorageSpec(
            name="write_behind",
            summary="write cache in front of another key-value store: many commits handed on as one",
            open=open_write_behind,
            config=WriteBehindConfig,
            provides=frozenset({KEY_VALUE}),
            inherits=INHERITED,
        ),
        StorageSpec(
            name="faulty",
            summary="fails and loses commits on purpose in front of another key-value store: for tests",
            open=open_faulty,
            config=FaultyConfig,
            provides=frozenset({KEY_VALUE}),
            inherits=INHERITED,
            check=check_faulty,
        ),
        StorageSpec(
            name="spill",
            summary="two blob stores as one: small bodies in the first, larger ones in the second",
            open=open_spill,
            config=SpillConfig,
            provides=frozenset({BLOB}),
            check=check_spill,
        ),
    ]
