"""kill -9 of the server, and of a node, at random instants while both write unspent outputs and blobs by the store's own
``utxo`` and ``blob``: 3 each, ``--budget 10`` makes it 30."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define

from nodewright.interfaces import BlockRef, UtxoTransaction
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage_utxo_model import outpoint, output_vector
from nodewright_postgres.blobs import PostgresBlobs, open_own_blobs
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.plugin import open_postgres
from nodewright_postgres.utxo import PostgresUtxo, open_own_utxo

WIDTH = 80  # transactions of a turn: enough for COPY
OUTPUTS = output_vector([(1, b"x" * 25), (2, b"y" * 25)])
MIB = 1024 * 1024


def txid_of(turn: int, place: int) -> bytes:
    return hashlib.sha256(b"%d %d" % (turn, place)).digest()


def chain(turn: int) -> list[UtxoTransaction]:
    """Each spends output 0 of the same place in the turn before; turn 0 spends nothing."""
    return [UtxoTransaction(txid_of(turn, place), spends_of(turn, place), OUTPUTS) for place in range(WIDTH)]


def spends_of(turn: int, place: int) -> tuple[bytes, ...]:
    return (outpoint(txid_of(turn - 1, place), 0),) if turn else ()


def is_block(turn: int) -> bool:
    """Every fifth turn is made by ``replace``, which is always durable, and moves the marker with it."""
    return turn % 5 == 4


def block_of(turn: int) -> BlockRef:
    return BlockRef(height=turn, id=hashlib.sha256(b"block %d" % turn).digest())


def body_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * (5, 300, 400_000)[number % 3]


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * (MIB // 3)


@define
class Load:
    """``turns`` and ``bodies`` of them have returned."""

    utxo: PostgresUtxo
    blobs: PostgresBlobs
    turns: int = 0
    bodies: int = 0

    async def spend(self) -> None:
        turn = self.turns
        if is_block(turn):
            await self.utxo.replace([], chain(turn), 1, applied=block_of(turn), undo=b"%d" % turn)
        else:
            assert not any(await self.utxo.spend_and_create(chain(turn), 1, durable=turn % 7 == 0))
        self.turns += 1

    async def put(self) -> None:
        number = self.bodies
        body = body_of(number)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 300_000):
                yield body[start : start + 300_000]

        await self.blobs.put("tx", number.to_bytes(4, "big"), pieces() if number % 2 else body)
        self.bodies += 1

    async def look(self) -> None:
        """What a reader sees never goes back behind what had returned before it asked."""
        turns, bodies = self.turns, self.bodies
        if turns:
            held = [outpoint(txid_of(turn, 3), 0) for turn in (turns - 1, turns - 2)]
            last, before = await self.utxo.get_outputs(held)
            assert last is not None and (turns < 2 or (before is not None and before.spender is not None))
        if bodies:
            number = bodies - 1
            assert await self.blobs.read("tx", number.to_bytes(4, "big"), 3, 1) == body_of(number)[3:4]

    async def count(self) -> tuple[int, int]:
        """(turns, bodies) that are there, having seen that none is there by half and none before is missing."""
        unspent = {held async for held, _ in self.utxo.iterate_unspent()}
        turns = 0
        while all(await self.utxo.known([tx.txid for tx in chain(turns)])):
            turns += 1
        assert not any(await self.utxo.known([tx.txid for tx in chain(turns)])), "a batch is there by half"
        expected = {outpoint(txid_of(turn, place), 1) for turn in range(turns) for place in range(WIDTH)}
        expected |= {outpoint(txid_of(turns - 1, place), 0) for place in range(WIDTH) if turns}
        assert unspent == expected
        blocks = [turn for turn in range(turns) if is_block(turn)]
        assert await self.utxo.applied() == (block_of(blocks[-1]) if blocks else None)
        for turn in blocks[-3:]:
            assert await self.utxo.undo(block_of(turn).id) == b"%d" % turn
        ids = [id async for id in self.blobs.iterate("tx")]
        assert ids == [number.to_bytes(4, "big") for number in range(len(ids))]
        for number in {*range(max(0, len(ids) - 4), len(ids)), *range(0, len(ids), 1 + len(ids) // 8)}:
            assert await self.blobs.get("tx", number.to_bytes(4, "big")) == body_of(number)
        assert await self.blobs.exists("half", [b"id"]) == [False]
        return turns, len(ids)


@asynccontextmanager
async def opened(config: PostgresConfig, folder: Path, node: str = "test") -> AsyncIterator[Load]:
    environment = LocalEnvironment(folder, node)
    async with (
        open_postgres(config, Dependencies(), environment) as store,
        open_own_utxo(store, environment, cache_bytes=50_000) as utxo,
        open_own_blobs(store, environment) as blobs,
    ):
        load = Load(utxo, blobs)
        load.turns, load.bodies = await load.count()
        yield load


@pytest.mark.slow
async def test_the_server_is_killed_under_load(postgres: Any, tmp_path: Path, budget: int) -> None:
    """The node goes on by itself, and nothing that returned is missing, durable or not: what was lost is repeated."""
    instants = random.Random(13)
    config = postgres.config(tmp_path, replay_mib=1)
    async with opened(config, tmp_path) as load:

        async def repeat(work: Callable[[], Awaitable[None]], until: trio.Event) -> None:
            while not until.is_set():
                await work()
                await trio.lowlevel.checkpoint()

        for _ in range(3 * budget):
            until = trio.Event()
            wanted = load.turns + instants.randint(1, 30)
            async with trio.open_nursery() as endless_one, trio.open_nursery() as nursery:
                endless_one.start_soon(load.blobs.put, "half", b"id", endless())
                for work in (load.spend, load.put, load.look):
                    nursery.start_soon(repeat, work, until)
                while load.turns < wanted:
                    await trio.lowlevel.checkpoint()
                await trio.to_thread.run_sync(postgres.kill)
                await trio.to_thread.run_sync(postgres.start)
                turns, bodies = load.turns, load.bodies
                while load.turns < turns + 2 or load.bodies < bodies + 1:
                    await trio.lowlevel.checkpoint()
                until.set()
                endless_one.cancel_scope.cancel()
            assert await load.count() == (load.turns, load.bodies)
        done = load.turns, load.bodies
    async with opened(config, tmp_path) as load:
        assert (load.turns, load.bodies) == done


NODE = """
import sys
from pathlib import Path
import trio
from nodewright_postgres.config import PostgresConfig

