"""What the log says of accepted blocks: a line each, and a line a second for many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
import trio.testing

from nodewright.environment import NodeEnvironment
from nodewright.node.events import Events
from nodewright.node.progress import tell_progress


class Told:
    """The environment of the teller: its lines come through a channel, and its time passes when the test says so."""

    def __init__(self) -> None:
        self.sender, self.lines = trio.open_memory_channel[tuple[str, dict[str, Any]]](100)
        self.logger = self
        self.second = trio.Event()

    def info(self, event: str, **values: Any) -> None:
        self.sender.send_nowait((event, values))

    async def sleep(self, seconds: float) -> None:
        await self.second.wait()
        self.second = trio.Event()


async def test_one_line_for_a_block_and_one_for_many(environment: NodeEnvironment, tmp_path: Path) -> None:
    told: Any = Told()
    async with Events.open(environment, tmp_path / "events") as events, trio.open_nursery() as nursery:
        with trio.fail_after(30):
            nursery.start_soon(tell_progress, events, told)
            await trio.testing.wait_all_tasks_blocked()
            events.publish("admitted", {"ids": []})
            events.publish("block_accepted", {"height": 1, "hash": "a1", "transactions": 7, "size": 9})
            assert await told.lines.receive() == ("block accepted", {"height": 1, "hash": "a1", "transactions": 7})
            for height in range(2, 502):
                events.publish("block_accepted", {"height": height, "hash": f"{height:x}", "transactions": 3})
                events.publish("admitted", {"ids": []})
            await trio.testing.wait_all_tasks_blocked()
            assert told.lines.statistics().current_buffer_used == 0, "a second has not passed"
            told.second.set()
            name, values = await told.lines.receive()
            assert (name, values) == (
                "blocks accepted",
                {"blocks": 500, "height": 501, "hash": "1f5", "transactions": 1500},
            )
            told.second.set()
            events.publish("block_accepted", {"height": 502})  # a family that says no more than that
            assert await told.lines.receive() == ("block accepted", {"height": 502})
            nursery.cancel_scope.cancel()
