"""The columnar executor gives, byte for byte, what the sequential one gives, in blocks of all that may go wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.environment import NodeEnvironment
from nodewright.kernels import switch
from nodewright_aptos import resources
from nodewright_aptos.addresses import APT_METADATA, ED25519, ONE, authentication_key, special
from nodewright_aptos.authenticators import CURVE_ED25519, AccountAuthenticator
from nodewright_aptos.columnar import calls
from nodewright_aptos.columnar import executor as columnar
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.framework import install
from nodewright_aptos.functions import Functions
from nodewright_aptos.state import Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    UserTransaction,
    decode_transaction,
    signed_transaction,
)
from nodewright_aptos.typetags import APT, StructTag

CHAIN = 4
NOW = 1_700_000_000
BLOCK = BlockEnvironment(height=7, timestamp=NOW * 1_000_000, epoch=1, chain_id=CHAIN)
OTHER_COIN = StructTag(ONE, "moon", "Coin", ())


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    pytest.importorskip("numba")
    reason = switch.warm_up(columnar.KERNELS)
    assert reason is None, reason
    yield
    switch.disable()


@pytest.fixture(scope="module")
def functions() -> Functions:
    known = Functions()
    install(known)
    calls.register_transaction_functions(known)
    return known


class DictBase:
    """State in a dict; only what was loaded can be read."""

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
    """A random state, and blocks of transactions that are mostly good in it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.people = rng.sample(PEOPLE, rng.choice([3, 8, 40]))
        self.state: dict[bytes, bytes] = {resources.SUPPLY_KEY: (10**24).to_bytes(16, "little")}
        self.numbers = {person.address: 0 for person in self.people}
        for person in self.people:
            if rng.random() < 0.8:
                self._found(person.address)

    def _found(self, address: bytes) -> None:
        rng = self.rng
        account = resources.new_account(address)
        if rng.random() < 0.05:
            account = resources.with_authentication_key(account, rng.randbytes(32))
        number = rng.choice([0, 0, 5, (1 << 63) - 1, 1 << 63])
        self.numbers[address] = number
        account = resources.with_sequence_number(account, number)
        if rng.random() < 0.04:
            account += bytes(32)  # a capability is offered
        self.state[resources.account_key(address)] = account
        if rng.random() < 0.9:
            first = rng.choice([2, 9])
            store = resources.new_store(address, rng.choice([0, 10_000, 10**6, 10**8, 10**12, (1 << 64) - 5]), first)
            if rng.random() < 0.06:
                store = store[:8] + b"\1" + store[9:]
            self.state[resources.apt_store_key(address)] = store

    def _payload(self, sender: bytes) -> EntryFunction:
        rng = self.rng
        recipient = rng.choice([*(person.address for person in self.people), sender, rng.randbytes(32), special(3)])
        amount = rng.choice([0, 1, 1000, 10**6, 10**12, (1 << 64) - 1]).to_bytes(8, "little")
        return rng.choice(
            [
                EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, amount)),
                EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, amount)),
                EntryFunction.of(ONE, "aptos_account", "fungible_transfer_only", (), (recipient, amount)),
                EntryFunction.of(ONE, "aptos_account", "transfer_coins", (APT,), (recipient, amount)),
                EntryFunction.of(ONE, "coin", "transfer", (APT,), (recipient, amount)),
                EntryFunction.of(ONE, "primary_fungible_store", "transfer", (APT,), (APT_METADATA, recipient, amount)),
                EntryFunction.of(ONE, "aptos_account", "create_account", (), (recipient,)),
                EntryFunction(calls.TOUCH_KEY, (), ()),
            ]
        )

    def _odd_payload(self, sender: bytes) -> EntryFunction:
        rng = self.rng
        recipient, amount = rng.choice(self.people).address, (5).to_bytes(8, "little")
        return rng.choice(
            [
                EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, amount[:7])),
                EntryFunction.of(ONE, "aptos_account", "transfer", (APT,), (recipient, amount)),
                EntryFunction.of(ONE, "coin", "transfer", (OTHER_COIN,), (recipient, amount)),
                EntryFunction.of(ONE, "primary_fungible_store", "transfer", (APT,), (bytes(32), recipient, amount)),
                EntryFunction.of(ONE, "account", "rotate_authentication_key_call", (), (b"\x20" + rng.randbytes(32),)),
                EntryFunction.of(ONE, "nothing", "here", (), ()),
                EntryFunction.of(
                    ONE, "aptos_account", "batch_transfer", (), (b"\2" + recipient + sender, b"\2" + amount + amount)
                ),
            ]
        )

    def transaction(self, odd: float) -> UserTransaction:
        rng = self.rng
        person = rng.choice(self.people)
        number = self.numbers[person.address]
        if rng.random() < 0.9:
            self.numbers[person.address] += 1
        else:
            number = max(number + rng.choice([-1, 1, 7]), 0)
        payload = self._odd_payload(person.address) if rng.random() < odd else self._payload(person.address)
        fault = rng.random() < 0.2
        raw = RawTransaction(
            person.address,
            number % (1 << 64),
            payload,
            rng.choice([2, 5, 8, 9, 10, 11, 400, 812, 2_000_000, 2_000_001, 1 << 63]) if fault else 2000,
            rng.choice([0, 99, 100, 10**10, 10**10 + 1, (1 << 64) - 1]) if fault else rng.choice([100, 150]),
            NOW + rng.choice([-1, 0, 1, 1 << 40]) if fault else NOW + 60,
            CHAIN if rng.random() < 0.98 else CHAIN + 1,
        )
        return decode_transaction(signed_transaction(raw, person.signer))


