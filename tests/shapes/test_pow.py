"""The proof-of-work shape: best chain by work, over an execution that undoes and over one that does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from nodewright.interfaces import Admitted, BundleRef, Refused
from nodewright.testing.shapes.bodies import encode
from nodewright.testing.shapes.codec import u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright.testing.shapes.coins import REWARD
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.transfers import transfer
from nodewright.testing.transport import Conditions

ALICE, BERT, CARL = Key("alice"), Key("bert"), Key("carl")
HARSH = Conditions(loss=0.05, duplication=0.05, reordering=0.1)


def chain(world: Any, names: Sequence[str], execution: str = "coins") -> list[Any]:
    accounts = [(key.public.hex(), 1000) for key in (ALICE, BERT, CARL)]
    coins = [(ALICE.public.hex(), 100 * (index + 1)) for index in range(6)]
    world.found({}, {"accounts": accounts, "coins": coins})
    return [world.node(name, "pow", execution) for name in names]


def outpoint(world: Any, index: int) -> bytes:
    (node, *_) = world.nodes.values()
    return node.consensus.log.genesis.id + u8(index)


async def have(world: Any, node: Any, ids: Sequence[bytes]) -> None:
    """The node's consensus has taken these from the pool, so that its next bundle may hold them."""

    async def queued() -> bool:
        return all(id in node.consensus._queue for id in ids)

    await world.until(queued)


async def settled(world: Any, node: Any, ids: Sequence[bytes], status: str = "committed") -> None:
    async def done() -> bool:
        return await node.statuses(ids) == [status] * len(ids)

    await world.until(done)


async def submit(world: Any, node: Any, *txs: Any) -> None:
    answers = await node.pool.submit([tx.raw for tx in txs])
    assert all(isinstance(answer, Admitted) for answer in answers), answers
    await have(world, node, [tx.id for tx in txs])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("conditions", [None, HARSH], ids=["kept contract", "harsh network"])
def test_a_bundle_announced_ahead_is_mined_and_followed(
    play: Callable[..., Any], names: Sequence[str], seed: int, conditions: Conditions | None
) -> None:
    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        parent = pay([(outpoint(world, 0), ALICE)], [(BERT.public, 60), (ALICE.public, 30)])
        child = pay([(parent.outpoint(0), BERT)], [(CARL.public, 60)])
        await submit(world, nodes[0], parent, child)
        bundle = await nodes[0].consensus.control("seal")
        assert bundle.count == 2
        block = await nodes[0].consensus.control("generate", bundles=[bundle])
        await nodes[0].consensus.control("generate")
        await settled(world, nodes[0], [parent.id, child.id])
        await world.agree()
        assert nodes[3].consensus.head().height == 2
        places = await nodes[3].consensus.locate([parent.id, child.id])
        assert [place.block for place in places] == [block, block]
        record = await nodes[3].consensus.block(block.id)
        assert record.transactions == 3 and record.bundles == (bundle,)
        minted = {owner: amount for owner, amount in (await nodes[1].state()).values()}
        assert REWARD in minted.values()

    play(story, seed, conditions)


@pytest.mark.parametrize("seed", range(3))
def test_partition_and_heal_reorganises_and_loses_nothing(
    play: Callable[..., Any], names: Sequence[str], seed: int
) -> None:
    """Two sides mine different transactions, one of each spending the same coin; healed, the side with more work wins, what
    the other mined returns to the pool, and the loser of the conflict has the winner's name."""

    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        await nodes[0].consensus.control("generate")
        await world.agree()
        world.network.partition(names[:2], names[2:])
        mine = pay([(outpoint(world, 0), ALICE)], [(BERT.public, 100)])
        after = pay([(mine.outpoint(0), BERT)], [(CARL.public, 99)])
        yours = pay([(outpoint(world, 1), ALICE)], [(BERT.public, 200)])
        one, other = (pay([(outpoint(world, 2), ALICE)], [(key.public, 300)]) for key in (BERT, CARL))
        await submit(world, nodes[0], mine, one)
        await nodes[0].consensus.control("generate")
        await submit(world, nodes[0], after)
        await nodes[0].consensus.control("generate")
        await submit(world, nodes[2], yours, other)
        for _ in range(3):
            await nodes[2].consensus.control("generate")
        assert nodes[0].consensus.head() != nodes[2].consensus.head()
        await settled(world, nodes[0], [mine.id, one.id, after.id])
        world.network.heal()
        await world.agree(beyond=3)
        assert nodes[0].events.of("reorganised")[-1]["depth"] == 2
        await have(world, nodes[0], [mine.id, after.id])
        assert await nodes[0].statuses([mine.id, after.id]) == ["pending", "pending"]
        assert (await nodes[0].statuses([one.id]))[0] in ("replaced", "rejected")
        await nodes[0].consensus.control("generate")
        await settled(world, nodes[0], [mine.id, after.id])
        await world.agree(beyond=4)
        places = await nodes[3].consensus.locate([mine.id, after.id, yours.id, other.id, one.id])
        assert [place is not None for place in places] == [True, True, True, True, False]

    play(story, seed)


