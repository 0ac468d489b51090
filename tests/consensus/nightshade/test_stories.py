"""Nightshade networks: one validator, four, several shards, transfers across them, restarts, partitions."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nodewright.interfaces import HEAD


def test_a_lone_validator_makes_final_blocks_and_runs_transfers(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        (node,) = await world.found()
        await near.until(lambda: node.final >= 3)
        before = await node.balance("a0.user")
        signed = await world.send(node, "a0.user", "z0.user", 5 * near.NEAR)
        await world.all_committed(node, [signed], 60)
        await trio.sleep(10)
        assert await node.balance("z0.user") == 1005 * near.NEAR
        spent = before - await node.balance("a0.user") - 5 * near.NEAR
        assert spent == 2 * 223_182_562_500 * 10**8
        outcome = await node.engine.query(HEAD, "outcome", id=signed.id)
        assert outcome is not None

    tell(story)


@pytest.mark.parametrize("shards", [1, pytest.param(2, marks=pytest.mark.long), 4])
def test_four_validators(tell: Any, near: Any, shards: int) -> None:
    """Transfers across shards, posted anywhere; one chain, one state, every shard and every validator at work."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, shards)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = await world.trade(nodes, 40, 0.1)
        for node in nodes:
            await world.all_committed(node, sent)
        await trio.sleep(20)  # receipts arrive
        await world.same()
        for node in nodes:
            await world.books(node)
        assert {node.consensus.producer.produced.get("blocks", 0) > 0 for node in nodes} == {True}
        head = nodes[0].consensus.chain.head
        assert head.info.height - head.info.ordinal < 5, "hardly a height is skipped while all are there"
        assert not any(node.transport.banned() for node in nodes)

    tell(story, shards)
