"""Contracts: storage, logs, promises with callbacks, gas bounds, views, and imports that this node does not build."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces.execution import HEAD
from nodewright_near.contracts import machine
from nodewright_near.contracts.wasm import NotWasm, prepare
from nodewright_near.outcomes import Failure, SuccessReceiptId, SuccessValue
from nodewright_near.parameters import Limits
from nodewright_near.transactions import CreateAccount, DeployContract, FunctionCall, Transfer

NEAR = 10**24
TERA = 10**12
PRICE = 10**8
PEOPLE = {name: 100 * NEAR for name in ("alice.near", "bob.near", "carol.near")}
World = Callable[..., Any]

# A book with one entry under "entry"; ``ask`` calls another contract's ``get`` and hands the answer on through ``got``.
BOOK = r"""
(module
  (import "env" "input" (func $input (param i64)))
  (import "env" "register_len" (func $len (param i64) (result i64)))
  (import "env" "read_register" (func $read (param i64 i64)))
  (import "env" "storage_write" (func $write (param i64 i64 i64 i64 i64) (result i64)))
  (import "env" "storage_read" (func $get (param i64 i64 i64) (result i64)))
  (import "env" "storage_remove" (func $remove (param i64 i64 i64) (result i64)))
  (import "env" "value_return" (func $return (param i64 i64)))
  (import "env" "log_utf8" (func $log (param i64 i64)))
  (import "env" "panic_utf8" (func $panic (param i64 i64)))
  (import "env" "predecessor_account_id" (func $who (param i64)))
  (import "env" "promise_create" (func $create (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)))
  (import "env" "promise_then" (func $then (param i64 i64 i64 i64 i64 i64 i64 i64 i64) (result i64)))
  (import "env" "promise_return" (func $promised (param i64)))
  (import "env" "promise_results_count" (func $count (result i64)))
  (import "env" "promise_result" (func $result (param i64 i64) (result i64)))
  (import "env" "promise_batch_create" (func $batch (param i64 i64) (result i64)))
  (import "env" "promise_batch_action_transfer" (func $pay (param i64 i64)))
  (import "env" "alt_bn128_g1_sum" (func $curve (param i64 i64 i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "entry")
  (data (i32.const 16) "written")
  (data (i32.const 32) "no entry")
  (data (i32.const 48) "bob.near")
  (data (i32.const 64) "alice.near")
  (data (i32.const 80) "get")
  (data (i32.const 96) "got")
  (data (i32.const 112) "carol.near")
  (data (i32.const 128) "\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
  (data (i32.const 160) "failed")
  (func (export "set")
    (call $input (i64.const 1))
    (drop (call $write (i64.const 5) (i64.const 0) (i64.const -1) (i64.const 1) (i64.const 2)))
    (call $log (i64.const 7) (i64.const 16)))
  (func (export "get")
    (if (i64.eqz (call $get (i64.const 5) (i64.const 0) (i64.const 1)))
      (then (call $panic (i64.const 8) (i64.const 32))))
    (call $return (i64.const -1) (i64.const 1)))
  (func (export "forget") (drop (call $remove (i64.const 5) (i64.const 0) (i64.const 1))))
  (func (export "set_and_fail") (call $input (i64.const 1))
    (drop (call $write (i64.const 5) (i64.const 0) (i64.const -1) (i64.const 1) (i64.const 2)))
    unreachable)
  (func (export "caller") (call $who (i64.const 1)) (call $return (i64.const -1) (i64.const 1)))
  (func (export "ask")
    (call $promised (call $then
      (call $create (i64.const 8) (i64.const 48) (i64.const 3) (i64.const 80) (i64.const 0) (i64.const 0)
        (i64.const 144) (i64.const 10000000000000))
      (i64.const 10) (i64.const 64) (i64.const 3) (i64.const 96) (i64.const 0) (i64.const 0)
      (i64.const 144) (i64.const 10000000000000))))
  (func (export "got")
    (if (i64.ne (call $result (i64.const 0) (i64.const 1)) (i64.const 1))
      (then (call $return (i64.const 6) (i64.const 160)))
      (else (call $return (i64.const -1) (i64.const 1)))))
  (func (export "pay") (call $pay (call $batch (i64.const 10) (i64.const 112)) (i64.const 128)))
  (func (export "spin") (loop $again (br $again)))
  (func (export "curve") (call $curve (i64.const 0) (i64.const 0) (i64.const 0)))
  (func (export "memory_size") (i32.store (i32.const 200) (memory.size)) (call $return (i64.const 4) (i64.const 200)))
  (func (export "grow") (drop (memory.grow (i32.const 1024)))
    (i32.store (i32.const 200) (memory.grow (i32.const 1))) (call $return (i64.const 4) (i64.const 200)))
  (func (export "outside") (call $return (i64.const 100) (i64.const 67108800)))
  (func (export "takes") (param i64)))
"""


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def call(method: str, args: bytes = b"", gas: int = 100 * TERA, deposit: int = 0) -> FunctionCall:
    return FunctionCall(method, args, gas, deposit)


async def deployed(world: World, *names: str, boundaries: Any = (), witness: bool = False) -> Any:
    w = await world(PEOPLE, boundaries).open()
    await w.settle(*[w.sign(name, name, DeployContract(wasm(BOOK))) for name in names])
    return w


async def test_a_contract_writes_logs_and_is_read_by_anybody(world: World) -> None:
    w = await deployed(world, "bob.near")
    before = await w.supply()
    usage = (await w.account("bob.near")).storage_usage
    signed = w.sign("alice.near", "bob.near", call("set", b"hello"))
    await w.block(signed, witness=True)
    await w.block(witness=True)
    await w.settle()
    outcome = w.fate(signed)[1]
    assert outcome.logs == ("written",) and outcome.status == SuccessValue(b"")
    assert await w.engine.query(HEAD, "state", account_id="bob.near") == {b"entry": b"hello"}
    assert (await w.account("bob.near")).storage_usage == usage + 5 + 5 + 40
    seen = await w.engine.query(HEAD, "call", account_id="bob.near", method="get", args=b"", height=1, timestamp=1)
    assert seen.value == b"hello" and seen.error is None
    gas = outcome.gas_burnt
    assert 888 * 10**9 + 64_196_736_000 < gas < TERA, "the call, one write, and a few instructions"
    burnt = sum(one.tokens_burnt for one in w.fate(signed))
    assert await w.amount("alice.near") == 100 * NEAR - burnt, "unused gas came back"
    reward = await w.amount("bob.near")
    assert reward > 100 * NEAR - 10**22 and await w.supply() == before
    await w.settle(w.sign("alice.near", "bob.near", call("forget")))
    assert await w.engine.query(HEAD, "state", account_id="bob.near") == {}
    assert (await w.account("bob.near")).storage_usage == usage


async def test_a_call_that_fails_leaves_nothing_and_names_its_reason(world: World) -> None:
    w = await deployed(world, "bob.near")
    before = await w.supply()
    table = [
        (
            call("set_and_fail", b"x", deposit=NEAR),
            {"ExecutionError": "WebAssembly trap: An `unreachable` opcode was executed."},
        ),
        (call("get"), {"ExecutionError": "Smart contract panicked: no entry"}),
        (call("nothing"), {"MethodResolveError": "MethodNotFound"}),
        (call("takes"), {"MethodResolveError": "MethodInvalidSignature"}),
        (call("memory"), {"MethodResolveError": "MethodNotFound"}),
        (call("set", b"x", gas=10**9), {"ExecutionError": "Exceeded the prepaid gas."}),
        (call("spin", gas=3 * TERA), {"ExecutionError": "Exceeded the prepaid gas."}),
        (call("curve"), {"ExecutionError": "the host function alt_bn128_g1_sum is not built on this node"}),
        (call("outside"), {"ExecutionError": "Accessed memory outside the bounds."}),
        (call("got"), {"ExecutionError": "Accessed invalid promise result index: 0"}),
    ]
    sent = [w.sign("alice.near", "bob.near", action) for action, _ in table]
    await w.settle(*sent)
    for signed, (action, expected) in zip(sent, table, strict=True):
        outcome = w.fate(signed)[1]
        assert outcome.status == Failure()
        assert outcome.error["ActionError"] == {"index": 0, "kind": {"FunctionCallError": expected}}, action.method_name
        if "gas" in str(expected):
            base = 108_059_500_000 + 780_000_000_000 + 2_235_934 * (len(action.method_name) + len(action.args))
            assert outcome.gas_burnt == base + action.gas
    assert await w.engine.query(HEAD, "state", account_id="bob.near") == {}
    assert await w.supply() == before


@pytest.mark.parametrize("boundaries", [(), ("b", "c")], ids=["one shard", "three shards"])
async def test_a_promise_calls_another_contract_and_its_callback_sees_the_answer(world: World, boundaries: Any) -> None:
    w = await deployed(world, "alice.near", "bob.near", boundaries=[b + "a" for b in boundaries])
    before = await w.supply()
    await w.settle(w.sign("bob.near", "bob.near", call("set", b"from bob")))
    asked = w.sign("carol.near", "alice.near", call("ask"))
    for _ in range(2):
        await w.block(asked, witness=True) if asked.id not in w.outcomes else await w.block(witness=True)
    await w.settle()
    _, first, *rest = w.fate(asked)
    assert isinstance(first.status, SuccessReceiptId)
    assert w.outcomes[first.status.receipt_id].status == SuccessValue(b"from bob")
    assert await w.supply() == before
    await w.settle(w.sign("bob.near", "bob.near", call("forget")))
    again = w.sign("carol.near", "alice.near", call("ask"))
    await w.settle(again)
    status = w.fate(again)[1].status
    assert w.outcomes[status.receipt_id].status == SuccessValue(b"failed"), "the callback runs and sees the failure"
    assert await w.supply() == before and rest


async def test_promises_of_a_receipt_that_fails_after_all_are_not_sent_and_their_gas_comes_back(world: World) -> None:
    w = await deployed(world, "alice.near", "bob.near")
    before = await w.supply()
    signed = w.sign("carol.near", "alice.near", call("ask"), call("nothing"), Transfer(NEAR))
    await w.settle(signed)
    _, failed, *refunds = w.fate(signed)
    assert failed.error["ActionError"]["index"] == 1
    assert [one.executor_id for one in refunds] == ["carol.near", "carol.near"], "the deposit, and the gas"
    assert await w.amount("carol.near") == 100 * NEAR - sum(one.tokens_burnt for one in w.fate(signed))
    assert await w.supply() == before


async def test_a_contract_pays_out_of_its_own_balance(world: World) -> None:
    w = await deployed(world, "bob.near")
    before = await w.supply()
    await w.settle(w.sign("alice.near", "bob.near", call("pay")))
    assert await w.amount("carol.near") == 100 * NEAR + 1
    assert await w.supply() == before


async def test_views_change_nothing_and_may_not_ask_who_calls(world: World) -> None:
    w = await deployed(world, "bob.near")

    async def view(method: str, args: bytes = b"") -> Any:
        return await w.engine.query(HEAD, "call", account_id="bob.near", method=method, args=args, height=1, timestamp=1)

    assert (await view("set", b"x")).error == {"ExecutionError": "storage_write is not allowed in view calls"}
    assert (await view("caller")).error == {"ExecutionError": "predecessor_account_id is not allowed in view calls"}
    assert (await view("memory_size")).value == (1024).to_bytes(4, "little")
    assert (await view("grow")).value == b"\xff\xff\xff\xff", "2048 pages and no more"
    assert (await view("spin")).error == {
        "ExecutionError": "Exceeded the maximum amount of gas allowed to burn per contract."
    }
    assert await w.engine.query(HEAD, "call", account_id="no.near", method="x", args=b"", height=1, timestamp=1) is None
    assert await w.engine.query(HEAD, "state", account_id="bob.near") == {}


async def test_code_that_is_none_is_deployed_and_cannot_be_called(world: World) -> None:
    w = await world(PEOPLE).open()
    await w.settle(w.sign("bob.near", "bob.near", DeployContract(b"not wasm")))
    called = w.sign("alice.near", "bob.near", call("x"))
    await w.settle(called)
    kind = w.fate(called)[1].error["ActionError"]["kind"]
    assert kind == {"FunctionCallError": {"CompilationError": {"PrepareError": "Deserialization"}}}


async def test_one_receipt_deploys_and_initialises(world: World) -> None:
    w = await world(PEOPLE).open()
    signed = w.sign(
        "alice.near",
        "app.alice.near",
        CreateAccount(),
        Transfer(10 * NEAR),
        DeployContract(wasm(BOOK)),
        call("set", b"init"),
    )
    await w.settle(signed)
    assert await w.engine.query(HEAD, "state", account_id="app.alice.near") == {b"entry": b"init"}
    assert await w.engine.query(HEAD, "code", account_id="app.alice.near") == wasm(BOOK)


def test_memory_is_imported_with_the_protocols_bounds_and_sections_survive() -> None:
    code = prepare(wasm(BOOK), Limits()).code
    module = wasmtime.Module(wasmtime.Engine(), code)
    (memory,) = [item.type for item in module.imports if isinstance(item.type, wasmtime.MemoryType)]
    assert (memory.limits.min, memory.limits.max) == (1024, 2048)
    assert prepare(code, Limits()).code == code
    assert {item.name for item in module.exports} >= {"memory", "set", "get"}
    for bad in (b"", b"\0asm", code[:-1], b"\0asm\x01\0\0\0\x02\xff"):
        with pytest.raises(NotWasm):
            prepare(bad, Limits())


SMALL = '(func (export "set"))'


async def test_code_that_would_take_the_compiler_long_is_none(world: World) -> None:
    """Of a shape that NEAR refuses too, by its names; a table grows no further than it may begin."""
    many = "(func (local" + " i64" * 40_000 + "))"
    shapes = [
        (SMALL + "(func)" * 10_000, "TooManyFunctions"),
        (SMALL + many * 26, "TooManyLocals"),
        (SMALL + "(table 10001 funcref)", "TooManyTableElements"),
        (SMALL + "(table 1 funcref) (table 1 funcref)", "TooManyTables"),
    ]
    w = await world(PEOPLE).open()
    for fields, name in shapes:
        signed = w.sign("bob.near", "bob.near", DeployContract(wasm(f"(module {fields})")), call("set"))
        await w.settle(signed)
        error = w.fate(signed)[1].error["ActionError"]
        assert error["kind"] == {"FunctionCallError": {"CompilationError": {"PrepareError": name}}}
    grows = """(module (table 1 funcref) (func (export "set")
      (if (i32.ne (table.grow (ref.null func) (i32.const 9999)) (i32.const 1)) (then unreachable))
      (if (i32.ne (table.grow (ref.null func) (i32.const 100000000)) (i32.const -1)) (then unreachable))))"""
    signed = w.sign("bob.near", "bob.near", DeployContract(wasm(grows)), call("set"))
    await w.settle(signed)
    assert w.fate(signed)[1].error is None


async def test_codes_that_take_long_to_make_ready_are_spread_over_chunks(world: World, monkeypatch: Any) -> None:
    """However little gas their calls burn; what is called again in a chunk counts once."""
    monkeypatch.setattr(machine, "FUNCTION_WORK", 6 * 10**14)
    w = await world(PEOPLE).open()
    codes = {name: wasm(f'(module {SMALL} (data "{name}") (memory 1))') for name in PEOPLE}
    await w.settle(*[w.sign(name, name, DeployContract(code)) for name, code in codes.items()])
    sent = [w.sign(name, name, call("set")) for name in codes for _ in range(2)]
    ran = []
    await w.block(*sent, witness=True)
    for _ in range(4):
        ran.append(sum(one.receipt_ids[0] in w.outcomes for one in map(w.outcomes.__getitem__, [one.id for one in sent])))
        await w.block(witness=True)
    assert ran == [3, 5, 6, 6], "a second code is more than a chunk has time for"
    assert all(w.fate(one)[1].error is None for one in sent)


METHODS = ["set", "get", "forget", "set_and_fail", "caller", "ask", "got", "pay", "spin", "curve", "nothing", "outside"]


@given(seed=st.integers(0, 2**32), sharded=st.booleans())
@settings(max_examples=8)
async def test_calls_at_random_conserve_the_supply_and_are_proven_by_their_witness(
    world: World, budget: int, seed: int, sharded: bool
) -> None:
    random_ = random.Random(seed)
    w = await deployed(world, *PEOPLE, boundaries=["bob.near", "carol.near"] if sharded else ())
    before = await w.supply()
    for _ in range(4 * budget):
        w.gas_price = random_.choice([PRICE, 3 * PRICE])
        batch = []
        for _ in range(random_.randrange(1, 6)):
            signer = random_.choice(list(PEOPLE))
            calls = [
                call(random_.choice(METHODS), bytes(3), random_.choice([1, 2 * TERA, 60 * TERA]), random_.choice([0, NEAR]))
                for _ in range(random_.choice([1, 1, 2]))
            ]
            batch.append(w.sign(signer, random_.choice(list(PEOPLE)), *calls))
        await w.block(*batch, witness=True)
        assert await w.supply() == before
    await w.settle()
    assert await w.supply() == before
