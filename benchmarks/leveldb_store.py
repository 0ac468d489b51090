"""The store ``leveldb`` against plain plyvel batches of the same rows, in one run.

    python benchmarks/leveldb_store.py [--transactions 100000] [--batch 1000] [--rounds 5]

The rows are those that the UTXO adapter commits for the transactions of benchmarks/utxo_store.py. Both are given the whole
batches, open their databases with the same settings, and take turns commit by commit, so that what else the machine does
strikes both; a batch is read once before, so that it is as near as one just made. A plain batch puts keys that have their
table's prefix already, and writes. A durable one is made a second time by a thread, as where an event loop is not to wait
for the disk (the store does so). Compared are the medians of the commits of a round, which a commit that had to wait for
a processor does not move; rates and p95 are of all rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import plyvel
import trio

from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_leveldb.plugin import LevelDBConfig, database_options, open_leveldb
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

NONE = Dependencies()
STORE, PLAIN, APART = "store", "plain", "plain in a thread"
Rows = dict[str, dict[bytes, bytes | None]]


class Recorder(MemoryStore):
    """Keeps the batches that it is given, beside applying them."""

    def __init__(self) -> None:
        super().__init__(MemoryDisk(keep_history=False), "bench")
        self.batches: list[WriteBatch] = []

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        self.batches.append(batch)
        await super().commit(batch, durable)


async def record(transactions: int, each: int) -> list[WriteBatch]:
    path = Path(__file__).with_name("utxo_store.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        async with open_utxo(store, LocalEnvironment(Path(folder))) as utxo:
            for batch in module.make(transactions, each):
                await utxo.spend_and_create(batch, 1)
    return store.batches


def prefixed(batches: list[WriteBatch]) -> list[list[tuple[bytes, bytes | None]]]:
    names: dict[str, bytes] = {}
    for batch in batches:
        for name in batch.tables:
            names.setdefault(name, (len(names) + 1).to_bytes(2, "big"))
    return [
        [(names[name] + key, value) for name, rows in batch.tables.items() for key, value in rows.items()]
        for batch in batches
    ]


def write_plain(database: Any, rows: list[tuple[bytes, bytes | None]], durable: bool) -> None:
    batch = database.write_batch(sync=durable)
    put, delete = batch.put, batch.delete
    for key, value in rows:
        if value is None:
            delete(key)
        else:
            put(key, value)
    batch.write()


async def write_here(database: Any, rows: list[tuple[bytes, bytes | None]], durable: bool) -> None:
    write_plain(database, rows, durable)


def touch(rows: list[tuple[bytes, bytes | None]]) -> None:
    """Bring them to the processor, as where a batch was made just now."""
    for key, value in rows:
        len(key), value is None or len(value)


async def measure(
    batches: list[WriteBatch], plain: list[list[tuple[bytes, bytes | None]]], durable: bool
) -> dict[str, list[float]]:
    """Seconds of each commit, by who made it."""
    config = LevelDBConfig()
    options = database_options(config)
    seconds: dict[str, list[float]] = {name: [] for name in (STORE, PLAIN, APART)[: 2 + durable]}
    with tempfile.TemporaryDirectory() as folder:
        databases = [plyvel.DB(str(Path(folder, name)), create_if_missing=True, **options) for name in (PLAIN, APART)]
        async with open_leveldb(config, NONE, LocalEnvironment(Path(folder, "store"))) as store:
            for turn, (batch, rows) in enumerate(zip(batches, plain, strict=True)):
                calls: dict[str, Callable[[], Awaitable[None]]] = {
                    STORE: partial(store.commit, batch, durable),
                    PLAIN: partial(write_here, databases[0], rows, durable),
                    APART: partial(trio.to_thread.run_sync, write_plain, databases[1], rows, durable),
                }
                names = list(seconds)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    touch([row for table in batch.tables.values() for row in table.items()] if name == STORE else rows)
                    start = time.perf_counter()
                    await calls[name]()
                    seconds[name].append(time.perf_counter() - start)
        for database in databases:
            database.close()
    return seconds


def told(seconds: list[float], rows: float) -> str:
    """Rows a second in the median commit, and the p95 of commits."""
    middle, slow = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
    return f"{rows / middle:10,.0f} rows/s, p95 {slow * 1000:6.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batches = trio.run(record, options.transactions, options.batch)
    plain = prefixed(batches)
    rows = sum(map(len, plain))
    for durable in (False, True):
        found: dict[str, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            seconds = trio.run(partial(measure, batches, plain, durable))
            for name, taken in seconds.items():
                found.setdefault(name, []).extend(taken)
                ratios.setdefault(name, []).append(statistics.median(taken) / statistics.median(seconds[STORE]))
        for name, taken in found.items():
            of, kind = ratios[name], "durable" if durable else "not durable"
            print(
                f"{kind:12} {name:17} {told(taken, rows / len(batches))}   store / this, "
                f"median of {options.rounds} rounds: {statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})"
            )


if __name__ == "__main__":
    main()
