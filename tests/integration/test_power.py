"""The power goes at random commits and journal writes of a node that trades, mines and follows: what it promised stays."""

from __future__ import annotations

from typing import Any

import pytest
import trio

SEEDS = range(2)
CUTS = 6
HOW = ("before", "in", "after")


async def use(world: Any, node: Any, trader: Any, money: Any) -> None:
    """Posts and mines until the power goes; remembers what was answered."""
    try:
        while trader.coins:
            txs = [trader.next() for _ in range(world.dice.randint(1, 5)) if trader.coins]
            for tx, answer in zip(txs, await node.submit(*txs), strict=True):
                if isinstance(answer, money.Admitted):
                    world.acknowledge(node, tx)
            if world.dice.random() < 0.4:
                await node.consensus.control("generate")
    except (money.PowerCut, money.NodewrightError):
        pass


def power_story(money: Any, cuts: int) -> Any:
    async def story(world: Any) -> int:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        coins = money.genesis_coins()
        mine, theirs = coins[:20], money.Trader(world.dice, coins[20:], range(20, money.KEYS))
        await alpha.accept(*[money.pay([coin], [coin.owner] * 4) for coin in mine])
        await alpha.generate(2)
        await world.together()
        during_opening = 0
        for round_ in range(cuts):
            # Down and up again with a cut that is due: at a commit while it opens, or in what follows.
            await alpha.lose_power()
            await alpha.start(cut_at=world.dice.randint(1, 60), how=world.dice.choice(HOW))
            during_opening += alpha.power.off
            apart = not alpha.power.off and world.dice.random() < 0.5
            if apart:
                world.network.partition(["alpha"], ["beta"])
            if not alpha.power.off:
                trader = money.Trader(world.dice, [c for c in await world.spendable(alpha) if c.owner < 20], range(20))
                world.nursery.start_soon(use, world, alpha, trader, money)
            for _ in range(world.dice.randint(1, 3)):
                await beta.accept(*[theirs.next() for _ in range(3)])
                await beta.generate()
            if apart:
                await beta.generate(world.dice.randint(1, 5))
                world.network.heal()  # the power may go in the middle of a reorganisation
            with trio.move_on_after(20):
                await alpha.power.went.wait()
            await alpha.lose_power()
            await alpha.start()
            await world.replay(alpha)
            for tx, nodes in world.acknowledged.values():
                if alpha in nodes:
                    assert await alpha.status(tx) is not None, f"round {round_}: an acknowledged transaction is forgotten"
            await world.together_or_mine(beta)
        await world.rest(beta, alpha)
        kept, displaced = await world.account()
        assert displaced == 0, "nobody spent anything twice"
        return kept

    return story


@pytest.mark.parametrize("seed", SEEDS)
def test_cuts_at_random_writes(tell: Any, money: Any, seed: int, budget: int) -> None:
    for number in range(budget):
        assert tell(power_story(money, CUTS), seed + 100 * number).value > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_power_cuts_while_catching_up(tell: Any, money: Any, seed: int) -> None:
    """Blocks are fetched side by side and stored as they come: one whose parent had not come before is no damage."""

    async def story(world: Any) -> None:
        alpha = await world.node("alpha")
        trader = money.Trader(world.dice, money.genesis_coins())
        for _ in range(15):
            await alpha.accept(*[trader.next() for _ in range(4)])
            await alpha.generate(2)
        late = await world.node("late")
        world.network.partition(["alpha"], ["late"])
        await late.lose_power()
        world.network.heal()
        for _ in range(12):
            await late.start(cut_at=world.dice.randint(3, 25), how=world.dice.choice(HOW))
            with trio.move_on_after(20):
                await late.power.went.wait()
            await late.lose_power()
        await late.start()
        await world.together()
        assert await world.account() == (60, 0)

    tell(story, seed)
