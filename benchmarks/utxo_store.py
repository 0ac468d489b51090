"""CPU time of the UTXO adapter per transaction, on LevelDB and in memory.

    python benchmarks/utxo_store.py [--transactions 100000] [--batch 1000]

Chains of one-input two-output transactions; parents of each batch were created in the batch before, so that they are
cached. CPU time is that of the whole process, with LevelDB's own threads.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from nodewright.interfaces import KeyValueStore, UtxoTransaction
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_memory.plugin import MemoryConfig, open_memory

OUTPUTS = b"\x02" + 2 * (b"\x10" * 8 + b"\x19" + bytes.fromhex("76a914") + b"\x07" * 20 + bytes.fromhex("88ac"))


def make(count: int, batch: int) -> list[list[UtxoTransaction]]:
    """Batches of transactions, each spending output 0 of the same place in the batch before."""
    tips = [hashlib.sha256(f"root {index}".encode()).digest() for index in range(batch)]
    batches = [[UtxoTransaction(txid, (), OUTPUTS) for txid in tips]]
    for number in range(count // batch):
        made = [
            UtxoTransaction(hashlib.sha256(parent + number.to_bytes(4, "big")).digest(), (parent + bytes(4),), OUTPUTS)
            for parent in tips
        ]
        tips = [tx.txid for tx in made]
        batches.append(made)
    return batches


async def measure(
    name: str, open_store: Callable[[LocalEnvironment], AbstractAsyncContextManager[KeyValueStore]], count: int, batch: int
) -> None:
    batches = make(count, batch)
    spent = sum(map(len, batches[1:]))
    with tempfile.TemporaryDirectory() as folder:
        environment = LocalEnvironment(Path(folder))
        async with open_store(environment) as store, open_utxo(store, environment) as utxo:
            await utxo.spend_and_create(batches[0], 1)
            cpu, wall = time.process_time(), time.perf_counter()
            for txs in batches[1:]:
                refused = await utxo.spend_and_create(txs, 1)
                assert not any(refused)
            report(name, "spend_and_create", cpu, wall, spent)
            await utxo.spend_and_create([], 1, durable=True)

            outpoints = [tx.txid + bytes(4) for txs in batches[-20:] for tx in txs]
            for label in ("get_outputs, first", "get_outputs, cached"):
                cpu, wall = time.process_time(), time.perf_counter()
                for start in range(0, len(outpoints), batch):
                    found = await utxo.get_outputs(outpoints[start : start + batch])
                    assert None not in found
                report(name, label, cpu, wall, len(outpoints))
        async with open_store(environment) as store, open_utxo(store, environment) as utxo:
            if name == "memory":
                return
            cpu, wall = time.process_time(), time.perf_counter()
            for start in range(0, len(outpoints), batch):
                await utxo.get_outputs(outpoints[start : start + batch])
            report(name, "get_outputs, cold", cpu, wall, len(outpoints))
            cpu, wall = time.process_time(), time.perf_counter()
            unspent = 0
            async for _ in utxo.iterate_unspent():
                unspent += 1
            report(name, "iterate_unspent", cpu, wall, unspent)


def report(name: str, what: str, cpu: float, wall: float, count: int) -> None:
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:10} {what:22} {count:9,} items  {1e6 * cpu / count:8.2f} µs CPU each  {count / wall:12,.0f} /s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    arguments = parser.parse_args()
    none = Dependencies()

    def leveldb(environment: LocalEnvironment) -> AbstractAsyncContextManager[Any]:
        return open_leveldb(LevelDBConfig(), none, environment)

    def memory(environment: LocalEnvironment) -> AbstractAsyncContextManager[Any]:
        return open_memory(MemoryConfig(), none, environment)

    for name, open_store in (("leveldb", leveldb), ("memory", memory)):
        trio.run(partial(measure, name, open_store, arguments.transactions, arguments.batch))


if __name__ == "__main__":
    main()