def test_outcomes_do_not_depend_on_what_was_seen_first(play: Callable[..., Any], names: Sequence[str]) -> None:
    """Nodes reserve different rivals; the block's choice rules on all, and those who lose are told with their children."""

    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        one, other = (pay([(outpoint(world, 0), ALICE)], [(key.public, 100)]) for key in (BERT, CARL))
        child = pay([(other.outpoint(0), CARL)], [(BERT.public, 100)])
        await submit(world, nodes[0], one)
        await submit(world, nodes[1], other, child)
        (refused,) = await nodes[0].pool.submit([other.raw])
        assert isinstance(refused, Refused) and refused.kind == "conflict" and refused.data["winner"] == one.id
        await nodes[0].consensus.control("generate")
        await world.agree()
        await settled(world, nodes[1], [other.id, child.id], "replaced")
        assert nodes[1].events.of("evicted")[-1] == {child.id.hex(): one.id.hex(), other.id.hex(): one.id.hex()}
        assert not nodes[0].events.of("evicted") and not nodes[2].events.of("evicted")
        assert len({str(await node.state()) for node in nodes}) == 1

    play(story)


@pytest.mark.parametrize("case", ["conflict in two bundles", "child before parent", "twice", "stolen"])
def test_reject_block_refuses_the_same_block_on_every_node(
    play: Callable[..., Any], names: Sequence[str], case: str
) -> None:
    """The inputs that a BFT chain discards or retries make the whole block invalid here, for good, on each node alike."""

    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        good = await nodes[0].consensus.control("generate")
        await world.agree()
        one, other = (pay([(outpoint(world, 0), ALICE)], [(key.public, 100)]) for key in (BERT, CARL))
        child = pay([(one.outpoint(0), BERT)], [(CARL.public, 100)])
        stolen = pay([(outpoint(world, 0), BERT)], [(BERT.public, 100)])
        contents, code = {
            "conflict in two bundles": ([[one], [other]], "spent"),
            "child before parent": ([[child], [one]], "missing"),
            "twice": ([[one], [one, child]], "repeated"),
            "stolen": ([[stolen]], "signature"),
        }[case]
        bundles = []
        for txs in contents:
            body = encode([tx.raw for tx in txs])
            id = await nodes[1].consensus._bodies.put(body)
            bundles.append(BundleRef(id, len(txs), len(body)))
        bad = await nodes[1].consensus.control("generate", bundles=bundles)

        async def refused() -> bool:
            return all([bad.id in await node.consensus.query("refused") for node in nodes])

        await world.until(refused)
        reasons = {(await node.consensus.query("refused"))[bad.id] for node in nodes}
        assert len(reasons) == 1 and reasons.pop().startswith(code)
        assert all(node.consensus.head() == good for node in nodes)
        await nodes[1].crash()
        await world.start(nodes[1])
        assert nodes[1].consensus.head() == good
        await nodes[2].consensus.control("generate")
        await world.agree(beyond=1)

    play(story)


def test_over_an_execution_without_undo_the_state_lags(play: Callable[..., Any], names: Sequence[str]) -> None:
    """Accounts execute every fork on its own parent and commit what is buried: the same consensus, another contract."""

    async def story(world: Any) -> None:
        nodes = chain(world, names, "accounts")
        await world.start()
        await nodes[0].consensus.control("generate")
        await world.agree()
        world.network.partition(names[:2], names[2:])
        one, other = transfer(ALICE, 0, BERT.public, 5), transfer(ALICE, 0, CARL.public, 6)
        await submit(world, nodes[0], one)
        await submit(world, nodes[2], other)
        await nodes[0].consensus.control("generate")
        for _ in range(2):
            await nodes[2].consensus.control("generate")
        world.network.heal()
        await world.agree(beyond=2)
        for _ in range(8):
            await nodes[1].consensus.control("generate")
        await world.agree(beyond=10)
        state = await nodes[0].state()
        assert (state[BERT.public].balance, state[CARL.public].balance) == (1000, 1006)
        assert (await nodes[0].execution.applied()).height == nodes[0].consensus.head().height - 6

    play(story)


