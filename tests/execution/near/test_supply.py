"""Supply: after every block of a long random life all NEAR is where it was put, or burnt and said to be, to the yocto.

A life has all that moves balances: transfers to accounts that are there and that are not, accounts made, deleted (to
somebody, to nobody), keys, stake and its return at an epoch, code, contracts that keep, pay on, call each other, fail and
delete themselves, at gas prices that change and in chunks too small for what comes. ``--budget 100`` is 100,000 of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import pytest
import trio
from attrs import evolve
from nacl.signing import SigningKey

from nodewright.interfaces.execution import ExecutionRequest, Outcome
from nodewright_near.accounts import AccessKey, FunctionCallPermission
from nodewright_near.borsh import encode
from nodewright_near.chunks import Locked, RunContext, ShardLoad
from nodewright_near.genesis import shard_of
from nodewright_near.outcomes import Failure
from nodewright_near.transactions import (
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DelegateAction,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    SignedTransaction,
    Stake,
    Transaction,
    Transfer,
)

wasmtime = pytest.importorskip("wasmtime")

World = Callable[..., Any]
NEAR = 10**24
TERA = 10**12
LIFE = 1000  # transactions for each unit of the budget
BATCH = 40
TOPS = [f"{letter}.near" for letter in "abcdefgh"]
SUBS = [f"{letter}.{top}" for top in TOPS for letter in "xyz"]
IMPLICIT = [sha256(bytes([place])).hexdigest() for place in range(4)]
NOBODY = ["nobody.near", "not.there.near"]
NAMES = [*TOPS, *SUBS, *IMPLICIT]
CUTS = {1: (), 3: ("c.near", "f.near"), 6: ("b.near", "c.near", "e.near", "x.b.near", "y.a.near")}

# The account that a method deals with is its input.
CONTRACT = r"""
(module
  (import "env" "input" (func $input (param i64)))
  (import "env" "current_account_id" (func $self (param i64)))
  (import "env" "storage_write" (func $write (param i64 i64 i64 i64 i64) (result i64)))
  (import "env" "value_return" (func $return (param i64 i64)))
  (import "env" "panic" (func $panic))
  (import "env" "promise_batch_create" (func $batch (param i64 i64) (result i64)))
  (import "env" "promise_batch_then" (func $then (param i64 i64 i64) (result i64)))
  (import "env" "promise_batch_action_transfer" (func $pay (param i64 i64)))
  (import "env" "promise_batch_action_create_account" (func $make (param i64)))
  (import "env" "promise_batch_action_function_call"
    (func $call (param i64 i64 i64 i64 i64 i64 i64)))
  (import "env" "promise_batch_action_delete_account" (func $delete (param i64 i64 i64)))
  (import "env" "promise_return" (func $promised (param i64)))
  (memory 1)
  (data (i32.const 0) "keep")
  (data (i32.const 16) "\00\00\00\a1\ed\cc\ce\1b\c2\d3\00\00\00\00\00\00")
  (data (i32.const 32) "fail")
  (func (export "keep")
    (call $input (i64.const 1))
    (drop (call $write (i64.const 4) (i64.const 0) (i64.const -1) (i64.const 1) (i64.const 2)))
    (call $return (i64.const 4) (i64.const 0)))
  (func $paid (result i64) (local $to i64)
    (call $input (i64.const 1))
    (local.set $to (call $batch (i64.const -1) (i64.const 1)))
    (call $pay (local.get $to) (i64.const 16))
    (local.get $to))
  (func (export "pay") (drop (call $paid)))
  (func (export "fail") (drop (call $paid)) (call $panic))
  (func (export "make") (local $to i64)
    (call $input (i64.const 1))
    (local.set $to (call $batch (i64.const -1) (i64.const 1)))
    (call $make (local.get $to))
    (call $pay (local.get $to) (i64.const 16)))
  (func $asked (param $method i64) (local $to i64) (local $back i64)
    (local.set $to (call $paid))
    (call $call (local.get $to) (i64.const 4) (local.get $method) (i64.const 4) (i64.const 0) (i64.const 16)
      (i64.const 10000000000000))
    (call $self (i64.const 2))
    (local.set $back (call $then (local.get $to) (i64.const -1) (i64.const 2)))
    (call $call (local.get $back) (i64.const 4) (i64.const 0) (i64.const 4) (i64.const 0) (i64.const 16)
      (i64.const 10000000000000))
    (call $promised (local.get $back)))
  (func (export "ask") (call $asked (i64.const 0)))
  (func (export "dare") (call $asked (i64.const 32)))
  (func (export "leave") (local $me i64)
    (call $self (i64.const 2))
    (call $input (i64.const 1))
    (local.set $me (call $batch (i64.const -1) (i64.const 2)))
    (call $delete (local.get $me) (i64.const -1) (i64.const 1))))
