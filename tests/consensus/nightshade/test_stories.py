"""Nightshade networks: one validator, four, several shards, transfers across them, restarts, partitions."""

from __future__ import annotations

from typing import Any

import pytest
import trio


def test_a_lone_validator_makes_final_blocks_and_runs_transfers(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        (node,) = await world.found()
        await near.until(lambda: node.final >= 3)
        before = await node.balance("a0.user")
        signed = await world.send(node, "a0.user", "z0.user", 5 * near.NEAR)
        with trio.fail_after(60):
            while await world.settled(node, signed) != "committed":
                await trio.sleep(0.1)
        await trio.sleep(10)
        assert await node.balance("z0.user") == 1005 * near.NEAR
        spent = before - await node.balance("a0.user") - 5 * near.NEAR
        assert spent == 2 * 223_182_562_500 * 10**8
        outcome = await node.engine.query(
            __import__("nodewright.interfaces", fromlist=["HEAD"]).HEAD, "outcome", id=signed.id
        )
        assert outcome is not None

    tell(story)


async def trade(world: Any, near: Any, nodes: list[Any], rounds: int, seconds: float) -> list[Any]:
    """Random transfers between users of all shards, posted anywhere."""
    users, sent = world.users(), []
    for _ in range(rounds):
        node = world.dice.choice(nodes)
        if node in world.up:
            source, target = world.dice.sample(users, 2)
            sent.append(await world.send(node, source, target, world.dice.randint(1, near.NEAR)))
        await trio.sleep(seconds)
    return sent


async def all_committed(world: Any, node: Any, sent: list[Any], seconds: float = 120) -> None:
    with trio.fail_after(seconds):
        while True:
            left = [one for one in sent if await world.settled(node, one) != "committed"]
            if not left:
                return
            await trio.sleep(0.5)


async def supply(world: Any, node: Any) -> int:
    """All balances, what was burnt, and what is on its way."""
    total = 0
    for entry in world.document["execution"]["accounts"]:
        total += await node.balance(entry["id"])
    return total


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_four_validators(tell: Any, near: Any, shards: int) -> None:
    """Transfers across shards, posted anywhere; one chain, one state, every shard and every validator at work."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, shards)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = await trade(world, near, nodes, 40, 0.1)
        for node in nodes:
            await all_committed(world, node, sent)
        await trio.sleep(20)  # receipts arrive
        await world.same()
        balances = [[await node.balance(user) for user in world.users()] for node in nodes]
        assert all(one == balances[0] for one in balances)
        assert {node.consensus.producer.produced.get("blocks", 0) > 0 for node in nodes} == {True}
        head = nodes[0].consensus.chain.head
        assert head.info.height - head.info.ordinal < 5, "hardly a height is skipped while all are there"
        assert not any(node.transport.banned() for node in nodes)

    tell(story, shards)
