"""The sharded shape: two shards exchange receipts, and every block is checked from witnesses alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.plugin import ShardsConfig
from nodewright.testing.shapes.shard_rules import shard_of
from nodewright.testing.shapes.transfers import Account, transfer
from nodewright.testing.transport import Conditions

HARSH = Conditions(loss=0.03, duplication=0.05, reordering=0.1)
PEOPLE = [Key(f"person {index}") for index in range(12)]
HERE = [key for key in PEOPLE if shard_of(key.public, 2) == 0]
THERE = [key for key in PEOPLE if shard_of(key.public, 2) == 1]


def sharded(world: Any, names: Sequence[str], committee: Any) -> list[Any]:
    """Ada and Bob keep shard 0, Cleo and Dan shard 1."""
    world.found(
        {"validators": committee(names), "keepers": [[0, 1], [2, 3]]},
        {"shards": 2, "accounts": [(key.public.hex(), 1000) for key in PEOPLE]},
    )
    return [world.node(name, "two-chain-shards", "shards", ShardsConfig([index // 2])) for index, name in enumerate(names)]


async def settled(world: Any, node: Any, ids: Sequence[bytes], status: str = "committed") -> None:
    async def done() -> bool:
        return await node.statuses(ids) == [status] * len(ids)

    await world.until(done)


async def holdings(world: Any, nodes: Sequence[Any]) -> dict[bytes, Account]:
    """Accounts of all shards, where the keepers of each agree and stand as far as the chain."""
    found: dict[bytes, Account] = {}

    async def same() -> bool:
        found.clear()
        heads = {node.consensus.head() for node in nodes}
        states = [await node.state() for node in nodes]
        heads |= {node.consensus.head() for node in nodes}
        for state in states:
            for shard, accounts in state.items():
                if any(other.get(shard, accounts) != accounts for other in states):
                    return False
                found.update(accounts)
        return len(heads) == 1

    await world.until(same)
    return dict(found)


async def balances(world: Any, nodes: Sequence[Any], expected: dict[bytes, int]) -> None:
    async def reached() -> bool:
        held = await holdings(world, nodes)
        return all(held[key].balance == amount for key, amount in expected.items())

    await world.until(reached)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("conditions", [None, HARSH], ids=["kept contract", "harsh network"])
def test_receipts_cross_shards_and_nothing_is_made_or_lost(
    play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int, conditions: Conditions | None
) -> None:
    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        one, other, near = HERE[0], THERE[0], HERE[1]
        txs = [
            transfer(one, 0, other.public, 10),
            transfer(one, 1, near.public, 20),
            transfer(other, 0, one.public, 300),
        ]
        await nodes[0].pool.submit([txs[0].raw, txs[1].raw])
        await nodes[1].pool.submit([txs[2].raw])  # not a keeper of the sender's shard: told to those who are
        for node in nodes:
            await settled(world, node, [tx.id for tx in txs])
        await balances(world, nodes, {one.public: 1270, other.public: 710, near.public: 1020})
        held = await holdings(world, nodes)
        assert sum(account.balance for account in held.values()) == 1000 * len(PEOPLE)

    play(story, seed, conditions)


def test_a_node_without_any_state_checks_every_block(
    play: Callable[..., Any], names: Sequence[str], committee: Any
) -> None:
    """It joins late, keeps no shard, and re-runs every chunk from its witness; statuses are the same as anywhere."""

    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        txs = [transfer(key, 0, THERE[0].public, 5) for key in HERE[:3]]
        forged = transfer(HERE[0], 0, THERE[1].public, 6)
        await nodes[0].pool.submit([tx.raw for tx in txs])
        await settled(world, nodes[0], [tx.id for tx in txs])
        watcher = world.node("eve", "two-chain-shards", "shards", ShardsConfig([]))
        await world.start(watcher)
        await settled(world, watcher, [tx.id for tx in txs])
        height = watcher.consensus.head().height
        await world.until(lambda: beyond(watcher, height + 5))
        assert await watcher.state() == {}
        assert not any(watcher.disks["stores.state"].live.values())
        (refused,) = await nodes[1].pool.submit([forged.raw])
        assert refused.code == "nonce-used"

    async def beyond(node: Any, height: int) -> bool:
        return bool(node.consensus.head().height > height)

    play(story)


@pytest.mark.parametrize("seed", range(3))
def test_conflicts_and_children_before_parents(
    play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int
) -> None:
    """Rivals at the two keepers of a shard, and a child told long before its parent: one result on all nodes."""

    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        one, two = HERE[0], HERE[1]
        rivals = [transfer(one, 0, THERE[0].public, 7), transfer(one, 0, HERE[2].public, 9)]
        await nodes[0].pool.submit([rivals[0].raw])
        await nodes[1].pool.submit([rivals[1].raw])
        parent, child = transfer(two, 0, THERE[1].public, 1), transfer(two, 1, THERE[1].public, 2)
        await nodes[1].pool.submit([child.raw])
        await trio.sleep(2)
        assert await nodes[1].statuses([child.id]) == ["pending"]
        await nodes[3].pool.submit([parent.raw])
        await settled(world, nodes[1], [parent.id, child.id])

        async def one_won() -> bool:
            own = [(await node.statuses([tx.id]))[0] for node, tx in zip(nodes, rivals, strict=False)]
            return sorted(own) in (["committed", "rejected"], ["committed", "replaced"])

        await world.until(one_won)
        winner = [(await node.statuses([tx.id]))[0] for node, tx in zip(nodes, rivals, strict=False)].index("committed")
        expected = {THERE[0].public: 1007, HERE[2].public: 1000} if winner == 0 else {HERE[2].public: 1009}
        await balances(world, nodes, expected | {THERE[1].public: 1003})
        held = await holdings(world, nodes)
        assert sum(account.balance for account in held.values()) == 1000 * len(PEOPLE)

    play(story, seed)


def test_a_shard_that_misses_blocks_takes_all_receipts_when_it_returns(
    play: Callable[..., Any], names: Sequence[str], committee: Any
) -> None:
    """With one keeper down its turns have no chunk; the shard's next chunk takes in what was sent meanwhile."""

    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        await nodes[3].crash()
        for nonce in range(6):
            await nodes[0].pool.submit([transfer(HERE[0], nonce, THERE[0].public, 10).raw])
            await trio.sleep(0.6)
        await balances(world, nodes[:3], {HERE[0].public: 940, THERE[0].public: 1060})
        skipped = 0
        for height in range(1, nodes[0].consensus.head().height + 1):
            record = await nodes[0].consensus.block_at(height)
            skipped += record is not None and [ref.shard for ref in record.bundles] == [0]
        assert skipped > 0
        await world.start(nodes[3])
        await balances(world, nodes, {HERE[0].public: 940, THERE[0].public: 1060})

    play(story)


