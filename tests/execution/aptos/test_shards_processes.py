"""Executor shards as processes: started here, or behind ``nodewright shard``; killed while a block runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.errors import ConfigurationError
from nodewright.testing.environment import LocalEnvironment
from nodewright_aptos.executors import SequentialExecutor, open_executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards import listening
from nodewright_aptos.shards.executor import ShardedExecutor
from nodewright_aptos.shards.links import StreamLink
from nodewright_aptos.shards.messages import Hello, Ready, decode, encode
from nodewright_aptos.shards.server import ShardServer
from nodewright_aptos.shards.testing import BLOCK, DictBase, World

MODULE = "nodewright_aptos.shards.testing"
SETTINGS = {
    "least": 1,
    "micro_batch": 10,
    "window": 1,
    "partitioner": "senders",
    "wait_seconds": 600,
    "silent_seconds": 600,
}


def functions() -> Functions:
    known = installed_functions()
    known.add_module(MODULE)
    return known


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[ShardedExecutor]:
    environment = LocalEnvironment(folder, "coordinator")
    async with open_executor("sharded", functions(), environment, {**SETTINGS, **options}) as executor:
        assert isinstance(executor, ShardedExecutor)
        yield executor


class Tripwire(DictBase):
    """Does something while a block runs: when its state is loaded for the ``at``-th time."""

    def __init__(self, state: dict[bytes, bytes | None], at: int, what: Any) -> None:
        super().__init__(state)
        self._at = at
        self._what = what

    async def load(self, keys: Iterable[bytes]) -> None:
        await super().load(keys)
        self._at -= 1
        if not self._at:
            self._what()


async def expected_of(world: World, block: Any, folder: Path) -> list[Any]:
    environment = LocalEnvironment(folder, "alone")
    return list(await SequentialExecutor(functions(), environment).run(DictBase(dict(world.state)), block, BLOCK))


async def test_a_process_killed_while_a_block_runs_changes_nothing_and_is_used_again(tmp_path: Path) -> None:
    world = World(1, 30, 0.4, 0.05)
    block = world.block(400)
    expected = await expected_of(world, block, tmp_path)
    async with opened(tmp_path, shards=2) as executor:
        first = executor.shards[0]
        before = first.placement.process.pid
        base = Tripwire(dict(world.state), 12, lambda: os.kill(before, signal.SIGKILL))
        assert list(await executor.run(base, block, BLOCK)) == expected
        assert executor.meter.moved == 1
        assert first.losses == 1
        await executor.until_ready()
        assert first.placement.process.pid != before
        assert list(await executor.run(DictBase(dict(world.state)), block, BLOCK)) == expected
        assert executor.meter.moved == 1 and executor.meter.messages > 0
        figures = executor.figures()
        assert figures["shards"] == 2 and figures["sharded"] == 800 and figures["stage_shard_run_seconds"] > 0
        pids = [shard.placement.process.pid for shard in executor.shards]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_all_killed_at_once_leaves_it_to_this_process(tmp_path: Path) -> None:
    world = World(2, 30, 0.4, 0.05)
    block = world.block(200)
    expected = await expected_of(world, block, tmp_path)
    async with opened(tmp_path, shards=2) as executor:

        def kill_all() -> None:
            for shard in executor.shards:
                os.kill(shard.placement.process.pid, signal.SIGKILL)

        assert list(await executor.run(Tripwire(dict(world.state), 5, kill_all), block, BLOCK)) == expected
        assert executor.meter.moved >= 2


async def test_a_shard_behind_an_address_for_who_may_feed_it(tmp_path: Path) -> None:
    """Run by the command line; killed while a block runs, and back under the same key."""
    command = [sys.executable, "-m", "nodewright", "shard", "--functions", MODULE, "--data-dir", str(tmp_path / "far")]
    own = LocalEnvironment(tmp_path / "node", "coordinator").for_slot("execution.shards")
    key = (await listening.show_key(own, "nng")).hex()
    world = World(3, 30, 0.4, 0.05)
    block = world.block(300)
    expected = await expected_of(world, block, tmp_path)

    def start(listen: str) -> tuple[Any, str]:
        process = subprocess.Popen([*command, "--listen", listen, "--allow", key], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[1]

    process, address = await trio.to_thread.run_sync(start, "127.0.0.1:0")
    try:
        async with opened(tmp_path / "node", shards=["local", address]) as executor:
            remote = executor.shards[1]
            assert list(await executor.run(DictBase(dict(world.state)), block, BLOCK)) == expected
            assert remote.ready and not executor.meter.moved
            base = Tripwire(dict(world.state), 12, process.kill)
            assert list(await executor.run(base, block, BLOCK)) == expected
            assert executor.meter.moved == 1 and remote.losses == 1
            process.wait()
            process, again = await trio.to_thread.run_sync(start, address.split("@")[1])
            assert again == address
            await executor.until_ready()
            assert list(await executor.run(DictBase(dict(world.state)), block, BLOCK)) == expected
            assert executor.meter.moved == 1
    finally:
        process.kill()
        process.wait()


async def test_a_shard_ends_with_whoever_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nodewright_aptos.shards", "--folder", str(tmp_path)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    link = StreamLink(process.stdout, process.stdin)
    await link.send(encode(Hello(bytes(32), "")))
    assert isinstance(decode(await link.receive()), Ready)
    await link.aclose()
    assert await process.wait() == 0


class Heard:
    """A logger; ``until`` waits for a reason that has been logged."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._more = trio.Event()

    def bind(self, **bound: Any) -> Heard:
        return self

    def _log(self, event: str, **fields: Any) -> None:
        self.reasons.append(str(fields.get("reason", "")))
        self._more.set()
        self._more = trio.Event()

    debug = info = warning = error = _log

    async def until(self, text: str) -> None:
        while not any([text in reason for reason in self.reasons]):
            await self._more.wait()


async def test_a_stranger_is_not_let_in(tmp_path: Path) -> None:
    environment = LocalEnvironment(tmp_path / "far", "far")
    (tmp_path / "far").mkdir()
    addresses: list[str] = []
    server = ShardServer(functions(), environment)
    with pytest.raises(ConfigurationError, match="--allow KEY"):
        await listening.listen(server, environment, "nng", "127.0.0.1:0", [], lambda opened: None)
    started = trio.Event()

    def note(opened: Any) -> None:
        addresses.append(f"{opened.node_id.hex()}@{opened.address.removeprefix('tcp://')}")
        started.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.listen, server, environment, "nng", "127.0.0.1:0", ["11" * 32], note)
        await started.wait()
        heard = Heard()
        stranger = LocalEnvironment(tmp_path / "stranger", "stranger", logger=heard)
        options = {**SETTINGS, "shards": [addresses[0]], "wait_seconds": 0}
        async with open_executor("sharded", functions(), stranger, options) as executor:
            assert isinstance(executor, ShardedExecutor)
            await heard.until("not in the allow list")
            assert not executor.shards[0].ready
        nursery.cancel_scope.cancel()


async def test_options_that_make_no_sense_are_told(tmp_path: Path) -> None:
    for options, told in (
        ({"shards": ["tcp://127.0.0.1:1"]}, "KEY@host:port"),
        ({"shards": []}, "1 to 256"),
        ({"shards": ["11" * 32 + "@h:1"] * 2}, "twice"),
        ({"partitioner": "fair"}, "fanout"),
        ({"shard_executor": "sharded"}, "sequential, columnar"),
        ({"micro_batch": 0}, "from 1 to 4096"),
        ({"order": "free"}, "no setting 'order'"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            async with opened(tmp_path, **options):
                pass
