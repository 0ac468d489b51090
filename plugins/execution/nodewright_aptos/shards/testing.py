"""Random blocks with conflicts of every kind, for tests of what divides them. A module for the setting ``functions``.

``0xc1::trial``: ``bump(counter, amount)`` changes one of a few counters that all share and declares it;
``total(counter, amount)`` reads all; ``look(counter, _)`` changes none and says in an event what it reads of two; ``wild``
bumps and declares nothing; ``liar`` reads or writes a counter other than the one it declares; ``mint`` changes an
aggregator, ``census`` reads it and declares so, ``peek`` reads it and does not; ``fault`` raises. They meet the
framework's transfers in ``freeze`` and ``widen``, which change the layout or the state of the sender's own resources and
declare it, and in ``spill``, which pays whom a counter says and declares nothing. ``toil(cell, rounds)`` computes for long
and then changes a cell: what parallel execution is for.

``Far`` is a shard at the end of a slow and mortal line, for simulations.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from nodewright_aptos import bcs, framework, resources
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import CURVE_ED25519, AccountAuthenticator
from nodewright_aptos.functions import Call, Functions, TransactionFunction
from nodewright_aptos.ledger import Event, event_type
from nodewright_aptos.shards.links import Link, LinkLost, linked
from nodewright_aptos.shards.messages import Pong, decode
from nodewright_aptos.shards.server import ShardServer
from nodewright_aptos.state import Absent, BlockEnvironment
from nodewright_aptos.statekeys import table_key
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    UserTransaction,
    decode_transaction,
    signed_transaction,
)
from nodewright_aptos.typetags import StructTag

TRIAL: Final = bytes(31) + b"\xc1"
CHAIN: Final = 4
NOW: Final = 1_700_000_000
BLOCK: Final = BlockEnvironment(height=7, timestamp=NOW * 1_000_000, epoch=1, chain_id=CHAIN)
COUNTERS: Final = 6
POOL: Final = table_key(bytes(32), b"pool of the trial".ljust(32, b"\0"))
BROKEN: Final = 666
SEEN: Final = event_type(StructTag(TRIAL, "trial", "Seen"))


def counter_key(number: int) -> bytes:
    return table_key(bytes(32), number.to_bytes(32, "little"))


def _number(call: Call, key: bytes) -> int:
    return int.from_bytes(call.view.get(key) or b"", "little")


def _change(call: Call, key: bytes, amount: int) -> None:
    if amount == BROKEN:
        raise call.abort(0x10001, "EBROKEN", "As it was asked to be")
    value = _number(call, key) * 3 + amount + 1
    call.view.set(key, None if value % 11 == 0 else (value % (1 << 64)).to_bytes(8, "little"))


def _bump(call: Call) -> None:
    number, amount = call.arguments
    _change(call, counter_key(number), amount)


def _total(call: Call) -> None:
    number, amount = call.arguments
    _change(call, counter_key(number), amount + sum(_number(call, counter_key(other)) for other in range(COUNTERS)))


def _look(call: Call) -> None:
    number = call.arguments[0]
    seen = [_number(call, counter_key(one)) for one in (number, (number + 1) % COUNTERS)]
    call.view.emit(Event(SEEN, b"".join([bcs.u64(one % (1 << 64)) for one in seen])))


def _liar(call: Call) -> None:
    number, amount = call.arguments
    other = counter_key((number + 1) % COUNTERS)
    if amount % 2:
        _change(call, counter_key(number), _number(call, other))
    else:
        _change(call, other, amount)


def _mint(call: Call) -> None:
    _, amount = call.arguments
    call.view.add(POOL, amount if amount % 3 else -amount)


def _peek(call: Call) -> None:
    number, amount = call.arguments
    _change(call, counter_key(number), amount + _number(call, resources.SUPPLY_KEY))


def _census(call: Call) -> None:
    number, amount = call.arguments
    _change(call, counter_key(number), amount + _number(call, resources.SUPPLY_KEY))


def _fault(call: Call) -> None:
    raise RuntimeError("a function with a fault of its own")


def _freeze(call: Call) -> None:
    key = resources.apt_store_key(call.sender)
    store = call.view.get(key)
    if store is None:
        raise call.abort(0x60005, "ENO_COINS")
    call.view.set(key, store[:8] + bytes([not store[8]]) + store[9:])


def _widen(call: Call) -> None:
    """As if a capability were offered, or taken back: another length than accounts have."""
    key = resources.account_key(call.sender)
    account = call.view.get(key) or b""
    wide = len(account) != resources.ACCOUNT_BYTES
    call.view.set(key, account[: resources.ACCOUNT_BYTES] if wide else account + bytes(32))


def _spill(call: Call) -> None:
    number, amount = call.arguments
    at = _number(call, counter_key(number)) % len(PEOPLE)
    for person in PEOPLE[at : at + 2]:
        framework.pay(call, person.address, amount)
    _change(call, counter_key(number), at)


def _toil(call: Call) -> None:
    cell, rounds = call.arguments
    key = counter_key(COUNTERS + cell)
    value = _number(call, key)
    for _ in range(rounds):
        value = (value * 6364136223846793005 + 1442695040888963407) % (1 << 64)
    call.view.set(key, value.to_bytes(8, "little"))


def _of_cell(signers: object, types: object, arguments: tuple[Any, ...]) -> tuple[list[bytes], list[bytes]]:
    keys = [counter_key(COUNTERS + arguments[0])]
    return keys, keys


def _of_sender(signers: tuple[bytes, ...], types: object, arguments: object) -> tuple[list[bytes], list[bytes]]:
    keys = [resources.account_key(signers[0]), resources.apt_store_key(signers[0])]
    return keys, keys


def _own(signers: object, types: object, arguments: tuple[Any, ...]) -> tuple[list[bytes], list[bytes]]:
    key = [counter_key(arguments[0])]
    return key, key


def _two(signers: object, types: object, arguments: tuple[Any, ...]) -> tuple[list[bytes], list[bytes]]:
    return [counter_key(arguments[0]), counter_key((arguments[0] + 1) % COUNTERS)], []


def _all(signers: object, types: object, arguments: tuple[Any, ...]) -> tuple[list[bytes], list[bytes]]:
    return [counter_key(number) for number in range(COUNTERS)], [counter_key(arguments[0])]


def _supply(signers: object, types: object, arguments: tuple[Any, ...]) -> tuple[list[bytes], list[bytes]]:
    return [resources.SUPPLY_KEY], [counter_key(arguments[0])]


def register_transaction_functions(functions: Functions) -> None:
    parameters = ("&signer", "u64", "u64")
    for name, run, accesses in (
        ("bump", _bump, _own),
        ("total", _total, _all),
        ("look", _look, _two),
        ("wild", _bump, None),
        ("liar", _liar, _own),
        ("mint", _mint, _own),
        ("census", _census, _supply),
        ("peek", _peek, _own),
        ("fault", _fault, _own),
        ("freeze", _freeze, _of_sender),
        ("widen", _widen, _of_sender),
        ("spill", _spill, None),
        ("toil", _toil, _of_cell),
    ):
        functions.add(TransactionFunction(TRIAL, "trial", name, parameters, run, 1, 0, accesses))


class DictBase:
    """State in a dict; only what was loaded can be read."""

    def __init__(self, state: dict[bytes, bytes | None]) -> None:
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


PEOPLE: Final = [Person(seed) for seed in range(1, 400)]


class World:
    """A random state and blocks that are mostly good in it. ``odd`` of them call what is not transfers, ``bad`` have a
    wrong number, price or time; ``strange`` are the functions besides ``bump``, ``total`` and ``look`` that occur."""

    def __init__(
        self, seed: int, people: int = 30, odd: float = 0.3, bad: float = 0.1, strange: tuple[str, ...] = ()
    ) -> None:
        self.random = random.Random(seed)
        self.people = self.random.sample(PEOPLE, people)
        self.odd, self.bad, self.strange = odd, bad, strange
        self.numbers = dict.fromkeys([one.address for one in self.people], 0)
        self.state: dict[bytes, bytes | None] = {resources.SUPPLY_KEY: (10**24).to_bytes(16, "little")}
        self.state[POOL] = (10**6).to_bytes(16, "little")
        for person in self.people:
            if self.random.random() < 0.9:
                self.state[resources.account_key(person.address)] = resources.new_account(person.address)
                coins = self.random.choice([10**12, 10**12, 10**6])
                self.state[resources.apt_store_key(person.address)] = resources.new_store(person.address, coins)

    def payload(self) -> EntryFunction:
        rng = self.random
        if rng.random() < self.odd:
            name = rng.choice([*self.strange, "bump", "bump", "total", "look", "look"])
            arguments = (bcs.u64(rng.randrange(COUNTERS)), bcs.u64(rng.choice([1, 2, 3, 700, BROKEN])))
            return EntryFunction.of(TRIAL, "trial", name, (), arguments)
        recipient = rng.choice(self.people).address if rng.random() < 0.95 else rng.randbytes(32)
        amount = rng.choice([1, 1000, 10**6, 10**13])
        return EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, bcs.u64(amount)))

    def transaction(self) -> UserTransaction:
        rng = self.random
        person = rng.choice(self.people)
        number = self.numbers[person.address]
        bad = rng.random() < self.bad
        if bad:
            number = max(number + rng.choice([-1, 1, 0]), 0)
        else:
            self.numbers[person.address] += 1
        raw = RawTransaction(
            person.address,
            number,
            self.payload(),
            rng.choice([8, 400, 2_000_001]) if bad else 2000,
            rng.choice([99, 100, 10**10]) if bad else 100,
            NOW + rng.choice([-1, 60]) if bad else NOW + 60,
            CHAIN,
        )
        return decode_transaction(signed_transaction(raw, person.signer))

    def block(self, count: int) -> list[UserTransaction]:
        return [self.transaction() for _ in range(count)]


class Far:
    """A shard at the end of a slow line: every message takes a while, in order; after ``lives[n]`` messages from it the
    n-th connection is cut, or it falls silent, or it says nothing any more but that it is there."""

    def __init__(self, name: str, server: ShardServer, rng: random.Random, lives: list[int], end: str) -> None:
        self.name = name
        self._server = server
        self._random = rng
        self._lives = lives
        self._end = end

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        life = self._lives.pop() if self._lives else 1 << 30
        near, middle = linked()
        other, far = linked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.serve, far)
            nursery.start_soon(self._carry, middle, other, 1 << 30)
            nursery.start_soon(self._carry, other, middle, life)
            try:
                yield near
            finally:
                nursery.cancel_scope.cancel()

    async def _carry(self, source: Link, target: Link, life: int) -> None:
        slowest = self._random.choice([0.001, 0.1, 1.0])
        try:
            while True:
                data = await source.receive()
                life -= 1
                if life < 0 and (self._end != "stuck" or not isinstance(decode(data), Pong)):
                    if self._end == "stuck":
                        continue
                    break
                await trio.sleep(self._random.uniform(0, slowest))
                await target.send(data)
        except LinkLost:
            return
        if self._end == "silent":
            await trio.sleep_forever()
        await target.aclose()
