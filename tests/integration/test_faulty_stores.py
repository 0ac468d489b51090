"""A node of Teranode's shape whose stores fail, dawdle and forget what they had not synced: nothing acknowledged is lost.

In front of each store stands the wrapper ``faulty``; around it what a real node has there, which ends the node at the first
write that failed. It is started again on what is left, with stores that work and then with other faults, for some lives.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nodewright.errors import StoreError
from nodewright.node.guard import StoreGuard
from nodewright_wrappers.faulty import FaultyConfig, FaultyStore
from nodewright_wrappers.write_behind import WriteBehindStore

LIVES = 8
SEEDS = range(2)


class Faults:
    """Of one node: what stands in front of its stores in each of its lives."""

    def __init__(self, node: Any, **rates: float) -> None:
        self.node = node
        self.rates = rates
        self.deaths = 0
        self.failed: list[FaultyStore] = []

    def front(self, slot: str, store: Any) -> Any:
        """A guard for each, as a power cut ends all of the node at once: nothing is written after the first failure."""
        life = self.node.starts
        config = FaultyConfig(
            "inner", True, seed=life, lose_unsynced=life % 2 == 0, delay_rate=0.05, max_delay_seconds=0.2, **self.rates
        )
        faulty = FaultyStore(store, config, self.node.environment(f"stores.{slot}"))
        self.failed.append(faulty)
        front: Any = faulty
        if life % 3 == 0:  # held commits are handed on with the durable ones alone: ``run`` is not started
            environment = self.node.environment(f"stores.{slot}")
            front = WriteBehindStore(faulty, environment, max_bytes=1 << 20, max_seconds=1.0)
        return StoreGuard(self._write_failed, lambda *_: None).store(slot, front)

    def _write_failed(self, slot: str, error: StoreError) -> None:
        self.deaths += 1
        self.node.power.cut()
        self.node.end()


async def use(world: Any, node: Any, money: Any) -> None:
    """Posts and mines until the node is gone; what was answered with success is to be kept."""
    coins = [coin for coin in await world.spendable(node) if coin.owner < 20]
    trader = money.Trader(world.dice, coins, range(20))
    while trader.coins and node.on:
        txs = [trader.next() for _ in range(world.dice.randint(1, 5)) if trader.coins]
        for tx, answer in zip(txs, await node.submit(*txs), strict=True):
            if isinstance(answer, money.Admitted):
                world.acknowledge(node, tx)
        if world.dice.random() < 0.4:
            await node.consensus.control("generate")


async def live(world: Any, node: Any, money: Any) -> None:
    try:
        with trio.move_on_after(60):
            await use(world, node, money)
    except (money.PowerCut, money.NodewrightError):
        pass


def story_of_faults(money: Any, **rates: float) -> Any:
    async def story(world: Any) -> tuple[int, int, int]:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        coins = money.genesis_coins()
        await alpha.accept(*[money.pay([coin], [coin.owner] * 4) for coin in coins[:20]])
        await alpha.generate(2)
        await world.together()
        faults = Faults(alpha, **rates)
        alpha.dies_of = (money.NodewrightError,)  # the store's, and what others say of a node that goes
        theirs = money.Trader(world.dice, coins[20:], range(20, money.KEYS))
        for _ in range(LIVES):
            alpha.front = faults.front
            await alpha.lose_power()
            await alpha.start()
            if alpha.on:
                await live(world, alpha, money)
            for _ in range(world.dice.randint(0, 2)):  # the other goes on meanwhile, so that there is something to follow
                await beta.accept(theirs.next())
                await beta.generate()
            await alpha.lose_power()
            alpha.front = lambda slot, store: store
            await alpha.start()
            for tx, nodes in world.acknowledged.values():
                if alpha in nodes:
                    assert await alpha.status(tx) is not None, f"{tx.txid[::-1].hex()} was acknowledged and is forgotten"
            await world.together_or_mine(beta)
        await world.rest(beta, alpha)
        kept, displaced = await world.account()
        assert displaced == 0, "nobody spent anything twice"
        return kept, faults.deaths, sum(store.failed for store in faults.failed)

    return story


@pytest.mark.parametrize("seed", SEEDS)
def test_commits_that_fail(tell: Any, money: Any, seed: int, budget: int) -> None:
    kept = deaths = 0
    for number in range(budget):
        value = tell(story_of_faults(money, commit_error_rate=0.02, full_rate=0.02), seed + 100 * number).value
        kept, deaths = kept + value[0], deaths + value[1]
    assert kept > 20 and deaths > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_that_fail_too(tell: Any, money: Any, seed: int, budget: int) -> None:
    kept = failed = 0
    for number in range(budget):
        rates = {"commit_error_rate": 0.005, "read_error_rate": 0.01}
        value = tell(story_of_faults(money, **rates), seed + 100 * number).value
        kept, failed = kept + value[0], failed + value[2]
    assert kept > 20 and failed > 0
