"""A node whose own blocks are refused, whatever the cause, puts its assembly right by itself within a few attempts.

The cause is made behind the node's back, because none is known: candidates handed over in any order, reservations that
are gone with their input spent by another, locks that have not passed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nodewright.errors import ControlRefused
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs

ATTEMPTS = 3


def hand_out_in_any_order(pool: Any, dice: random.Random, most: int) -> None:
    """Batches of at most ``most``, children before parents and across batches too."""
    queue = pool._held.ready
    real = queue.take

    def take(max_count: int) -> list[Any]:
        chosen = real(1_000_000)
        dice.shuffle(chosen)
        queue.give_back([one.id for one in chosen[most:]])
        return chosen[:most]

    queue.take = take


def family(txs: list[Any], roots: set[bytes]) -> set[bytes]:
    found = set(roots)
    for tx in txs:
        if any(spent.outpoint[:32] in found for spent in tx.inputs):
            found.add(tx.txid)
    return found


async def mine(node: Any, world: Any) -> int:
    """Attempts it took."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await node.consensus.control("generate", count=1)
            return attempt
        except ControlRefused:
            pass
    raise AssertionError(f"no block in {ATTEMPTS} attempts")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # an example takes a second: not shrunk
)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), most=st.integers(1, 9), bad=st.integers(0, 12))
def test_all_that_is_valid_is_mined(
    tell: Callable[..., Any], money: Any, seed: int, count: int, most: int, bad: int
) -> None:
    async def story(world: Any) -> None:
        dice = random.Random(seed)
        node = await world.node("miner")
        hand_out_in_any_order(node.pool, dice, most)
        trader = money.Trader(dice, money.genesis_coins())
        txs = [trader.next() for _ in range(count)]
        await node.pool.submit([tx.raw for tx in txs])
        await money.until(lambda: len(node.consensus.chain.assembler) == count)
        lost: set[bytes] = set()
        late: set[bytes] = set()
        rivals: list[Any] = []
        for victim in dice.sample(txs, min(bad, count)):
            if victim.txid in family(txs, lost | late):
                continue
            if dice.random() < 0.3:  # its lock has not passed, and nobody told the assembly
                node.engine.state.unmined[victim.txid].min_height = 5
                late.add(victim.txid)
                continue
            await node.engine.release([victim.txid])
            lost.add(victim.txid)
            mined = {tx.txid for tx in txs}
            spent = next((own for own in victim.inputs if own.outpoint[:32] not in mined), None)
            if spent is None:
                continue
            coin = next(one for one in money.genesis_coins() if one.outpoint == spent.outpoint)
            rivals.append(money.pay([coin], [0], fee=777))
            await node.pool.submit([rivals[-1].raw])
        lost, late = family(txs, lost), family(txs, late)
        good = {tx.txid for tx in txs} - lost - late | {tx.txid for tx in rivals}
        await money.until(lambda: all(id in node.consensus.chain.assembler for id in {tx.txid for tx in rivals}))
        await mine(node, world)
        ((_, mined_txs),) = await node.blocks()
        found = [tx.txid for tx in mined_txs[1:]]
        assert good <= set(found) and not late & set(found) and len(found) == len(set(found))
        statuses = dict(zip(lost, await node.pool.status(list(lost)), strict=True))
        for id, status in statuses.items():
            assert (status.status == "committed") == (id in found), status
        # What waits for its lock is pending, and mined when it has passed.
        waiting = late - lost
        assert all(one.status == "pending" for one in await node.pool.status(list(waiting)))
        for _ in range(5):
            await node.consensus.control("generate", count=1)
            await money.until(
                lambda: node.pool.pending() == [] or node.head.height < 5 or bool(node.consensus.chain.assembler)
            )
        assert [one.status for one in await node.pool.status(list(waiting))] == ["committed"] * len(waiting)

    tell(story, seed % 1000)


def test_thousands_of_bad_ones_take_one_repair(tell: Callable[..., Any], money: Any) -> None:
    """One refused block, not one for each of them."""

    async def story(world: Any) -> None:
        node = await world.node("miner", subtree_size=256)
        coins = money.genesis_coins()
        fan = [money.pay([coin], [number % money.KEYS for number in range(40)]) for number, coin in enumerate(coins[:25])]
        leaves = [money.pay([coin], [0], fee=500) for tx in fan for coin in money.coins_of(tx)]
        await node.pool.submit([tx.raw for tx in [*fan, *leaves]])
        await money.until(lambda: len(node.consensus.chain.assembler) == len(fan) + len(leaves))
        for tx in leaves[::2]:
            node.engine.state.unmined[tx.txid].min_height = 1000
        attempts = await mine(node, world)
        assert attempts <= 2 and len(node.events.of("block_refused")) <= 1
        ((_, mined),) = await node.blocks()
        assert {tx.txid for tx in mined[1:]} == {tx.txid for tx in [*fan, *leaves[1::2]]}
        assert len(node.pool.pending()) == len(leaves) // 2

    tell(story, 3)


