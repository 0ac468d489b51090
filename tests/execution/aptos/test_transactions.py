"""What transactions do: prologue codes, functions and their aborts, gas, supply, views, third-party functions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright.interfaces.execution import HEAD, Invalid, Outcome
from nodewright_aptos import bcs, gas
from nodewright_aptos.addresses import APT_METADATA, ED25519, ONE, authentication_key, special
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.executors import declared_keys
from nodewright_aptos.functions import Call, Recorder, TransactionFunction, ViewFunction
from nodewright_aptos.ledger import Event
from nodewright_aptos.prologue import PROLOGUE_CODES, STATUS_CODES, check_prologue
from nodewright_aptos.queries import ViewFailed
from nodewright_aptos.resources import ACCOUNT, SUPPLY_KEY, account_key, sequence_number
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.state import DISCARDED, KEPT, RETRY, BlockEnvironment
from nodewright_aptos.statekeys import resource_key
from nodewright_aptos.transactions import (
    EntryFunction,
    Multisig,
    RawTransaction,
    Script,
    UserTransaction,
    decode_transaction,
    function_key,
    signed_transaction,
    signing_message,
)
from nodewright_aptos.typetags import APT as APT_TYPE
from nodewright_aptos.typetags import StructTag, parse_struct

APT = 10**8
TIME = 1_700_000_000
PEOPLE = {"alice": 10 * APT, "bob": 10 * APT, "root": APT}
World = Callable[..., Any]
BLOCK = BlockEnvironment(1, (TIME + 1) * 1_000_000, 1, 4)


def key_of(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def address_of(name: str) -> bytes:
    return authentication_key(bytes(key_of(name).verify_key), ED25519)


# --- the prologue --------------------

PROBLEMS = [
    (1001, {"key": "bob"}, DISCARDED),
    (1002, {"sequence_number": 0}, DISCARDED),
    (1003, {"sequence_number": 3}, RETRY),
    (1005, {"max_gas": 2_000_000, "gas_price": 1000}, DISCARDED),
    (1006, {"expires_at": TIME + 2}, DISCARDED),
    (1007, {"chain_id": 1}, DISCARDED),
    (1008, {"sequence_number": 1 << 63}, DISCARDED),
]


@pytest.mark.parametrize(("code", "changes", "kind"), PROBLEMS)
async def test_the_prologue_refuses_with_its_code(world: World, code: int, changes: dict[str, Any], kind: int) -> None:
    w = await world(PEOPLE).open()
    await w.block(w.pay("alice", "bob", 1))
    state = dict(w.disk.live["aptos_state"].rows)
    bad = w.pay("alice", "bob", 2, **changes)
    problem = check_prologue(state.get, bad, BlockEnvironment(2, (TIME + 2) * 1_000_000, 1, 4))
    assert problem is not None and (problem.prologue, problem.status) == (code, PROLOGUE_CODES[code])
    assert problem.status in STATUS_CODES
    strict = await w.engine.execute(w.request([bad], name="strict", policy="reject_block"))
    assert isinstance(strict, Invalid) and (strict.code, strict.transaction) == (problem.status, bad.id)
    outcome = await w.block(bad)
    if kind == DISCARDED:
        assert outcome.discarded[bad.id] == (problem.status, problem.message) and not outcome.retry
    else:
        assert list(outcome.retry) == [bad.id] and not outcome.discarded
    assert await w.engine.query(HEAD, "transaction", hash=bad.id) is None
    assert (await w.balance("bob")) == 10 * APT + 1 and outcome.gas_used == 0


async def test_no_account_is_1004_and_exactly_the_fee_is_enough(world: World) -> None:
    w = await world({**PEOPLE, "poor": 1_000_000}).open()
    nobody = w.pay("nobody", "bob", 1)
    assert (await w.block(nobody)).discarded[nobody.id][0] == "SENDING_ACCOUNT_DOES_NOT_EXIST"
    exact, over = w.pay("poor", "bob", 0, max_gas=10_000), w.pay("poor", "bob", 0, max_gas=10_000)
    outcome = await w.block(exact, over)
    assert list(outcome.discarded) == [over.id], "the second may cost more than the first left"
    assert outcome.discarded[over.id][0] == "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE"
    assert await w.fate(exact) == "Executed successfully"


async def test_what_is_no_function_here_is_discarded(world: World) -> None:
    w = await world(PEOPLE).open()

    def signed(payload: Any, **changes: Any) -> UserTransaction:
        values = {"max_gas": 10_000, "gas_price": 100, **changes}
        raw = RawTransaction(address_of("alice"), 0, payload, expires_at=TIME + 99, chain_id=4, **values)
        signature = key_of("alice").sign(signing_message(raw.encode())).signature
        own = ed25519_authenticator(bytes(key_of("alice").verify_key), signature)
        return decode_transaction(signed_transaction(raw, own))

    call = EntryFunction.of(ONE, "aptos_account", "transfer", (), (address_of("bob"), bcs.u64(1)))
    cases = [
        (signed(EntryFunction.of(ONE, "nothing", "here")), "UNKNOWN_MODULE"),
        (signed(Script(bcs.blob(b"code") + b"\0\0")), "UNKNOWN_SCRIPT"),
        (signed(Multisig(address_of("bob"), None)), "UNKNOWN_SCRIPT"),
        (signed(call, max_gas=2_000_001), "MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND"),
        (signed(call, max_gas=2), "MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS"),
        (signed(call, gas_price=99), "GAS_UNIT_PRICE_BELOW_MIN_BOUND"),
        (signed(call, gas_price=10**10 + 1), "GAS_UNIT_PRICE_ABOVE_MAX_BOUND"),
    ]
    outcome = await w.block(*[one for one, _ in cases])
    assert {id: code for id, (code, _) in outcome.discarded.items()} == {one.id: code for one, code in cases}
    forged = evolve(w.pay("alice", "bob", 1), raw=b"")
    good = w.pay("bob", "alice", 1)
    forged = decode_transaction(good.raw[:-1] + bytes([good.raw[-1] ^ 1]))
    outcome = await w.block(forged)
    assert outcome.discarded[forged.id][0] == "INVALID_SIGNATURE"


# --- functions --------------------


def u64s(*numbers: int) -> bytes:
    return bcs.vector(map(bcs.u64, numbers))


def places(*names: str) -> bytes:
    return bcs.vector(map(address_of, names))


ABORTS: list[tuple[str, tuple[bytes, ...], tuple[Any, ...], str]] = [
    ("aptos_account::transfer", (address_of("bob"), bcs.u64(10**12)), (), "EINSUFFICIENT_BALANCE(0x10006)"),
    ("coin::transfer", (address_of("new"), bcs.u64(1)), (APT_TYPE,), "ECOIN_STORE_NOT_PUBLISHED(0x60005)"),
    ("aptos_account::create_account", (address_of("bob"),), (), "EACCOUNT_ALREADY_EXISTS(0x80001)"),
    ("aptos_account::create_account", (special(1),), (), "ECANNOT_RESERVED_ADDRESS(0x10005)"),
    ("aptos_account::batch_transfer", (places("bob"), u64s(1, 2)), (), "EMISMATCHING_RECIPIENTS_AND_AMOUNTS_LENGTH"),
    ("aptos_account::transfer_coins", (address_of("bob"), bcs.u64(1)), (parse_struct("0x9::no::Coin"),), "ECOIN_INFO_NOT"),
    ("primary_fungible_store::transfer", (special(9), address_of("bob"), bcs.u64(1)), (ACCOUNT,), "EOBJECT_DOES_NOT_EXIST"),
    ("aptos_coin::mint", (address_of("bob"), bcs.u64(1)), (), "ENO_CAPABILITIES(0x60001)"),
    ("account::rotate_authentication_key_call", (bcs.blob(b"short"),), (), "EMALFORMED_AUTHENTICATION_KEY"),
    ("aptos_account::transfer", (address_of("bob"),), (), "NUMBER_OF_ARGUMENTS_MISMATCH"),
    ("aptos_account::transfer", (b"short", bcs.u64(1)), (), "FAILED_TO_DESERIALIZE_ARGUMENT"),
    ("coin::transfer", (address_of("bob"), bcs.u64(1)), (), "NUMBER_OF_TYPE_ARGUMENTS_MISMATCH"),
    ("coin::transfer", (address_of("bob"), bcs.u64(1)), ("u8",), "TYPE_MISMATCH"),
]


@pytest.mark.parametrize(("function", "arguments", "types", "told"), ABORTS)
async def test_an_abort_costs_gas_and_the_sequence_number_and_nothing_else(
    world: World, function: str, arguments: tuple[bytes, ...], types: tuple[Any, ...], told: str
) -> None:
    w = await world(PEOPLE).open()
    failing = w.call("alice", function, *arguments, types=types)
    outcome = await w.block(failing)
    assert not outcome.discarded and told in await w.fate(failing)
    assert await w.balance("alice") == 10 * APT - outcome.fees < 10 * APT
    assert await w.balance("bob") == 10 * APT
    assert (await w.engine.query(HEAD, "account", address=address_of("alice"))).sequence_number == 1
    row = await w.engine.query(HEAD, "transaction", hash=failing.id)
    assert [event.address for event in row.event_list()] == [None], "the fee statement alone"
    supply, coins = w.supply()
    assert supply == coins


async def test_every_way_to_move_coins(world: World) -> None:
    w = await world(PEOPLE).open()
    new = [hashlib.sha3_256(bytes([at])).digest() for at in range(6)]
    calls = [
        w.call("alice", "aptos_account::create_account", new[0]),
        w.call("alice", "coin::transfer", new[0], bcs.u64(1), types=[APT_TYPE]),
        w.call("alice", "aptos_account::transfer_coins", new[1], bcs.u64(2), types=[APT_TYPE]),
        w.call("alice", "aptos_account::batch_transfer", bcs.vector(new[2:4]), u64s(3, 4)),
        w.call("alice", "aptos_account::batch_transfer_coins", bcs.vector(new[2:4]), u64s(10, 10), types=[APT_TYPE]),
        w.call("alice", "primary_fungible_store::transfer", APT_METADATA, new[4], bcs.u64(5), types=[ACCOUNT]),
        w.call("alice", "aptos_account::fungible_transfer_only", new[5], bcs.u64(6)),
        w.call("root", "aptos_coin::mint", new[0], bcs.u64(100)),
        w.pay("alice", "alice", 7),
        w.pay("alice", new[0], 0),
    ]
    outcome = await w.block(*calls)
    assert {await w.fate(one) for one in calls} == {"Executed successfully"}
    assert [await w.balance(one) for one in new] == [101, 2, 13, 14, 5, 6]
    supply, coins = w.supply()
    assert supply == coins == 21 * APT + 100 - outcome.fees
    mint = await w.engine.query(HEAD, "transaction", hash=calls[7].id)
    assert [event.sequence_number for event in mint.event_list()[:1]] == [1], "the store's second deposit"


async def test_events_are_counted_by_handle_and_found(world: World) -> None:
    w = await world(PEOPLE).open()
    payments = [w.pay("alice", "bob", amount) for amount in (3, 4, 5)]
    await w.block(payments[0], payments[1])
    await w.block(payments[2])
    found = await w.engine.query(HEAD, "events", address=address_of("bob"), creation_number=2, start=1)
    assert [(row.hash, event.sequence_number, event.data) for row, _, event in found] == [
        (payments[1].id, 1, bcs.u64(4)),
        (payments[2].id, 2, bcs.u64(5)),
    ]
    sent = await w.engine.query(HEAD, "events", address=address_of("alice"), creation_number=3)
    assert [event.data for _, _, event in sent] == [bcs.u64(3), bcs.u64(4), bcs.u64(5)]
    blocks = await w.engine.query(HEAD, "events", address=ONE, creation_number=3)
    assert [row.height for row, _, _ in blocks] == [1, 2]


async def test_gas_follows_the_schedule_and_may_run_out(world: World) -> None:
    w = await world(PEOPLE).open()
    plain, creating = w.pay("alice", "bob", 1), w.pay("alice", "new", 1)
    base = gas.intrinsic(len(plain.raw)) + 3
    short = w.pay("alice", "newer", 1, max_gas=base + 800)
    await w.block(plain, creating, short)
    rows = [await w.engine.query(HEAD, "transaction", hash=one.id) for one in (plain, creating, short)]
    used = [row.transaction_info().gas_used for row in rows]
    assert used == [base + 3 * gas.WRITE, base + 4 * gas.WRITE + 2 * gas.STORAGE, base + 800]
    assert await w.fate(short) == "Out of gas" and await w.balance("newer") == 0
    statement = rows[1].event_list()[-1]
    assert [int.from_bytes(statement.data[at : at + 8], "little") for at in range(0, 40, 8)] == [
        used[1],
        base,
        4,
        800 * 100,
        0,
    ]


async def test_who_sends_all_cannot_pay_the_gas(world: World) -> None:
    w = await world({"alice": 2_000_000}).open()
    everything = w.pay("alice", "bob", 2_000_000, max_gas=1000)
    outcome = await w.block(everything)
    assert "EOUT_OF_GAS" in await w.fate(everything)
    assert await w.balance("alice") == 2_000_000 - outcome.fees


async def test_a_fee_payer_pays_and_a_rotated_key_signs(world: World) -> None:
    w = await world({**PEOPLE, "poor": 0}).open()
    payload = EntryFunction.of(ONE, "aptos_account", "transfer", (), (address_of("bob"), bcs.u64(0)))
    raw = RawTransaction(address_of("poor"), 0, payload, 10_000, 100, TIME + 99, 4)
    message = signing_message(raw.encode(), (), address_of("alice"))
    signers = [
        ed25519_authenticator(bytes(key_of(name).verify_key), key_of(name).sign(message).signature)
        for name in ("poor", "alice")
    ]
    paid = decode_transaction(
        signed_transaction(raw, signers[0], fee_payer=address_of("alice"), fee_payer_signer=signers[1])
    )
    rotation = w.call("bob", "account::rotate_authentication_key_call", bcs.blob(address_of("bob's new key")))
    outcome = await w.block(paid, rotation)
    assert await w.fate(paid) == await w.fate(rotation) == "Executed successfully"
    assert await w.balance("poor") == 0 and await w.balance("alice") + await w.balance("bob") == 20 * APT - outcome.fees
    old, new = w.pay("bob", "alice", 1), w.pay("bob", "alice", 1, key="bob's new key", sequence_number=1)
    outcome = await w.block(old, new)
    assert outcome.discarded[old.id][0] == "INVALID_AUTH_KEY" and await w.fate(new) == "Executed successfully"


# --- declared accesses and the supply --------------------


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
async def test_random_blocks_keep_the_supply_and_stay_within_what_they_declare(world: World, seed: int) -> None:
    picks = random.Random(seed)
    names = ["alice", "bob", "root", "new", "newer"]
    w = await world(PEOPLE).open()
    for _ in range(2):
        made: list[UserTransaction] = []
        for _ in range(10):
            sender, other, amount = picks.choice(names[:3]), address_of(picks.choice(names)), picks.choice([0, 5, 11 * APT])
            function = picks.choice(
                ["transfer", "transfer_coins", "batch_transfer", "create_account", "coin", "mint", "asset"]
            )
            both = (other, bcs.u64(amount))
            match function:
                case "transfer_coins":
                    made.append(w.call(sender, "aptos_account::transfer_coins", *both, types=[APT_TYPE]))
                case "batch_transfer":
                    made.append(w.call(sender, "aptos_account::batch_transfer", bcs.vector([other] * 2), u64s(amount, 1)))
                case "create_account":
                    made.append(w.call(sender, "aptos_account::create_account", other))
                case "coin":
                    made.append(w.call(sender, "coin::transfer", *both, types=[APT_TYPE]))
                case "mint":
                    made.append(w.call(sender, "aptos_coin::mint", *both))
                case "asset":
                    made.append(w.call(sender, "primary_fungible_store::transfer", APT_METADATA, *both, types=[ACCOUNT]))
                case _:
                    made.append(w.call(sender, "aptos_account::transfer", *both))
        state: dict[bytes, bytes | None] = dict(w.disk.live["aptos_state"].rows)
        assert len(declared_keys(w.functions, made)) > 3
        for one in made:
            recorder = Recorder(state.get)
            output = run_transaction(recorder, one, evolve(BLOCK, height=w.head.height + 1), w.functions)
            accesses = w.functions.accesses(one)
            assert accesses is not None and output.kind == KEPT
            assert set(recorder.reads) <= set(accesses.reads) and set(output.writes) <= set(accesses.writes)
            assert set(output.deltas) <= set(accesses.aggregators) == {SUPPLY_KEY}
            state.update(output.writes)
        outcome = await w.block(*made)
        assert isinstance(outcome, Outcome) and not outcome.discarded
        supply, coins = w.supply()
        assert supply == coins


# --- third-party functions and views --------------------

COUNTER = StructTag(special(0xC0), "counter", "Counter")


def count(call: Call) -> None:
    """Reads a key, then the one that its value names: what it touches is known only when it runs."""
    (name,) = call.arguments
    key = resource_key(name, COUNTER)
    value = int.from_bytes(call.view.get(key) or b"", "little")
    call.view.charge(value)
    if value >= 3:
        raise call.abort(0x30001, "EFULL", "It is full")
    other = resource_key(special(value), COUNTER)
    call.view.set(other, call.view.get(other) or b"\1")
    call.view.set(key, bcs.u64(value + 1))


async def test_a_third_partys_function_with_recorded_accesses(world: World) -> None:
    w = world(PEOPLE)
    key = function_key(special(0xC0), "counter", "count")
    w.functions.add(TransactionFunction(special(0xC0), "counter", "count", ("&signer", "address"), count, gas=7))
    w.functions.add_views(
        ViewFunction(
            special(0xC0),
            "counter",
            "get",
            ("address",),
            ("u64",),
            lambda call: (int.from_bytes(call.read(resource_key(call.arguments[0], COUNTER)) or b"", "little"),),
        )
    )
    with pytest.raises(ValueError, match="registered twice"):
        w.functions.add(TransactionFunction(special(0xC0), "counter", "count", (), count))
    await w.open()
    assert key in w.functions.entries
    calls = []
    for number in range(5):
        payload = EntryFunction(key, (), (special(99),))
        raw = RawTransaction(address_of("alice"), number, payload, 10_000, 100, TIME + 99, 4)
        signature = key_of("alice").sign(signing_message(raw.encode())).signature
        own = ed25519_authenticator(bytes(key_of("alice").verify_key), signature)
        calls.append(decode_transaction(signed_transaction(raw, own)))
    assert w.functions.accesses(calls[0]) is None
    await w.block(*calls)
    assert [await w.fate(one) for one in calls[:3]] == ["Executed successfully"] * 3
    assert await w.fate(calls[3]) == await w.fate(calls[4]) == "Move abort in 0xc0::counter: EFULL(0x30001): It is full"
    assert await w.engine.query(HEAD, "view", function="0xc0::counter::get", arguments=["0x63"]) == ["3"]
    assert await w.engine.query(HEAD, "view", function="0xc0::counter::get", arguments=["0x2"]) == ["1"]


@pytest.mark.parametrize("what", ["value", "values", "key", "events", "state"])
async def test_a_function_that_writes_too_much_fails_alone(world: World, what: str) -> None:
    w = world(PEOPLE)

    def write(call: Call) -> None:
        place = resource_key(special(99), COUNTER)
        match what:
            case "value":
                call.view.set(place, bytes(5 << 20))
            case "values":
                for at in range(5):
                    call.view.set(resource_key(special(at), COUNTER), bytes(1 << 20))
            case "key":
                call.view.set(place + bytes(500), b"")
            case "events":
                call.view.emit(Event(b"\1", bytes(5 << 20)))
            case _:
                call.view.set(b"\7 no state key", b"")

    w.functions.add(TransactionFunction(ONE, "greedy", "write", ("&signer",), write))
    await w.open()
    greedy, modest = w.call("alice", "greedy::write"), w.pay("alice", "bob", 1)
    await w.block(greedy, modest)
    assert await w.fate(greedy) == "STORAGE_WRITE_LIMIT_REACHED" and await w.fate(modest) == "Executed successfully"


async def test_views_and_their_errors(world: World) -> None:
    w = await world(PEOPLE).open()
    outcome = await w.block(w.pay("alice", "bob", 5))

    async def view(function: str, *arguments: Any, types: tuple[str, ...] = ()) -> Any:
        return await w.engine.query(HEAD, "view", function=function, arguments=list(arguments), type_arguments=types)

    alice, coin = "0x" + address_of("alice").hex(), ("0x1::aptos_coin::AptosCoin",)
    held = str(10 * APT - 5 - outcome.fees)
    assert await view("0x1::coin::balance", alice, types=coin) == [held]
    assert await view("0x1::primary_fungible_store::balance", alice, "0xa", types=("0x1::object::ObjectCore",)) == [held]
    assert await view("0x1::account::exists_at", alice) == [True]
    assert await view("0x1::account::exists_at", "0x1234") == [False]
    assert await view("0x1::account::get_sequence_number", alice) == ["1"]
    assert await view("0x1::coin::supply", types=coin) == [{"vec": [str(21 * APT - outcome.fees)]}]
    assert await view("0x1::coin::decimals", types=coin) == [8]
    assert await view("0x1::coin::name", types=coin) == ["Aptos Coin"]
    assert await view("0x1::chain_id::get") == [4]
    assert await view("0x1::block::get_current_block_height") == ["1"]
    payload = EntryFunction.of(ONE, "coin", "balance", (APT_TYPE,), (address_of("alice"),)).encode()
    assert await w.engine.query(HEAD, "view", payload=payload) == [held]
    for function, arguments, types in (
        ("0x1::no::view", (), ()),
        ("0x1::coin::balance", (), coin),
        ("0x1::account::get_sequence_number", ("0x1234",), ()),
        ("0x1::coin::name", (), ("0x1::no::Coin",)),
    ):
        with pytest.raises(ViewFailed):
            await view(function, *arguments, types=types)


async def test_simulation_says_what_would_happen_and_changes_nothing(world: World) -> None:
    w = await world(PEOPLE).open()
    wanted = w.pay("alice", "new", 5)
    blank = wanted.raw[:-64] + bytes(64)
    simulated = await w.engine.query(HEAD, "simulate", raw=blank)
    state = dict(w.disk.live["aptos_state"].rows)
    assert sequence_number(state[account_key(address_of("alice"))]) == 0
    outcome = await w.block(wanted)
    row = await w.engine.query(HEAD, "transaction", hash=wanted.id)
    assert simulated.row.transaction_info().gas_used == row.transaction_info().gas_used == outcome.gas_used
    assert simulated.row.change_list() == row.change_list()
    again = await w.engine.query(HEAD, "simulate", raw=blank)
    assert again.row is None and again.problem.status == "SEQUENCE_NUMBER_TOO_OLD"


async def test_the_clock_always_rises_and_epochs_are_told(world: World) -> None:
    w = await world(PEOPLE).open()
    times = []
    for time, epoch in ((TIME, 1), (TIME - 50, 1), (TIME, 2), (TIME + 9, 2)):
        outcome = await w.block(w.pay("alice", "bob", 1), time=time, epoch=epoch)
        times.append(outcome.detail["timestamp"])
    assert times == [TIME * 10**6, TIME * 10**6 + 1, TIME * 10**6 + 2, (TIME + 9) * 10**6]
    epochs = await w.engine.query(HEAD, "events", address=ONE, creation_number=2)
    assert [event.data for _, _, event in epochs] == [bcs.u64(1), bcs.u64(2)]


async def test_a_changed_validator_set_reaches_consensus(world: World) -> None:
    w = await world(PEOPLE).open()
    key = b"k" * 48
    good = w.call("root", "validators::update", bcs.blob(key), bcs.u64(3))
    bad = w.call("alice", "validators::update", bcs.blob(b"mine"), bcs.u64(9))
    outcome = await w.block(good, bad)
    assert outcome.updates is not None and outcome.updates.epoch_end
    assert outcome.updates.validators == {key: 3}
    assert "ENOT_AUTHORIZED" in await w.fate(bad)
    assert (await w.block(w.pay("alice", "bob", 1))).updates is None
    gone = await w.block(w.call("root", "validators::update", bcs.blob(key), bcs.u64(0)))
    assert gone.updates is not None and gone.updates.validators == {key: 0}
