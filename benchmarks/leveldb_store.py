"""The store ``leveldb`` against plain plyvel batches of the same rows, in one run.

    python benchmarks/leveldb_store.py [--transactions 100000] [--batch 1000] [--rounds 5]

The rows are those that the UTXO adapter commits for the transactions of benchmarks/utxo_store.py. Both are given the whole
batches, open their databases with the same settings, and take turns commit by commit, so that what else the machine does
strikes both; a batch is read once before, so that it is as near as one just made. A plain batch puts keys that have their
table's prefix already, and writes. Compared are the medians of the commits of a round, which a commit that had to wait for
a processor does not move; rates and p95 are of all rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
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


def touch(rows: list[tuple[bytes, bytes | None]]) -> None:
    """Bring them to the processor, as where a batch was made just now."""
    for key, value in rows:
        len(key), value is None or len(value)


async def measure(
    batches: list[WriteBatch], plain: list[list[tuple[bytes, bytes | None]]], durable: bool
) -> tuple[Any, Any]:
    """Seconds of each commit: (of the store, of plain plyvel)."""
    ours, theirs = [], []
    config = LevelDBConfig()
    with tempfile.TemporaryDirectory() as folder:
        database = plyvel.DB(str(Path(folder, "plain")), create_if_missing=True, **database_options(config))
        async with open_leveldb(config, NONE, LocalEnvironment(Path(folder, "store"))) as store:
            for turn, (batch, rows) in enumerate(zip(batches, plain, strict=True)):
                for which in (0, 1) if turn % 2 else (1, 0):
                    touch(rows if which else [row for table in batch.tables.values() for row in table.items()])
                    start = time.perf_counter()
                    if which:
                        write_plain(database, rows, durable)
                        theirs.append(time.perf_counter() - start)
                    else:
                        await store.commit(batch, durable)
                        ours.append(time.perf_counter() - start)
        database.close()
    return ours, theirs


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
        ratios = []
        store: list[float] = []
        other: list[float] = []
        for _ in range(options.rounds):
            ours, theirs = trio.run(partial(measure, batches, plain, durable))
            ratios.append(statistics.median(theirs) / statistics.median(ours))
            store += ours
            other += theirs
        print(
            f"{'durable' if durable else 'not durable':12} store {told(store, rows / len(batches))}   plain "
            f"{told(other, rows / len(batches))}   store / plain, median of {options.rounds} rounds: "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
