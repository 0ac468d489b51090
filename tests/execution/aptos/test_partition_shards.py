"""A block in the order of a partition: executed in the shards of the partition, it is what it is one after the other; and
the shards send each other the messages that were counted beforehand."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from nodewright.testing.simulation import Simulation, simulate
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards import testing
from nodewright_aptos.shards.executor import ShardedExecutor
from nodewright_aptos.shards.options import Options
from nodewright_aptos.shards.placements import Here
from nodewright_aptos.shards.server import ShardServer
from nodewright_aptos.shards.testing import BLOCK, DictBase, World

pytest.importorskip("numpy")

from nodewright_aptos.partition import PARTITIONERS, declared_access, figures, messages, partition


def functions() -> Functions:
    known = installed_functions()
    testing.register_transaction_functions(known)
    return known


FUNCTIONS = functions()


@pytest.mark.parametrize("name", list(PARTITIONERS))
def test_the_partitioned_order_gives_one_result_in_shards_and_alone(name: str, budget: int) -> None:
    crossed = 0
    for seed in range(8 * budget):
        rng = random.Random(f"{name} {seed}")
        strange = rng.choice([(), (), ("wild", "census"), ("mint",)])
        world = World(seed, rng.choice([6, 30]), rng.choice([0.0, 0.2]), 0.1, strange)
        shards = rng.choice([2, 3, 5])

        async def trial(simulation: Simulation, seed: int = seed, world: World = world, shards: int = shards) -> Any:
            block = world.block(90)
            declared = declared_access(FUNCTIONS, block)
            made = partition(declared.access, shards, name, seed)
            block = [block[one] for one in made.order.tolist()]
            alone = SequentialExecutor(FUNCTIONS, simulation.environment("alone"))
            expected = await alone.run(DictBase(dict(world.state)), block, BLOCK)
            environment = simulation.environment("coordinator")
            servers = [ShardServer(FUNCTIONS, simulation.environment(f"shard {number}")) for number in range(shards)]
            placements = [Here(server) for server in servers]
            for number, placement in enumerate(placements):
                placement.name = f"shard {number}"
            executor = ShardedExecutor(FUNCTIONS, environment, Options(least=1, micro_batch=7), placements, alone)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(executor.supervise)
                await executor.until_ready()
                shard_of = made.shard[made.order].tolist()
                actual = await executor.run_partitioned(DictBase(dict(world.state)), block, BLOCK, shard_of)
                nursery.cancel_scope.cancel()
            return list(expected), list(actual), executor, declared, made

        expected, actual, executor, declared, made = simulate(trial, seed).value
        assert expected == actual, seed
        assert sum(output.kind == 0 for output in expected) > 20
        if not strange:
            assert not declared.undeclared
            assert executor.meter.messages == len(messages(declared.access, made)), seed
            assert executor.meter.imbalance == pytest.approx(figures(declared.access, made)["imbalance"])
            crossed += executor.meter.messages
    assert crossed or name == "components"


def test_what_is_declared_in_columns_is_what_functions_declare() -> None:
    world = World(3, 8, 0.6, 0.1, ("wild", "census"))
    block = world.block(60)
    found = declared_access(FUNCTIONS, block)
    access = found.access
    assert len(found.undeclared) > 0
    for position, transaction in enumerate(block):
        assert found.senders[int(access.senders[position])] == transaction.sender
        declared = FUNCTIONS.accesses(transaction)
        assert (declared is None) == (position in found.undeclared)
        for starts, keys, wanted in (
            (access.read_starts, access.reads, () if declared is None else declared.reads),
            (access.write_starts, access.writes, () if declared is None else declared.writes),
        ):
            own = [found.keys[key] for key in keys[starts[position] : starts[position + 1]].tolist()]
            assert own == [key for key in wanted if key not in FUNCTIONS.aggregators]
    firsts = [found.senders.index(transaction.sender) for transaction in block]
    assert list(dict.fromkeys(firsts)) == sorted(set(firsts))  # numbered as they come
