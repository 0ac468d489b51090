"""Plain transfers by hand come to what the rules come to: rows, outcomes, receipts, gas, balances, errors, byte by byte."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.kernels.signatures import NativeVerifier
from nodewright_near import transactions
from nodewright_near.accounts import FULL_ACCESS, AccessKey, Account, FunctionCallPermission, access_key_key, account_key
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.congestion import ShardCongestion
from nodewright_near.contracts.machine import WasmtimeMachine
from nodewright_near.headers import CongestionInfo
from nodewright_near.outcomes import PartialOutcome
from nodewright_near.parameters import Congestion, Parameters
from nodewright_near.primitives import NO_HASH, SYSTEM
from nodewright_near.receipts import RECEIPT, ActionReceipt, Receipt, balance_refund, gas_refund, with_id
from nodewright_near.runtime import ChunkInput, ChunkResult, Long, run
from nodewright_near.state import State, encode_access_key
from nodewright_near.transactions import (
    AddKey,
    CreateAccount,
    DeleteAccount,
    SignedTransaction,
    Stake,
    Transaction,
    Transfer,
)

NEAR = 10**24
PRICE = 10**8
HEIGHT = 50
NAMES = ("alice", "bob", "carol", "poor", "heavy", "staked")
ABSENT = "nobody"
IMPLICIT = "ab" * 32
VERIFIER = NativeVerifier()
MACHINE = WasmtimeMachine(VERIFIER)


def key_of(name: str, kind: int = 0) -> bytes:
    if kind == 2:
        return b"\x01" + sha256(name.encode()).digest() * 2
    return b"\0" + sha256(name.encode() + bytes([kind])).digest()


def rows() -> dict[bytes, bytes]:
    """Some are poor, use much storage, or have most at stake; each has a full, a restricted and a secp256k1 key."""
    transfer = PRICE * 2 * 223_182_562_500
    balances = {
        "alice": Account(100 * NEAR, 0, NO_HASH, 182),
        "bob": Account(NEAR, 0, NO_HASH, 700),
        "carol": Account(1 << 120, 0, NO_HASH, 182),
        "poor": Account(3 * transfer + 5, 0, NO_HASH, 182),
        "heavy": Account(10**19 * 5000 + 2 * transfer + 3, 0, NO_HASH, 5000),
        "staked": Account(2 * transfer, 10**19 * 5000, NO_HASH, 5000),
    }
    found = {account_key(name): account.encode() for name, account in balances.items()}
    limited = FunctionCallPermission(NEAR, "bob", ())
    for name in NAMES:
        found[access_key_key(name, key_of(name))] = encode_access_key(AccessKey(10, FULL_ACCESS))
        found[access_key_key(name, key_of(name, 1))] = encode_access_key(AccessKey(10, limited))
        found[access_key_key(name, key_of(name, 2))] = encode_access_key(AccessKey(10, FULL_ACCESS))
    return found


def came_to(chunk: ChunkInput, by_hand: bool) -> tuple[ChunkResult, State]:
    before, state = rows(), State()
    if by_hand:  # as they come from others: what stands around a transfer is made when it is asked for
        read = [transactions._whole_transfer(one.raw) or one for one in chunk.transactions]
        chunk = evolve(chunk, transactions=read, incoming=[decode(RECEIPT, encode(one)) for one in chunk.incoming])
    work = run(chunk, state, VERIFIER, MACHINE, by_hand)
    try:
        wanted = next(work)
        while True:
            if isinstance(wanted, Long):
                wanted = work.send(wanted.step())
                continue
            for prefix in wanted.prefixes:
                state.listed[prefix] = tuple(sorted(key for key in before if key.startswith(prefix)))
            state.loaded.update({key: before.get(key) for key in wanted.keys})
            wanted = next(work)
    except StopIteration as stop:
        return stop.value, state


def same(chunk: ChunkInput) -> ChunkResult:
    (quick, after), (plain, expected) = came_to(chunk, True), came_to(chunk, False)
    assert after.final_changes() == expected.final_changes()
    assert after.loaded == expected.loaded
    assert [outcome.partial() for outcome in quick.outcomes] == [outcome.partial() for outcome in plain.outcomes]
    assert [outcome.leaf() for outcome in quick.outcomes] == [outcome.leaf() for outcome in plain.outcomes]
    for outcome in quick.outcomes:
        fields = (outcome.receipt_ids, outcome.gas_burnt, outcome.tokens_burnt, outcome.executor_id, outcome.status)
        assert encode(PartialOutcome(*fields)) == outcome.partial()
    for shard, receipts in quick.outgoing.items():
        assert [encode(one) for one in receipts] == [encode(one) for one in plain.outgoing[shard]]
        assert all(decode(RECEIPT, encode(one)) == one for one in receipts)
    assert quick == plain
    return quick


def transaction(signer: str, kind: int, nonce: int, receiver: str, actions: tuple[Any, ...]) -> SignedTransaction:
    key = key_of(signer, kind)
    body = Transaction(signer, key, nonce, receiver, bytes(32), actions)
    return SignedTransaction.of(body, key[:1] + bytes(64 if not key[0] else 65))


def chunk_of(
    transactions: list[SignedTransaction],
    incoming: list[Receipt],
    signed: list[bool] | None = None,
    refused: frozenset[int] = frozenset(),
    gas_limit: int = 10**15,
    boundaries: tuple[str, ...] = (),
    full: bool = False,
) -> ChunkInput:
    tight = Congestion(allowed_shard_outgoing_gas=500_000_000_000, min_outgoing_gas=500_000_000_000)
    parameters = Parameters(gas_limit=gas_limit, congestion=tight if full else Congestion())
    load = ShardCongestion(CongestionInfo(receipt_bytes=10**9, allowed_shard=0))
    return ChunkInput(
        parameters=parameters,
        shard=0,
        boundaries=boundaries,
        height=HEIGHT,
        timestamp=1,
        epoch=0,
        gas_price=PRICE,
        random_seed=NO_HASH,
        transactions=transactions,
        signed=signed if signed is not None else [True] * len(transactions),
        incoming=incoming,
        info=CongestionInfo(),
        congestion={1: load} if full else {},
        refused=refused,
    )


AMOUNTS = st.sampled_from((0, 1, 2, 5, NEAR, 99 * NEAR, (1 << 128) - 1))
ACTIONS = st.one_of(
    st.builds(lambda amount: (Transfer(amount),), AMOUNTS),
    st.builds(lambda amount: (Transfer(amount),), AMOUNTS),
    st.builds(lambda one, two: (Transfer(one), Transfer(two)), AMOUNTS, AMOUNTS),
    st.sampled_from(
        (
            (),
            (CreateAccount(), Transfer(1)),
            (AddKey(key_of("new"), AccessKey(0)),),
            (Stake(5, key_of("stake")),),
            (DeleteAccount("bob"),),
        )
    ),
)
SENDERS = st.sampled_from((*NAMES, ABSENT))
RECEIVERS = st.sampled_from((*NAMES, ABSENT, IMPLICIT, "zed"))
TRANSACTIONS = st.tuples(
    SENDERS,
    st.sampled_from((0, 0, 0, 0, 0, 1, 2, 3)),
    st.sampled_from((0, 1, 1, 1, 1, 1, 10**9)),
    RECEIVERS,
    ACTIONS,
    st.sampled_from((True,) * 8 + (False,)),
    st.sampled_from((False,) * 8 + (True,)),
)
RECEIPTS = st.tuples(
    st.sampled_from((*NAMES, ABSENT, "far")), RECEIVERS, ACTIONS, st.sampled_from((PRICE, 0, 7)), st.integers(0, 9)
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TRANSACTIONS, max_size=12),
    st.lists(RECEIPTS, max_size=8),
    st.sampled_from((10**15, 10**15, 1_200_000_000_000, 0)),
    st.sampled_from(((), (), ("m",))),
    st.booleans(),
)
def test_equal_to_the_rules(sent, arrived, gas_limit, boundaries, full):
    nonces: dict[tuple[str, int], int] = {}
    transactions, signed, refused = [], [], set()
    for index, (signer, kind, step, receiver, actions, good, late) in enumerate(sent):
        nonces[signer, kind] = nonce = nonces.get((signer, kind), 10) + step
        transactions.append(transaction(signer, kind, nonce, receiver, actions))
        signed.append(good)
        if late:
            refused.add(index)
    incoming = []
    for number, (sender, receiver, actions, price, kind) in enumerate(arrived):
        identity = sha256(bytes([number])).digest()
        if kind == 0:
            receipt = with_id(balance_refund(receiver, 5), identity)
        elif kind == 1:
            receipt = with_id(gas_refund(receiver, 5, key_of(receiver, 1)), identity)
        else:
            if any(isinstance(one, Transfer) and one.deposit > 1 << 120 for one in actions):
                actions = (Transfer(1 << 100),)  # more than there is would never have been sent
            body = ActionReceipt(sender, key_of(sender), price, (), (), actions)
            receipt = Receipt(sender, receiver, identity, body)
        incoming.append(receipt)
    same(chunk_of(transactions, incoming, signed, frozenset(refused), gas_limit, boundaries, full))


def test_a_chunk_of_transfers_is_done_by_hand_and_equal():
    """Also to oneself, to one who is not there, and back and forth within a chunk."""
    sent = [
        transaction("alice", 0, 11, "bob", (Transfer(NEAR),)),
        transaction("alice", 0, 12, "alice", (Transfer(3),)),
        transaction("bob", 0, 11, "alice", (Transfer(1),)),
        transaction("alice", 0, 13, ABSENT, (Transfer(1),)),
        transaction("alice", 0, 13, "bob", (Transfer(1),)),
        transaction("poor", 0, 11, "bob", (Transfer(5),)),
        transaction("poor", 0, 12, "bob", (Transfer(0),)),
        transaction("heavy", 0, 11, "bob", (Transfer(3),)),
        transaction("heavy", 0, 12, "bob", (Transfer(0),)),
    ]
    body = ActionReceipt("far", key_of("far"), PRICE, (), (), (Transfer(7),))
    arrived = [Receipt("far", "bob", sha256(bytes([at])).digest(), body) for at in range(5)]
    arrived.append(with_id(balance_refund("bob", 9), bytes(32)))
    result = same(chunk_of(sent, arrived))
    assert len(result.refusals) == 1 and len(result.outcomes) == 8 + 1 + 6
    assert result.outcomes[-1].tokens_burnt == 0 and arrived[-1].predecessor_id == SYSTEM


ACCOUNT_NAMES = st.sampled_from(("ab", "a" * 64, "alice.near", "0" * 64, "a-b_c.d"))


@settings(max_examples=150, deadline=None)
@given(
    ACCOUNT_NAMES,
    ACCOUNT_NAMES,
    st.integers(0, (1 << 64) - 1),
    AMOUNTS,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=2),
    st.integers(-3, 3),
)
def test_read_at_once_it_is_what_the_codec_reads(signer, receiver, nonce, amount, spoilt, longer):
    """Or it is left to the codec, which says what is wrong with the bytes."""
    body = Transaction(signer, key_of(signer), nonce, receiver, sha256(b"block").digest(), (Transfer(amount),))
    raw = bytearray(SignedTransaction.of(body, bytes(65)).raw)
    for place, byte in spoilt:
        raw[int(place * len(raw))] = byte
    data = bytes(raw[:longer] if longer < 0 else raw + bytes(longer))
    found = transactions._whole_transfer(data)
    try:
        expected = decode(SignedTransaction, data)
    except Malformed:
        assert found is None
        return
    if not spoilt and not longer:
        assert found is not None
    if found is not None:
        plain = ("signer", "receiver", "nonce", "deposit", "block_hash", "row")
        assert [getattr(found, name) for name in plain] == [getattr(expected, name) for name in plain]
        assert found.deposit == amount or spoilt
        assert found == expected and found.raw == data
        assert (
            found.slot == access_key_key(expected.transaction.signer_id, expected.transaction.public_key) == expected.slot
        )
