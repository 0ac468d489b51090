"""Block-STM in arrays: whichever worker does its next phase, and with real threads, it leaves what the kernel that runs
transactions one after the other leaves: results, rows and each transaction's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.environment import NodeEnvironment
from nodewright.kernels import switch
from nodewright_aptos.columnar import layout
from nodewright_aptos.resources import new_account, new_store, with_balance, with_sequence_number

np = pytest.importorskip("numpy")
pytest.importorskip("numba")

# ruff: noqa: E402
from nodewright_aptos.bench.command import aptos
from nodewright_aptos.blockstm import arrays, kernels
from nodewright_aptos.columnar import runkernels

Array = Any
SECONDS = 1_000


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Iterator[None]:
    yield
    switch.disable()


class Block:
    """Accounts of all kinds, and transactions that are mostly good: by a seed."""

    def __init__(self, seed: int, accounts: int, count: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.addresses = rng.integers(0, 256, (accounts, 32)).astype(np.uint8)
        self.rows = np.zeros((accounts, layout.ROW_BYTES), np.uint8)
        for number in range(accounts):
            self._found(number)
        table = self.table = np.zeros((count, layout.TX), np.uint64)
        table[:, layout.X_KIND] = rng.choice(
            [layout.TOUCH, layout.PAY, layout.PAY, layout.PAY, layout.MOVE, layout.CREATE], count
        )
        table[:, layout.X_SENDER] = rng.integers(0, accounts, count)
        table[:, layout.X_RECIPIENT] = rng.integers(0, accounts, count)
        none = table[:, layout.X_KIND] == layout.TOUCH
        table[none, layout.X_RECIPIENT] = table[none, layout.X_SENDER]
        table[:, layout.X_AMOUNT] = rng.choice([0, 1, 1000, 10**6, 10**9], count)
        table[:, layout.X_MAX_GAS] = rng.choice([2000] * 12 + [5, 9, 400, 3_000_000], count)
        table[:, layout.X_PRICE] = rng.choice([100] * 20 + [99, 150], count)
        table[:, layout.X_EXPIRES] = SECONDS + rng.choice([60] * 20 + [0], count)
        table[:, layout.X_LEAST] = 3
        table[:, layout.X_GAS] = 3
        table[:, layout.X_KEY] = rng.choice([layout.GOOD_KEY] * 20 + [layout.WRONG_KEY, layout.WRONG_CHAIN], count)
        numbers = [0] * accounts
        for place in range(count):
            sender = int(table[place, layout.X_SENDER])
            table[place, layout.X_SEQUENCE] = numbers[sender] + int(rng.random() < 0.05)
            numbers[sender] += 1

    def _found(self, number: int) -> None:
        rng, row, address = self.rng, self.rows[number], self.addresses[number].tobytes()
        if rng.random() < 0.2:
            row[layout.FLAGS_AT] = layout.RESERVED if rng.random() < 0.2 else 0
            return
        account = with_sequence_number(new_account(address), 0)
        row[: layout.STORE_AT] = np.frombuffer(account, np.uint8)
        row[layout.FLAGS_AT] = layout.HAS_ACCOUNT
        if rng.random() < 0.9:
            store = with_balance(new_store(address), (0, 10**6, 10**8, 10**12, 2**64 - 10)[rng.integers(0, 5)])
            row[layout.STORE_AT : layout.FLAGS_AT] = np.frombuffer(store, np.uint8)
            row[layout.FLAGS_AT] |= layout.HAS_STORE
            row[layout.FROZEN_AT] = rng.random() < 0.05

    def in_order(self) -> tuple[Array, ...]:
        rows = self.rows.copy()
        results, snapshots = self._blank()
        fees = runkernels.execute(self.table, rows, SECONDS, self.addresses, results, snapshots)
        return results, rows, snapshots, fees

    def _blank(self) -> tuple[Array, Array]:
        count = len(self.table)
        return np.zeros((count, layout.RESULT), np.uint64), np.zeros((count, 2 * layout.ROW_BYTES), np.uint8)

    def prepared(self, arena: arrays.Arena) -> tuple[Array, Array, Array]:
        rows = self.rows.copy()
        results, snapshots = self._blank()
        results[:] = 77  # what an incarnation finds there is of no account
        arena.prepare(self.table, rows, SECONDS, self.addresses, results)
        return results, rows, snapshots


def same(one: tuple[Array, ...], other: tuple[Array, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def scheduled(block: Block, arena: arrays.Arena, schedule: Array, rest: Array) -> tuple[Array, ...]:
    """By ``schedule``, and then by ``rest`` again and again."""
    results, rows, snapshots = block.prepared(arena)
    done = kernels.follow(arena.book, schedule)
    turns = 0
    while done < len(block.table):
        done = kernels.follow(arena.book, rest)
        turns += 1
        assert turns < 10_000, "no worker finds anything to do, and the block is not done"
    return results, rows, snapshots, arena.settle(snapshots)


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=50),
    st.booleans(),
    st.sampled_from([1, 3]),
)
def test_any_schedule_gives_the_sequential_result(
    seed: int, accounts: int, count: int, stretches: list[tuple[int, int]], presume: bool, grain: int
) -> None:
    block = Block(seed, accounts, count)
    arena = arrays.Arena(3, grain=grain, presume=presume, size=16)
    schedule = np.array([worker for worker, length in stretches for _ in range(length)], np.uint8)
    assert same(scheduled(block, arena, schedule, np.arange(3, dtype=np.uint8)), block.in_order())


def test_random_blocks_give_the_sequential_result(budget: int) -> None:
    """250 blocks; ``--budget 40`` runs 10,000."""
    totals = np.zeros(3, np.int64)
    statuses: set[int] = set()
    for seed in range(250 * budget):
        rng = np.random.default_rng(seed)
        block = Block(seed, int(rng.choice([1, 2, 4, 30])), int(rng.choice([1, 8, 30, 80])))
        workers = int(rng.choice([1, 2, 5]))
        presume = bool(rng.random() < 0.3)
        arena = arrays.Arena(workers, grain=int(rng.choice([1, 2, 16])), presume=presume, size=128)
        longest = int(rng.choice([1, 4, 50]))
        lengths = rng.integers(1, longest + 1, 400)
        schedule = np.repeat(rng.integers(0, workers, 400), lengths).astype(np.uint8)
        outcome = scheduled(block, arena, schedule[:4000], schedule)
        assert same(outcome, block.in_order()), seed
        if not presume:
            totals += (arena.executions, arena.aborts, arena.suspensions)
        statuses.update(outcome[0][:, layout.R_STATUS].tolist())
    assert totals.all(), totals  # incarnations were aborted, and readers waited
    assert len(statuses) >= 14, statuses


@pytest.mark.parametrize("presume", [False, True])
async def test_threads_give_the_sequential_result(tmp_path: Path, presume: bool, budget: int) -> None:
    environment = NodeEnvironment("test", tmp_path, threads=6)
    for seed in range(6 * budget):
        accounts = (3, 40, 5_000)[seed % 3]
        block = Block(seed, accounts, 5_000)
        arena = arrays.Arena(4, presume=presume)
        results, rows, snapshots = block.prepared(arena)
        await arrays.run_threads(arena, environment)
        assert same((results, rows, snapshots, arena.settle(snapshots)), block.in_order()), seed


def test_the_benchmark_runs_it_with_the_result_of_the_other_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodewright_aptos.bench.plan.ed25519_verify_us", lambda cores: 60.0)
    monkeypatch.setattr("nodewright_aptos.bench.plan.sha3_per_second", lambda: 1.0)
    digests = []
    for executor, options in (("columnar", ()), ("block-stm", ("burden=3", "workers=3", "presume=1")), ("block-stm", ())):
        sizes = ["--blocks", "2", "--block-size", "500", "--accounts", "2000", "--workload", "conflicting", "--root"]
        chosen = [f"--executor-set={one}" for one in options]
        answer = CliRunner().invoke(aptos, [*sizes, "--executor", executor, *chosen, "--json", str(tmp_path / "out.json")])
        assert answer.exit_code == 0, answer.output
        figures = json.loads((tmp_path / "out.json").read_text())
        digests.append((figures["digest"], figures["committed"], figures["supply"]))
        assert executor == "columnar" or figures["executions_per_tx"] >= 1
    assert len(set(digests)) == 1
    answer = CliRunner().invoke(aptos, ["--executor", "block-stm", "--executor-set", "moon=1", "--block-size", "2"])
    assert "--executor-set moon=1: with columns there are burden, workers, grain, presume" in str(answer.exception)
