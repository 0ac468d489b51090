"""The engine behind its contract: witnesses that lie, forks, crashes, reservations, and any order of shards."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.caches import RowCache
from nodewright.errors import ConfigurationError, Pruned, StoreCorrupt, UnknownQuery
from nodewright.interfaces.common import Admitted, BlockRef, Bundle, BundleRef, Parcel, Refused
from nodewright.interfaces.execution import (
    FINAL,
    HEAD,
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    Candidate,
    Deferred,
    Incomplete,
    Invalid,
    Limits,
    Outcome,
    View,
)
from nodewright_near.accounts import Account, account_key
from nodewright_near.borsh import decode, encode
from nodewright_near.chunks import ParcelProof, StateWitness
from nodewright_near.receipts import RECEIPTS
from nodewright_near.shardstore import LONG, Stale, row_key, row_value, value_of_row
from nodewright_near.transactions import SignedTransaction, Transfer

NEAR = 10**24
PEOPLE = {name: 100 * NEAR for name in ("alice.near", "bob.near", "carol.near", "dave.near")}
BOUNDARIES = ["bob.near", "carol.near"]
World = Callable[..., Any]


async def pair(world: World) -> tuple[Any, Any, Outcome]:
    """A world of three shards with receipts on their way, and a request with transactions and receipts and its outcome."""
    w = await world(PEOPLE, BOUNDARIES).open()
    await w.block(*[w.sign(name, "bob.near", Transfer(5)) for name in PEOPLE])
    request = w.requests([w.sign("bob.near", "alice.near", Transfer(7)), w.sign("bob.near", "no.near", Transfer(7))], True)[
        1
    ]
    outcome = await w.engine.execute(request)
    assert isinstance(outcome, Outcome) and outcome.witness is not None
    assert len(outcome.detail["outcomes"]) == 2 + 3, "transactions, then receipts of the others"
    return w, request, outcome


async def test_a_node_without_state_comes_to_the_same_outcome(world: World) -> None:
    w, request, outcome = await pair(world)
    stateless = await world(PEOPLE, BOUNDARIES).open(kept=[])
    assert stateless.engine.kept == () and await stateless.engine.applied(1) is None
    checked = await stateless.engine.verify_witness(request, outcome.witness)
    assert checked.commitment == outcome.commitment and checked.outgoing == outcome.outgoing
    assert checked.detail["outcomes"] == outcome.detail["outcomes"] and checked.witness is None
    with pytest.raises(Pruned):
        await stateless.engine.execute(request)
    again = await w.engine.execute(request)
    assert again == outcome, "asked twice, answered once"


@given(data=st.data())
@settings(max_examples=60)
async def test_a_witness_with_a_flipped_bit_is_refused(world: World, data: st.DataObject) -> None:
    w, request, outcome = await pair(world)
    raw = outcome.witness
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    assert isinstance(await w.engine.verify_witness(request, bytes(flipped)), Incomplete)


async def test_a_witness_is_made_where_the_cache_is_smaller_than_what_it_shows(world: World) -> None:
    """Nodes that were at hand go when others come into the cache: they are fetched again."""
    names = [f"user{number:03d}.near" for number in range(200)]
    w = await world(dict.fromkeys(names, 10 * NEAR)).open(behind_bytes=0)
    w.engine.shards[0].nodes = RowCache(60_000)
    for first in range(0, 160, 20):
        sent = [w.sign(name, name, Transfer(1)) for name in names[first : first + 20]]
        refused = [w.sign(name, name, Transfer(1), nonce=0) for name in names[160:]]
        await w.block(*sent, *refused, witness=True)


async def test_a_witness_that_lacks_or_adds_or_shows_another_state_is_refused(world: World) -> None:
    w, request, outcome = await pair(world)
    witness: StateWitness = decode(StateWitness, outcome.witness)
    assert len(witness.state) >= 6
    for index in range(len(witness.state)):
        fewer = evolve(witness, state=witness.state[:index] + witness.state[index + 1 :])
        assert isinstance(await w.engine.verify_witness(request, encode(fewer)), Incomplete), index
    more = evolve(witness, state=(*witness.state, b"one more"))
    twice = evolve(witness, state=(*witness.state, witness.state[0]))
    other = evolve(witness, parent=evolve(witness.parent, gas_used=1))
    for bad in (more, twice, other):
        assert isinstance(await w.engine.verify_witness(request, encode(bad)), Incomplete)
    wrong = evolve(request, context=evolve(request.context, parent_commitment=bytes(32)))
    assert isinstance(await w.engine.verify_witness(wrong, outcome.witness), Incomplete)
    for garbage in (b"", b"\0" * 100, bytes(random.Random(1).randbytes(500))):
        assert isinstance(await w.engine.verify_witness(request, garbage), Incomplete)


async def test_a_wrong_receipt_never_gets_in(world: World) -> None:
    w, request, outcome = await pair(world)
    parcel: Parcel = request.incoming[0]
    receipts = decode(RECEIPTS, parcel.payload)
    richer = evolve(receipts[0].receipt, actions=(Transfer(NEAR),))
    forged = encode((evolve(receipts[0], receipt=richer), *receipts[1:]), RECEIPTS)
    proof: ParcelProof = decode(ParcelProof, parcel.proof)
    bad = [
        evolve(parcel, payload=forged),
        evolve(parcel, payload=b"garbage"),
        evolve(parcel, destination=2),
        evolve(parcel, commitment=bytes(32)),
        evolve(parcel, proof=encode(evolve(proof, path=proof.path[1:]))),
        evolve(parcel, proof=encode(evolve(proof, extra=evolve(proof.extra, balance_burnt=0)))),
        evolve(parcel, root=bytes(32)),
    ]
    for one in bad:
        wrong = evolve(request, block=BlockRef(request.block.height, b"x" * 32), incoming=(one, *request.incoming[1:]))
        assert await w.engine.execute(wrong) == Incomplete([one.root])
        assert await w.engine.verify_witness(wrong, outcome.witness) == Incomplete([one.root])
    fewer = evolve(request, block=BlockRef(request.block.height, b"y" * 32), incoming=request.incoming[1:])
    checked = await w.engine.verify_witness(fewer, outcome.witness)
    assert not isinstance(checked, Outcome) or checked.commitment != outcome.commitment


async def test_a_block_executes_on_an_uncommitted_parent_and_forks_die_with_the_commit(world: World) -> None:
    w = await world(PEOPLE).open()
    one, two = w.sign("alice.near", "bob.near", Transfer(1)), w.sign("bob.near", "alice.near", Transfer(2))
    (first,) = w.requests([one])
    (rival,) = w.requests([two])
    rival = evolve(rival, block=BlockRef(first.block.height, b"r" * 32))
    a, b = await w.engine.execute(first), await w.engine.execute(rival)
    assert a.commitment != b.commitment
    child = evolve(first, parent=first.block, block=BlockRef(first.block.height + 1, b"c" * 32), bundles=[], incoming=())
    assert isinstance(await w.engine.execute(child), Outcome)
    assert (await w.engine.query(HEAD, "account", account_id="alice.near")).amount < 100 * NEAR
    assert (await w.engine.query(FINAL, "account", account_id="alice.near")).amount == 100 * NEAR
    at_rival = await w.engine.query(View("block", rival.block), "account", account_id="alice.near")
    assert at_rival.amount == 100 * NEAR
    with pytest.raises(StoreCorrupt, match="without its parent"):
        await w.engine.commit(child.block)
    await w.engine.commit(first.block)
    await w.engine.commit(first.block)
    with pytest.raises(Pruned):
        await w.engine.query(View("block", rival.block), "account", account_id="alice.near")
    late = evolve(rival, parent=rival.block, block=BlockRef(first.block.height + 1, b"l" * 32))
    assert await w.engine.execute(late) == Deferred(rival.block, first.block)
    await w.engine.commit(child.block)
    assert await w.engine.applied() == child.block
    await w.engine.abandon(rival.block)
    with pytest.raises(Pruned, match="no undo"):
        await w.engine.revert(child.block)


async def test_a_crash_loses_nothing_committed_and_the_rest_is_executed_again(world: World) -> None:
    w = await world(PEOPLE, BOUNDARIES).open()
    await w.block(*[w.sign(name, "bob.near", Transfer(5)) for name in PEOPLE])
    requests = w.requests([w.sign("alice.near", "dave.near", Transfer(9))])
    before = [await w.engine.execute(request) for request in requests]
    await w.engine.commit(requests[0].block, 0)
    w.disk.crash()
    await w.open()
    assert [await w.engine.applied(shard) for shard in range(3)] == [requests[0].block, w.head, w.head]
    again = [await w.engine.execute(request) for request in requests[1:]]
    assert [one.commitment for one in again] == [one.commitment for one in before[1:]]
    for request in requests[1:]:
        await w.engine.commit(request.block, request.shard)
    assert await w.engine.applied(2) == requests[0].block
    assert await w.engine.genesis({"execution": w.table}, BlockRef(5, b"g" * 32)) is not None
    assert await w.engine.applied(2) == requests[0].block, "genesis happens once"


@given(seed=st.integers(0, 2**32))
@settings(max_examples=6)
async def test_shards_run_in_any_order(world: World, seed: int) -> None:
    shuffled = random.Random(seed)
    roots = []
    for order in (list(range(3)), shuffled.sample(range(3), 3)):
        w = await world(PEOPLE, BOUNDARIES).open()
        picks = random.Random(seed)
        for _ in range(4):
            names = [(picks.choice(list(PEOPLE)), picks.choice(list(PEOPLE))) for _ in range(8)]
            requests = w.requests([w.sign(one, other, Transfer(picks.randrange(NEAR))) for one, other in names])
            results = {shard: await w.engine.execute(requests[shard]) for shard in order}
            await w.accept(requests[0].block, results)
        roots.append(dict(w.commitments))
    assert roots[0] == roots[1]


# --- reservations -----------------------------------------------------------------------------------------------------


def candidates(*signed: SignedTransaction, shard: int = 0) -> list[Candidate]:
    return [Candidate(one.id, len(one.raw), 0, b"", shard) for one in signed]


async def test_what_is_admitted_is_reserved_until_a_block_decides(world: World) -> None:
    w = await world(PEOPLE).open()
    one, rival = (
        w.sign("alice.near", "bob.near", Transfer(60 * NEAR), nonce=5),
        w.sign("alice.near", "carol.near", Transfer(1), nonce=5),
    )
    much = w.sign("alice.near", "bob.near", Transfer(60 * NEAR), nonce=6)
    first, twice, clash, over = await w.admit(one, one, rival, much)
    assert isinstance(first, Admitted) and isinstance(twice, Admitted) and twice.known
    assert isinstance(clash, Refused) and clash.kind == "conflict" and clash.data["winner"] == one.id
    assert isinstance(over, Refused) and over.code == "NotEnoughBalance"
    outcome = (await w.block(rival))[0]
    assert outcome.evicted == {one.id: rival.id}
    assert not w.engine.reservations.by_id and not w.engine.reservations.owed
    (late,) = await w.admit(one)
    assert isinstance(late, Refused) and late.data["error"] == {"InvalidNonce": {"tx_nonce": 5, "ak_nonce": 5}}


async def test_selection_orders_nonces_and_leaves_out_what_cannot_run(world: World) -> None:
    w = await world(PEOPLE, ["carol.near"]).open()
    third, first = (
        w.sign("alice.near", "bob.near", Transfer(1), nonce=3),
        w.sign("alice.near", "bob.near", Transfer(1), nonce=1),
    )
    bob, far = w.sign("bob.near", "dave.near", Transfer(1)), w.sign("dave.near", "bob.near", Transfer(1))
    await w.admitted(third, bob, first, far)
    given = [*candidates(third, bob, first), *candidates(far, shard=1)]
    chosen = await w.engine.select(w.head, given, Limits(10, 10**6))
    assert [one.id for one in chosen.chosen] == [first.id, bob.id, third.id]
    assert [one.id for one in chosen.deferred] == [far.id]
    few = await w.engine.select(w.head, given, Limits(10, 10**6, max_gas=223_182_562_500))
    assert [one.id for one in few.chosen] == [first.id]
    assert await w.engine.release([third.id, b"?" * 32]) == [third.id]
    left = await w.engine.select(w.head, given, Limits(1, 10**6))
    assert (third.id in left.rejected and [one.id for one in left.chosen] == [bob.id]) or left.chosen[0].id == first.id


async def test_a_long_queue_is_looked_at_as_far_as_a_chunk_has_room(world: World) -> None:
    w = await world(PEOPLE).open()
    queue = [w.sign("alice.near", "bob.near", Transfer(1), nonce=nonce) for nonce in range(1, 401)]
    await w.admitted(*reversed(queue))
    given = candidates(*reversed(queue))
    chosen = await w.engine.select(w.head, given, Limits(1000, 10**6, max_gas=3 * 223_182_562_500))
    assert [one.id for one in chosen.chosen] == [signed.id for signed in queue[:3]]
    assert [one.id for one in chosen.deferred] == [signed.id for signed in queue[3:]] and not chosen.rejected


async def test_a_node_that_does_not_keep_a_shard_checks_form_and_signature_alone(world: World) -> None:
    w = await world(PEOPLE, BOUNDARIES).open(kept=[1])
    nobody = w.sign("aaa.near", "bob.near", Transfer(1))
    forged = SignedTransaction.of(nobody.transaction, bytes(65))
    answers = await w.admit(nobody, forged)
    assert answers[0] == Admitted(nobody.id, nobody.raw, shard=0) and isinstance(answers[1], Refused)
    assert not w.engine.reservations.by_id
    garbage, long = await w.engine.admit([b"junk", bytes(2_000_000)], w.head, 0)
    assert garbage.kind == long.kind == "malformed"
    assert await w.engine.identify([nobody.raw, b"junk"]) == [nobody.id, None]


async def test_bundles_are_valid_invalid_or_incomplete(world: World) -> None:
    w = await world(PEOPLE).open()
    good, other = w.sign("alice.near", "bob.near", Transfer(1)), w.sign("bob.near", "bob.near", Transfer(1))

    def bundle(*signed: SignedTransaction, bodies: bool = True, ids: bytes | None = None) -> Bundle:
        ids = b"".join(one.id for one in signed) if ids is None else ids
        return Bundle(BundleRef(b"b" * 32, len(signed)), ids, [one.raw for one in signed] if bodies else None)

    assert await w.engine.validate_bundle(bundle(good, bodies=False), w.head) == BundleIncomplete([good.id])
    assert await w.engine.validate_bundle(bundle(good, other), w.head) == BundleValid(
        0, len(good.raw) + len(other.raw), [0, 0], [len(good.raw), len(other.raw)]
    )
    assert isinstance(await w.engine.validate_bundle(bundle(good, bodies=False), w.head), BundleValid)
    assert isinstance(await w.engine.validate_bundle(bundle(good, ids=other.id), w.head), BundleInvalid)
    forged = SignedTransaction.of(other.transaction, good.signature)
    verdict = await w.engine.validate_bundle(bundle(good, forged), w.head)
    assert isinstance(verdict, BundleInvalid) and (verdict.code, verdict.index) == ("InvalidSignature", 1)


async def test_a_consensus_that_refuses_blocks_gets_the_transaction_named(world: World) -> None:
    w = await world(PEOPLE).open()
    bad = w.sign("alice.near", "bob.near", Transfer(10**30))
    (request,) = w.requests([w.sign("bob.near", "bob.near", Transfer(1)), bad])
    answer = await w.engine.execute(evolve(request, invalid_transaction="reject_block"))
    assert isinstance(answer, Invalid) and answer.code == "NotEnoughBalance" and answer.transaction == bad.id
    twice = evolve(request, bundles=[request.bundles[0], request.bundles[0]], invalid_transaction="reject_block")
    answer = await w.engine.execute(twice)
    assert isinstance(answer, Invalid) and answer.code == "Repeated"
    context = evolve(request, context=evolve(request.context, extra=b"\xff"))
    assert isinstance(await w.engine.execute(context), Invalid)


# --- small things -----------------------------------------------------------------------------------------------------


async def test_questions_that_are_none(world: World) -> None:
    w = await world(PEOPLE).open()
    with pytest.raises(UnknownQuery, match="access_keys"):
        await w.engine.query(HEAD, "weather")
    assert await w.engine.query(HEAD, "shard", account_id="zz") == 0
    assert await w.engine.query(HEAD, "kept") == (0,)
    assert (await w.engine.query(HEAD, "extra", shard=0)).commitment() == w.commitments[0]
    with pytest.raises(ConfigurationError, match="there is no shard 7"):
        await world(PEOPLE).open(kept=[7])


def test_long_keys_have_rows_of_their_own() -> None:
    long = b"k" * (LONG + 1)
    assert len(row_key(0, b"k" * LONG)) != len(row_key(0, long)) <= 512
    assert row_key(0, long) != row_key(0, long[:-1] + b"x")
    assert value_of_row(long, row_value(long, b"v")) == b"v"


# --- reads beside commits ---------------------------------------------------------------------------------------------


class Slow:
    """A store whose reads come back only when told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.hold: trio.Event | None = None
        self.reading = trio.Event()

    async def get_many(self, table: str, keys: Any) -> Any:
        found = await self._store.get_many(table, keys)
        if self.hold is not None:
            self.reading.set()
            await self.hold.wait()
        return found

    async def commit(self, batch: Any, durable: bool = True) -> None:
        await self._store.commit(batch, durable)


