"""Four validators over a simulated network: load, faults of one, partitions, joining late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio


def transfers(kit: Any, key: Any, first: int, count: int) -> list[bytes]:
    return [kit.transfer(key, nonce, kit.carl.public, 1).raw for nonce in range(first, first + count)]


@pytest.mark.parametrize("harsh", [False, True], ids=["kept contract", "harsh network"])
@pytest.mark.parametrize("seed", range(2))
def test_transfers_are_committed_on_every_node(
    play: Callable[..., Any], kit: Any, book: Any, seed: int, harsh: bool
) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        ids: list[bytes] = []
        for at, key in enumerate((kit.alice, kit.bert)):
            ids += await world.submit(nodes[at], *transfers(kit, key, 0, 5))
        for node in nodes:
            await world.settled(node, ids)
        await world.agree(beyond=5)
        state = await nodes[3].state()
        assert state[kit.carl.public].balance == 100_010
        (place,) = await nodes[2].consensus.locate(ids[:1])
        assert place is not None and await nodes[2].consensus.transactions(ids[:1]) == [transfers(kit, kit.alice, 0, 1)[0]]

    play(story, seed, kit.harsh if harsh else None)


__all__: Sequence[str] = ()
_ = trio
