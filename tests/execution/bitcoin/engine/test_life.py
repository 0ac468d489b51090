"""Stories: a transaction's life, first-seen and block-decides, chains, restarts, reorganisations."""

from __future__ import annotations

import attrs
import pytest

from nodewright.errors import Pruned, StoreError, UnknownQuery
from nodewright.interfaces.common import Admitted, BlockContext, Refused
from nodewright.interfaces.execution import (
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
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.transaction import Transaction, TxInput


async def test_a_transactions_life(world):
    coin = world.genesis_coins()[0]
    tx = world.pay([coin], [(600_000, 1), (399_000, 2)])
    (answer,) = await world.admit(tx, confirm=False)
    assert answer == Admitted(tx.txid, tx.raw, 1000)
    assert (await world.output(world.coins_of(tx, [1, 2])[0])).satoshis == 600_000  # staged: seen, not in the store
    assert await world.utxo.known([tx.txid]) == [False]
    await world.engine.confirm([tx.txid])
    assert await world.utxo.known([tx.txid]) == [True]
    bundle = world.bundle_of([tx])
    verdict = await world.engine.validate_bundle(bundle, world.head)
    assert verdict == BundleValid(1000, len(tx.raw), [1000], [len(tx.raw)])
    outcome = await world.mine(bundle)
    assert outcome.fees == 1000 and not outcome.evicted
    assert world.head.height == 1 and not world.engine.state.unmined
    (again,) = await world.admit(tx)
    assert isinstance(again, Admitted) and again.known


async def test_the_extended_form_is_taken_and_its_claims_are_checked(world):
    coin = world.genesis_coins()[0]
    tx = world.pay([coin], [(990_000, 1)])
    lie = Transaction(tx.version, [attrs.evolve(tx.inputs[0], satoshis=5)], tx.outputs, tx.locktime)
    refused, taken = await world.engine.admit([lie.serialize(extended=True), tx.serialize(extended=True)], world.head, 0)
    assert refused.code == "extended-input-mismatch" and refused.kind == "invalid"
    assert isinstance(taken, Admitted) and taken.raw == tx.raw


async def test_first_seen_wins_and_names_the_winner(world):
    coin = world.genesis_coins()[0]
    first, second = world.pay([coin], [(990_000, 1)]), world.pay([coin], [(980_000, 2)])
    in_one_batch = await world.admit(first, second)
    assert isinstance(in_one_batch[0], Admitted)
    later = await world.admit(second)
    for refused in (in_one_batch[1], *later):
        assert refused.kind == "conflict" and refused.data["winner"] == first.txid
    await world.mine(world.bundle_of([first]))
    (refused,) = await world.admit(second)
    assert refused.kind == "conflict" and refused.data["winner"] == first.txid


async def test_chains_within_one_batch_and_a_child_before_its_parent(world):
    coin = world.genesis_coins()[0]
    chain = [world.pay([coin], [(990_000, 1)])]
    for _ in range(5):
        chain.append(world.pay(world.coins_of(chain[-1], [1]), [(chain[-1].outputs[0].satoshis - 1000, 1)]))
    early = await world.admit(*reversed(chain))
    assert [answer.kind for answer in early[:-1]] == ["missing"] * 5
    assert early[0].data["missing"] == [chain[-2].txid]
    answers = await world.admit(*chain)
    assert all(isinstance(answer, Admitted) for answer in answers)
    assert answers[0].known and not answers[1].known
    await world.mine(world.bundle_of(chain))
    assert (await world.output(world.coins_of(chain[-1], [1])[0])).spender is None


async def test_what_is_refused_says_why(world):
    coins = world.genesis_coins()
    good = world.pay([coins[0]], [(990_000, 1)])
    unsigned = Transaction(1, [TxInput(good.inputs[0].outpoint)], good.outputs)
    other = world.pay([(*coins[0][:3], 1)], [(990_000, 1)])
    greedy = world.pay([coins[2]], [(world.coins + 1, 1)])
    cheap = world.pay([coins[3]], [(world.coins, 1)])
    orphan = world.pay([(b"\x07" * 32, 0, 5000, 1)], [(4000, 1)])
    beyond = world.pay([(coins[0][0], 999, 5000, 1)], [(4000, 1)])
    future = world.pay([coins[4]], [(990_000, 1)], locktime=50, sequence=0)
    tomorrow = world.pay([coins[4]], [(990_000, 1)], locktime=world.now + 1, sequence=0)
    answers = await world.engine.admit(
        [tx.raw for tx in (unsigned, other, greedy, cheap, orphan, beyond, future, tomorrow)] + [b"", good.raw + b"\0"],
        world.head,
        world.now,
    )
    assert [(answer.kind, answer.code) for answer in answers] == [
        ("invalid", "mandatory-script-verify-flag-failed"),
        ("invalid", "mandatory-script-verify-flag-failed"),
        ("invalid", "bad-txns-in-belowout"),
        ("policy", "mempool min fee not met"),
        ("missing", "missing-inputs"),
        ("invalid", "bad-txns-inputs-missingorspent"),
        ("policy", "bad-txns-nonfinal"),
        ("policy", "bad-txns-nonfinal"),
        ("malformed", "tx-decode-failed"),
        ("malformed", "tx-decode-failed"),
    ]
    assert "Operation not valid with the current stack size" in answers[0].message
    assert "OP_EQUALVERIFY" in answers[1].message
    assert answers[4].data["missing"] == [b"\x07" * 32]
    assert not world.engine.state.unmined


async def test_release_takes_descendants_along(world):
    start = await world.digest()
    coin = world.genesis_coins()[0]
    parent = world.pay([coin], [(500_000, 1), (490_000, 2)])
    child = world.pay([world.coins_of(parent, [1, 2])[0]], [(480_000, 3)])
    await world.admit(parent)
    await world.admit(child, confirm=False)
    assert await world.engine.release([parent.txid]) == [child.txid, parent.txid]
    assert await world.digest() == start and not world.engine.state.unmined
    assert await world.engine.release([parent.txid]) == []
    await world.engine.confirm([parent.txid])  # the pool was late: nothing to confirm any more
    assert await world.digest() == start
    assert all(isinstance(answer, Admitted) for answer in await world.admit(parent, child))


@pytest.mark.parametrize("crash", [None, 0, "all"])
async def test_a_restart_and_the_pools_replay_bring_reservations_back(world, crash):
    coins = world.genesis_coins()
    parent = world.pay([coins[0]], [(500_000, 1), (490_000, 2)])
    child = world.pay([world.coins_of(parent, [1, 2])[0]], [(480_000, 3)])
    await world.admit(parent)
    await world.admit(child)
    before = await world.digest()
    await world.reopen(len(world.disk.unsynced) if crash == "all" else crash)
    survived = crash != 0
    assert set(world.engine.state.unmined.values()) <= {None}
    rival = world.pay([coins[0]], [(1000, 5)])
    if survived:  # bare reservations hold their place although their bodies have not come yet
        (refused,) = await world.admit(rival)
        assert refused.kind == "conflict" and refused.data["winner"] == parent.txid
    answers = await world.admit(parent, child)
    assert [answer.known for answer in answers] == [survived, survived]
    assert await world.digest() == before
    outcome = await world.mine(world.bundle_of([parent, child]))
    assert outcome.fees == 10_000 + 20_000


async def test_the_block_wins_over_reservations(world):
    coins = world.genesis_coins()
    loser = world.pay([coins[0]], [(500_000, 1), (490_000, 2)])
    child = world.pay([world.coins_of(loser, [1, 2])[0], coins[1]], [(1_480_000, 3)])
    grandchild = world.pay(world.coins_of(child, [3]), [(1_470_000, 4)])
    bystander = world.pay([coins[2]], [(990_000, 1)])
    await world.admit(loser, child, bystander)
    await world.admit(grandchild, confirm=False)
    winner = world.pay([coins[0]], [(980_000, 5)])
    bundle = world.bundle_of([winner, bystander])
    assert await world.engine.validate_bundle(bundle, world.head) == BundleIncomplete([winner.txid])
    with_bodies = world.bundle_of([winner, bystander], bodies=True)
    verdict = await world.engine.validate_bundle(with_bodies, world.head)
    assert verdict.conflicts == {winner.txid: loser.txid}
    outcome = await world.mine(bundle)  # remembered: the bodies are not asked for twice
    assert outcome.evicted == dict.fromkeys([loser.txid, child.txid, grandchild.txid], winner.txid)
    assert not world.engine.state.unmined
    assert (await world.output(coins[1])).spender is None  # what the evicted child spent beside is free again
    (refused,) = await world.admit(loser)
    assert refused.kind == "conflict" and refused.data["winner"] == winner.txid
    await world.engine.confirm([grandchild.txid])
    assert await world.utxo.known([grandchild.txid]) == [False]


async def test_a_reservation_admitted_between_execute_and_commit_loses_late(world):
    coins = world.genesis_coins()
    winner = world.pay([coins[0]], [(980_000, 5)])
    request = world.request([world.bundle_of([winner], bodies=True)])
    assert isinstance(await world.engine.execute(request), Outcome)
    loser = world.pay([coins[0]], [(970_000, 1)])
    (answer,) = await world.admit(loser)
    assert isinstance(answer, Admitted)
    assert await world.engine.commit(request.block) == {loser.txid: winner.txid}
    assert await world.engine.commit(request.block) is None
    assert not world.engine.state.unmined


async def test_a_reservation_released_between_execute_and_commit_is_still_in_the_block(world):
    tx = world.pay([world.genesis_coins()[0]], [(980_000, 5)])
    await world.admit(tx)
    request = world.request([world.bundle_of([tx])])
    await world.engine.execute(request)
    await world.engine.release([tx.txid])
    await world.engine.commit(request.block)
    assert (await world.output(world.coins_of(tx, [5])[0])).satoshis == 980_000


async def test_blocks_that_break_a_rule(world):
    coins = world.genesis_coins()
    parent = world.pay([coins[0]], [(990_000, 1)])
    child = world.pay(world.coins_of(parent, [1]), [(980_000, 1)])
    rival = world.pay([coins[0]], [(970_000, 2)])
    forged = world.pay([(*coins[3][:3], 7)], [(990_000, 1)])
    late = world.pay([coins[4]], [(990_000, 1)], locktime=2, sequence=0)
    await world.admit(parent, child)
    bundle = world.bundle_of

    async def result(*bundles, **changes):
        return await world.engine.execute(world.request(bundles, **changes))

    assert (await result(bundle([child, parent]))).code == "bad-txns-inputs-missingorspent"
    assert (await result(bundle([child]))).code == "bad-txns-inputs-missingorspent"
    assert (await result(bundle([parent]), bundle([child]))).fees == 20_000
    assert (await result(bundle([child]), bundle([parent]))).code == "bad-txns-inputs-missingorspent"
    assert (await result(bundle([parent]), bundle([parent, child]))).code == "bad-txns-duplicate"
    assert (await result(bundle([parent, rival], True))).transaction == rival.txid
    assert (await result(bundle([rival, parent], True))).transaction == parent.txid
    assert (await result(bundle([forged], True))).code.startswith("mandatory-script-verify-flag-failed")
    assert (await result(bundle([late], True))).code == "bad-txns-nonfinal"
    (twice,) = [await world.engine.validate_bundle(bundle([parent, parent]), world.head)]
    assert isinstance(twice, BundleInvalid) and twice.index == 1
    greedy = coinbase.build(coinbase.height_push(1) + b"\0", [(50 * 10**8 + 1, b"\x51")])
    assert (await result(prologue=greedy)).code == "bad-cb-amount"
    other_height = coinbase.make(BlockContext(2, 0), b"\x51", world.parameters)
    assert (await result(prologue=other_height)).code == "bad-cb-height"
    assert (await result(prologue=parent.raw)).code == "bad-cb-missing"
    orphan = world.pay([(b"\x07" * 32, 0, 5000, 1)], [(4000, 1)])
    assert await result(bundle([orphan], True)) == Incomplete([b"\x07" * 32])
    assert await result(bundle([orphan])) == Incomplete([orphan.txid])
    wrong_body = attrs.evolve(bundle([orphan]), bodies=[parent.raw])
    assert await result(wrong_body) == Incomplete([orphan.txid])
    await world.mine(bundle([parent]))
    mined_again = await result(bundle([parent], True))
    assert isinstance(mined_again, Invalid) and mined_again.code == "txn-already-mined"
    assert isinstance(await result(bundle([rival], True)), Invalid)  # spends what a block spent
    off_head = world.request([], parent=world.genesis)
    assert await world.engine.execute(off_head) == Deferred(world.genesis, world.head)


async def test_under_discard_the_block_stands_and_says_what_had_no_effect(world):
    coins = world.genesis_coins()
    parent = world.pay([coins[0]], [(990_000, 1)])
    child = world.pay(world.coins_of(parent, [1]), [(980_000, 1)])
    rival = world.pay([coins[0]], [(970_000, 2)])
    fine = world.pay([coins[1]], [(990_000, 2)])
    await world.admit(parent, child, fine)
    bundles = [world.bundle_of([child, fine]), world.bundle_of([parent, rival], True), world.bundle_of([parent])]
    outcome = await world.mine(*bundles, invalid_transaction="discard")
    assert set(outcome.retry) == {child.txid}
    assert set(outcome.discarded) == {rival.txid}
    assert outcome.fees == 20_000
    assert set(world.engine.state.unmined) == {child.txid}
    await world.reopen()
    assert set(world.engine.state.unmined) == {child.txid}
    await world.admit(child)
    await world.mine(world.bundle_of([child]), invalid_transaction="discard")
    assert not world.engine.state.unmined


async def test_revert_returns_transactions_and_takes_the_coinbase_out(world):
    start = await world.digest()
    coins = world.genesis_coins()
    known, unknown = world.pay([coins[0]], [(990_000, 1)]), world.pay([coins[1]], [(990_000, 1)])
    await world.admit(known)
    await world.mine(world.bundle_of([known]), world.bundle_of([unknown], True))
    first = world.head
    await world.mine()
    second = world.head
    with pytest.raises(StoreError):
        await world.engine.revert(first)
    assert len((await world.engine.revert(second)).removed) == 1
    reverted = await world.engine.revert(first)
    assert [txid for txid, _ in reverted.transactions] == [known.txid, unknown.txid]
    assert (await world.engine.revert(first)).transactions == ()
    assert world.head == world.genesis and set(world.engine.state.unmined) == {known.txid, unknown.txid}
    with pytest.raises(Pruned):
        await world.engine.revert(world.genesis)
    await world.mine(world.bundle_of([known, unknown]), salt=b"other side")  # nothing bare: no body is needed
    await world.engine.revert(world.head)
    await world.engine.release([known.txid, unknown.txid])
    assert await world.digest() == start


async def test_a_deep_revert_removes_what_spent_its_coinbase(world):
    await world.mine()
    request_coinbase = world.request([]).prologue
    early = Transaction.parse(coinbase.make(BlockContext(1, world.now), world.scripts[0], world.parameters))
    spend = world.pay([(early.txid, 0, 50 * 10**8, 0)], [(50 * 10**8 - 1000, 1)])
    child = world.pay(world.coins_of(spend, [1]), [(50 * 10**8 - 2000, 2)])
    (immature,) = await world.admit(spend)
    assert immature.code == "bad-txns-premature-spend-of-coinbase" and request_coinbase
    blocks = [world.head]
    for _ in range(99):
        await world.mine()
        blocks.append(world.head)
    assert all(isinstance(answer, Admitted) for answer in await world.admit(spend, child))
    await world.engine.revert(blocks.pop())
    parts = await world.engine.execute(world.request([world.bundle_of([spend, child])]))
    assert isinstance(parts, Invalid)  # reserved before, and not to be mined this low
    while len(blocks) > 1:
        await world.engine.revert(blocks.pop())
    reverted = await world.engine.revert(blocks.pop())
    assert list(reverted.removed) == [child.txid, spend.txid, early.txid]
    assert not world.engine.state.unmined


async def test_a_loser_without_body_is_evicted_from_the_stores_own_record(world):
    coins = world.genesis_coins()
    loser = world.pay([coins[0]], [(990_000, 1)])
    child = world.pay(world.coins_of(loser, [1]), [(980_000, 1)])
    await world.admit(loser, child)
    await world.reopen()
    winner = world.pay([coins[0]], [(970_000, 2)])
    outcome = await world.mine(world.bundle_of([winner], True))
    assert outcome.evicted == dict.fromkeys([loser.txid, child.txid], winner.txid)
    assert not world.engine.state.unmined


async def test_select_keeps_order_limits_and_parents(world):
    coins = world.genesis_coins()
    parent = world.pay([coins[0]], [(990_000, 1)])
    child = world.pay(world.coins_of(parent, [1]), [(980_000, 1)])
    other, mined = world.pay([coins[1]], [(990_000, 1)]), world.pay([coins[2]], [(990_000, 1)])
    await world.admit(parent, child, other, mined)
    await world.mine(world.bundle_of([mined]))
    candidates = [Candidate(tx.txid, len(tx.raw), 10_000) for tx in (mined, parent, child, other)]
    chosen = await world.engine.select(world.head, candidates, Limits(2, 1 << 20))
    assert [item.id for item in chosen.chosen] == [parent.txid, child.txid]
    assert set(chosen.rejected) == {mined.txid} and [item.id for item in chosen.deferred] == [other.txid]
    small = await world.engine.select(world.head, candidates[1:], Limits(9, len(parent.raw)))
    assert [item.id for item in small.chosen] == [parent.txid]


async def test_frozen_outputs_and_reassigned_ones(world):
    coin = world.genesis_coins()[0]
    point = coin[0] + bytes(4)
    tx = world.pay([coin], [(990_000, 1)])
    assert await world.engine.query(HEAD, "freeze", outpoints=[point]) == [None]
    (refused,) = await world.admit(tx)
    assert refused.kind == "frozen"
    await world.engine.query(HEAD, "reassign", changes=[(point, world.scripts[5])], spendable_from=1)
    (refused,) = await world.admit(tx)
    assert refused.code == "mandatory-script-verify-flag-failed"
    heir = world.pay([(*coin[:3], 5)], [(990_000, 1)])
    (answer,) = await world.admit(heir)
    assert isinstance(answer, Admitted)
    (refused,) = await world.engine.query(HEAD, "freeze", outpoints=[point])
    assert refused.code == "spent" and refused.spender[:32] == heir.txid


async def test_a_staged_spender_is_before_a_freeze(world):
    coin = world.genesis_coins()[0]
    tx = world.pay([coin], [(990_000, 1)])
    await world.admit(tx, confirm=False)
    (refused,) = await world.engine.query(HEAD, "freeze", outpoints=[coin[0] + bytes(4)])
    assert refused.code == "spent" and refused.spender == tx.txid + bytes(4)
    await world.engine.confirm([tx.txid])


async def test_queries_by_name_and_view(world):
    with pytest.raises(UnknownQuery, match="unspent_digest"):
        await world.engine.query(HEAD, "balance")
    with pytest.raises(Pruned):
        await world.engine.query(View("block", attrs.evolve(world.genesis, height=7)), "chain")
    assert await world.engine.query(HEAD, "chain") == world.parameters
    assert await world.engine.query(HEAD, "known", txids=[bytes(32)]) == [False]
    document = await world.engine.query(HEAD, "unspent_digest")
    assert document["txouts"] == len(world.owners) and document["total"] == world.coins * len(world.owners)
    assert await world.engine.identify([b"", b"\x01" * 20]) == [None, None]


async def test_identify_and_prologue(world):
    tx = world.pay([world.genesis_coins()[0]], [(990_000, 1)])
    assert await world.engine.identify([tx.raw, tx.serialize(extended=True), b"x"]) == [tx.txid, tx.txid, None]
    context = BlockContext(7, 0, proposer=world.scripts[3], fees=55, extra=b"x" * 500)
    made = await world.engine.prologue(context)
    paid = Transaction.parse(made.raw)
    assert made.id == paid.txid and paid.outputs[0].script == world.scripts[3]
    assert paid.outputs[0].satoshis == 50 * 10**8 + 55 and len(paid.inputs[0].script) <= 100
    plain = Transaction.parse((await world.engine.prologue(BlockContext(1, 0))).raw)
    assert plain.outputs[0].script == b"\x51" and isinstance(Refused("a", "b"), Refused)
