"""What the execution contract promises, asked of each directly: determinism, idempotence, evictions, witnesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve

from nodewright.interfaces import (
    HEAD,
    Admitted,
    BlockContext,
    BlockRef,
    Bundle,
    BundleInvalid,
    BundleRef,
    BundleValid,
    Consensus,
    Deferred,
    Execution,
    ExecutionRequest,
    Incomplete,
    Invalid,
    Outcome,
    Parcel,
)
from nodewright.testing.shapes.accounts import Accounts
from nodewright.testing.shapes.bft import TwoChain
from nodewright.testing.shapes.codec import digest, u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright.testing.shapes.coins import Coins
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.pow import ProofOfWork
from nodewright.testing.shapes.shard_rules import commitment, outgoing_digest, shard_of
from nodewright.testing.shapes.shards import Shards
from nodewright.testing.shapes.transfers import transfer
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

ALICE, BERT, CARL = Key("alice"), Key("bert"), Key("carl")
GENESIS = BlockRef(0, digest(b"a genesis"))
ONE, TWO, RIVAL = (BlockRef(height, digest(b"a block", name)) for height, name in ((1, b"1"), (2, b"2"), (1, b"1'")))
PEOPLE = [Key(f"person {index}") for index in range(12)]
HERE = [key for key in PEOPLE if shard_of(key.public, 2) == 0]
THERE = [key for key in PEOPLE if shard_of(key.public, 2) == 1]
DOCUMENT = {
    "execution": {
        "coins": [(ALICE.public.hex(), 100), (ALICE.public.hex(), 200)],
        "accounts": [(key.public.hex(), 1000) for key in (ALICE, *PEOPLE)],
    }
}


async def fresh(kind: str, disk: MemoryDisk | None = None, **options: Any) -> Any:
    store = MemoryStore(disk or MemoryDisk("state"), "a test")
    execution = {"coins": Coins, "accounts": Accounts, "shards": Shards}[kind](store, **options)  # type: ignore[operator]
    await execution.open()
    await execution.genesis(DOCUMENT, GENESIS)
    return execution


def bundle(*txs: Any, shard: int = 0) -> Bundle:
    bodies = [tx.raw for tx in txs]
    id = digest(b"a bundle", *bodies)
    return Bundle(BundleRef(id, len(txs), sum(map(len, bodies)), shard), b"".join(tx.id for tx in txs), bodies)


def request(parent: BlockRef, block: BlockRef, *bundles: Bundle, **more: Any) -> ExecutionRequest:
    context = BlockContext(block.height, 1000 + block.height, parent_commitment=more.pop("parent_commitment", None))
    return ExecutionRequest(parent, block, context, bundles, invalid_transaction=more.pop("policy", "discard"), **more)


def spend(index: int, key: Key, to: Key, amount: int) -> Any:
    return pay([(GENESIS.id + u8(index), key)], [(to.public, amount)])


def rivals(kind: str) -> tuple[Any, Any, Any]:
    """Two transactions of which one can run, and a third that follows the second."""
    if kind == "coins":
        one, other = spend(0, ALICE, BERT, 100), spend(0, ALICE, CARL, 99)
        return one, other, pay([(other.outpoint(0), CARL)], [(BERT.public, 99)])
    return transfer(ALICE, 0, BERT.public, 1), transfer(ALICE, 0, CARL.public, 2), transfer(ALICE, 1, CARL.public, 3)


def options(kind: str) -> Mapping[str, Any]:
    return {"shards": 1, "kept": [0]} if kind == "shards" else {}


KINDS = ["coins", "accounts", "shards"]


async def test_the_shapes_satisfy_the_protocols() -> None:
    for kind in KINDS:
        assert isinstance(await fresh(kind, **options(kind)), Execution)
    for name in (name for name in dir(Consensus) if not name.startswith("_")):
        assert hasattr(TwoChain, name) and hasattr(ProofOfWork, name), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_outcomes_depend_only_on_parent_and_request(kind: str, order: Sequence[int]) -> None:
    """One node admitted nothing, one the winner, one the loser and its child: equal outcomes but for their evictions."""
    one, other, child = rivals(kind)
    nodes = [await fresh(kind, **options(kind)) for _ in range(3)]
    await nodes[1].admit([one.raw], GENESIS, 0)
    admitted = await nodes[2].admit([other.raw, child.raw], GENESIS, 0)
    assert all(isinstance(answer, Admitted) for answer in admitted)
    pair = [(one, other)[index] for index in order]
    outcomes = [await node.execute(request(GENESIS, ONE, bundle(pair[0]), bundle(pair[1]))) for node in nodes]
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert len({repr(evolve(outcome, evicted={})) for outcome in outcomes}) == 1
    winner, loser = pair
    assert list(outcomes[0].discarded) == [loser.id] and not outcomes[0].retry and not outcomes[0].evicted
    assert outcomes[1].evicted == ({} if winner is one else {one.id: winner.id})
    lost = {} if winner is other else {other.id: winner.id}
    if lost and kind == "coins":
        lost[child.id] = winner.id
    assert outcomes[2].evicted == lost


@pytest.mark.parametrize("kind", KINDS)
async def test_a_child_before_its_parent_is_to_be_retried_or_refuses_the_block(kind: str) -> None:
    _, parent, child = rivals(kind)
    node = await fresh(kind, **options(kind))
    backwards = (bundle(child), bundle(parent))
    outcome = await node.execute(request(GENESIS, ONE, *backwards))
    assert list(outcome.retry) == [child.id] and not outcome.discarded
    refused = await node.execute(request(GENESIS, RIVAL, *backwards, policy="reject_block"))
    assert isinstance(refused, Invalid) and refused.transaction == child.id
    await node.commit(ONE)
    outcome = await node.execute(request(ONE, TWO, bundle(child)))
    assert not outcome.retry and not outcome.discarded


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repetition_within_a_block_is_passed_over_or_refuses_it(kind: str) -> None:
    _, parent, child = rivals(kind)
    node = await fresh(kind, **options(kind))
    outcome = await node.execute(request(GENESIS, ONE, bundle(parent), bundle(parent, child)))
    assert not outcome.discarded and not outcome.retry and outcome.gas_used == 2
    refused = await node.execute(request(GENESIS, RIVAL, bundle(parent), bundle(parent), policy="reject_block"))
    assert isinstance(refused, Invalid) and refused.code == "repeated"


@pytest.mark.parametrize("kind", KINDS)
async def test_execute_and_commit_are_idempotent_and_survive_a_restart(kind: str) -> None:
    _, parent, child = rivals(kind)
    disk = MemoryDisk("state")
    node = await fresh(kind, disk, **options(kind))
    first = request(GENESIS, ONE, bundle(parent))
    assert await node.execute(first) == await node.execute(first)
    assert await node.applied() == GENESIS
    await node.commit(ONE)
    await node.commit(ONE)
    assert await node.applied() == ONE
    outcome = await node.execute(request(ONE, TWO, bundle(child)))
    disk.crash()
    node = await fresh(kind, disk, **options(kind))
    assert await node.applied() == ONE
    assert await node.execute(request(ONE, TWO, bundle(child))) == outcome


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_admitted_between_execute_and_commit_is_reported_by_commit(kind: str) -> None:
    one, other, _ = rivals(kind)
    node = await fresh(kind, **options(kind))
    outcome = await node.execute(request(GENESIS, ONE, bundle(one)))
    assert not outcome.evicted
    await node.admit([other.raw], GENESIS, 0)
    assert await node.commit(ONE) == {other.id: one.id}


@pytest.mark.parametrize("kind", KINDS)
async def test_forged_transactions_are_never_certified_and_never_run(kind: str) -> None:
    one, other, _ = rivals(kind)
    node = await fresh(kind, **options(kind))
    assert isinstance(await node.validate_bundle(bundle(one), GENESIS), BundleValid)
    forged = Bundle(bundle(one).ref, one.id, [other.raw])
    assert isinstance(await node.validate_bundle(forged, GENESIS), BundleInvalid)
    outcome = await node.execute(request(GENESIS, ONE, forged, bundle(other)))
    assert list(outcome.discarded) == [one.id] and outcome.gas_used == 1


@pytest.mark.parametrize("kind", ["accounts", "shards"])
async def test_a_child_executes_on_an_uncommitted_parent_and_forks_stand_side_by_side(kind: str) -> None:
    one, other, child = rivals(kind)
    node = await fresh(kind, **options(kind))
    assert isinstance(await node.execute(request(ONE, TWO, bundle(child))), Deferred)
    left = await node.execute(request(GENESIS, ONE, bundle(one)))
    right = await node.execute(request(GENESIS, RIVAL, bundle(other)))
    on_right = await node.execute(request(RIVAL, TWO, bundle(child)))
    assert left.commitment != right.commitment and not on_right.retry
    await node.abandon(ONE)
    await node.commit(RIVAL)
    await node.commit(TWO)
    assert await node.applied() == TWO


async def test_a_single_head_defers_and_undoes_to_the_same_state() -> None:
    one, other, child = rivals("coins")
    node = await fresh("coins")
    before = await node.query(HEAD, "outputs")
    await node.execute(request(GENESIS, ONE, bundle(other, child)))
    await node.commit(ONE)
    answer = await node.execute(request(GENESIS, RIVAL, bundle(one)))
    assert answer == Deferred(GENESIS, ONE)
    reverted = await node.revert(ONE)
    assert [id for id, _ in reverted.transactions] == [other.id, child.id]
    assert await node.query(HEAD, "outputs") == before
    assert (await node.revert(ONE)).transactions == ()
    assert isinstance(await node.execute(request(GENESIS, RIVAL, bundle(one))), Outcome)


# --- shards ---


async def sharded() -> tuple[Any, Any, Any, list[bytes]]:
    """A keeper of each shard, a node that keeps none, and the genesis commitment of each shard."""
    kept = [await fresh("shards", shards=2, kept=shards) for shards in ([0], [1], [])]
    both = await kept[2].genesis(DOCUMENT, GENESIS)
    return kept[0], kept[1], kept[2], [both[:32], both[32:]]


async def sent() -> tuple[Any, Any, Outcome, Parcel, list[bytes]]:
    left, right, nobody, start = await sharded()
    work = bundle(transfer(HERE[0], 0, THERE[0].public, 9), transfer(HERE[0], 1, HERE[1].public, 5), shard=0)
    made = request(GENESIS, ONE, work, parent_commitment=start[0], record_witness=True)
    outcome = await left.execute(made)
    assert evolve(outcome, witness=None) == await nobody.verify_witness(made, outcome.witness)
    parcel = evolve(outcome.outgoing[1], block=ONE, commitment=outcome.commitment)
    return right, nobody, outcome, parcel, start


async def test_receipts_are_taken_in_with_their_proof_and_checked_from_a_witness_alone() -> None:
    right, nobody, _, parcel, start = await sent()
    work = bundle(transfer(THERE[0], 0, THERE[1].public, 1009), shard=1)
    taken = request(GENESIS, ONE, work, shard=1, incoming=[parcel], parent_commitment=start[1], record_witness=True)
    outcome = await right.execute(taken)
    assert not outcome.discarded, "the receipt's money is there before the transfers run"
    assert evolve(outcome, witness=None) == await nobody.verify_witness(taken, outcome.witness)
    await right.commit(ONE, 1)
    accounts = await right.query(HEAD, "accounts", shard=1)
    assert accounts[THERE[1].public].balance == 2009


async def test_a_forged_parcel_or_witness_is_incomplete_never_invalid() -> None:
    right, nobody, outcome, parcel, start = await sent()
    richer = parcel.payload[:-1] + b"\xff"
    for forged in (
        evolve(parcel, payload=richer),
        evolve(parcel, commitment=bytes(32)),
        evolve(parcel, proof=b""),
        evolve(parcel, source=1),
    ):
        taken = request(GENESIS, ONE, shard=1, incoming=[forged], parent_commitment=start[1])
        assert await right.execute(taken) == Incomplete([forged.root])
    made = request(GENESIS, ONE, bundle(transfer(HERE[0], 0, THERE[0].public, 9)), parent_commitment=start[0])
    witness = outcome.witness or b""
    for at in range(0, len(witness), 5):
        changed = witness[:at] + bytes([witness[at] ^ 1]) + witness[at + 1 :]
        assert isinstance(await nobody.verify_witness(made, changed), Incomplete)
    beyond = request(GENESIS, ONE, bundle(transfer(HERE[2], 0, HERE[3].public, 9)), parent_commitment=start[0])
    assert isinstance(await nobody.verify_witness(beyond, witness), Incomplete), "a part that the witness left out"


async def test_the_commitment_covers_state_and_parcels() -> None:
    _, _, outcome, parcel, _ = await sent()
    assert outcome.commitment == commitment(outcome.detail["state_root"], outgoing_digest({1: parcel.root}))
    assert outcome.commitment != commitment(outcome.detail["state_root"], outgoing_digest({}))
