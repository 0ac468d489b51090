"""The executor ``block-stm`` gives, byte for byte, what the sequential one gives, whatever its workers are and do."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nodewright.environment import NodeEnvironment
from nodewright.errors import ConfigurationError
from nodewright.kernels import switch
from nodewright_aptos import bcs, resources
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import CURVE_ED25519, AccountAuthenticator
from nodewright_aptos.blockstm.executor import BlockStmExecutor, Options, ThreadWorker
from nodewright_aptos.blockstm.native import KERNELS, stretches_of
from nodewright_aptos.blockstm.speculate import Item, speculate
from nodewright_aptos.blockstm.testing import Hostile
from nodewright_aptos.executors import SequentialExecutor, open_executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.state import Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    UserTransaction,
    decode_transaction,
    signed_transaction,
)

NOW = 1_700_000_000
BLOCK = BlockEnvironment(height=7, timestamp=NOW * 1_000_000, epoch=1, chain_id=4)

# A third party's module: worker processes import it by its name.
MODULE = '''
from hashlib import sha3_256
from nodewright_aptos.functions import TransactionFunction
from nodewright_aptos.resources import SUPPLY_KEY
from nodewright_aptos.statekeys import table_key

WHERE = bytes(31) + b"\\x7e"
HANDLE = sha3_256(b"test").digest()

def cell(number):
    return table_key(HANDLE, bytes([number % 5]))

ONE, OTHER = table_key(HANDLE, b"one"), table_key(HANDLE, b"other")

def number(value):
    return int.from_bytes(value or b"", "little")

def follow(call):
    """Reads and writes where what it reads leads: its accesses are recorded."""
    (step,) = call.arguments
    at = step
    for _ in range(3):
        at = number(call.view.get(cell(at))) + step
    if at % 11 == 3:
        raise call.abort(0x30001, "EODD", str(at))
    call.view.set(cell(at), (at * 7 + 1 & 0xFFFF).to_bytes(8, "little"))

def both(call):
    """Two cells that are always equal: whoever sees them differ sees a state that never was."""
    one, other = call.view.get(ONE), call.view.get(OTHER)
    if one != other:
        raise RuntimeError("inconsistent")
    value = (number(one) + call.arguments[0] & 0xFFFF).to_bytes(8, "little")
    call.view.set(ONE, value)
    call.view.set(OTHER, value)

def both_declared(call):
    both(call)

def raises(call):
    if number(call.view.get(cell(call.arguments[0]))) % 3 == 1:
        raise ValueError("a defect of the function")

def swallows(call):
    try:
        call.view.get(ONE)
    except Exception:
        call.view.set(OTHER, b"nothing there")

def supply(call):
    """Reads the aggregator, which every transaction changes."""
    call.view.add(SUPPLY_KEY, call.arguments[0])
    call.view.set(cell(0), call.view.get(SUPPLY_KEY))

POOL = table_key(HANDLE, b"pool")

def drain(call):
    """An aggregator that is nothing at first: taking from it breaks it, also where others give later."""
    call.view.add(POOL, -5 if call.arguments[0] == 0 else 1 << 127)

def accesses(signers, types, arguments):
    return (ONE, OTHER), (ONE, OTHER)

def register_transaction_functions(functions):
    for run in (follow, both, both_declared, raises, supply, swallows, drain):
        declared = accesses if run is both_declared else None
        functions.add(TransactionFunction(WHERE, "test", run.__name__, ("&signer", "u64"), run, 1, 0, declared))
'''
WHERE = bytes(31) + b"\x7e"


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Functions:
    (tmp_path / "blockstm_third_party.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    known = installed_functions()
    known.add_module("blockstm_third_party")
    return known


@pytest.fixture
def environment(tmp_path: Path) -> NodeEnvironment:
    return NodeEnvironment("test", tmp_path)


class DictBase:
    def __init__(self, state: dict[bytes, bytes]) -> None:
        self._state = state
        self._loaded: set[bytes] = set()

    async def load(self, keys: Iterable[bytes]) -> None:
        self._loaded.update(keys)

    def get(self, key: bytes) -> bytes | None:
        if key not in self._loaded:
            raise Absent([key])
        return self._state.get(key)


class Person:
    def __init__(self, seed: int) -> None:
        public = seed.to_bytes(32, "big")
        self.signer = AccountAuthenticator(ED25519, public, ((CURVE_ED25519, public),), ((0, bytes(64)),))
        self.address = authentication_key(public, ED25519)


PEOPLE = [Person(seed) for seed in range(40)]


class World:
    def __init__(self, seed: int, people: int = 0) -> None:
        self.rng = rng = random.Random(seed)
        self.people = PEOPLE[: people or rng.choice([2, 6, 40])]
        self.state = {resources.SUPPLY_KEY: (10**20).to_bytes(16, "little")}
        self.numbers = dict.fromkeys(self.people, 0)
        for person in self.people[rng.randrange(2) :]:
            self.state[resources.account_key(person.address)] = resources.new_account(person.address)
            coins = resources.new_store(person.address, rng.choice([10**5, 10**7, 10**9, 10**9]))
            self.state[resources.apt_store_key(person.address)] = coins

    def transaction(self, names: Sequence[str]) -> UserTransaction:
        rng = self.rng
        person, name = rng.choice(self.people), rng.choice(names)
        amount = bcs.u64(rng.choice([0, 1, 5, 10**6, 10**8]))
        if name == "pay":
            payload = EntryFunction.of(ONE, "aptos_account", "transfer", (), (rng.choice(PEOPLE).address, amount))
        elif name == "batch":
            others = [rng.choice(PEOPLE).address for _ in range(3)]
            arguments = (b"\3" + b"".join(others), b"\3" + 3 * amount)
            payload = EntryFunction.of(ONE, "aptos_account", "batch_transfer", (), arguments)
        else:
            payload = EntryFunction.of(WHERE, "test", name, (), (bcs.u64(rng.randrange(9)),))
        number = self.numbers[person]
        if rng.random() < 0.97:
            self.numbers[person] += 1
        else:
            number = max(0, number + rng.choice([-1, 1]))
        most = rng.choice([2000] * 20 + [8, 500])
        raw = RawTransaction(person.address, number, payload, most, 100, NOW + rng.choice([60] * 50 + [-1]), 4)
        return decode_transaction(signed_transaction(raw, person.signer))


async def ran(executor: Any, world: World, block: list[UserTransaction]) -> tuple[list[Output], str]:
    """Outputs, or what was raised."""
    try:
        return list(await executor.run(DictBase(world.state), block, BLOCK)), ""
    except (ValueError, RuntimeError, OverflowError) as error:
        return [], repr(error)


def same(one: tuple[list[Output], str], other: tuple[list[Output], str]) -> bool:
    return one == other and all(a.writes.keys() == b.writes.keys() for a, b in zip(one[0], other[0], strict=True))


NAMES = ("pay", "pay", "batch", "follow", "both", "both_declared", "supply", "raises")


async def test_random_blocks_equal_sequential(functions: Functions, environment: NodeEnvironment, budget: int) -> None:
    """60 blocks; ``--budget 167`` runs 10,000."""
    sequential = SequentialExecutor(functions, environment)
    aborts = suspensions = 0
    told: set[Any] = set()
    for seed in range(60 * budget):
        world = World(seed)
        rng = world.rng
        names = rng.choice([NAMES, NAMES[:-1], NAMES[:-1], NAMES[:3], ("both", "both_declared", "follow")])
        block = [world.transaction(names) for _ in range(rng.choice([1, 12, 40, 70]))]
        workers = [Hostile(functions, rng, rng.random() < 0.3) for _ in range(rng.choice([1, 3, 6]))]
        executor = BlockStmExecutor(functions, environment, Options(batch=rng.choice([1, 4, 64])), workers)
        expected = await ran(sequential, world, block)
        assert same(await ran(executor, world, block), expected), seed
        aborts, suspensions = aborts + executor.aborts, suspensions + executor.suspensions
        told.add(expected[1])
        told.update((one.kind, one.code, one.status.reason) for one in expected[0])
    assert aborts and suspensions
    assert repr(RuntimeError("inconsistent")) not in told  # no state in order is: only speculation sees one
    # Not vacuous: blocks that a defect ended, failures and refusals.
    assert {repr(ValueError("a defect of the function")), (0, "", "EODD"), (0, "", "EINSUFFICIENT_BALANCE")} <= told
    assert {code for _, code, _ in told - {one for one in told if isinstance(one, str)}} >= {
        "SEQUENCE_NUMBER_TOO_OLD",
        "SEQUENCE_NUMBER_TOO_NEW",
        "TRANSACTION_EXPIRED",
    }


async def test_of_two_that_break_an_aggregator_the_first_is_told(
    functions: Functions, environment: NodeEnvironment
) -> None:
    """A worker that comes back after a block has failed commits nothing more."""
    told = set()
    for seed in range(20):
        world = World(seed, people=6)
        block = [world.transaction(["drain"]) for _ in range(12)]
        workers = [Hostile(functions, world.rng, False) for _ in range(4)]
        executor = BlockStmExecutor(functions, environment, Options(batch=1, native=False), workers)
        expected = await ran(SequentialExecutor(functions, environment), world, block)
        assert same(await ran(executor, world, block), expected), seed
        told.add(expected[1])
    assert len(told) >= 2


async def test_worker_processes(functions: Functions, environment: NodeEnvironment) -> None:
    """The same in processes; and when they are killed under it, by threads."""
    sequential = SequentialExecutor(functions, environment)
    async with open_executor(
        "block-stm", functions, environment, {"placement": "processes", "workers": 2, "batch": 5}
    ) as executor:
        assert isinstance(executor, BlockStmExecutor)
        for seed in range(4):
            world = World(seed)
            block = [world.transaction(NAMES if seed % 2 else NAMES[:-1]) for _ in range(60)]
            assert same(await ran(executor, world, block), await ran(sequential, world, block)), seed
        for worker in executor._workers:
            os.kill(worker._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        for seed in range(2):
            world = World(seed)
            block = [world.transaction(NAMES[:-1]) for _ in range(60)]
            assert same(await ran(executor, world, block), await ran(sequential, world, block))
        assert executor.figures()["executions_per_tx"] >= 1


async def test_processes_that_know_other_functions_are_refused(functions: Functions, environment: NodeEnvironment) -> None:
    functions.modules.clear()  # as if somebody had called ``add`` alone
    with pytest.raises(ConfigurationError, match="do not know the same transaction functions"):
        async with open_executor("block-stm", functions, environment, {"placement": "processes", "workers": 1}):
            pass


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": True}, {"batch": "5"}, {"placement": "moon"}, {"native": 1}, {"x": 1}]
)
async def test_options_that_are_none_are_refused(
    functions: Functions, environment: NodeEnvironment, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=f"execution.executor_options: .*{next(iter(options))}"):
        async with open_executor("block-stm", functions, environment, options):
            pass


async def test_stretches_of_transfers_go_through_the_kernel(
    functions: Functions, environment: NodeEnvironment, budget: int
) -> None:
    """What comes before and after them included; with an account here and there whose layout does not fit."""
    pytest.importorskip("numba")
    assert switch.warm_up(*KERNELS) is None
    sequential = SequentialExecutor(functions, environment)
    try:
        async with open_executor("block-stm", functions, environment, {"workers": 2}) as executor:
            for seed in range(6 * budget):
                world = World(seed, people=40)
                if seed % 3 == 0:
                    world.state[resources.account_key(PEOPLE[5].address)] += bytes(32)
                names = [("pay",), NAMES[:-1], ("pay",), ("follow", "supply"), ("pay",)]
                lengths = [world.rng.choice([0, 70, 150]), 12, world.rng.choice([3, 90]), 5, 70]
                block = [world.transaction(one) for one, length in zip(names, lengths, strict=True) for _ in range(length)]
                assert same(await ran(executor, world, block), await ran(sequential, world, block)), seed
            assert isinstance(executor, BlockStmExecutor)
            assert executor.figures()["in_kernel"] > 0.5
    finally:
        switch.disable()


async def test_a_chain_on_one_account_is_run_once(functions: Functions, environment: NodeEnvironment) -> None:
    """Within a batch, transactions see what those before them wrote; declared ones of another batch wait and are not
    run in vain."""
    world = World(1, people=2)
    block = [world.transaction(["both_declared"]) for _ in range(64)]
    executor = BlockStmExecutor(functions, environment, Options(workers=1), [ThreadWorker(functions, environment)])
    assert same(await ran(executor, world, block), await ran(SequentialExecutor(functions, environment), world, block))
    assert executor.figures() == {
        "executions_per_tx": 1.0,
        "aborts_per_tx": 0.0,
        "suspensions_per_tx": 0.0,
        "in_kernel": 0.0,
    }


def test_a_function_cannot_swallow_that_state_is_absent(functions: Functions) -> None:
    """It is asked for all the same, and what the function made of it is not looked at."""
    world = World(1)
    (transaction,) = [world.transaction(["swallows"])]
    values: dict[bytes, bytes | None] = {
        resources.account_key(transaction.sender): resources.new_account(transaction.sender),
        resources.apt_store_key(transaction.sender): resources.new_store(transaction.sender, 10**9),
    }
    (answer,) = speculate(functions, BLOCK, [Item(0, 0, transaction, values)])
    assert answer.asks and answer.output is None and answer.error is None


def test_stretches() -> None:
    native, other = (0, b"", 0), None
    calls = [other] * 2 + [native] * 70 + [other] + [native] * 3 + [other] + [native] * 64
    assert stretches_of(calls) == [(False, 0, 2), (True, 2, 72), (False, 72, 77), (True, 77, 141)]
    assert stretches_of([]) == []
