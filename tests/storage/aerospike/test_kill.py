"""kill -9 of the server and of a node, at random instants under load: 30 of each with --budget 10.

The server is told to keep what it is given in memory for up to a second, so that a kill costs it acknowledged writes: what
is there afterwards was given to it again."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.errors import StoreError
from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.testing.storage_utxo_model import outpoint, output_vector

ROWS = 100
WIDTH = 40
OUTPUTS = output_vector([(1, b"x" * 25), (2, b"y" * 25)])


def batch_of(turn: int) -> WriteBatch:
    """All rows of two tables say the turn, a row of its own stays behind, and every other turn deletes a row."""
    batch = WriteBatch()
    value = turn.to_bytes(4, "big")
    batch.put_many("a", {bytes([key]): value * 20 for key in range(ROWS)})
    batch.put_many("b", {bytes([key]): value for key in range(ROWS)})
    batch.put("log", value, b"")
    batch.tables["odd"] = {b"odd": b"" if turn % 2 else None}
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
    assert await store.get_many("odd", [b"odd"]) == [b"" if last % 2 else None], "a delete came back"
    return last


def chain(turn: int) -> list[UtxoTransaction]:
    """Each spends output 0 of the same place in the turn before; turn 0 spends nothing."""
    return [UtxoTransaction(txid_of(turn, place), spends_of(turn, place), OUTPUTS) for place in range(WIDTH)]


def txid_of(turn: int, place: int) -> bytes:
    return hashlib.sha256(b"%d %d" % (turn, place)).digest()


def spends_of(turn: int, place: int) -> tuple[bytes, ...]:
    return (outpoint(txid_of(turn - 1, place), 0),) if turn else ()


async def chain_in(store: Any) -> int:
    """How many turns there are, having seen that the unspent outputs are those of that many, and no other."""
    unspent = {held async for held, _ in store.iterate_unspent()}
    known = 0
    while all(await store.known([tx.txid for tx in chain(known)])):
        known += 1
    assert not any(await store.known([tx.txid for tx in chain(known)])), "a batch is there by half"
    expected = {outpoint(txid_of(turn, place), 1) for turn in range(known) for place in range(WIDTH)}
    expected |= {outpoint(txid_of(known - 1, place), 0) for place in range(WIDTH) if known}
    assert unspent == expected
    return known


@pytest.mark.slow
async def test_the_server_is_killed_under_load(aerospike: Any, tmp_path: Path, budget: int) -> None:
    """The node goes on by itself, and nothing that returned is missing; no reader sees an older state meanwhile."""
    instants = random.Random(3)
    done = 0
    aerospike.set(flush_max_ms=1000)
    async with aerospike.open(tmp_path, retry_seconds=60.0) as store:

        async def write(until: trio.Event) -> None:
            nonlocal done
            while not until.is_set():
                await store.commit(batch_of(done + 1))
                done += 1

        async def spend(until: trio.Event) -> None:
            nonlocal turns
            while not until.is_set():
                assert not any(await store.spend_and_create(chain(turns), 1))
                turns += 1

        async def read(until: trio.Event) -> None:
            """What a reader sees never goes back behind what had returned before it asked."""
            while not until.is_set():
                before = done
                (row,) = await store.get_many("b", [b"\x05"])
                assert int.from_bytes(row or b"", "big") >= before
                last = turns - 1
                outputs = await store.get_outputs([outpoint(txid_of(last, 3), 0), outpoint(txid_of(last - 1, 3), 0)])
                assert last < 1 or (outputs[0] is not None and outputs[1] is not None and outputs[1].spender is not None)

        turns = 0
        for _ in range(3 * budget):
            until = trio.Event()
            wanted = done + instants.randint(1, 60)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, until)
                nursery.start_soon(spend, until)
                nursery.start_soon(read, until)
                while done < wanted:
                    await trio.lowlevel.checkpoint()
                await trio.to_thread.run_sync(aerospike.kill)
                await trio.to_thread.run_sync(aerospike.start)
                await trio.to_thread.run_sync(lambda: aerospike.set(flush_max_ms=1000))
                returned = done
                while done < returned + 2:
                    await trio.lowlevel.checkpoint()
                until.set()
            assert await turns_in(store) == done
            assert await chain_in(store) == turns
    async with aerospike.open(tmp_path) as store:
        assert await turns_in(store) == done
        assert await chain_in(store) == turns
    aerospike.set(flush_max_ms=1)


@pytest.mark.slow
async def test_server_and_node_end_together(aerospike: Any, tmp_path: Path, budget: int) -> None:
    """Every commit is durable: what returned is there, and at most the one after."""
    instants = random.Random(4)
    path, done, turns = tmp_path, 0, 0
    for life in range(2 * budget):
        aerospike.set(flush_max_ms=1000)
        async with aerospike.open(path, store=f"together {tmp_path}", close_seconds=0.0) as store:
            assert await turns_in(store) == done
            assert await chain_in(store) == turns
            for _ in range(instants.randint(1, 40)):
                done, turns = done + 1, turns + 1
                await store.commit(batch_of(done))
                await store.spend_and_create(chain(turns - 1), 1)
            store.rows.applier.stop(StoreError("this node is dead"))
            aerospike.kill()
            survived = tmp_path / f"life {life}"
            shutil.copytree(path, survived, ignore=lambda _, names: [name for name in names if name.startswith("life")])
            path = survived
        aerospike.start()
    async with aerospike.open(path, store=f"together {tmp_path}") as store:
        assert await turns_in(store) == done
        assert await chain_in(store) == turns


NODE = """
import sys
from pathlib import Path
import trio
from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_aerospike.config import AerospikeConfig
from nodewright_aerospike.plugin import open_aerospike

sys.path.insert(0, sys.argv[1])
from test_kill import batch_of, chain, chain_in, turns_in

async def main():
    path, host, port, namespace, store = sys.argv[2:]
    config = AerospikeConfig(host=host, port=int(port), namespace=namespace, sets="test", store=store)
    async with open_aerospike(config, Dependencies(), LocalEnvironment(Path(path), "first")) as store:
        turn = await turns_in(store)
        turns = await chain_in(store)
        while True:
            turn, turns = turn + 1, turns + 1
            await store.commit(batch_of(turn))
            assert not any(await store.spend_and_create(chain(turns - 1), 1))
            sys.stdout.write(f"{turn} {turns}\\n")
            sys.stdout.flush()

trio.run(main)
"""


@pytest.mark.slow
async def test_a_node_is_killed_under_load(
    aerospike: Any, tmp_path: Path, budget: int, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """The server lives on: all that returned is there, and the lease is free for whoever has the journal."""
    instants = random.Random(5)
    config = aerospike.config(tmp_path)
    here = str(Path(__file__).parent)
    for _ in range(3 * budget):
        process = child(NODE, here, str(tmp_path), config.host, str(config.port), config.namespace, config.store)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(instants.randint(1, 60))]
        process.kill()
        rest, _ = process.communicate()
        said += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        turn, turns = map(int, said[-1].split())
        async with aerospike.open(tmp_path) as store:
            assert turn <= await turns_in(store) <= turn + 1
            assert turns <= await chain_in(store) <= turns + 1