sys.path.insert(0, sys.argv[1])
from test_native_kill import endless, opened

async def main():
    path, port, schema = sys.argv[2:]

    async def repeat(work):
        while True:
            await work()
            sys.stdout.write(f"{load.turns} {load.bodies}\\n")
            sys.stdout.flush()

    async with opened(PostgresConfig(port=int(port), schema=schema, lock_seconds=5.0), Path(path), "first") as load:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat, load.spend)
            nursery.start_soon(repeat, load.put)
            nursery.start_soon(load.blobs.put, "half", b"id", endless())

trio.run(main)
"""


@pytest.mark.slow
async def test_a_node_is_killed_under_load(
    postgres: Any, tmp_path: Path, budget: int, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """The server lives on: all that returned is there, and at most one more of each, whole."""
    instants = random.Random(15)
    config = postgres.config(tmp_path, lock_seconds=5.0)
    for _ in range(3 * budget):
        process = child(NODE, str(Path(__file__).parent), str(tmp_path), str(config.port), config.schema)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(instants.randint(1, 60))]
        process.kill()
        rest, _ = process.communicate()
        said += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        turns, bodies = map(int, said[-1].split())
        async with opened(config, tmp_path) as load:
            assert turns <= load.turns <= turns + 1 and bodies <= load.bodies <= bodies + 1
