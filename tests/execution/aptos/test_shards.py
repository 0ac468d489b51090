"""Sharded execution gives, byte for byte, what sequential execution gives: messages late, shards dead at any message."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from nodewright.testing.simulation import Simulation, simulate
from nodewright_aptos.columnar.executor import ColumnarExecutor
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards import coordinator, messages, testing
from nodewright_aptos.shards.executor import ShardedExecutor
from nodewright_aptos.shards.options import Options
from nodewright_aptos.shards.server import ShardServer
from nodewright_aptos.shards.testing import BLOCK, DictBase, Far, World

STRANGE = ("wild", "liar", "mint", "census", "peek")


def functions() -> Functions:
    known = installed_functions()
    testing.register_transaction_functions(known)
    return known


FUNCTIONS = functions()


async def sharded(
    simulation: Simulation, seed: int, world: World, count: int, lives: int, **changes: Any
) -> tuple[list[Any], list[Any], ShardedExecutor]:
    """A block by both executors."""
    rng = random.Random(f"shards {seed}")
    block = world.block(count)
    expected = await SequentialExecutor(FUNCTIONS, simulation.environment("alone")).run(
        DictBase(dict(world.state)), block, BLOCK
    )
    settings = {
        "least": 1,
        "micro_batch": rng.choice([1, 3, 20]),
        "window": rng.choice([1, 2, 4]),
        "partitioner": "senders",
        "stuck_seconds": 60.0,
    }
    shards = rng.choice([1, 2, 3, 5])

    def server(name: str) -> ShardServer:
        own = simulation.environment(name)
        by_columns = changes.get("shard_executor") == "columnar"
        return ShardServer(FUNCTIONS, own, ColumnarExecutor(FUNCTIONS, own) if by_columns else None)

    options = Options(**{**settings, **changes})
    environment = simulation.environment("coordinator")
    far = [
        Far(
            f"shard {number}",
            server(f"shard {number}"),
            random.Random(f"line {seed} {number}"),
            [rng.randrange(1, 2 + 2 * count // options.micro_batch) for _ in range(rng.randrange(lives + 1))],
            rng.choice(["cut", "cut", "silent", "stuck"]),
        )
        for number in range(shards)
    ]
    whole = SequentialExecutor(FUNCTIONS, environment)
    executor = ShardedExecutor(FUNCTIONS, environment, options, far, whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.supervise)
        await executor.until_ready()
        base = DictBase(dict(world.state))
        if rng.random() < 0.5:
            given = [rng.randrange(shards) for _ in block]
            actual = await executor.run_partitioned(base, block, BLOCK, given)
        else:
            actual = await executor.run(base, block, BLOCK)
        nursery.cancel_scope.cancel()
    return list(expected), list(actual), executor


def test_random_blocks_equal_sequential_whatever_dies(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--budget 400`` makes 10,000 blocks."""
    moved = values = asked = abandoned = kept = 0
    for seed in range(25 * budget):
        rng = random.Random(seed)
        for module in (messages, coordinator):  # what has no room in a message is cut, or asked for
            monkeypatch.setattr(module, "SPLIT_BYTES", rng.choice([400, 4000, 1 << 22]))
        strange = rng.choice([(), (), ("mint",), ("wild", "census"), STRANGE])
        world = World(seed, rng.choice([3, 12, 30]), rng.choice([0.0, 0.3, 0.7]), 0.1, strange)

        async def trial(simulation: Simulation, seed: int = seed, world: World = world) -> Any:
            return await sharded(simulation, seed, world, random.Random(seed).choice([1, 7, 40, 90]), 3)

        expected, actual, executor = simulate(trial, seed).value
        for place, (one, other) in enumerate(zip(expected, actual, strict=True)):
            assert one == other, (seed, place)
            assert list(one.writes) == list(other.writes)
        moved, values = moved + executor.meter.moved, values + executor.meter.messages
        asked, abandoned = asked + executor.meter.asked, abandoned + executor.meter.abandoned
        kept += sum(one.kind == 0 for one in expected)
    # Not vacuous: parts moved, values crossed, keys were asked for, some could not be run in parts; most were kept.
    assert moved and values and asked and abandoned and kept > 300


@pytest.mark.parametrize("strange", ["peek", "liar"])
def test_columnar_shards_notice_what_is_read_undeclared(strange: str, budget: int) -> None:
    """Also where another of the same run declares it, and where it is the supply."""
    abandoned = 0
    for seed in range(12 * budget):
        world = World(seed, 12, 0.5, 0.0, (strange,) * 3)

        async def trial(simulation: Simulation, seed: int = seed, world: World = world) -> Any:
            return await sharded(simulation, seed, world, 30, 0, shard_executor="columnar")

        expected, actual, executor = simulate(trial, seed).value
        assert expected == actual, seed
        abandoned += executor.meter.abandoned
    assert abandoned