"""
METHODS = ("keep", "pay", "fail", "make", "ask", "dare", "leave", "missing")


class Life:
    """``step`` makes one block of random transactions on ``world`` and looks at the supply after it."""

    def __init__(self, world: Any, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.code = bytes(wasmtime.wat2wasm(CONTRACT))
        self.keys = {name: SigningKey(sha256(name.encode()).digest()) for name in [*NAMES, "near"]}
        self.publics = {name: b"\0" + bytes(key.verify_key) for name, key in self.keys.items()}
        self.supply = 0
        self.sent: list[SignedTransaction] = []
        self.extras: dict[int, Any] = {}

    # --- what people do ---

    def _amount(self) -> int:
        return self.random.choice([0, 1, 10**18, NEAR // 100, NEAR, 7 * NEAR, 150 * NEAR, 10**30])

    def _action(self) -> Action:
        random_ = self.random
        key = self.publics[random_.choice(NAMES)]
        limited = FunctionCallPermission(random_.choice([None, 10**22, NEAR]), random_.choice(TOPS), ())
        call = FunctionCall(
            random_.choice(METHODS),
            random_.choice([*NAMES, *NOBODY]).encode(),
            random_.choice([1, 3 * TERA, 60 * TERA, 60 * TERA]),
            random_.choice([0, 1, 2 * NEAR]),
        )
        choices: list[Action] = [
            *[Transfer(self._amount())] * 3,
            *[call] * 3,
            AddKey(key, AccessKey(0)),
            AddKey(key, AccessKey(0, limited)),
            DeleteKey(key),
            Stake(self._amount(), key),
            DeployContract(random_.choice([self.code, self.code, b"none"])),
            CreateAccount(),
            DeleteAccount(random_.choice([*NAMES, *NOBODY])),
        ]
        chosen = random_.choice(choices)
        rare = isinstance(chosen, DeleteAccount | DeleteKey | Stake) and random_.random() < 0.6
        return Transfer(1) if rare else chosen

    def _life(self, name: str) -> tuple[str, tuple[Action, ...]]:
        """Whoever may is to make the account, with a key and code of its own."""
        creator = "near" if name in TOPS else name.partition(".")[2]
        made = (CreateAccount(), Transfer(200 * NEAR), AddKey(self.publics[name], AccessKey(0)), DeployContract(self.code))
        return creator, made

    def _transaction(self, place: int) -> SignedTransaction:
        random_, world = self.random, self.world
        kind = random_.random()
        signer, receiver = random_.choice(NAMES), random_.choice([*NAMES, *NAMES, *NOBODY])
        actions: tuple[Action, ...]
        if kind < 0.25:
            receiver = random_.choice([*TOPS, *SUBS])
            signer, actions = self._life(receiver)
        elif kind < 0.35:  # whoever lost all gets something to go on with
            signer, receiver, actions = "near", random_.choice(NAMES), (Transfer(300 * NEAR),)
        elif kind < 0.5:
            actions = (Transfer(self._amount()),)
        elif kind < 0.75:
            actions = tuple(self._action() for _ in range(random_.choice([1, 1, 2, 3])))
        elif kind < 0.97:
            receiver, mine = signer, [self._action() for _ in range(random_.choice([1, 1, 2]))]
            own = self.publics[signer]  # who deletes the only key that is ever used is as good as dead
            actions = tuple(Transfer(1) if isinstance(one, DeleteKey) and one.public_key == own else one for one in mine)
        else:
            receiver, actions = random_.choice(TOPS), ()
            inner = DelegateAction(
                receiver, signer, (Transfer(self._amount()),), self._nonce(place), world.height + 5, self.publics[receiver]
            )
            signature = self.keys[receiver].sign(inner.digest()).signature
            actions = (Delegate(inner, b"\0" + signature),)
        from_ = signer if signer in self.keys else "near"
        body = Transaction(from_, self.publics[from_], self._nonce(place), receiver, world.head.id, actions)
        return SignedTransaction.of(body, b"\0" + self.keys[from_].sign(body.hash()).signature)

    def _nonce(self, place: int) -> int:
        return int(self.world.height) * 10**6 + place + 1

    # --- blocks ---

    def _context(self, request: ExecutionRequest) -> ExecutionRequest:
        """Congestion as the parent block shows it, and now and then an epoch that begins."""
        loads = tuple(ShardLoad(shard, extra.congestion, 0) for shard, extra in sorted(self.extras.items()))
        locks: tuple[Locked, ...] = ()
        if self.random.random() < 0.05:
            mine = [name for name in NAMES if shard_of(name, self.world.boundaries) == request.shard]
            locks = tuple(Locked(name, self._amount()) for name in sorted(mine))
        several = len(self.world.boundaries) > 0
        extra = RunContext(loads=loads if several else (), locks=locks)
        incoming = list(request.incoming)
        self.random.shuffle(incoming)
        return evolve(request, context=evolve(request.context, extra=encode(extra)), incoming=tuple(incoming))

    async def _run(self, requests: Sequence[ExecutionRequest]) -> dict[int, Outcome]:
        """The shards in any order, or all at once."""
        results: dict[int, Outcome] = {}

        async def one(request: ExecutionRequest) -> None:
            outcome = await self.world.engine.execute(request)
            assert isinstance(outcome, Outcome), outcome
            results[request.shard] = outcome
            if request.record_witness:
                checked = await self.world.engine.verify_witness(request, outcome.witness)
                assert isinstance(checked, Outcome) and checked.commitment == outcome.commitment

        shuffled = self.random.sample(list(requests), len(requests))
        if self.random.random() < 0.5:
            for request in shuffled:
                await one(request)
        else:
            async with trio.open_nursery() as nursery:
                for request in shuffled:
                    nursery.start_soon(one, request)
        return results

    async def step(self, count: int) -> None:
        world = self.world
        world.gas_price = self.random.choice([10**8, 2 * 10**8, 5 * 10**8])
        batch = [self._transaction(place) for place in range(count)]
        self.sent += batch
        requests = world.requests(batch, witness=self.random.random() < 0.05)
        results = await self._run([self._context(request) for request in requests])
        await world.accept(requests[0].block, results)
        self.extras = {shard: outcome.detail["extra"] for shard, outcome in results.items()}
        assert await world.supply() == self.supply

    def fates(self) -> Mapping[str, int]:
        """How many transactions ran, and how their receipts ended."""
        counts = Counter(ran=sum(signed.id in self.world.outcomes for signed in self.sent))
        for outcome in self.world.outcomes.values():
            if outcome.status == Failure():
                error = outcome.error["ActionError"]["kind"]
                counts[error if isinstance(error, str) else next(iter(error))] += 1
        return counts


@pytest.mark.parametrize("shards", list(CUTS))
async def test_supply_is_conserved_to_the_yocto(world: World, budget: int, shards: int) -> None:
    people = dict.fromkeys(TOPS, 10_000 * NEAR) | {"near": 10**9 * NEAR}
    w = await world(people, CUTS[shards], gas_limit=40 * TERA if shards > 1 else 10**15, minimum_stake=10**23).open()
    life = Life(w, shards)
    life.supply = await w.supply()
    total = LIFE * budget if shards != 1 else LIFE * budget // 4
    for _ in range(total // BATCH):
        await life.step(BATCH)
    while w.waiting or any(extra.congestion.receipt_bytes for extra in life.extras.values()):
        await life.step(0)
    fates = life.fates()
    assert fates["ran"] > len(life.sent) // 3, fates
    assert {"AccountAlreadyExists", "AccountDoesNotExist", "FunctionCallError", "ActorNoPermission"} <= set(fates), fates
    if budget > 9:
        assert {"DeleteAccountStaking", "InsufficientStake", "TriesToStake"} <= set(fates), fates
