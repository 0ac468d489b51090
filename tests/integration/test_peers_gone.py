"""Peers that go while a node holds headers of theirs whose blocks it does not have yet."""

from __future__ import annotations

from typing import Any

import pytest
import trio


@pytest.mark.parametrize("seed", range(2))
def test_two_peers_of_one_chain_go_at_once(tell: Any, money: Any, seed: int) -> None:
    """The headers that only they had shown are let go of once; the node follows whoever comes next."""

    async def story(world: Any) -> None:
        alpha, beta, gamma = [await world.node(name) for name in ("alpha", "beta", "gamma")]
        world.network.partition(["alpha"], ["beta", "gamma"])
        trader = money.Trader(world.dice, money.genesis_coins())
        for _ in range(12):
            await beta.accept(*[trader.next() for _ in range(3)])
            await beta.generate()
        await money.until(lambda: beta.head == gamma.head)
        world.network.set_conditions(delay_seconds=(0.4, 0.5))
        for _ in range(3):
            world.network.heal()

            def followed() -> list[Any]:
                return [one for one in alpha.consensus._sync.followers if one.missing]

            await money.until(lambda: len(followed()) == 2 or alpha.head == beta.head)
            world.network.partition(["alpha"], ["beta", "gamma"])
            await trio.sleep(60)
            index = alpha.consensus.chain.index
            assert all(index.get(node.id) is node for node in index.back(index.best))
        world.network.set_conditions(delay_seconds=(0.001, 0.01))
        world.network.heal()
        await world.together()
        await world.rest(beta)
        assert await world.account() == (36, 0)

    tell(story, seed)
