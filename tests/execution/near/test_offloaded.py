"""Contracts beside the node's loop: it goes on while they run, and what they come to is the same as inline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import wasmtime

from nodewright.errors import NodewrightError
from nodewright.interfaces.execution import HEAD
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright_near.contracts.beside import ViewsBusy
from nodewright_near.contracts.calls import Call, CallOutcome
from nodewright_near.outcomes import SuccessValue
from nodewright_near.queries import Passed
from nodewright_near.state import State
from nodewright_near.transactions import DeployContract, FunctionCall

NEAR = 10**24
TERA = 10**12
PEOPLE = {name: 1000 * NEAR for name in ("alice.near", "bob.near", "carol.near")}
World = Callable[..., Any]

# ``fill`` writes 200 entries, each of which holds the key of the next one; ``follow`` goes along them all.
BUSY = r"""
(module
  (import "env" "storage_write" (func $write (param i64 i64 i64 i64 i64) (result i64)))
  (import "env" "storage_read" (func $read (param i64 i64 i64) (result i64)))
  (import "env" "storage_remove" (func $remove (param i64 i64 i64) (result i64)))
  (import "env" "read_register" (func $register (param i64 i64)))
  (import "env" "value_return" (func $return (param i64 i64)))
  (import "env" "block_index" (func $height (result i64)))
  (import "env" "panic_utf8" (func $panic (param i64 i64)))
  (memory 1)
  (data (i32.const 64) "one")
  (data (i32.const 80) "other")
  (func (export "fill") (local $i i64)
    (loop $more
      (i64.store (i32.const 0) (local.get $i))
      (local.set $i (i64.add (local.get $i) (i64.const 1)))
      (i64.store (i32.const 8) (local.get $i))
      (drop (call $write (i64.const 8) (i64.const 0) (i64.const 8) (i64.const 8) (i64.const 1)))
      (br_if $more (i64.lt_u (local.get $i) (i64.const 200)))))
  (func (export "cut")
    (i64.store (i32.const 0) (i64.const 7))
    (drop (call $remove (i64.const 8) (i64.const 0) (i64.const 1))))
  (func (export "follow")
    (i64.store (i32.const 0) (i64.const 0))
    (block $end
      (loop $more
        (br_if $end (i64.eqz (call $read (i64.const 8) (i64.const 0) (i64.const 1))))
        (call $register (i64.const 1) (i64.const 0))
        (br $more)))
    (call $return (i64.const 8) (i64.const 0)))
  (func (export "spin") (loop $on (br $on)))
  (func (export "ask") (loop $on (drop (call $height)) (br $on)))
  (func (export "some") (local $i i64)
    (loop $more
      (local.set $i (i64.add (call $height) (i64.sub (i64.add (local.get $i) (i64.const 1)) (call $height))))
      (br_if $more (i64.lt_u (local.get $i) (i64.const 35000)))))
  (func (export "one") (call $panic (i64.const 3) (i64.const 64)))
  (func (export "other") (call $panic (i64.const 5) (i64.const 80)))
  (func $deep (export "deep") (call $deep)))
"""
LAST = (200).to_bytes(8, "little")


def call(method: str, gas: int = 300 * TERA) -> FunctionCall:
    return FunctionCall(method, b"", gas, 0)


async def deployed(world: World, environment: Any = None, **table: Any) -> Any:
    w = await world(PEOPLE, (), **table).open(environment=environment)
    await w.settle(w.sign("bob.near", "bob.near", DeployContract(bytes(wasmtime.wat2wasm(BUSY)))))
    return w


def view(w: Any, method: str) -> Awaitable[CallOutcome]:
    named = {"account_id": "bob.near", "method": method, "args": b"", "height": 1, "timestamp": 1}
    answer: Awaitable[CallOutcome] = w.engine.query(HEAD, "call", **named)
    return answer


async def beside(work: Callable[[], Awaitable[Any]], other: Callable[[], Awaitable[Any]]) -> int:
    """How often ``other`` is done while ``work`` goes on."""
    count = 0
    ended = trio.Event()

    async def run() -> None:
        await work()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while not ended.is_set():
            await other()
            await trio.sleep(0.001)
            count += not ended.is_set()
    return count


async def test_the_loop_goes_on_while_a_view_or_a_chunk_spins(world: World) -> None:
    w = await deployed(world)
    ask = partial(w.engine.query, HEAD, "account", account_id="alice.near")
    assert await beside(partial(view, w, "spin"), ask) > 20
    signed = w.sign("alice.near", "bob.near", call("spin"))
    await w.block(signed)
    assert await beside(w.block, ask) > 20
    await w.settle()
    kind = w.fate(signed)[1].error["ActionError"]["kind"]
    assert kind == {"FunctionCallError": {"ExecutionError": "Exceeded the prepaid gas."}}


async def test_calls_side_by_side_each_end_with_their_own_reason(world: World) -> None:
    w = await deployed(world)
    wanted = {
        "one": "Smart contract panicked: one",
        "other": "Smart contract panicked: other",
        "spin": "Exceeded the maximum amount of gas allowed to burn per contract.",
        "deep": "WebAssembly trap: Stack overflow.",
    }
    told: list[tuple[str, Any]] = []

    async def one(method: str, count: int) -> None:
        for _ in range(count):
            told.append((method, (await view(w, method)).error))

    async with trio.open_nursery() as nursery:
        for method, count in (("one", 40), ("other", 40), ("deep", 40), ("spin", 1)):
            nursery.start_soon(one, method, count)
    assert len(told) == 121
    assert {(method, error["ExecutionError"]) for method, error in told} == set(wanted.items())


class Counting:
    """A machine that counts how often it begins a call."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.begun = 0

    def call(self, call: Call, state: State) -> CallOutcome:
        self.begun += 1
        outcome: CallOutcome = self.machine.call(call, state)
        return outcome


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
async def test_what_a_call_reads_is_loaded_under_it_and_comes_to_the_same_inline(
    world: World, tmp_path: Path, inline: bool
) -> None:
    """Begun again for each entry, a long call would cost its length two hundred times over."""
    w = await deployed(world, environment=SimulatedEnvironment() if inline else LocalEnvironment(tmp_path))
    machine = Counting(w.machine)
    object.__setattr__(w.rules, "machine", machine)
    await w.settle(w.sign("alice.near", "bob.near", call("fill")))
    machine.begun = 0
    assert (await view(w, "follow")).value == LAST
    views = machine.begun
    assert views == (1 if not inline else 202)
    signed = w.sign("alice.near", "bob.near", call("follow"))
    await w.block(signed)
    machine.begun = 0
    (request,) = w.requests([], witness=True)
    outcome = await w.engine.execute(request)
    assert machine.begun == views
    machine.begun = 0
    checked = await w.engine.verify_witness(request, outcome.witness)
    assert machine.begun == 1 and checked.commitment == outcome.commitment
    await w.accept(request.block, {0: outcome})
    await w.settle()
    assert w.fate(signed)[1].status == SuccessValue(LAST)
    assert w.fate(signed)[1].gas_burnt == 14_564_567_137_684


