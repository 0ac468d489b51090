"""Rates of ``aerospike`` and ``leveldb`` in one run, and of the server and its driver with the same records.

    python benchmarks/aerospike_store.py --server 127.0.0.1:3000 --namespace nodewright [--transactions 100000] [--rounds 3]

Needs a running server; every round uses a store of its own there. The transactions are those of benchmarks/utxo_store.py
(each spends an output of the batch before) and, as "old", ones that spend outputs of transactions made long before, none of
them in memory. A time ends when the server has confirmed every record, not when the last call returns. ``plain driver``
writes the same records, a creation and a spend for each transaction with the same conditions, from two threads, without
the store, its journal, the rules or trio; "merged" is one write for each, as where what is created is soon spent. The
garbage collector is set as a node sets it. What is printed is the median round.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aerospike
import trio
from aerospike_helpers import expressions
from aerospike_helpers.batch import records
from aerospike_helpers.operations import map_operations, operations

from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.node.process import COLLECTOR_THRESHOLDS
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_aerospike.config import AerospikeConfig
from nodewright_aerospike.plugin import open_aerospike
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb

HERE = Path(__file__).parent
NONE = Dependencies()
Rates = dict[str, float]
Open = Callable[[LocalEnvironment], AbstractAsyncContextManager[Any]]


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def nothing() -> None:
    pass


async def rates(calls: list[Callable[[], Any]], each: int, drained: Callable[[], Any]) -> tuple[float, float, float]:
    """(items per second until all is drained, p95 of the seconds of a call, µs of this process's CPU an item)"""
    seconds = []
    begun, cpu = time.perf_counter(), time.process_time()
    for call in calls:
        start = time.perf_counter()
        refused = await call()
        seconds.append(time.perf_counter() - start)
        assert refused is None or not any(isinstance(item, Exception) for item in refused)
    await drained()
    items = each * len(calls)
    spent = time.process_time() - cpu
    p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
    return items / (time.perf_counter() - begun), p95, 1e6 * spent / items


def spending(batches: list[list[UtxoTransaction]], index: int) -> list[list[UtxoTransaction]]:
    """Transactions that spend output ``index`` of those in the batches."""
    return [
        [
            UtxoTransaction(hashlib.sha256(b"old" + tx.txid).digest(), (tx.txid + index.to_bytes(4, "little"),), tx.outputs)
            for tx in txs
        ]
        for txs in batches
    ]


async def measure(open_store: Open, batches: list[Any], durable: bool) -> Rates:
    each = len(batches[0])
    found: Rates = {}

    def keep(name: str, measured: tuple[float, float, float]) -> None:
        found[f"{name} /s"], found[f"{name} p95 ms"] = measured[0], 1000 * measured[1]
        found[f"{name} µs CPU here"] = measured[2]

    with tempfile.TemporaryDirectory() as folder:
        environment = LocalEnvironment(Path(folder))
        async with open_store(environment) as (store, utxo, drained):
            await utxo.spend_and_create(batches[0], 1)
            calls = [partial(utxo.spend_and_create, txs, 1, durable) for txs in batches[1:]]
            keep("spend_and_create", await rates(calls, each, drained))
        old = batches[: min(20, len(batches) // 2)]
        async with open_store(environment) as (store, utxo, drained):
            asked = [[tx.txid + bytes(4) for tx in txs] for txs in batches[-20:]]
            keep("get_outputs", await rates([partial(utxo.get_outputs, part) for part in asked], each, nothing))
            calls = [partial(utxo.spend_and_create, txs, 1, durable) for txs in spending(old, 1)]
            keep("spend_and_create, old", await rates(calls, each, drained))
            keys = [[hashlib.sha256(b"%d %d" % (n, k)).digest() for k in range(each)] for n in range(20)]
            puts = []
            for part in keys:
                batch = WriteBatch()
                batch.put_many("bench", {key: key * 3 for key in part})
                puts.append(partial(store.commit, batch, durable))
            keep("put", await rates(puts, each, drained))
        async with open_store(environment) as (store, utxo, drained):
            keep("get_many", await rates([partial(store.get_many, "bench", part) for part in keys], each, nothing))
            singles = [partial(store.get_many, "bench", [key]) for key in keys[0][:500]]
            keep("get_many, one key", await rates(singles, 1, nothing))
    return found


def plain(host: str, port: int, namespace: str, batches: list[Any], merged: bool) -> Rates:
    client = aerospike.client({"hosts": [(host, port)]})
    name = f"plain{os.getpid()}"
    once = {
        "map_order": aerospike.MAP_KEY_ORDERED,
        "map_write_flags": aerospike.MAP_WRITE_FLAGS_CREATE_ONLY,
    }
    stored = {"key": aerospike.POLICY_KEY_SEND}
    salt = os.urandom(8)
    row = b"\x00" * 7 + bytes(36) + batches[0][0].outputs

    def write(number: int, txs: list[UtxoTransaction]) -> None:
        stamp = operations.write("n", number)
        policy = {
            "max_retries": 0,
            "expressions": expressions.LT(expressions.IntBin("n"), number).compile(),
        }
        made = []
        for tx in txs:
            create = operations.write("t", row)
            spend = map_operations.map_put("s", 0, tx.txid + bytes(4), once)
            if merged:
                key = (namespace, name, bytearray(salt + tx.txid))
                made.append(records.Write(key, [create, stamp, spend], None, stored))
            else:
                made.append(records.Write((namespace, name, bytearray(salt + tx.txid)), [create, stamp], None, stored))
                parent = (namespace, name, bytearray(salt + tx.spends[0][:32]))
                made.append(records.Write(parent, [stamp, spend], None, stored))
        done = client.batch_write(records.BatchRecords(made), policy)
        assert all(record.result in (0, 27) for record in done.batch_records)

    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(1, len(batches)), batches[1:]))
    count = len(batches[0]) * (len(batches) - 1)
    found = {
        "spend_and_create /s": count / (time.perf_counter() - begun),
        "spend_and_create µs CPU here": 1e6 * (time.process_time() - cpu) / count,
    }
    client.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="127.0.0.1:3000", help="host:port")
    parser.add_argument("--namespace", default="nodewright")
    parser.add_argument("--transactions", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    batches = load(HERE / "utxo_store.py").make(options.transactions, options.batch)

    @asynccontextmanager
    async def leveldb(environment: LocalEnvironment) -> Any:
        async with open_leveldb(LevelDBConfig(), NONE, environment) as store, open_utxo(store, environment) as utxo:
            yield store, utxo, nothing

    @asynccontextmanager
    async def on_aerospike(environment: LocalEnvironment) -> Any:
        config = AerospikeConfig(
            host=host, port=int(port), namespace=options.namespace, sets="bench", store=str(environment.data_dir)
        )
        async with open_aerospike(config, NONE, environment) as store:
            yield store, store, store.rows.applier.written

    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    rounds: dict[str, list[Rates]] = {}
    for _ in range(options.rounds):
        rounds.setdefault("leveldb", []).append(trio.run(measure, leveldb, batches, True))
        rounds.setdefault("aerospike", []).append(trio.run(measure, on_aerospike, batches, True))
        for merged in (False, True):
            name = "plain driver, merged" if merged else "plain driver"
            rounds.setdefault(name, []).append(plain(host, int(port), options.namespace, batches, merged))
    median = {
        name: {what: statistics.median(one[what] for one in found) for what in found[0]} for name, found in rounds.items()
    }
    for name, found in median.items():
        for what, value in found.items():
            print(f"{name:22} {what:36} {value:12,.1f}  {value / median['leveldb'][what]:6.2f} x leveldb")


if __name__ == "__main__":
    main()