async def outputs_of(executor: Any, world: World, block: list[UserTransaction]) -> list[Output]:
    return list(await executor.run(DictBase(dict(world.state)), block, BLOCK))


async def test_random_blocks_equal_sequential(functions: Functions, tmp_path: Path, budget: int) -> None:
    environment = NodeEnvironment("test", tmp_path)
    sequential, columns = SequentialExecutor(functions, environment), columnar.ColumnarExecutor(functions, environment)
    seen: set[Any] = set()
    for seed in range(100 * budget):
        world = World(seed)
        odd = world.rng.choice([0.0, 0.0, 0.02, 0.3])
        block = [world.transaction(odd) for _ in range(world.rng.choice([1, 9, 40, 120]))]
        expected = await outputs_of(sequential, world, block)
        actual = await outputs_of(columns, world, block)
        for place, (one, other) in enumerate(zip(expected, actual, strict=True)):
            assert one == other, (seed, place)
            assert set(one.writes) == set(other.writes)
        seen.update((one.kind, one.code, one.status.kind, one.status.reason, len(one.created)) for one in expected)
    # Not vacuous: successes, every refusal and every failure that transfers know.
    assert {code for _, code, *_ in seen} >= {
        "TRANSACTION_EXPIRED",
        "BAD_CHAIN_ID",
        "INVALID_AUTH_KEY",
        "SENDING_ACCOUNT_DOES_NOT_EXIST",
        "SEQUENCE_NUMBER_TOO_OLD",
        "SEQUENCE_NUMBER_TOO_NEW",
        "SEQUENCE_NUMBER_TOO_BIG",
        "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE",
        "MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND",
        "MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS",
        "GAS_UNIT_PRICE_BELOW_MIN_BOUND",
        "GAS_UNIT_PRICE_ABOVE_MAX_BOUND",
    }
    assert {reason for *_, reason, _ in seen} >= {
        "",
        "EINSUFFICIENT_BALANCE",
        "ECOIN_STORE_NOT_PUBLISHED",
        "EFROZEN",
        "EOUT_OF_GAS",
        "ECANNOT_RESERVED_ADDRESS",
        "EACCOUNT_ALREADY_EXISTS",
        "ARITHMETIC_ERROR",
    }
    assert {created for *_, created in seen} == {0, 1, 2}


async def test_most_of_a_block_of_transfers_runs_in_the_kernel(
    functions: Functions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other test compares is not the sequential executor twice."""
    one_by_one: list[int] = []
    go_on = columnar.SequentialRun.go_on

    def counted(self: Any, transactions: Any) -> None:
        one_by_one.append(len(transactions))
        go_on(self, transactions)

    monkeypatch.setattr(columnar.SequentialRun, "go_on", counted)
    world = World(3)
    world.state = {key: value for key, value in world.state.items() if len(value) != 147 + 32}
    block = [world.transaction(0.0) for _ in range(300)]
    executor = columnar.ColumnarExecutor(functions, NodeEnvironment("test", tmp_path))
    assert len(await outputs_of(executor, world, block)) == 300
    assert sum(one_by_one) == 0


async def test_without_kernels_it_runs_one_by_one(functions: Functions, tmp_path: Path) -> None:
    environment = NodeEnvironment("test", tmp_path)
    world = World(5)
    block = [world.transaction(0.1) for _ in range(50)]
    expected = await outputs_of(SequentialExecutor(functions, environment), world, block)
    switch.disable()
    try:
        assert await outputs_of(columnar.ColumnarExecutor(functions, environment), world, block) == expected
    finally:
        assert switch.warm_up(columnar.KERNELS) is None