async def test_too_many_views_at_once_are_told_to_come_again(world: World) -> None:
    w = await deployed(world)
    told: list[Any] = []

    async def one(method: str) -> None:
        try:
            told.append((await view(w, method)).error)
        except ViewsBusy as error:
            told.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "spin")
        for _ in range(100):
            nursery.start_soon(one, "one")
    refused = [one for one in told if isinstance(one, ViewsBusy)]
    assert len(told) == 101 and 0 < len(refused) < 100
    assert all(one["ExecutionError"] for one in told if not isinstance(one, ViewsBusy))
    assert (await view(w, "one")).error == {"ExecutionError": "Smart contract panicked: one"}


async def test_a_view_reads_the_state_it_began_with_while_blocks_are_committed(world: World, tmp_path: Path) -> None:
    w = await deployed(world)
    await w.settle(w.sign("alice.near", "bob.near", call("fill")))
    begun, done = trio.Event(), trio.Event()
    reenter = w.engine.environment.reenter

    async def changed() -> None:
        await begun.wait()
        await w.block(w.sign("alice.near", "bob.near", call("cut")))
        await w.block()
        done.set()

    def slowly(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """The first thing that the view lacks is given to it when another block has been committed."""

        async def later() -> Any:
            if not begun.is_set():
                begun.set()
                await done.wait()
            return await function(*arguments)

        return reenter(later)

    answers: list[Any] = []
    for steady in (False, True):
        begun, done = trio.Event(), trio.Event()
        await w.settle(w.sign("alice.near", "bob.near", call("fill")))
        w.engine.shards[0].values.rows.clear()
        w.engine.environment.reenter = slowly
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed)
            named = {"account_id": "bob.near", "method": "follow", "args": b"", "height": 1, "timestamp": 1}
            try:
                answers.append((await w.engine.query(HEAD, "call", **named, steady=steady)).value)
            except Passed:
                answers.append(Passed)
        w.engine.environment.reenter = reenter
        assert (await view(w, "follow")).value == (7).to_bytes(8, "little")
    assert answers == [Passed, LAST]


async def test_a_chunk_takes_no_more_calls_once_the_host_has_worked_for_its_time(world: World) -> None:
    """By gas three of these would go into a chunk; they make the host work fifteen times as long as that."""
    w = await deployed(world, gas_limit=9 * TERA)
    before = await w.supply()
    sent = [w.sign("alice.near", "bob.near", call("ask", 3 * TERA)) for _ in range(4)]
    await w.block(*sent)
    for count in range(1, 5):
        await w.block(witness=True)
        assert sum(w.outcomes[tx.id].receipt_ids[0] in w.outcomes for tx in sent) == count
    await w.settle()
    assert await w.supply() == before


async def test_a_receipt_calls_its_host_so_often_and_no_more(world: World) -> None:
    """In one action, or in several that share it: more is nothing that a block can wait for."""
    w = await deployed(world)
    once, twice, on = (
        w.sign("alice.near", "bob.near", *[call(method, 100 * TERA)] * many)
        for method, many in (("some", 1), ("some", 2), ("ask", 1))
    )
    await w.settle(once, twice, on)
    assert w.fate(once)[1].status == SuccessValue(b"")
    for signed, index in ((twice, 1), (on, 0)):
        error = w.fate(signed)[1].error["ActionError"]
        reason = error["kind"]["FunctionCallError"]["ExecutionError"]
        assert error["index"] == index
        assert reason == "Exceeded the 120000 calls of host functions that this network allows a receipt."


class Hasty(LocalEnvironment):
    """Each look at the clock finds it a second later."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


async def test_a_view_has_its_time(world: World, tmp_path: Path) -> None:
    """Gas bounds instructions well, and what the host does for a contract less well."""
    w = await deployed(world, environment=Hasty(tmp_path))
    with pytest.raises(NodewrightError, match="took longer than"):
        await view(w, "ask")
