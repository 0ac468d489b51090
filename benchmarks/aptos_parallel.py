"""Python functions that compute for long: the sequential executor and Block-STM on threads and on processes, by turns.

    python benchmarks/aptos_parallel.py --count 1000 --rounds 0,1000,10000 --cells 1000000,10

``rounds`` of arithmetic each transaction does besides; ``cells`` it chooses one of, which it changes: few cells are many
conflicts. All run the same block and are compared. Printed: medians of the wall time, CPU time of this process and all that
it started, and the speed-up over sequential on the clock.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import trio

from nodewright.environment import NodeEnvironment
from nodewright_aptos import bcs
from nodewright_aptos.bench.plan import cpu_seconds
from nodewright_aptos.executors import open_executor
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards.testing import BLOCK, CHAIN, NOW, TRIAL, DictBase, World
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    UserTransaction,
    decode_transaction,
    signed_transaction,
)

MODULE = "nodewright_aptos.shards.testing"
PEOPLE = 300


def block_of(world: World, count: int, rounds: int, cells: int) -> list[UserTransaction]:
    rng = random.Random(rounds + cells)
    people = [one for one in world.people if one.address in world.numbers]
    numbers = dict.fromkeys([one.address for one in people], 0)
    block = []
    for at in range(count):
        person = people[at % len(people)]
        call = EntryFunction.of(TRIAL, "trial", "toil", (), (bcs.u64(rng.randrange(cells)), bcs.u64(rounds)))
        raw = RawTransaction(person.address, numbers[person.address], call, 2000, 100, NOW + 60, CHAIN)
        numbers[person.address] += 1
        block.append(decode_transaction(signed_transaction(raw, person.signer)))
    return block


async def main(count: int, all_rounds: list[int], all_cells: list[int], turns: int, workers: int) -> None:
    functions = installed_functions()
    functions.add_module(MODULE)
    world = World(1, PEOPLE)
    with tempfile.TemporaryDirectory() as folder:
        environment = NodeEnvironment("bench", Path(folder))
        threads, processes = ({"workers": workers, "placement": one} for one in ("threads", "processes"))
        async with (
            open_executor("sequential", functions, environment, {}) as sequential,
            open_executor("block-stm", functions, environment, threads) as on_threads,
            open_executor("block-stm", functions, environment, processes) as on_processes,
        ):
            executors = {"sequential": sequential, "threads": on_threads, "processes": on_processes}
            for cells in all_cells:
                for rounds in all_rounds:
                    block = block_of(world, count, rounds, cells)
                    walls: dict[str, list[float]] = {name: [] for name in executors}
                    cpus: dict[str, list[float]] = {name: [] for name in executors}
                    expected = None
                    for _ in range(turns):
                        for name, executor in executors.items():
                            cpu, began = cpu_seconds(), time.perf_counter()
                            outputs = list(await executor.run(DictBase(dict(world.state)), block, BLOCK))
                            walls[name].append((time.perf_counter() - began) / count * 1e6)
                            cpus[name].append((cpu_seconds() - cpu) / count * 1e6)
                            expected = expected or outputs
                            assert outputs == expected, "executors differ"
                    base = statistics.median(walls["sequential"])
                    for name in executors:
                        wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
                        told = f"{cells:>9,} cells {rounds:>7,} rounds  {name:<11}{wall:>9.0f} us wall {cpu:>8.0f} us CPU"
                        print(f"{told}  {base / wall:.2f} x sequential", flush=True)
    print("load", *os.getloadavg())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", default="0,1000,10000")
    parser.add_argument("--cells", default="1000000,10")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    numbers = [[int(one) for one in text.split(",")] for text in (chosen.rounds, chosen.cells)]
    trio.run(main, chosen.count, numbers[0], numbers[1], chosen.turns, chosen.workers)