async def test_a_view_that_a_commit_has_passed_answers_nothing(world: World) -> None:
    w = await world(PEOPLE).open()
    view = w.engine.shards[0].view(w.head.id)
    (request,) = w.requests([w.sign("alice.near", "alice.near", Transfer(1))])
    await w.engine.execute(request)
    above = w.engine.shards[0].view(request.block.id)
    await w.engine.commit(request.block)
    with pytest.raises(Stale):
        await view.values([account_key("alice.near")])
    (row,) = await above.values([account_key("alice.near")])
    assert Account.decode(row).amount < 100 * NEAR, "a view of the block that was committed goes on"


async def test_what_was_read_before_a_commit_is_not_kept_after_it(world: World) -> None:
    w = await world(PEOPLE).open()
    shard, key = w.engine.shards[0], account_key("alice.near")
    slow = shard.store = Slow(shard.store)
    shard.values.rows.clear()
    (request,) = w.requests([w.sign("alice.near", "alice.near", Transfer(1))])
    await w.engine.execute(request)
    shard.values.rows.clear()
    slow.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shard.read_values, [key])
        await slow.reading.wait()
        await w.engine.commit(request.block)
        slow.hold.set()
    slow.hold = None
    (row,) = await shard.read_values([key])
    assert Account.decode(row).amount < 100 * NEAR
