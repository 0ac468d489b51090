"""The engine behind its contract: forks, commits under way, reservations, genesis."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import trio
from attrs import evolve

from nodewright.errors import ConfigurationError, Pruned, StoreCorrupt
from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Bundle, BundleRef, Refused
from nodewright.interfaces.execution import (
    FINAL,
    HEAD,
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    Candidate,
    Deferred,
    Execution,
    Incomplete,
    Invalid,
    Limits,
    Outcome,
    View,
)
from nodewright_aptos.genesis import accounts_of, local_faucet_seed
from nodewright_aptos.transactions import decode_block_metadata, transaction_hash
from nodewright_memory.store import MemoryStore

APT = 10**8
TIME = 1_700_000_000
PEOPLE = {"alice": 10 * APT, "bob": 10 * APT, "carol": 10 * APT, "root": APT}
World = Callable[..., Any]


async def test_a_transfer_moves_coins_burns_gas_and_creates_accounts(world: World) -> None:
    w = await world(PEOPLE).open()
    assert isinstance(w.engine, Execution)
    start, _ = w.supply()
    one, two = w.pay("alice", "bob", 5), w.pay("alice", "dave", 7)
    outcome = await w.block(one, two)
    assert not outcome.discarded and not outcome.retry
    assert [await w.fate(one), await w.fate(two)] == ["Executed successfully"] * 2
    assert await w.balance("bob") == 10 * APT + 5 and await w.balance("dave") == 7
    assert await w.balance("alice") == 10 * APT - 12 - outcome.fees
    supply, coins = w.supply()
    assert supply == coins == start - outcome.fees
    assert outcome.gas_used * 100 == outcome.fees


# --- what the contract promises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_outcomes_depend_only_on_parent_and_request(world: World, order: tuple[int, int]) -> None:
    """One node admitted nothing, one the winner, one the loser and its child: equal outcomes but for their evictions."""
    outcomes = []
    for kind in range(3):
        w = await world(PEOPLE).open()
        rivals = w.pay("alice", "bob", 1), w.pay("alice", "bob", 2, sequence_number=0)
        child = w.pay("alice", "bob", 3)
        for one in ([], [rivals[0]], [rivals[1], child])[kind]:
            (answer,) = await w.engine.admit([one.raw], w.head, TIME)
            assert isinstance(answer, Admitted)
        winner, loser = (rivals[at] for at in order)
        outcome = await w.engine.execute(w.request([winner, loser]))
        assert list(outcome.discarded) == [loser.id] and not outcome.retry
        assert outcome.evicted == ({loser.id: winner.id} if kind == 1 + order[1] else {})
        outcomes.append(repr(evolve(outcome, evicted={})))
    assert len(set(outcomes)) == 1


async def test_a_child_before_its_parent_is_retried_or_refuses_the_block(world: World) -> None:
    w = await world(PEOPLE).open()
    parent, child = w.pay("alice", "bob", 1), w.pay("alice", "bob", 2)
    refused = await w.engine.execute(w.request([child, parent], name="strict", policy="reject_block"))
    assert isinstance(refused, Invalid) and refused.transaction == child.id
    outcome = await w.block(child, parent)
    assert list(outcome.retry) == [child.id] and not outcome.discarded
    outcome = await w.block(child)
    assert not outcome.retry and not outcome.discarded and await w.balance("bob") == 10 * APT + 3


async def test_a_repetition_is_passed_over_or_refuses_the_block(world: World) -> None:
    w = await world(PEOPLE).open()
    one, two = w.pay("alice", "bob", 1), w.pay("alice", "bob", 2)
    request = w.request([one])
    again = evolve(w.request([one, two]).bundles[0], ref=BundleRef(b"2" * 32, 2))
    strict = evolve(request, bundles=[*request.bundles, again], invalid_transaction="reject_block")
    refused = await w.engine.execute(evolve(strict, block=BlockRef(1, b"s" * 32)))
    assert isinstance(refused, Invalid) and refused.code == "repeated"
    outcome = await w.engine.execute(evolve(request, bundles=[*request.bundles, again]))
    assert not outcome.discarded and await w.engine.query(HEAD, "balance", address=two.sender) < 10 * APT
    await w.engine.commit(request.block)
    w.head = request.block
    later = await w.block(one, w.pay("bob", "alice", 1))
    assert not later.discarded and not later.retry, "one of an earlier block is a repetition too"
    row = await w.engine.query(HEAD, "transaction", hash=one.id)
    assert row.height == 1
    refused = await w.engine.execute(w.request([one], name="t", policy="reject_block"))
    assert isinstance(refused, Invalid) and refused.code == "SEQUENCE_NUMBER_TOO_OLD"


async def test_bodies_that_are_missing_or_garbage(world: World) -> None:
    w = await world(PEOPLE).open()
    one, two = w.pay("alice", "bob", 1), w.pay("bob", "alice", 1)
    await w.engine.admit([one.raw], w.head, TIME)
    request = w.request([one, two])
    known = Bundle(request.bundles[0].ref, request.bundles[0].ids)
    assert await w.engine.execute(evolve(request, bundles=[known])) == Incomplete([two.id])
    assert await w.engine.validate_bundle(known, w.head) == BundleIncomplete([two.id])
    for body in (b"", b"garbage", one.raw):
        bad = Bundle(known.ref, known.ids, [one.raw, body])
        invalid = await w.engine.validate_bundle(bad, w.head)
        assert isinstance(invalid, BundleInvalid) and (invalid.code, invalid.index) == ("MALFORMED_TRANSACTION", 1)
        name = hashlib.sha256(body).digest()
        outcome = await w.engine.execute(evolve(request, block=BlockRef(1, name), bundles=[bad]))
        assert list(outcome.discarded) == [two.id]
        strict = evolve(request, block=BlockRef(1, name[::-1]), bundles=[bad], invalid_transaction="reject_block")
        assert (await w.engine.execute(strict)).transaction == two.id
    rival = w.pay("alice", "carol", 1, sequence_number=0)
    valid = await w.engine.validate_bundle(w.request([rival, two]).bundles[0], w.head)
    assert isinstance(valid, BundleValid) and valid.conflicts == {rival.id: one.id}
    assert valid.size == len(rival.raw) + len(two.raw) and valid.fees == sum(valid.each_fee) == 2_000_000


async def test_a_block_executes_on_an_uncommitted_parent_and_forks_die_with_the_commit(world: World) -> None:
    w = await world(PEOPLE).open()
    genesis = w.head
    first, rival = w.request([w.pay("alice", "bob", 1)]), w.request([w.pay("bob", "alice", 2)], name="rival")
    a, b = await w.engine.execute(first), await w.engine.execute(rival)
    assert a.commitment != b.commitment and a == await w.engine.execute(first)
    child = w.request([w.pay("alice", "new", 3)], parent=first.block)
    outcome = await w.engine.execute(child)
    assert await w.balance("new") == 3
    assert await w.engine.query(FINAL, "balance", address=apt_address(w, "new")) == 0
    assert await w.engine.query(View("block", rival.block), "balance", address=apt_address(w, "new")) == 0
    with pytest.raises(StoreCorrupt, match="without its parent"):
        await w.engine.commit(child.block)
    await w.engine.commit(first.block)
    assert await w.engine.commit(first.block) is None
    with pytest.raises(Pruned):
        await w.engine.query(View("block", rival.block), "ledger")
    late = w.request([], parent=rival.block)
    assert await w.engine.execute(late) == Deferred(rival.block, first.block)
    assert await w.engine.execute(w.request([], parent=genesis, name="late")) == Deferred(genesis, first.block)
    await w.engine.abandon(child.block)
    assert await w.engine.query(HEAD, "balance", address=apt_address(w, "new")) == 0
    assert await w.engine.execute(child) == outcome
    await w.engine.commit(child.block)
    assert await w.engine.applied() == child.block
    assert isinstance(await w.engine.verify_witness(late, b""), Incomplete)


def apt_address(w: Any, name: str) -> bytes:
    transaction = w.call(name, "aptos_account::transfer", sequence_number=0)
    sender: bytes = transaction.sender
    return sender


class Slow(MemoryStore):
    """A commit is visible at once, and returns when the gate is open."""

    gate: trio.Event | None = None
    entered: trio.Event

    async def commit(self, batch: Any, durable: bool = True) -> None:
        await super().commit(batch, durable)
        if self.gate is not None:
            self.entered.set()
            await self.gate.wait()


class Dying(MemoryStore):
    """Fails ``before`` or ``after`` a commit has come about."""

    point = ""

    async def commit(self, batch: Any, durable: bool = True) -> None:
        if self.point != "before":
            await super().commit(batch, durable)
        if self.point:
            assert durable
            raise OSError("the power went")


async def test_a_pipeline_of_blocks_while_commits_are_under_way(world: World) -> None:
    """A block executes and queries answer while its parent's commit is in the store and not yet reported."""
    w = world(PEOPLE)
    slow = Slow(w.disk, "test")
    await w.open(slow)
    slow.gate, slow.entered = trio.Event(), trio.Event()
    first = w.request([w.pay("alice", "bob", 1)])
    await w.engine.execute(first)
    before = await w.engine.query(FINAL, "balance", address=apt_address(w, "alice"))
    sibling, child = (
        w.request([w.pay("bob", "carol", 5)], name="s"),
        w.request([w.pay("bob", "new", 1)], parent=first.block),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(w.engine.commit, first.block)
        await slow.entered.wait()
        w.engine.state.values.rows.clear()
        assert await w.engine.query(FINAL, "balance", address=apt_address(w, "alice")) == before
        assert await w.engine.query(FINAL, "resources", address=apt_address(w, "alice"))
        beside, after = await w.engine.execute(sibling), await w.engine.execute(child)
        slow.gate.set()
    other = await world(PEOPLE).open()
    assert (await other.engine.execute(sibling)).commitment == beside.commitment
    await other.engine.execute(first)
    assert (await other.engine.execute(child)).commitment == after.commitment
    await w.engine.commit(child.block)


async def test_a_crash_at_any_write_leaves_one_block_or_the_other(world: World) -> None:
    """Commit and revert are one batch each: whatever stops them, the store is as before or as after."""
    for point in ("before", "after"):
        for action in ("commit", "revert"):
            w = world(PEOPLE)
            dying = Dying(w.disk, "test")
            await w.open(dying)
            await w.block(w.pay("alice", "bob", 5))
            request = w.request([w.pay("alice", "new", 9)])
            await w.engine.execute(request)
            if action == "revert":
                await w.engine.commit(request.block)
            before, dying.point = w.rows(), point
            with pytest.raises(OSError):
                await getattr(w.engine, action)(request.block)
            w.disk.crash()
            await w.open()
            done = point == "after"
            on_it = done == (action == "commit")
            assert await w.engine.applied() == (request.block if on_it else request.parent)
            assert done or w.rows() == before
            assert await w.balance("new") == (9 if on_it else 0)


# --- admission -----------------------------------------------------------------------------------------------------------


async def test_admission_and_selection_of_a_senders_sequence(world: World) -> None:
    w = await world(PEOPLE).open()
    one, two, three = (w.pay("alice", "bob", amount) for amount in (1, 2, 3))
    rival = w.pay("alice", "carol", 9, sequence_number=1)
    answers = await w.engine.admit([three.raw, two.raw, two.raw, rival.raw], w.head, TIME)
    assert [type(answer) for answer in answers] == [Admitted, Admitted, Admitted, Refused]
    assert answers[2].known and answers[3].kind == "conflict" and answers[3].data["winner"] == two.id
    candidates = [Candidate(answer.id, answer.size, answer.fee) for answer in answers[:2]]
    limits = Limits(10, 10**6)
    waiting = await w.engine.select(w.head, candidates, limits)
    assert not waiting.chosen and {one.id for one in waiting.deferred} == {two.id, three.id}
    (answer,) = await w.engine.admit([one.raw], w.head, TIME)
    candidates.append(Candidate(answer.id, answer.size, answer.fee))
    chosen = await w.engine.select(w.head, candidates, limits)
    assert [candidate.id for candidate in chosen.chosen] == [one.id, two.id, three.id]
    few = await w.engine.select(w.head, candidates, Limits(2, 10**6))
    assert [candidate.id for candidate in few.chosen] == [one.id, two.id] and few.deferred[0].id == three.id
    assert set(await w.engine.release([one.id, b"unknown"])) == {one.id}
    gone = await w.engine.select(w.head, candidates, limits)
    assert list(gone.rejected) == [one.id] and not gone.chosen


async def test_what_is_selected_never_breaks_a_strict_block(world: World) -> None:
    """Two payments of which the first leaves too little for the second's gas: one now, the other later."""
    w = await world({**PEOPLE, "poor": 2_500_000}).open()
    calls = [w.pay("poor", "bob", 1_000_000), w.pay("poor", "bob", 1), w.pay("alice", "bob", 1)]
    answers = await w.engine.admit([one.raw for one in calls], w.head, TIME)
    candidates = [Candidate(answer.id, answer.size, answer.fee) for answer in answers]
    selection = await w.engine.select(w.head, candidates, Limits(10, 10**6))
    assert [one.id for one in selection.chosen] == [calls[0].id, calls[2].id]
    prologue = await w.engine.prologue(BlockContext(1, TIME))
    request = w.request([calls[0], calls[2]], policy="reject_block")
    assert isinstance(await w.engine.execute(evolve(request, prologue=prologue.raw)), Outcome)
    assert await w.engine.identify([prologue.raw, calls[0].raw, b""]) == [prologue.id, calls[0].id, None]
    assert prologue.id == transaction_hash(prologue.raw) and decode_block_metadata(prologue.raw).round == 1


async def test_what_admission_refuses(world: World) -> None:
    w = await world(PEOPLE).open()
    await w.block(w.pay("alice", "bob", 1))
    signed = w.pay("bob", "alice", 1)
    cases = [
        (b"garbage", "MALFORMED_TRANSACTION", "malformed", 0),
        (bytes(65537), "EXCEEDED_MAX_TRANSACTION_SIZE", "malformed", 10),
        (signed.raw[:-1] + bytes([signed.raw[-1] ^ 1]), "INVALID_SIGNATURE", "invalid", 1),
        (w.pay("alice", "bob", 2, sequence_number=0).raw, "SEQUENCE_NUMBER_TOO_OLD", "invalid", 3),
        (w.pay("alice", "bob", 2, sequence_number=5000).raw, "SEQUENCE_NUMBER_TOO_NEW", "policy", 4),
        (w.pay("alice", "bob", 2, expires_at=TIME + 1).raw, "TRANSACTION_EXPIRED", "expired", 6),
        (w.pay("alice", "bob", 2, chain_id=9).raw, "BAD_CHAIN_ID", "invalid", 23),
        (w.pay("nobody", "bob", 2).raw, "SENDING_ACCOUNT_DOES_NOT_EXIST", "missing", 7),
        (w.pay("bob", "alice", 2, key="carol").raw, "INVALID_AUTH_KEY", "invalid", 2),
        (w.pay("root", "bob", 2, max_gas=2_000_000).raw, "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE", "invalid", 5),
        (w.pay("root", "bob", 2, max_gas=2_000_000).raw, "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE", "invalid", 5),
    ]
    answers = await w.engine.admit([raw for raw, *_ in cases], w.head, TIME + 1)
    for answer, (_, code, kind, number) in zip(answers, cases, strict=True):
        assert isinstance(answer, Refused) and (answer.code, answer.kind) == (code, kind), answer
        assert answer.data.get("vm_status", 0) == number
    assert not w.engine.reservations.by_id
    (late,) = await w.engine.admit([signed.raw], w.head, TIME)
    assert isinstance(late, Admitted) and signed.expires_at > late.expires_at == TIME + 1 + 600, "ten minutes in the pool"


async def test_a_late_reservation_that_loses_is_told_at_the_commit(world: World) -> None:
    w = await world(PEOPLE).open()
    winner, loser = w.pay("alice", "bob", 1), w.pay("alice", "bob", 2, sequence_number=0)
    request = w.request([winner])
    outcome = await w.engine.execute(request)
    assert not outcome.evicted
    await w.engine.admit([loser.raw], w.head, TIME)
    assert await w.engine.commit(request.block) == {loser.id: winner.id}
    assert not w.engine.reservations.by_id and not w.engine.reservations.owed


# --- genesis -------------------------------------------------------------------------------------------------------------


async def test_a_genesis_of_many_accounts_is_more_than_a_row_holds(world: World) -> None:
    many = [{"address": f"0x{at + 4096:x}", "balance": 1} for at in range(18_000)]
    w = await world({}, table={"accounts": [{"address": "0x77", "balance": 5}, *many]}).open()
    row = await w.engine.query(HEAD, "transaction", version=0)
    assert row.transaction == b"\1" and row.changes == b"", "too long to be kept"
    assert await w.engine.query(HEAD, "transaction", hash=row.hash) == row
    assert await w.engine.query(HEAD, "balance", address=bytes(31) + b"\x77") == 5
    again = await world({}, table=w.table).open()
    assert again.root == w.root


async def test_genesis_tables_and_their_mistakes(world: World) -> None:
    from nacl.signing import SigningKey

    w = await world({"alice": 1}, table={"faucet": "local", "chain_id": 77}).open()
    faucet = accounts_of(w.table)[-1]
    assert faucet.balance == 10**18 and faucet.mint
    public = bytes(SigningKey(local_faucet_seed()).verify_key)
    assert faucet.address == hashlib.sha3_256(public + b"\0").digest()
    assert (await w.engine.query(HEAD, "ledger")).chain_id == 77
    assert await w.engine.query(HEAD, "balance", address=faucet.address) == 10**18
    for table in (
        {"accounts": [{"balance": 1}]},
        {"accounts": [{"address": "zz"}]},
        {"accounts": [{"address": "0x77", "balance": -1}]},
        {"accounts": [{"address": "0x77", "colour": 1}]},
        {"accounts": [{"address": "0x77"}, {"address": "0x77"}]},
        {"accounts": [{"address": "0x77", "balance": str(1 << 63)}, {"address": "0x78", "balance": str(1 << 63)}]},
        {"faucet": "0x12"},
    ):
        with pytest.raises(ConfigurationError):
            accounts_of(table)
