"""Executor shards as actors of Ray. Skipped where there is no Ray: ``pip install 'nodewright[ray]'``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodewright.testing.environment import LocalEnvironment
from nodewright_aptos.executors import SequentialExecutor, open_executor
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards.executor import ShardedExecutor
from nodewright_aptos.shards.testing import BLOCK, DictBase, World

ray: Any = pytest.importorskip("ray", reason="ray is not installed: pip install 'nodewright[ray]'")

SETTINGS = {"least": 1, "micro_batch": 10, "partitioner": "senders", "wait_seconds": 600, "silent_seconds": 600}


async def test_actors_give_what_sequential_gives_and_one_may_be_killed(tmp_path: Path) -> None:
    functions = installed_functions()
    functions.add_module("nodewright_aptos.shards.testing")
    environment = LocalEnvironment(tmp_path)
    world = World(5, 30, 0.4, 0.05)
    block = world.block(400)
    expected = list(await SequentialExecutor(functions, environment).run(DictBase(dict(world.state)), block, BLOCK))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        options = {**SETTINGS, "shards": ["ray", "ray"]}
        async with open_executor("sharded", functions, environment, options) as executor:
            assert isinstance(executor, ShardedExecutor)
            assert list(await executor.run(DictBase(dict(world.state)), block, BLOCK)) == expected
            assert executor.meter.messages and not executor.meter.moved
            first: Any = executor.shards[0]

            class Tripwire(DictBase):
                async def load(self, keys: Any) -> None:
                    await super().load(keys)
                    if executor.meter.sharded == 2 * len(block) and first.placement.actor is not None and not first.losses:
                        ray.kill(first.placement.actor)

            assert list(await executor.run(Tripwire(dict(world.state)), block, BLOCK)) == expected
            while not first.losses:
                await executor._changed.wait()
            await executor.until_ready()
            assert list(await executor.run(DictBase(dict(world.state)), block, BLOCK)) == expected
    finally:
        ray.shutdown()