def test_health_says_so_when_a_repaired_assembly_is_refused_again(
    tell: Callable[..., Any], money: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: Any) -> None:
        from nodewright.interfaces import Invalid

        node = await world.node("miner")
        said: list[tuple[bool, str]] = []
        node.consensus.assembly.health = lambda ok, detail="": said.append((ok, detail))
        await node.pool.submit([money.pay([money.genesis_coins()[0]], [1]).raw])
        await money.until(lambda: len(node.consensus.chain.assembler) == 1)
        real = node.engine.execute

        async def refuse(request: Any) -> Any:
            if request.invalid_transaction == "reject_block":
                return Invalid("bad-weather", "the execution is in a mood")
            return await real(request)

        monkeypatch.setattr(node.engine, "execute", refuse)
        with pytest.raises(ControlRefused, match="bad-weather"):
            await node.consensus.control("generate", count=1)
        assert said and not said[-1][0] and "bad-weather" in said[-1][1]
        monkeypatch.setattr(node.engine, "execute", real)
        await node.consensus.control("generate", count=1)
        assert said[-1] == (True, "")
        assert node.pool.pending() == []

    tell(story, 4)


def test_a_block_that_comes_between_taking_and_inserting_keeps_its_statuses(tell: Callable[..., Any], money: Any) -> None:
    """A candidate that a block committed meanwhile is no longer a candidate, and is not called rejected."""

    async def story(world: Any) -> None:
        node = await world.node("miner")
        tx = money.pay([money.genesis_coins()[0]], [1])
        await node.pool.submit([tx.raw])
        await money.until(lambda: len(node.consensus.chain.assembler) == 1)
        candidates = node.pool.pending()
        await node.consensus.control("generate", count=1)
        async with node.consensus.chain.lock:
            await node.consensus.assembly._insert(candidates)
        assert (await node.status(tx)).status == "committed"

    tell(story, 5)


def test_an_upgrades_height_passes_under_pending_transactions(tell: Callable[..., Any], money: Any) -> None:
    """What the new rules refuse is rejected with a reason before a block would be, the rest is mined; nothing is wedged."""

    async def story(world: Any) -> None:
        node, other = [await world.node(name) for name in ("miner", "other")]
        eras = attrs.evolve(node.engine.parameters, genesis_height=4, chronicle_height=100)
        for one in (node, other):
            one.engine.parameters = eras
        coins = money.genesis_coins()
        script_hash = b"\xa9\x14" + bytes(20) + b"\x87"
        owner = derive_key(b"integration", coins[0].owner)
        spent = (coins[0].txid, coins[0].index, coins[0].satoshis, p2pkh_script(public_key(owner)))
        old = sign_p2pkh_inputs(build_transaction([spent], [(990_000, script_hash)]), [owner])
        good = [money.pay([coin], [1, 2]) for coin in coins[1:6]]
        child = money.pay(money.coins_of(good[0])[:1], [3])
        await node.generate(2)
        answers = await node.submit(old, *good, child)
        assert all(isinstance(answer, money.Admitted) for answer in answers), answers
        await money.until(lambda: len(other.pool.pending()) == 7)
        # A block of the other rules comes: height 3 is the last before Genesis.
        node.consensus.chain.assembler.clear()
        await node.consensus.control("generate", count=1)
        await world.together()
        for one in (node, other):
            assert (await one.status(old)).status == "rejected"
            assert "script hash" in (await one.status(old)).detail
            assert {tx.id for tx in one.pool.pending()} == {tx.txid for tx in [*good, child]}
            assert old.txid not in one.consensus.chain.assembler
        node.consensus.assembly._deferred = []
        node.consensus.chain.assembler.extend(node.pool.pending())
        await node.consensus.control("generate", count=1)
        await world.together()
        assert not node.pool.pending() and not other.pool.pending()
        assert not node.events.of("block_refused") and not other.events.of("block_refused")
        await world.same()

    tell(story, 6)


def test_what_gave_way_to_a_loser_is_mined_after_all(tell: Callable[..., Any], money: Any) -> None:
    """A gives way to B's block, B to C's chain, and nothing of C stands against A."""

    async def story(world: Any) -> None:
        first, second, third = [await world.node(name) for name in ("first", "second", "third")]
        x, y = money.genesis_coins()[:2]
        a, b, c = money.pay([x], [1]), money.pay([x, y], [2]), money.pay([y], [3])
        child = money.pay(money.coins_of(a), [4])
        world.network.partition(["first", "second"], ["third"])
        await first.accept(a, child)
        await second.accept(b)
        await second.generate()
        await money.until(lambda: first.head == second.head and first.head.height == 1)
        assert (await first.status(a)).status == (await first.status(child)).status == "replaced"
        await third.accept(c)
        await third.generate(2)
        world.network.heal()
        await world.together()
        assert (await first.status(b)).status == "replaced"
        assert (await first.status(a)).status == (await first.status(child)).status == "pending"
        await world.rest(first, second)
        assert await world.account() == (3, 1)
        assert (await first.status(child)).status == "committed"

    tell(story, 7)
