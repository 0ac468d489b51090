"""An upgrade's height passes under reservations: blocks are judged by their own rules, and reservations again."""

from __future__ import annotations

import attrs

from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import Incomplete, Invalid, Outcome, Upgrading
from nodewright_bitcoin.signing import build_transaction, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction

GENESIS_AT = 3
P2SH = b"\xa9\x14" + bytes(20) + b"\x87"


def to_a_script_hash(world, coin) -> Transaction:
    """Valid before Genesis, never after."""
    txid, index, satoshis, owner = coin
    tx = build_transaction([(txid, index, satoshis, world.scripts[owner])], [(satoshis - 1000, P2SH)])
    return sign_p2pkh_inputs(tx, [world.owners[owner]])


async def test_a_block_is_judged_by_its_own_rules_whatever_is_reserved(new_world):
    """One node accepted the transaction before the upgrade, the other never saw it: both refuse the block after it."""
    world, other = [await new_world(genesis_height=GENESIS_AT, chronicle_height=100) for _ in range(2)]
    tx = to_a_script_hash(world, world.genesis_coins()[0])
    good = world.pay([world.genesis_coins()[1]], [(900_000, 2)])
    assert all(isinstance(answer, Admitted) for answer in await world.admit(tx, good))
    for one in (world, other):
        await one.mine()
        await one.mine()
    assert isinstance(await world.engine.execute(world.request([world.bundle_of([tx])])), Incomplete)
    for one in (world, other):
        result = await one.engine.execute(one.request([one.bundle_of([tx], bodies=True)]))
        assert isinstance(result, Invalid) and result.code == "bad-txns-vout-p2sh"
        assert isinstance(await one.engine.execute(one.request([one.bundle_of([good], bodies=True)])), Outcome)


async def test_what_is_reserved_is_named_when_the_rules_change_in_either_direction(new_world):
    world = await new_world(genesis_height=GENESIS_AT, chronicle_height=100)
    assert isinstance(world.engine, Upgrading)
    tx = to_a_script_hash(world, world.genesis_coins()[0])
    good = world.pay([world.genesis_coins()[1]], [(900_000, 2)])
    await world.admit(tx, good)
    await world.mine()
    assert not await world.engine.outdated()
    await world.mine()
    assert set(await world.engine.outdated()) == {tx.txid, good.txid}
    await world.engine.release(await world.engine.outdated())
    refused, admitted = await world.admit(tx, good)
    assert isinstance(refused, Refused) and refused.code == "bad-txns-vout-p2sh" and isinstance(admitted, Admitted)
    assert not await world.engine.outdated()
    await world.engine.revert(world.head)
    assert await world.engine.outdated() == [good.txid]


async def test_a_restart_does_not_forget_by_which_rules(new_world):
    world = await new_world(genesis_height=GENESIS_AT, chronicle_height=100)
    tx = to_a_script_hash(world, world.genesis_coins()[0])
    good = world.pay([world.genesis_coins()[1]], [(900_000, 2)])
    await world.admit(tx, good)
    await world.mine()
    await world.mine()
    await world.reopen()
    refused, answer = await world.admit(tx, good)  # the pool's journal offers them again
    assert isinstance(refused, Refused) and isinstance(answer, Admitted) and answer.known
    assert await world.engine.outdated() == [good.txid]
    assert await world.engine.release_unclaimed() == [tx.txid]


async def test_what_is_judged_while_the_rules_change_is_sent_again(new_world):
    world = await new_world(genesis_height=GENESIS_AT, chronicle_height=100)
    await world.mine()
    before = world.head
    await world.mine()
    tx = to_a_script_hash(world, world.genesis_coins()[0])
    (answer,) = await world.engine.admit([tx.raw], before, world.now)
    assert isinstance(answer, Refused) and answer.kind == "busy"
    assert not world.engine.state.unmined


async def test_outputs_have_the_age_of_the_block_that_holds_them(new_world):
    """Reserved before the upgrade and mined after it: spent by the rules after it, as where the block alone was seen."""
    world, other = [await new_world(genesis_height=GENESIS_AT, chronicle_height=100) for _ in range(2)]
    parent = world.pay([world.genesis_coins()[0]], [(400_000, 1), (500_000, 2)])
    child = world.pay([world.coins_of(parent, [1, 2])[0]], [(390_000, 3)])
    await world.admit(parent, child)
    for one in (world, other):
        await one.mine()
        await one.mine()
        await one.mine(one.bundle_of([parent], bodies=True))
    for coin in world.coins_of(parent, [1, 2]):
        mine, theirs = await world.output(coin), await other.output(coin)
        assert mine.height == theirs.height == GENESIS_AT
    # The child stays reserved, and what it spends stays spent.
    assert (await world.output(world.coins_of(parent, [1, 2])[0])).spender[:32] == child.txid
    await world.mine(world.bundle_of([child], bodies=True), salt=b"1")
    await other.mine(other.bundle_of([child], bodies=True), salt=b"1")
    digests = [await one.digest() for one in (world, other)]
    assert digests[0] == digests[1]
    await world.reopen()
    assert await world.digest() == digests[0]
    assert attrs.asdict(await world.output(world.coins_of(child, [3])[0]))["height"] >= GENESIS_AT