def test_partition_and_heal(play: Callable[..., Any], names: Sequence[str], committee: Any) -> None:
    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        world.network.partition(names[:2], names[2:])
        txs = [transfer(HERE[0], 0, THERE[0].public, 10), transfer(THERE[0], 0, HERE[0].public, 30)]
        await nodes[0].pool.submit([txs[0].raw])
        await nodes[2].pool.submit([txs[1].raw])
        await trio.sleep(20)
        assert await nodes[0].statuses([txs[0].id]) == ["pending"]
        world.network.heal()
        await settled(world, nodes[0], [txs[0].id])
        await settled(world, nodes[2], [txs[1].id])
        await balances(world, nodes, {HERE[0].public: 1020, THERE[0].public: 980})

    play(story)


def crash_story(names: Sequence[str], committee: Any, at: int | None) -> Any:
    async def story(world: Any) -> list[str]:
        nodes = sharded(world, names, committee)
        await world.start()
        victim = nodes[1]
        first = victim.fuse.count
        victim.fuse.at = first + at if at is not None else None
        accepted: list[bytes] = []
        for nonce in range(3):
            tx = transfer(HERE[0], nonce, THERE[0].public, 10)
            if victim.running:
                with trio.move_on_after(5):
                    await victim.pool.submit([tx.raw])
                    accepted.append(tx.id)
        back = transfer(THERE[1], 0, HERE[1].public, 4)
        await nodes[2].pool.submit([back.raw])
        if at is not None:
            await victim.stopped()
            await victim.start()
        await settled(world, victim, accepted)
        await settled(world, nodes[2], [back.id])
        await balances(
            world,
            nodes,
            {HERE[0].public: 1000 - 10 * len(accepted), THERE[0].public: 1000 + 10 * len(accepted), HERE[1].public: 1004},
        )
        return victim.fuse.steps[first:]

    return story


def test_crash_between_every_two_durable_steps(
    play: Callable[..., Any], names: Sequence[str], committee: Any, budget: int
) -> None:
    steps = play(crash_story(names, committee, None)).value
    assert {step.split(":")[0] for step in steps} == {"stores.blobs", "stores.chain", "stores.state"}
    for at in range(1, len(steps) + 1, max(len(steps) // (2 * budget), 1)):
        play(crash_story(names, committee, at), seed=at)


def test_the_same_seed_gives_the_same_run(play: Callable[..., Any], names: Sequence[str], committee: Any) -> None:
    async def story(world: Any) -> None:
        nodes = sharded(world, names, committee)
        await world.start()
        await nodes[0].pool.submit([transfer(HERE[0], 0, THERE[0].public, 10).raw])
        await nodes[2].pool.submit([transfer(THERE[0], 0, HERE[0].public, 30).raw])
        await balances(world, nodes, {HERE[0].public: 1020})

    one, again, other = play(story, 5, HARSH), play(story, 5, HARSH), play(story, 6, HARSH)
    assert one.events == again.events and one.digest == again.digest
    assert one.digest != other.digest
