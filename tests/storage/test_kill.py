"""kill -9 of a process that writes: what it said was durable is there, and no batch is there by half."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewright.errors import StoreLocked
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb

Start = Callable[[str, Path], "subprocess.Popen[str]"]
NONE = Dependencies()

WRITE_ROWS = """
async def main():
    async with open_leveldb(LevelDBConfig(write_buffer_mib=1), NONE, environment) as store:
        turn = max([int.from_bytes(value, "big") for _, value in (await store.scan("b")).items], default=0)
        while True:
            turn += 1
            batch = WriteBatch()
            for key in range(200):
                batch.put("a", key.to_bytes(2, "big"), turn.to_bytes(4, "big") * 50)
                batch.put("b", key.to_bytes(2, "big"), turn.to_bytes(4, "big"))
            await store.commit(batch, durable=turn % 3 == 0)
            say(str(turn))

trio.run(main)
"""

WRITE_BLOBS = """
import hashlib

async def pieces(data):
    for start in range(0, len(data), 100_000):
        yield data[start:start + 100_000]

async def main():
    async with open_files(FilesConfig(), NONE, environment) as store:
        turn = 0
        while True:
            turn += 1
            data = turn.to_bytes(4, "big") * 250_000
            id = hashlib.sha256(data).digest()
            await store.put("tx", id, pieces(data) if turn % 2 else data)
            say(str(turn))

trio.run(main)
"""

HOLD = """
async def main():
    async with open_leveldb(LevelDBConfig(), NONE, environment):
        say("open")
        await trio.sleep_forever()

trio.run(main)
"""


def read_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def kill(process: subprocess.Popen[str], said: list[str]) -> list[str]:
    """Kill it; returns every whole line that it said."""
    process.kill()
    rest, _ = process.communicate()
    return said + [line for line in rest.split("\n")[:-1]]


@pytest.mark.slow
async def test_leveldb_keeps_what_it_acknowledged(child: Start, tmp_path: Path, budget: int) -> None:
    """At random instants, again and again on one folder: 3, ``--budget 10`` makes it 30. What a killed process committed is
    all there, durable or not: what it says it has committed, or more."""
    instants = random.Random(6)
    for _ in range(3 * budget):
        process = child(WRITE_ROWS, tmp_path)
        said = kill(process, read_lines(process, instants.randint(1, 40)))
        async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(tmp_path)) as store:
            first = (await store.scan("a")).items
            second = (await store.scan("b")).items
        turns = {value[:4] for _, value in first} | {value for _, value in second}
        assert len(turns) == 1, "a batch is there by half"
        assert int.from_bytes(turns.pop(), "big") >= int(said[-1])
        assert len(first) == len(second) == 200


@pytest.mark.parametrize("lines", [1, 6])
async def test_files_keep_what_they_acknowledged(child: Start, tmp_path: Path, lines: int) -> None:
    process = child(WRITE_BLOBS, tmp_path)
    said = kill(process, read_lines(process, lines))
    async with open_files(FilesConfig(), NONE, LocalEnvironment(tmp_path)) as store:
        assert list((tmp_path / "incoming").iterdir()) == []
        for turn in range(1, int(said[-1]) + 1):
            data = turn.to_bytes(4, "big") * 250_000
            assert await store.get("tx", hashlib.sha256(data).digest()) == data
        async for id in store.iterate("tx"):
            whole = await store.get("tx", id)
            assert whole is not None and hashlib.sha256(whole).digest() == id


async def test_a_second_process_is_refused_until_the_first_is_killed(child: Start, tmp_path: Path) -> None:
    process = child(HOLD, tmp_path)
    assert read_lines(process, 1) == ["open"]
    with pytest.raises(StoreLocked, match=rf"'first' \(pid {process.pid} on .*stop that node first"):
        async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(tmp_path)):
            pass
    kill(process, [])
    async with open_leveldb(LevelDBConfig(), NONE, LocalEnvironment(tmp_path)):
        pass
