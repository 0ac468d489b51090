"""What is said without waiting."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from nodewright_jolteon.sending import Sender


class Deaf:
    name = "deaf"

    async def broadcast(self, payload: bytes) -> None:
        await trio.sleep_forever()


async def test_who_speaks_at_a_stop_ends_nothing() -> None:
    """A block is proposed under a shield while the sender beside is cancelled already."""
    sender, channel = Sender(), Deaf()
    said: list[Any] = []

    async def propose() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                sender.tell_all(channel, b"block")  # type: ignore[arg-type]
                said.append(True)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            nursery.start_soon(propose)
            await trio.testing.wait_all_tasks_blocked()
            sender.tell_all(channel, b"earlier")  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()
    assert said
