"""kill -9 of the server and of a node, at random instants under load: 3 each, ``--budget 10`` makes it 30."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.interfaces import WriteBatch

ROWS = 100


def batch_of(turn: int) -> WriteBatch:
    """All rows of two tables say the turn; a row of its own stays behind, and many that are promised to be new."""
    batch = WriteBatch()
    value = turn.to_bytes(4, "big")
    batch.put_many("a", {bytes([key]): value * 20 for key in range(ROWS)})
    batch.put_many("b", {bytes([key]): value for key in range(ROWS)})
    batch.put("log", value, b"")
    batch.put_many("copied", {value + bytes([key]): value for key in range(ROWS)})
    batch.new.add("copied")
    return batch


async def turns_in(store: Any) -> int:
    """The last turn in the store, having seen that no batch is there by half and that none before is missing."""
    rows = [value[:4] for _, value in (await store.scan("a", limit=ROWS + 1)).items]
    rows += [value for _, value in (await store.scan("b", limit=ROWS + 1)).items]
    log = [int.from_bytes(key, "big") for key, _ in (await store.scan("log", limit=10_000)).items]
    assert log == list(range(1, len(log) + 1)), "a commit is missing before a later one"
    assert len(rows) in (0, 2 * ROWS) and len(set(rows)) <= 1, "a batch is there by half"
    last = int.from_bytes(rows[0], "big") if rows else 0
    assert last == len(log)
    copied: Counter[bytes] = Counter()
    after: bytes | None = None
    while True:
        page = await store.scan("copied", after=after, limit=10_000)
        copied.update(value for _, value in page.items)
        after = page.after
        if after is None:
            break
    assert copied == {turn.to_bytes(4, "big"): ROWS for turn in log}, "a batch is there by half"
    return last


@pytest.mark.slow
async def test_the_server_is_killed_under_load(postgres: Any, tmp_path: Path, budget: int) -> None:
    """The node goes on by itself, and nothing that returned is missing, durable or not: what was lost is repeated."""
    instants = random.Random(3)
    done = 0
    async with postgres.open(tmp_path, replay_mib=1) as store:

        async def write(until: trio.Event) -> None:
            nonlocal done
            while not until.is_set():
                await store.commit(batch_of(done + 1), durable=(done + 1) % 7 == 0)
                done += 1

        async def read(until: trio.Event) -> None:
            """What a reader sees never goes back behind what had returned before it asked."""
            while not until.is_set():
                before = done
                (row,) = await store.get_many("b", [b"\x05"])
                assert int.from_bytes(row or b"", "big") >= before

        for _ in range(3 * budget):
            until = trio.Event()
            wanted = done + instants.randint(1, 60)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, until)
                nursery.start_soon(read, until)
                while done < wanted:
                    await trio.lowlevel.checkpoint()
                await trio.to_thread.run_sync(postgres.kill)
                await trio.to_thread.run_sync(postgres.start)
                returned = done
                while done < returned + 2:
                    await trio.lowlevel.checkpoint()
                until.set()
            assert await turns_in(store) == done
    async with postgres.open(tmp_path) as store:
        assert await turns_in(store) == done


@pytest.mark.slow
async def test_server_and_node_end_together(postgres: Any, tmp_path: Path, budget: int) -> None:
    """What is left is a prefix that holds every durable commit."""
    instants = random.Random(4)
    done = durable = 0
    for _ in range(2 * budget):
        try:
            async with postgres.open(tmp_path, retry_seconds=0.0) as store:
                found = await turns_in(store)
                assert durable <= found <= done
                done = found
                for _ in range(instants.randint(1, 40)):
                    await store.commit(batch_of(done + 1), durable=(done + 1) % 7 == 0)
                    done += 1
                    durable = done if done % 7 == 0 else durable
                postgres.kill()
        finally:
            postgres.start()
    async with postgres.open(tmp_path) as store:
        assert durable <= await turns_in(store) <= done


NODE = """
import sys
from pathlib import Path
import trio
from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.plugin import open_postgres

async def main():
    path, port, schema = sys.argv[1:]
    config = PostgresConfig(port=int(port), schema=schema, lock_seconds=5.0)
    async with open_postgres(config, Dependencies(), LocalEnvironment(Path(path), "first")) as store:
        turn = len((await store.scan("log", limit=10_000)).items)
        while True:
            turn += 1
            value = turn.to_bytes(4, "big")
            batch = WriteBatch()
            batch.put_many("a", {bytes([key]): value * 20 for key in range(100)})
            batch.put_many("b", {bytes([key]): value for key in range(100)})
            batch.put("log", value, b"")
            batch.put_many("copied", {value + bytes([key]): value for key in range(100)})
            batch.new.add("copied")
            await store.commit(batch, durable=turn % 3 == 0)
            sys.stdout.write(str(turn) + "\\n")
            sys.stdout.flush()

trio.run(main)
"""


@pytest.mark.slow
async def test_a_node_is_killed_under_load(
    postgres: Any, tmp_path: Path, budget: int, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """The server lives on: all that returned is there, and the lease is free for whoever comes next."""
    instants = random.Random(5)
    config = postgres.config(tmp_path)
    for _ in range(3 * budget):
        process = child(NODE, str(tmp_path), str(config.port), config.schema)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(instants.randint(1, 60))]
        process.kill()
        rest, _ = process.communicate()
        said += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        async with postgres.open(tmp_path, lock_seconds=5.0) as store:
            assert int(said[-1]) <= await turns_in(store) <= int(said[-1]) + 1
