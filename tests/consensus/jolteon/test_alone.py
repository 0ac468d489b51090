"""One validator on its own: a quorum of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_one_validator_commits_by_itself(play: Callable[..., Any], kit: Any) -> None:
    async def story(world: Any) -> None:
        world.found(["ada"], {"accounts": [(kit.alice.public.hex(), 1000)]})
        node = world.node("ada", alone=True)
        await world.start()
        ids = await world.submit(node, *(kit.transfer(kit.alice, nonce, kit.bert.public, 10).raw for nonce in range(5)))
        await world.settled(node, ids)
        state = await node.state()
        assert state[kit.alice.public].balance == 950
        height = node.height
        await world.until(lambda: node.height > height + 3)  # empty blocks go on
        (place,) = await node.consensus.locate(ids[:1])
        assert place is not None and place.block.height > 0
        assert await node.consensus.transactions(ids[:1]) == [kit.transfer(kit.alice, 0, kit.bert.public, 10).raw]
        await node.crash()
        await world.start(node)
        assert await node.statuses(ids) == ["committed"] * 5
        again = await world.submit(node, kit.transfer(kit.alice, 5, kit.bert.public, 10).raw)
        await world.settled(node, again)

    play(story)
