"""A lone sandbox: records put into the state, heights jumped over; refused where others would come to another state."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from nodewright.errors import ControlRefused
from nodewright_nightshade.safety import Safety

RECORD: dict[str, Any] = {
    "Account": {"account_id": "rich.sandbox", "account": {"amount": "5", "locked": "0", "storage_usage": 182}}
}


def test_records_and_jumps(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        (node,) = await world.found(local=True)
        await near.until(lambda: node.final >= 2)
        await node.consensus.control("sandbox_patch_state", records=[RECORD])
        assert await node.balance("rich.sandbox") == 5
        before = node.height
        await node.consensus.control("sandbox_fast_forward", delta_height=500)
        await near.until(lambda: node.final >= before + 500, 30)
        assert await node.balance("rich.sandbox") == 5
        await node.kill()
        await node.start()
        assert await node.balance("rich.sandbox") == 5
        await near.until(lambda: node.final >= before + 505, 30)
        for wrong in (0, -1, 10**9):
            with pytest.raises(ControlRefused):
                await node.consensus.control("sandbox_fast_forward", delta_height=wrong)
        with pytest.raises(ControlRefused):
            await node.consensus.control("sandbox_patch_state", records=[{"Account": {}}])

    tell(story)


def test_a_record_that_was_answered_outlives_the_node(tell: Any, near: Any) -> None:
    """Killed as soon as the call is answered, long before the block is final."""

    async def story(world: Any) -> None:
        (node,) = await world.found(local=True)
        for amount in range(1, 6):
            account = {**RECORD["Account"]["account"], "amount": str(amount)}
            await node.consensus.control(
                "sandbox_patch_state", records=[{"Account": {"account_id": "rich.sandbox", "account": account}}]
            )
            await node.kill()
            await node.start()
            assert await node.balance("rich.sandbox") == amount
            height = node.height
            await near.until(lambda: node.final > height + 1, 30)  # noqa: B023 - it is waited for here
            assert await node.balance("rich.sandbox") == amount

    tell(story)


def test_a_jump_while_a_block_is_being_made(tell: Any, near: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is approved for a height far above its parent is no use once the parent has another child."""

    async def story(world: Any) -> None:
        (node,) = await world.found(local=True)
        await near.until(lambda: node.final >= 2)
        make_block = Safety.make_block

        async def slowly(safety: Safety, height: int) -> bool:
            monkeypatch.setattr(Safety, "make_block", make_block)
            jumping.start_soon(partial(node.consensus.control, "sandbox_fast_forward", delta_height=600))
            await trio.sleep(0.01)
            return await make_block(safety, height)

        async with trio.open_nursery() as jumping:
            before = node.height
            monkeypatch.setattr(Safety, "make_block", slowly)
            await near.until(lambda: node.final >= before + 600, 30)

    tell(story)


def test_refused_in_company_and_off_a_local_network(tell: Any, near: Any) -> None:
    async def company(world: Any) -> None:
        node, *_ = await world.found(2, local=True)
        with pytest.raises(ControlRefused, match="only validator"):
            await node.consensus.control("sandbox_patch_state", records=[RECORD])

    async def elsewhere(world: Any) -> None:
        (node,) = await world.found()
        with pytest.raises(ControlRefused, match="not local"):
            await node.consensus.control("sandbox_fast_forward", delta_height=5)

    tell(company)
    tell(elsewhere)
