"""Transactions and what comes of them: gas and balances to the yocto, errors by name, and nothing made or lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces.execution import HEAD
from nodewright_near.accounts import FULL_ACCESS, AccessKey, FunctionCallPermission
from nodewright_near.borsh import encode
from nodewright_near.chunks import Locked
from nodewright_near.merkle import climb
from nodewright_near.outcomes import Failure, SuccessReceiptId, SuccessValue
from nodewright_near.transactions import (
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
    Transfer,
)

NEAR = 10**24
PRICE = 10**8
TRANSFER_GAS = 223_182_562_500
NONCE = 1_000_000
PEOPLE = {name: 100 * NEAR for name in ("alice.near", "bob.near", "carol.near", "dave.near")}
World = Callable[..., Any]


def public(name: str) -> bytes:
    from hashlib import sha256

    from nacl.signing import SigningKey

    return b"\0" + SigningKey(sha256(name.encode()).digest()).verify_key.encode()


def error(outcome: Any) -> Any:
    assert outcome.status == Failure()
    return outcome.error["ActionError"]


async def test_a_transfer_burns_its_gas_twice_and_moves_balances_exactly(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    sent = w.sign("alice.near", "bob.near", Transfer(NEAR))
    await w.settle(sent)
    first, second = w.fate(sent)
    assert (first.gas_burnt, second.gas_burnt) == (TRANSFER_GAS, TRANSFER_GAS)
    assert first.tokens_burnt == second.tokens_burnt == TRANSFER_GAS * PRICE
    assert first.status == SuccessReceiptId(second.id) and second.status == SuccessValue(b"")
    assert await w.amount("alice.near") == 99 * NEAR - 2 * TRANSFER_GAS * PRICE
    assert await w.amount("bob.near") == 101 * NEAR
    assert w.burnt == 2 * TRANSFER_GAS * PRICE and await w.supply() == before
    key = await w.engine.query(HEAD, "access_key", account_id="alice.near", public_key=public("alice.near"))
    assert key == AccessKey(1)
    stored = await w.engine.query(HEAD, "outcome", id=second.id)
    assert stored.outcome(second.id) == second
    root, path = await w.engine.query(HEAD, "outcome_path", stored=stored)
    assert climb(second.leaf(), path) == root == (await w.engine.query(HEAD, "extra", shard=0)).outcome_root
    assert (await w.engine.query(HEAD, "receipt", id=second.id)).receiver_id == "bob.near"


async def test_a_receipt_to_oneself_runs_in_its_own_chunk_and_others_in_the_next(world: World) -> None:
    w = await world(PEOPLE).open()
    own, other = w.sign("alice.near", "alice.near", Transfer(1)), w.sign("bob.near", "alice.near", Transfer(1))
    await w.block(own, other)
    assert len(w.fate(own)) == 2
    assert other.id in w.outcomes and w.outcomes[other.id].receipt_ids[0] not in w.outcomes
    await w.block()
    assert len(w.fate(other)) == 2


# --- checks of transactions, in order ---------------------------------------------------------------------------------


async def test_the_first_rule_that_is_broken_is_the_one_that_is_named(world: World) -> None:
    """Each transaction breaks one rule and all the later ones that it can."""
    limited = FunctionCallPermission(10**21, "bob.near", ("ping",))
    w = await world({**PEOPLE, "poor.near": 10**19}).open()
    await w.settle(
        w.sign("alice.near", "alice.near", AddKey(public("limited"), AccessKey(0, limited))),
        w.sign("alice.near", "alice.near", AddKey(public("broke"), AccessKey(0, evolve(limited, allowance=1)))),
    )
    nonce = 1000 * NONCE + 5
    call = FunctionCall("ping", b"", 10**12, 0)
    too_much = Transfer(10**30)
    table: list[tuple[Any, Any]] = [
        (
            w.sign("nobody.near", "x.near", FunctionCall("", b"", 0, 0)),
            {"ActionsValidation": "FunctionCallZeroAttachedGas"},
        ),
        (
            w.sign("nobody.near", "x.near", DeleteAccount("aa"), Transfer(1)),
            {"ActionsValidation": "DeleteActionMustBeFinal"},
        ),
        (
            w.sign("nobody.near", "x.near", *[Transfer(1)] * 101),
            {"ActionsValidation": {"TotalNumberOfActionsExceeded": {"total_number_of_actions": 101, "limit": 100}}},
        ),
        (
            w.sign("nobody.near", "x.near", FunctionCall("m", b"", 10**15 + 1, 0)),
            {"ActionsValidation": {"TotalPrepaidGasExceeded": {"total_prepaid_gas": 10**15 + 1, "limit": 10**15}}},
        ),
        (w.sign("nobody.near", "x.near", too_much), {"SignerDoesNotExist": {"signer_id": "nobody.near"}}),
        (
            w.sign("alice.near", "x.near", too_much, key="stranger"),
            {"InvalidAccessKeyError": {"AccessKeyNotFound": {"account_id": "alice.near"}}},
        ),
        (w.sign("alice.near", "x.near", too_much, nonce=2), {"InvalidNonce": {"tx_nonce": 2, "ak_nonce": 2}}),
        (
            w.sign("alice.near", "x.near", too_much, nonce=2000 * NONCE),
            {"NonceTooLarge": {"tx_nonce": 2000 * NONCE}},
        ),
        (w.sign("alice.near", "x.near", too_much, nonce=nonce), {"NotEnoughBalance": {"signer_id": "alice.near"}}),
        (
            w.sign("alice.near", "x.near", Transfer(1), key="broke", nonce=nonce),
            {"InvalidAccessKeyError": {"NotEnoughAllowance": {"allowance": "1"}}},
        ),
        (
            w.sign("alice.near", "x.near", Transfer(1), key="limited", nonce=nonce),
            {"InvalidAccessKeyError": "RequiresFullAccess"},
        ),
        (
            w.sign("alice.near", "x.near", evolve(call, deposit=1), key="limited", nonce=nonce),
            {"InvalidAccessKeyError": "DepositWithFunctionCall"},
        ),
        (
            w.sign("alice.near", "x.near", evolve(call, method_name="other"), key="limited", nonce=nonce),
            {"InvalidAccessKeyError": {"ReceiverMismatch": {"tx_receiver": "x.near", "ak_receiver": "bob.near"}}},
        ),
        (
            w.sign("alice.near", "bob.near", evolve(call, method_name="other"), key="limited", nonce=nonce),
            {"InvalidAccessKeyError": {"MethodNameMismatch": {"method_name": "other"}}},
        ),
    ]

    def within(part: Any, whole: Any) -> bool:
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(name in whole and within(part[name], whole[name]) for name in part)
        return bool(part == whole)

    for signed, expected in table:
        (answer,) = await w.admit(signed)
        assert within(expected, answer.data["error"]), (answer, expected)
    outcome = (await w.block(*[signed for signed, _ in table]))[0]
    for signed, expected in table:
        assert within(expected, outcome.detail["refusals"][signed.id]), expected
        assert signed.id in outcome.discarded and signed.id not in w.outcomes
    assert not outcome.detail["outcomes"]


async def test_signatures_storage_stake_and_expiry(world: World) -> None:
    w = await world(PEOPLE).open()
    good = w.sign("alice.near", "bob.near", Transfer(1))
    forged = SignedTransaction.of(good.transaction, good.signature[:-1] + bytes([good.signature[-1] ^ 1]))
    (answer,) = await w.admit(forged)
    assert answer.data["error"] == "InvalidSignature" and answer.kind == "invalid"
    code = w.sign("bob.near", "bob.near", DeployContract(b"\0asm\x01\0\0\0" + b"\0" * 2000))
    await w.settle(code)
    amount = await w.amount("bob.near")
    most = w.sign("bob.near", "alice.near", Transfer(amount - 2 * TRANSFER_GAS * PRICE - 10**21))
    (answer,) = await w.admit(most)
    assert set(answer.data["error"]) == {"LackBalanceForState"}
    late = w.sign("carol.near", "bob.near", Transfer(1))
    result = (await w.block(forged, most, late, refused=(2,)))[0]
    assert result.detail["refusals"][forged.id] == "InvalidSignature"
    assert result.detail["refusals"][late.id] == "Expired" and len(result.discarded) == 3


# --- actions ----------------------------------------------------------------------------------------------------------


async def test_accounts_are_created_below_their_creator_and_deleted_with_all_they_had(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    key = AddKey(public("kid"), AccessKey(0))
    made = w.sign("alice.near", "kid.alice.near", CreateAccount(), Transfer(2 * NEAR), key)
    await w.settle(made)
    kid = await w.account("kid.alice.near")
    assert kid.amount == 2 * NEAR and kid.storage_usage == 100 + 33 + 9 + 40
    keys = await w.engine.query(HEAD, "access_keys", account_id="kid.alice.near")
    assert keys == {public("kid"): AccessKey((w.height - 1) * NONCE)}
    again, stolen, top, short = (
        w.sign("alice.near", "kid.alice.near", CreateAccount(), Transfer(1)),
        w.sign("alice.near", "kid.bob.near", CreateAccount()),
        w.sign("alice.near", "newroot", CreateAccount()),
        w.sign("alice.near", "ab" * 32, CreateAccount()),
    )
    await w.settle(again, stolen, top, short)
    kinds = [next(iter(error(w.fate(tx)[1])["kind"])) for tx in (again, stolen, top, short)]
    assert kinds == [
        "AccountAlreadyExists",
        "CreateAccountNotAllowed",
        "CreateAccountOnlyByRegistrar",
        "OnlyImplicitAccountCreationAllowed",
    ]
    gone = w.sign("kid.alice.near", "kid.alice.near", DeleteAccount("bob.near"), key="kid", nonce=w.height * NONCE)
    await w.settle(gone)
    assert await w.account("kid.alice.near") is None
    assert not await w.engine.query(HEAD, "access_keys", account_id="kid.alice.near")
    assert 101 * NEAR < await w.amount("bob.near") < 102 * NEAR
    assert await w.supply() == before


async def test_an_implicit_account_comes_to_be_by_a_transfer_and_is_spent_by_its_key(world: World) -> None:
    w = await world(PEOPLE).open()
    name = public("hex")[1:].hex()
    await w.settle(w.sign("alice.near", name, Transfer(NEAR)))
    assert await w.amount(name) == NEAR
    back = w.sign(name, "bob.near", Transfer(NEAR // 2), key="hex", nonce=(w.height - 1) * NONCE + 1)
    await w.settle(back)
    assert await w.amount("bob.near") == 100 * NEAR + NEAR // 2


async def test_a_failed_receipt_undoes_everything_and_sends_back_deposit_and_gas(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    sent = w.sign("alice.near", "nobody.near", Transfer(NEAR))
    await w.settle(sent)
    _, failed, refund = w.fate(sent)
    assert error(failed) == {"index": 0, "kind": {"AccountDoesNotExist": {"account_id": "nobody.near"}}}
    assert failed.gas_burnt == TRANSFER_GAS and refund.tokens_burnt == 0 and refund.executor_id == "alice.near"
    assert await w.amount("alice.near") == 100 * NEAR - 2 * TRANSFER_GAS * PRICE
    assert await w.supply() == before
    partly = w.sign("alice.near", "alice.near", AddKey(public("k"), AccessKey(0)), DeleteKey(public("none")))
    await w.settle(partly)
    assert error(w.fate(partly)[1])["index"] == 1
    assert await w.engine.query(HEAD, "access_key", account_id="alice.near", public_key=public("k")) is None
    assert await w.supply() == before


async def test_a_refund_to_an_account_that_is_gone_is_burnt(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    lost = w.sign("alice.near", "nobody.near", Transfer(NEAR))
    await w.block(lost, w.sign("alice.near", "alice.near", DeleteAccount("bob.near")))
    await w.settle()
    assert await w.account("alice.near") is None
    assert w.burnt > NEAR and await w.supply() == before


async def test_stake_locks_at_once_and_proposes(world: World) -> None:
    w = await world(PEOPLE, minimum_stake=10 * NEAR).open()
    stake = w.sign("alice.near", "alice.near", Stake(50 * NEAR, public("validator")))
    result = (await w.block(stake))[0]
    account = await w.account("alice.near")
    assert account.locked == 50 * NEAR and account.amount < 50 * NEAR
    assert result.updates.validators == {public("validator"): 50 * NEAR}
    bad = [
        w.sign("bob.near", "bob.near", Stake(1000 * NEAR, public("v"))),
        w.sign("bob.near", "bob.near", Stake(0, public("v"))),
        w.sign("bob.near", "bob.near", Stake(NEAR, public("v"))),
        w.sign("alice.near", "alice.near", DeleteAccount("bob.near")),
        w.sign("alice.near", "bob.near", Stake(NEAR, public("v"))),
    ]
    await w.settle(*bad)
    kinds = [next(iter(error(w.fate(tx)[1])["kind"])) for tx in bad]
    assert kinds == ["TriesToStake", "TriesToUnstake", "InsufficientStake", "DeleteAccountStaking", "ActorNoPermission"]


async def test_stake_beyond_what_an_epoch_asks_for_is_given_back(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    await w.block(w.sign("alice.near", "alice.near", Stake(50 * NEAR, public("validator"))))
    locks = (Locked("alice.near", 20 * NEAR), Locked("bob.near", 5 * NEAR), Locked("nobody.near", 0))
    outcomes = [(await w.block(witness=True, locks=locks))[0] for _ in range(2)]
    alice = await w.account("alice.near")
    assert alice.locked == 20 * NEAR and (await w.account("bob.near")).locked == 0
    assert outcomes[0].witness is not None and await w.supply() == before
    await w.block(locks=(Locked("alice.near", 0),))
    assert (await w.account("alice.near")).locked == 0 and await w.supply() == before


async def test_keys_are_added_used_within_their_bounds_and_deleted(world: World) -> None:
    w = await world(PEOPLE).open()
    permission = FunctionCallPermission(10**22, "bob.near", ())
    await w.settle(w.sign("alice.near", "alice.near", AddKey(public("app"), AccessKey(7, permission))))
    usage = (await w.account("alice.near")).storage_usage
    assert usage == 182 + 33 + len(encode(AccessKey(0, permission))) + 40
    nonce = w.height * NONCE
    call = w.sign("alice.near", "bob.near", FunctionCall("ping", b"", 10**12, 0), key="app", nonce=nonce)
    await w.settle(call)
    kind = error(w.fate(call)[1])["kind"]
    assert kind == {"FunctionCallError": {"CompilationError": {"CodeDoesNotExist": {"account_id": "bob.near"}}}}
    key = await w.engine.query(HEAD, "access_key", account_id="alice.near", public_key=public("app"))
    burnt = sum(one.tokens_burnt for one in w.fate(call))
    assert key.permission.allowance == 10**22 - burnt, "unused gas goes back to the allowance too"
    again = w.sign("alice.near", "alice.near", AddKey(public("app"), AccessKey(0, FULL_ACCESS)))
    await w.settle(again, w.sign("alice.near", "alice.near", DeleteKey(public("app"))))
    assert next(iter(error(w.fate(again)[1])["kind"])) == "AddKeyAlreadyExists"
    assert (await w.account("alice.near")).storage_usage == 182


async def test_a_relayer_pays_for_a_delegate_action(world: World) -> None:
    w = await world(PEOPLE).open()
    before = await w.supply()
    from hashlib import sha256

    from nacl.signing import SigningKey

    def delegated(nonce: int, height: int = 10**6, sender: str = "bob.near", twist: int = 0) -> Delegate:
        inner = DelegateAction(sender, "carol.near", (Transfer(NEAR),), nonce, height, public("bob.near"))
        signature = SigningKey(sha256(b"bob.near").digest()).sign(inner.digest()).signature
        return Delegate(inner, b"\0" + signature[:-1] + bytes([signature[-1] ^ twist]))

    good = w.sign("alice.near", "bob.near", delegated(5))
    await w.settle(good)
    assert await w.amount("carol.near") == 101 * NEAR and await w.amount("bob.near") == 100 * NEAR
    assert await w.amount("alice.near") < 99 * NEAR and await w.supply() == before
    bad = [
        w.sign("alice.near", "bob.near", delegated(5)),
        w.sign("alice.near", "bob.near", delegated(10**12)),
        w.sign("alice.near", "bob.near", delegated(6, height=5)),
        w.sign("alice.near", "bob.near", delegated(6, twist=1)),
        w.sign("alice.near", "carol.near", delegated(6)),
    ]
    await w.settle(*bad)
    kinds = [error(w.fate(tx)[1])["kind"] for tx in bad]
    assert [kind if isinstance(kind, str) else next(iter(kind)) for kind in kinds] == [
        "DelegateActionInvalidNonce",
        "DelegateActionNonceTooLarge",
        "DelegateActionExpired",
        "DelegateActionInvalidSignature",
        "DelegateActionSenderDoesNotMatchTxReceiver",
    ]
    assert await w.supply() == before


async def test_receipts_over_the_gas_of_a_chunk_wait_their_turn(world: World) -> None:
    limit = 3 * TRANSFER_GAS
    w = await world(PEOPLE, gas_limit=limit).open()
    before = await w.supply()
    sent = [w.sign("alice.near", "bob.near", Transfer(1)) for _ in range(9)]
    await w.block(*sent)
    result = (await w.block())[0]
    extra = result.detail["extra"]
    assert extra.gas_used == limit and extra.congestion.delayed_receipts_gas == 6 * TRANSFER_GAS
    assert extra.congestion.receipt_bytes > 0 and await w.supply() == before
    for _ in range(2):
        result = (await w.block())[0]
    extra = result.detail["extra"]
    assert extra.congestion.delayed_receipts_gas == extra.congestion.receipt_bytes == 0
    order = [w.fate(tx)[1].id for tx in sent]
    assert [id for id in w.outcomes if id in order] == order
    assert await w.amount("bob.near") == 100 * NEAR + 9 and await w.supply() == before


# --- supply -----------------------------------------------------------------------------------------------------------

NAMES = [*PEOPLE, "nobody.near", "kid.alice.near", "0" * 64, "zz"]


def _random_action(random_: random.Random) -> Any:
    amount = random_.choice([0, 1, 10**18, NEAR, 60 * NEAR, 10**29])
    key = public(random_.choice(NAMES))
    return random_.choice(
        [
            Transfer(amount),
            Transfer(amount),
            CreateAccount(),
            AddKey(key, AccessKey(0)),
            AddKey(key, AccessKey(0, FunctionCallPermission(10**22, "bob.near", ()))),
            DeleteKey(key),
            Stake(amount, key),
            DeployContract(b"\0asm\x01\0\0\0" + bytes(random_.choice([0, 3000]))),
            FunctionCall("nothing", b"{}", random_.choice([1, 10**13]), random_.choice([0, NEAR])),
            DeleteAccount(random_.choice(NAMES)),
        ]
    )


@given(seed=st.integers(0, 2**32), sharded=st.booleans())
@settings(max_examples=15)
async def test_supply_is_conserved_to_the_yocto(world: World, budget: int, seed: int, sharded: bool) -> None:
    """Random actions by random people, over one shard or three, at a price that moves."""
    random_ = random.Random(seed)
    w = await world(PEOPLE, ["bob.near", "carol.near"] if sharded else ()).open()
    before = await w.supply()
    for _ in range(6 * budget):
        w.gas_price = random_.choice([PRICE, 2 * PRICE, 5 * PRICE])
        batch = []
        for _ in range(random_.randrange(12)):
            signer = random_.choice(list(PEOPLE))
            actions = [_random_action(random_) for _ in range(random_.choice([1, 1, 1, 2, 4]))]
            batch.append(w.sign(signer, random_.choice([signer, *NAMES]), *actions))
        await w.block(*batch, witness=random_.random() < 0.3)
        assert await w.supply() == before
    await w.settle()
    assert await w.supply() == before


@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
async def test_one_shard_or_many_the_balances_are_the_same(world: World, seed: int) -> None:
    random_ = random.Random(seed)
    pairs = [(random_.choice(list(PEOPLE)), random_.choice(list(PEOPLE)), random_.randrange(NEAR)) for _ in range(40)]
    totals = []
    for boundaries in ((), ("bob.near", "carol.near", "dave.near")):
        w = await world(PEOPLE, boundaries).open()
        await w.settle(*[w.sign(sender, receiver, Transfer(amount)) for sender, receiver, amount in pairs])
        totals.append([await w.amount(name) for name in PEOPLE])
    assert totals[0] == totals[1]
