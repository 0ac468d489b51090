"""Three miners over a network that delays, loses, repeats and reorders what they say, and breaks now and then."""

from __future__ import annotations

from typing import Any

import pytest
import trio

SEEDS = range(2)
FAULTS = [
    {"delay_seconds": (0.05, 2.0)},
    {"delay_seconds": (0.01, 0.3), "loss": 0.2},
    {"delay_seconds": (0.01, 0.3), "duplication": 0.3, "reordering": 0.3, "reorder_seconds": 3.0},
    {"delay_seconds": (0.01, 0.5), "loss": 0.1, "duplication": 0.2, "reordering": 0.2, "reorder_seconds": 1.0},
]


def story_of(money: Any, rounds: int) -> Any:
    async def life(world: Any, node: Any, trader: Any, contested: list[Any]) -> None:
        for _ in range(rounds):
            await node.accept(*[trader.next() for _ in range(world.dice.randint(1, 4))])
            if contested and world.dice.random() < 0.5:
                # Each node spends the same coin in its own way; who was told first of another's is refused by name.
                tx = money.pay([contested.pop()], [trader.owners[0]])
                (answer,) = await node.submit(tx)
                if isinstance(answer, money.Admitted):
                    world.acknowledge(node, tx)
                else:
                    assert answer.kind == "conflict", answer
                    assert len(answer.data["winner"]) == 32
            if world.dice.random() < 0.4:
                await node.consensus.control("generate")
            if world.dice.random() < 0.1:
                one, other = world.dice.sample(sorted(world.nodes), 2)
                world.network.disconnect(one, other)
            await trio.sleep(world.dice.uniform(0, 2))

    async def story(world: Any) -> tuple[int, int]:
        nodes = [await world.node(name) for name in ("alpha", "beta", "gamma")]
        coins = money.genesis_coins()
        contested = coins[24:]
        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                owners = range(8 * number, 8 * number + 8)
                trader = money.Trader(world.dice, coins[owners.start : owners.stop], owners)
                nursery.start_soon(life, world, node, trader, list(contested))
        world.network.set_conditions(delay_seconds=(0.001, 0.01), loss=0.0, duplication=0.0, reordering=0.0)
        await world.together_or_mine(nodes[0])
        await world.rest(*nodes)
        kept, displaced = await world.account()
        return kept, displaced

    return story


@pytest.mark.parametrize("faults", FAULTS, ids=["slow", "loss", "disorder", "all"])
@pytest.mark.parametrize("seed", SEEDS)
def test_three_miners(tell: Any, money: Any, seed: int, faults: dict[str, Any], budget: int) -> None:
    for number in range(budget):
        kept, _ = tell(story_of(money, 10), seed + 100 * number, **faults).value
        assert kept > 30
