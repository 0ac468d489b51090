"""The BFT shape: rounds with instant finality over certified bundles, over two executions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from nodewright.testing.shapes.codec import u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.transfers import transfer
from nodewright.testing.transport import Conditions

ALICE, BERT, CARL = Key("alice"), Key("bert"), Key("carl")
HARSH = Conditions(loss=0.05, duplication=0.05, reordering=0.1)


def bft(world: Any, names: Sequence[str], committee: Any, execution: str = "accounts") -> list[Any]:
    accounts = [(key.public.hex(), 1000) for key in (ALICE, BERT, CARL)]
    coins = [(ALICE.public.hex(), 100), (ALICE.public.hex(), 200), (BERT.public.hex(), 300)]
    world.found({"validators": committee(names)}, {"accounts": accounts, "coins": coins})
    return [world.node(name, "two-chain", execution) for name in names]


async def settled(world: Any, node: Any, ids: Sequence[bytes], status: str = "committed") -> None:
    async def done() -> bool:
        return await node.statuses(ids) == [status] * len(ids)

    await world.until(done)


def outpoint(world: Any, index: int) -> bytes:
    """A coin of the genesis block."""
    (node, *_) = world.nodes.values()
    return node.consensus.log.genesis.id + u8(index)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("conditions", [None, HARSH], ids=["kept contract", "harsh network"])
def test_transfers_become_final_on_every_node(
    play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int, conditions: Conditions | None
) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start()
        txs = [transfer(ALICE, nonce, BERT.public, 10) for nonce in range(5)]
        answers = await nodes[0].pool.submit([tx.raw for tx in txs])
        assert [answer.id for answer in answers] == [tx.id for tx in txs]
        await settled(world, nodes[0], [tx.id for tx in txs])
        await world.agree(beyond=3)
        state = await nodes[3].state()
        assert state[ALICE.public].balance == 950 and state[BERT.public].balance == 1050
        places = await nodes[2].consensus.locate([tx.id for tx in txs])
        assert all(place is not None and place.block is not None for place in places)
        assert await nodes[2].consensus.transactions([txs[0].id]) == [txs[0].raw]

    play(story, seed, conditions)


@pytest.mark.parametrize("seed", range(4))
def test_conflicting_transactions_in_two_certified_bundles(
    play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int
) -> None:
    """Two clients spend the same nonce at two nodes; both bundles are certified and ordered, one transfer runs."""

    async def story(world: Any) -> list[str]:
        nodes = bft(world, names, committee)
        await world.start()
        one, other = transfer(ALICE, 0, BERT.public, 7), transfer(ALICE, 0, CARL.public, 9)
        await nodes[0].pool.submit([one.raw])
        await nodes[1].pool.submit([other.raw])

        async def final() -> bool:
            found = [await node.statuses([one.id, other.id]) for node in nodes]
            return all(sorted(pair) == ["committed", "rejected"] for pair in found)

        await world.until(final)
        assert len({tuple(await node.statuses([one.id, other.id])) for node in nodes}) == 1
        assert all(len(node.events.of("bundle_accepted")) == (node in nodes[:2]) for node in nodes)
        await world.agree()
        statuses: list[str] = await nodes[0].statuses([one.id, other.id])
        loser, author = (one, nodes[0]) if statuses[0] == "rejected" else (other, nodes[1])
        winner = other if loser is one else one
        assert {loser.id.hex(): winner.id.hex()} in author.events.of("evicted")
        assert not any(node.events.of("evicted") for node in nodes if node is not author and node not in nodes[:2])
        return statuses

    play(story, seed)


def test_over_coins_conflicts_and_orphans_have_one_result(
    play: Callable[..., Any], names: Sequence[str], committee: Any
) -> None:
    """The same consensus over an execution with a single head: bundles in an order that no pool would give."""

    async def story(world: Any) -> None:
        nodes = bft(world, names, committee, "coins")
        await world.start()
        parent = pay([(outpoint(world, 0), ALICE)], [(BERT.public, 60), (ALICE.public, 40)])
        child = pay([(parent.outpoint(0), BERT)], [(CARL.public, 60)])
        rival = pay([(outpoint(world, 0), ALICE)], [(CARL.public, 100)])
        await nodes[1].consensus.payloads.seal([child.raw])

        async def retried() -> bool:
            done = await nodes[2].consensus.log.done(nodes[2].consensus.head().id)
            return any(item.id == child.id for item in done.carried)

        await world.until(retried)
        await nodes[2].consensus.payloads.seal([parent.raw])
        await settled(world, nodes[3], [parent.id, child.id])
        await nodes[0].consensus.payloads.seal([rival.raw])
        await settled(world, nodes[3], [rival.id], "rejected")
        await world.agree()
        assert (await nodes[0].state())[child.outpoint(0)] == (CARL.public, 60)

    play(story)


@pytest.mark.parametrize("execution", ["accounts", "coins"])
def test_a_child_whose_parent_never_comes_is_given_up_by_all(
    play: Callable[..., Any], names: Sequence[str], committee: Any, execution: str
) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee, execution)
        await world.start()
        orphan = (
            transfer(ALICE, 3, BERT.public, 1)
            if execution == "accounts"
            else pay([(bytes(32) + u8(0), ALICE)], [(BERT.public, 1)])
        )
        await nodes[1].consensus.payloads.seal([orphan.raw])
        for node in nodes:
            await settled(world, node, [orphan.id], "rejected")
        await world.agree()

    play(story)


@pytest.mark.parametrize("seed", range(3))
def test_a_child_ordered_before_its_parent_is_retried_never_lost(
    play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int
) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start()
        parent, child = transfer(ALICE, 0, BERT.public, 1), transfer(ALICE, 1, BERT.public, 2)
        await nodes[1].pool.submit([child.raw])
        await trio.sleep(1.5)
        assert await nodes[1].statuses([child.id]) == ["pending"]
        await nodes[2].pool.submit([parent.raw])
        await settled(world, nodes[1], [parent.id, child.id])
        await world.agree()

    play(story, seed)


@pytest.mark.parametrize("seed", range(2))
def test_partition_and_heal(play: Callable[..., Any], names: Sequence[str], committee: Any, seed: int) -> None:
    """The larger side goes on, the smaller waits; split in halves, neither decides; healed, all agree and nothing is
    lost."""

    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start()
        await world.agree(beyond=2)
        world.network.partition(names[:3], names[3:])
        away = transfer(BERT, 0, CARL.public, 5)
        await nodes[3].pool.submit([away.raw])
        tx = transfer(ALICE, 0, BERT.public, 10)
        await nodes[0].pool.submit([tx.raw])
        await settled(world, nodes[0], [tx.id])
        assert await nodes[3].statuses([away.id]) == ["pending"]
        world.network.partition(names[:2], names[2:])
        await trio.sleep(10)
        heads = [node.consensus.head().height for node in nodes]
        await trio.sleep(20)
        assert [node.consensus.head().height for node in nodes] == heads
        world.network.heal()
        await settled(world, nodes[3], [away.id, tx.id])
        await world.agree(beyond=max(heads))

    play(story, seed)


def test_late_joiner_catches_up(play: Callable[..., Any], names: Sequence[str], committee: Any) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start(*nodes[:3])
        for nonce in range(4):
            await nodes[nonce % 3].pool.submit([transfer(ALICE, nonce, BERT.public, 10).raw])

        async def far() -> bool:
            return nodes[0].consensus.head().height > 40

        await world.until(far)
        await world.start(nodes[3])
        await world.agree(beyond=40)
        follower = world.node("eve", "two-chain", "accounts")
        await world.start(follower)
        await world.agree(beyond=50)

    play(story)


def crash_story(names: Sequence[str], committee: Any, execution: str, at: int | None) -> Any:
    async def story(world: Any) -> list[str]:
        nodes = bft(world, names, committee, execution)
        await world.start()
        victim = nodes[1]
        victim.fuse.at = victim.fuse.count + at if at is not None else None
        first = victim.fuse.count
        if execution == "accounts":
            txs = [transfer(ALICE, nonce, BERT.public, 10) for nonce in range(4)]
        else:
            txs = [pay([(outpoint(world, index), ALICE)], [(BERT.public, 10)]) for index in range(2)]
        accepted: list[bytes] = []
        for tx in txs:
            if victim.running:
                with trio.move_on_after(5):
                    await victim.pool.submit([tx.raw])
                    accepted.append(tx.id)
        if at is None:
            await settled(world, victim, accepted)
            return victim.fuse.steps[first:]
        await victim.stopped()
        await victim.start()
        await settled(world, victim, accepted)
        await world.agree(beyond=victim.consensus.head().height)
        return []

    return story


@pytest.mark.parametrize("execution", ["accounts", "coins"])
def test_crash_between_every_two_durable_steps(
    play: Callable[..., Any], names: Sequence[str], committee: Any, execution: str, budget: int
) -> None:
    """Blobs, chain store, execution: the power goes before each of their commits; what was accepted is settled after."""
    steps = play(crash_story(names, committee, execution, None)).value
    assert {step.split(":")[0] for step in steps} == {"stores.blobs", "stores.chain", "stores.state"}
    points = range(1, len(steps) + 1, max(len(steps) // (15 * budget), 1))
    for at in points:
        play(crash_story(names, committee, execution, at), seed=at)


def test_a_restored_node_signs_nothing_until_its_operator_says_so(
    play: Callable[..., Any], names: Sequence[str], committee: Any
) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start()
        await world.agree(beyond=3)
        await nodes[2].crash()
        (world.folder / names[2] / "consensus" / "safety").unlink()
        await world.start(nodes[2])
        votes = len(nodes[2].events.of("vote"))
        await world.agree(beyond=nodes[0].consensus.head().height + 5)
        assert len(nodes[2].events.of("vote")) == votes
        await nodes[2].consensus.control("allow_voting")
        await world.agree(beyond=nodes[0].consensus.head().height + 5)
        assert len(nodes[2].events.of("vote")) > votes

    play(story)


def test_the_same_seed_gives_the_same_run(play: Callable[..., Any], names: Sequence[str], committee: Any) -> None:
    async def story(world: Any) -> None:
        nodes = bft(world, names, committee)
        await world.start()
        await nodes[0].pool.submit([transfer(ALICE, 0, BERT.public, 7).raw])
        await nodes[1].pool.submit([transfer(ALICE, 0, CARL.public, 9).raw])
        await world.agree(beyond=5)

    one, again, other = play(story, 5, HARSH), play(story, 5, HARSH), play(story, 6, HARSH)
    assert one.events == again.events and one.digest == again.digest
    assert one.digest != other.digest