@pytest.mark.parametrize("execution", ["coins", "accounts"])
def test_late_joiner_catches_up(play: Callable[..., Any], names: Sequence[str], execution: str) -> None:
    async def story(world: Any) -> None:
        nodes = chain(world, names, execution)
        await world.start(*nodes[:2])
        for height in range(70):
            if height % 10 == 0 and execution == "coins" and height < 60:
                await submit(world, nodes[0], pay([(outpoint(world, height // 10), ALICE)], [(BERT.public, 7)]))
            await nodes[0].consensus.control("generate")
        await world.start(*nodes[2:])
        await world.agree(beyond=69)

    play(story)


@pytest.mark.parametrize("seed", range(2))
def test_miners_at_once_end_on_one_tip(play: Callable[..., Any], names: Sequence[str], seed: int) -> None:
    """Four miners race over a slow network: forks come and go, and the tip is one when they stop."""

    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        txs = [pay([(outpoint(world, index), ALICE)], [(BERT.public, 50)]) for index in range(6)]
        async with trio.open_nursery() as nursery:
            for index, node in enumerate(nodes):
                nursery.start_soon(mine, node, index)
            for index, tx in enumerate(txs):
                await nodes[index % 4].pool.submit([tx.raw])
                await trio.sleep(1)
        await trio.sleep(10)  # virtual: all blocks have arrived, and tips are of equal work if not the same
        for node in nodes:
            await node.consensus.control("generate")
            await world.agree()
        places = await nodes[0].consensus.locate([tx.id for tx in txs])
        assert all(place is not None for place in places)
        assert any(node.events.of("reorganised") for node in nodes)

    async def mine(node: Any, index: int) -> None:
        for _ in range(8):
            await trio.sleep(node.consensus.environment.random.expovariate(1))
            await node.consensus.control("generate")

    play(story, seed, Conditions(delay_seconds=(0.2, 1.0)))


def crash_story(names: Sequence[str], at: int | None) -> Any:
    """The victim mines, is overtaken and reorganises; the power goes somewhere in between."""

    async def story(world: Any) -> list[str]:
        nodes = chain(world, names[:3])
        await world.start()
        victim, rival, third = nodes
        world.network.partition(names[:1], names[1:3])
        first = victim.fuse.count
        victim.fuse.at = first + at if at is not None else None
        txs = [pay([(outpoint(world, index), ALICE)], [(BERT.public, 10)]) for index in range(3)]
        accepted: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, victim, txs, accepted)
            await submit(world, rival, pay([(outpoint(world, 4), ALICE)], [(CARL.public, 10)]))
            for _ in range(4):
                await rival.consensus.control("generate")
        world.network.heal()
        if at is None:
            await world.agree()
            await have(world, victim, accepted)
            return victim.fuse.steps[first:]
        await victim.stopped()
        await victim.start()
        await world.agree(beyond=3)
        await have(world, victim, accepted)
        while await victim.statuses(accepted) != ["committed"] * len(accepted):
            await victim.consensus.control("generate")
        await world.agree(beyond=4)
        assert all([place is not None for place in await third.consensus.locate(accepted)])
        return []

    async def work(victim: Any, txs: Sequence[Any], accepted: list[bytes]) -> None:
        try:
            for tx in txs:
                await victim.pool.submit([tx.raw])
                accepted.append(tx.id)
                while tx.id not in victim.consensus._queue and victim.running:  # noqa: ASYNC110 (virtual time)
                    await trio.sleep(0.01)
                await victim.consensus.control("generate")
        except Exception as error:
            assert "before step" in str(error) or "closed" in str(error) or "crashed" in str(error), error

    return story


def test_crash_between_every_two_durable_steps(play: Callable[..., Any], names: Sequence[str], budget: int) -> None:
    steps = play(crash_story(names, None)).value
    assert {step.split(":")[0] for step in steps} == {"stores.blobs", "stores.chain", "stores.state"}
    for at in range(1, len(steps) + 1, max(len(steps) // (25 * budget), 1)):
        play(crash_story(names, at), seed=at)


def test_crashes_while_the_state_lags(play: Callable[..., Any], names: Sequence[str], budget: int) -> None:
    """Without undo, what lies between the durable state and the head is executed again after a restart."""

    async def story(world: Any) -> None:
        nodes = chain(world, names[:2], "accounts")
        await world.start()
        victim = nodes[0]
        victim.fuse.at = victim.fuse.count + world.simulation.seed
        for nonce in range(12):
            await submit(world, nodes[1], transfer(ALICE, nonce, BERT.public, 1))
            await nodes[1].consensus.control("generate")
            await world.until(lambda: up_or_down(*nodes))
        if victim.running:
            await victim.crash()
        await victim.start()
        await world.agree(beyond=11)
        assert (await victim.execution.applied()).height == 6
        await victim.consensus.control("generate")
        await world.agree(beyond=12)

    async def up_or_down(victim: Any, other: Any) -> bool:
        return not victim.running or victim.consensus.head() == other.consensus.head()

    for seed in range(1, 40, max(6 // budget, 1)):
        play(story, seed)


def test_the_same_seed_gives_the_same_run(play: Callable[..., Any], names: Sequence[str]) -> None:
    async def story(world: Any) -> None:
        nodes = chain(world, names)
        await world.start()
        await submit(world, nodes[0], pay([(outpoint(world, 0), ALICE)], [(BERT.public, 50)]))
        for node in nodes:
            await node.consensus.control("generate")
        await nodes[0].consensus.control("generate")
        await world.agree(beyond=1)

    one, again, other = play(story, 5, HARSH), play(story, 5, HARSH), play(story, 6, HARSH)
    assert one.events == again.events and one.digest == again.digest
    assert one.digest != other.digest
