"""Nightshade networks that are killed, cut in two, late or badly connected: finality is back, each transfer runs once."""

from __future__ import annotations

from typing import Any

import pytest
import trio

CALM = 40.0  # seconds in which receipts arrive and everybody catches up


@pytest.mark.seeds(1)
def test_kill_of_any_node_at_any_instant(tell: Any, near: Any, seed: int) -> None:
    """Each of four is killed in turn, at a random instant; the others go on, it comes back and follows."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 2)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = []
        for node in world.dice.sample(nodes, 4 if seed else 3):
            sent += await world.trade(nodes, 6, 0.1)
            await trio.sleep(world.dice.uniform(0, 1.5))
            await node.kill()
            before = max(one.final for one in world.up)
            sent += await world.trade(nodes, 6, 0.1)
            await near.until(lambda before=before: min(one.final for one in world.up) > before + 2)
            await node.start()
            assert node.consensus.producer.safety.may_sign
        await near.at_rest(world, sent)

    tell(story, seed)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_any_two_steps_of_a_block(tell: Any, near: Any, after: bool) -> None:
    """Before and after each of the steps that make a block durable; what was begun is finished at the start, once."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 2)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        victim, sent = nodes[-1], []
        for step in ("put_block", "put_final", "commit", "settle"):
            sent += await world.trade(nodes[:3], 3, 0.1)
            chain = victim.consensus.chain
            await near.until(lambda chain=chain: any(held.placed for held in chain.held.values()))
            owner = {"commit": chain.execution, "settle": chain.pool}.get(step, chain.store)
            victim.die_in(owner, step, after)
            with trio.fail_after(60):
                await victim.dead()
            await victim.start()
            await near.until(lambda: victim.final >= nodes[0].final - 1)
        await near.at_rest(world, sent)

    tell(story, int(after))


def test_all_are_killed_at_once_after_a_long_stall(tell: Any, near: Any) -> None:
    """Who had approved far ahead while nothing was made does not wait as long again after a start."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 1)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        names = world.validators
        world.network.partition(names[:2], names[2:])
        await trio.sleep(1800)
        stalled = max(node.height for node in nodes)
        for node in nodes:
            await node.kill()
        world.network.heal()
        for node in nodes:
            await node.start()
        await near.until(lambda: min(node.final for node in nodes) > stalled + 5, 200)
        await world.same()

    tell(story)


@pytest.mark.seeds(1)
def test_a_partition_of_two_and_two_heals(tell: Any, near: Any, seed: int) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 2)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = await world.trade(nodes, 10, 0.1)
        names = world.dice.sample(world.validators, 4)
        await trio.sleep(world.dice.uniform(0, 1))
        world.network.partition(names[:2], names[2:])
        await trio.sleep(3)
        stuck = max(node.final for node in nodes)
        sent += await world.trade(nodes, 10, 1)
        await trio.sleep(60)
        assert max(node.final for node in nodes) <= stuck + 1, "half of the stake made blocks final"
        world.network.heal()
        await near.until(lambda: min(node.final for node in nodes) > stuck + 5, 120)
        await near.at_rest(world, sent)

    tell(story, seed)


def test_late_nodes_follow_from_genesis(tell: Any, near: Any) -> None:
    """A validator and an observer that start when there is a chain; what is posted to the observer is carried on."""

    async def story(world: Any) -> None:
        await world.found(4, 2, observers=1, late=["v3.validator", "o0.observer"])
        first = [node for node in world.nodes.values() if node in world.up]
        await near.until(lambda: all(node.final >= 5 for node in first), 200)
        sent = await world.trade(first, 10, 0.5)
        late = [await world.nodes[name].start() for name in ("v3.validator", "o0.observer")]
        await near.until(lambda: all(node.final >= max(one.final for one in first) - 3 for node in late), 60)
        sent += await world.trade(late, 6, 0.2)
        await near.until(lambda: late[0].consensus.producer.produced.get("blocks", 0) > 0)
        await near.at_rest(world, sent)
        assert late[1].consensus.status()["peers_ahead"] == 0

    tell(story)


@pytest.mark.seeds(1)
def test_messages_are_lost_repeated_and_late(tell: Any, near: Any, seed: int) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 2)
        sent = await world.trade(nodes, 20, 0.5)
        world.network.set_conditions(loss=0.0, duplication=0.0, reordering=0.0)
        await near.at_rest(world, sent)
        assert not any(node.transport.banned() for node in nodes)

    tell(story, seed, loss=0.05, duplication=0.1, reordering=0.2)


def test_what_execution_discards_is_rejected(tell: Any, near: Any) -> None:
    """Two transactions of one nonce, posted to two nodes at once: one is committed, the other is told."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 1)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        block = nodes[0].consensus.final().id
        one = world.transfer("a0.user", "b0.user", 5, block)
        world.nonces["a0.user"] -= 1
        other = world.transfer("a0.user", "c0.user", 7, block)
        await nodes[0].pool.submit([one.raw])
        await nodes[1].pool.submit([other.raw])

        async def fates(node: Any) -> list[str]:
            return [await world.settled(node, signed) for signed in (one, other)]

        with trio.fail_after(120):
            for node in nodes[:2]:
                waiting = ["pending"]
                while "pending" in waiting:
                    await trio.sleep(0.5)
                    waiting = await fates(node)
        await trio.sleep(CALM)
        b, c = await nodes[2].balance("b0.user"), await nodes[2].balance("c0.user")
        assert sorted([b - 1000 * near.NEAR, c - 1000 * near.NEAR]) in ([0, 5], [0, 7])
        executed = 0 if b > 1000 * near.NEAR else 1
        for node in nodes[:2]:
            found = await fates(node)
            assert found[executed] == "committed"
            assert found[1 - executed] != "committed"
            assert found[1 - executed] != "pending"

    tell(story)
