"""Validators that lie or forget, and power that goes: an equivocating leader, a withheld batch, an execution that diverges,
crashes between durable steps, restores, epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio

from nodewright.errors import PeerGone
from nodewright.interfaces import Outcome
from nodewright.testing.shapes.codec import u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright_jolteon.batches import Batch
from nodewright_jolteon.formats import Block, block_id
from nodewright_jolteon.genesis import MICROSECONDS


def transfers(kit: Any, key: Any, first: int, count: int) -> list[bytes]:
    return [kit.transfer(key, nonce, kit.carl.public, 1).raw for nonce in range(first, first + count)]


def twin(kit: Any, name: str, block: Block) -> Block:
    """Another block of the same author and round."""
    body = Block.body(
        block.epoch, block.round, block.author, block.time + 1, block.certificate, block.timeout, block.proofs
    )
    return Block.decode(body + kit.signing(name).sign(block_id(body)).signature)


def test_an_equivocating_leader_is_harmless_and_named(play: Callable[..., Any], kit: Any, book: Any) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)

        def lie(node: Any) -> None:
            outward, channel = node.consensus.orderer.outward, node.consensus.network._blocks

            async def twice(block: Block) -> None:
                other = twin(kit, node.name, block)
                for at, peer in enumerate(sorted(peer.id for peer in node.transport.peers())):
                    for one in (block, other) if at == 0 else (other if at % 2 else block,):
                        try:
                            await channel.send(peer, one.raw)
                        except PeerGone:
                            pass

            outward.broadcast_block = twice

        for node in nodes:
            node.meddle = lie if node is nodes[1] else book.watch
        await world.start()
        ids: list[bytes] = []
        for nonce in range(12):
            ids += await world.submit(nodes[(0, 2, 3)[nonce % 3]], *transfers(kit, kit.alice, nonce, 1))
            await trio.sleep(0.5)
        honest = [node for node in nodes if node is not nodes[1]]
        for node in honest:
            await world.settled(node, ids)
        await world.same(*honest)
        named = [data["validator"] for node in honest for data in node.events.of("equivocation")]
        assert named and set(named) == {kit.public("bob").hex()}

    play(story)


def test_a_batch_that_a_signer_withholds(play: Callable[..., Any], kit: Any) -> None:
    """Its author and one who signed for it say that they do not have it: it comes from the others, and those are named."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)

        def withhold(node: Any) -> None:
            quorum = node.consensus.quorum
            node.withheld = 0

            async def nothing(id: bytes) -> int | None:
                node.withheld += 1
                return None

            quorum.size = nothing

        def deaf(node: Any) -> None:
            async def ignore(peer: bytes, raw: bytes) -> None:
                await trio.lowlevel.checkpoint()

            node.consensus.quorum._on_batch = ignore

        nodes[0].meddle = nodes[1].meddle = withhold
        nodes[3].meddle = deaf
        await world.start()
        ids = await world.submit(nodes[0], *transfers(kit, kit.alice, 0, 5))
        for node in nodes:
            await world.settled(node, ids)
        await world.agree(beyond=5)
        assert nodes[0].withheld + nodes[1].withheld > 0
        named = {line["peer"] for line in nodes[3].log if line["event"] == "a batch is withheld"}
        assert named <= {nodes[at].transport.node_id.hex()[:16] for at in (0, 1)} and named

    play(story, 3)


def test_an_execution_that_diverges_stops_its_node(play: Callable[..., Any], kit: Any) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)
        world.may_fail.add("dan")

        def bend(node: Any) -> None:
            execute = node.execution.execute

            async def wrong(request: Any) -> Any:
                outcome = await execute(request)
                return attrs.evolve(outcome, gas_used=99) if isinstance(outcome, Outcome) and request.bundles else outcome

            node.execution.execute = wrong

        nodes[3].meddle = bend
        await world.start()
        ids = await world.submit(nodes[0], *transfers(kit, kit.alice, 0, 2))
        for node in nodes[:3]:
            await world.settled(node, ids)
        await nodes[3].stopped()
        assert "execution divergence at block" in repr(nodes[3].failure)
        await world.agree(*nodes[:3], beyond=nodes[0].height + 3)
        last = nodes[3].consensus.head()  # what it had committed is the others'
        assert {(await node.consensus.block_at(last.height)).ref for node in nodes[:3]} == {last}

    play(story)


def crash_story(kit: Any, book: Any, execution: str, at: int | None, count: int = 4) -> Any:
    async def story(world: Any) -> list[str]:
        nodes = kit.network(world, kit.names[:count], execution)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        await world.agree(beyond=1)
        victim = nodes[-1]
        first = victim.fuse.count
        victim.fuse.at = first + at if at is not None else None
        if execution == "accounts":
            raws = transfers(kit, kit.alice, 0, 4)
        else:
            genesis = victim.consensus.chain.genesis.block.id
            raws = [pay([(genesis + u8(index), kit.alice)], [(kit.bert.public, 10)]).raw for index in range(2)]
        accepted: list[bytes] = []
        for raw in raws:
            if victim.running:
                with trio.move_on_after(5):
                    accepted += await world.submit(victim, raw)
                    await trio.sleep(0.1)
        if at is None:
            await world.settled(victim, accepted)
            return list(victim.fuse.steps[first:])
        await victim.stopped()
        await victim.start()
        await world.settled(victim, accepted)
        await world.agree(beyond=victim.height)
        return []

    return story


@pytest.mark.parametrize("execution", ["accounts", "coins"])
def test_power_goes_before_each_durable_step(
    play: Callable[..., Any], kit: Any, book: Any, execution: str, budget: int
) -> None:
    """Batches, blocks, decision, execution: nothing that was accepted is lost, nothing is signed twice."""
    steps = play(crash_story(kit, book, execution, None)).value
    assert {step.split(":")[0] for step in steps} == {"stores.chain", "stores.state"}
    for at in range(1, len(steps) + 1, max(len(steps) // (3 * budget), 1)):
        book.__init__()
        play(crash_story(kit, book, execution, at), seed=at)


def test_power_goes_of_one_that_is_alone(play: Callable[..., Any], kit: Any, book: Any, budget: int) -> None:
    steps = play(crash_story(kit, book, "accounts", None, 1)).value
    for at in range(1, len(steps) + 1, max(len(steps) // (6 * budget), 1)):
        book.__init__()
        play(crash_story(kit, book, "accounts", at, 1), seed=at)


def test_all_lose_power_at_once_again_and_again(play: Callable[..., Any], kit: Any, book: Any) -> None:
    """Safety holds across restarts: what each signed before, it never contradicts."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        ids: list[bytes] = []
        for nonce in range(5):
            ids += await world.submit(nodes[nonce % 4], *transfers(kit, kit.alice, nonce, 1))
            await trio.sleep(world.simulation.random.uniform(0.05, 1.5))
            for node in nodes:
                await node.crash()
            await world.start(*nodes)
        for node in nodes:
            await world.settled(node, ids)
        await world.agree()

    play(story, 2)


def test_a_restored_node_signs_nothing_until_its_operator_says_so(play: Callable[..., Any], kit: Any, book: Any) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        await world.agree(beyond=3)
        await nodes[2].crash()
        (world.folder / "cleo" / "consensus" / "safety").unlink()
        await world.start(nodes[2])
        signed = len(nodes[2].events.of("vote"))
        ids = await world.submit(nodes[2], *transfers(kit, kit.alice, 0, 2))  # handed to one that may sign
        for node in nodes:
            await world.settled(node, ids)
        await world.agree(beyond=nodes[0].height + 5)
        assert len(nodes[2].events.of("vote")) == signed
        assert not nodes[2].consensus.status()["validator"]
        await nodes[2].consensus.control("allow_voting")
        await world.agree(beyond=nodes[0].height + 5)
        assert len(nodes[2].events.of("vote")) > signed

    play(story)


def test_a_damaged_safety_file_is_refused(play: Callable[..., Any], kit: Any) -> None:
    async def story(world: Any) -> None:
        (node, *_) = kit.network(world, kit.names[:1])
        world.may_fail.add("ada")
        await world.start()
        await world.agree(beyond=2)
        await node.crash()
        path = world.folder / "ada" / "consensus" / "safety"
        raw = bytearray(path.read_bytes())
        raw[40] ^= 1
        path.write_bytes(raw)
        await world.start()
        assert "allow_voting" in repr(node.failure)

    play(story)


def register(kit: Any, key: Any, nonce: int, place: int, power: int, end: bool) -> bytes:
    raw: bytes = kit.transfer(key, nonce, kit.registry.public, 10 * place + power + 900 * end).raw
    return raw


def test_epochs_add_and_remove_validators(play: Callable[..., Any], kit: Any, book: Any) -> None:
    """The fifth follows, becomes a validator, and another one ceases to be one; the chain goes on through both, under load,
    and who was away for two epochs comes after."""

    async def story(world: Any) -> None:
        names = (*kit.names, "eve")
        nodes = kit.network(world, kit.names, "registry", others=["eve"])
        nodes.append(world.node("eve", "registry"))
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        await world.agree(beyond=2)
        assert not nodes[4].events.of("vote")
        ids = await world.submit(nodes[1], *transfers(kit, kit.bert, 0, 5))
        ids += await world.submit(nodes[0], register(kit, kit.alice, 0, names.index("eve"), 1, True))
        ids += await world.submit(nodes[2], *transfers(kit, kit.carl, 0, 5))
        await world.until(lambda: all(node.consensus.status()["epoch"] == 2 for node in nodes))
        for node in nodes:
            await world.settled(node, ids)
        known = await nodes[3].consensus.query("validators")
        assert len(known["validators"]) == 5 and known["start"] > 0
        await world.until(lambda: nodes[4].events.of("vote"))
        await nodes[3].crash()  # away while it is voted out
        more = await world.submit(nodes[4], register(kit, kit.alice, 1, names.index("bob"), 0, False))
        more += await world.submit(nodes[4], register(kit, kit.alice, 2, names.index("ada"), 2, True))
        up = [node for node in nodes if node.running]
        await world.until(lambda: all(node.consensus.status()["epoch"] == 3 for node in up))
        known = await nodes[0].consensus.query("validators")
        assert kit.public("bob").hex() not in {one["key"] for one in known["validators"]}
        assert {one["power"] for one in known["validators"] if one["key"] == kit.public("ada").hex()} == {2}
        signed = len(nodes[1].events.of("vote"))
        more += await world.submit(nodes[1], *transfers(kit, kit.bert, 5, 3))  # it follows now, and hands on
        for node in up:
            await world.settled(node, more)
        await world.start(nodes[3])
        await world.settled(nodes[3], [*ids, *more])
        await world.agree(beyond=nodes[0].height + 5)
        assert len(nodes[1].events.of("vote")) == signed
        for node in (nodes[0], nodes[3]):
            await node.crash()
        await world.start(nodes[0], nodes[3])
        await world.agree(beyond=nodes[2].height + 3)
        assert nodes[3].consensus.status()["epoch"] == 3

    play(story)


async def seal(node: Any, *raws: bytes) -> Sequence[Batch]:
    """A batch that no pool would make."""
    ids = await node.execution.identify(raws)
    sealed: Sequence[Batch] = await node.consensus.quorum.seal([(ids, raws)])
    return sealed


@pytest.mark.parametrize("seed", range(2))
def test_conflicting_transactions_in_two_proven_batches(play: Callable[..., Any], kit: Any, seed: int) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start()
        one, other = kit.transfer(kit.alice, 0, kit.bert.public, 7), kit.transfer(kit.alice, 0, kit.carl.public, 9)
        await nodes[0].pool.submit([one.raw])
        await nodes[1].pool.submit([other.raw])

        async def final() -> bool:
            found = [await node.statuses([one.id, other.id]) for node in nodes]
            return all(sorted(pair) == ["committed", "rejected"] for pair in found)

        await world.until(final)
        assert len({tuple(await node.statuses([one.id, other.id])) for node in nodes}) == 1
        await world.agree()

    play(story, seed)


@pytest.mark.parametrize("execution", ["accounts", "coins"])
def test_a_child_before_its_parent_and_one_whose_parent_never_comes(
    play: Callable[..., Any], kit: Any, execution: str
) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world, kit.names, execution, retry_seconds=3)
        await world.start()
        if execution == "accounts":
            parent, child = (kit.transfer(kit.alice, nonce, kit.bert.public, 1) for nonce in range(2))
            orphan = kit.transfer(kit.bert, 5, kit.carl.public, 1)
        else:
            coin = nodes[0].consensus.chain.genesis.block.id + u8(0)
            parent = pay([(coin, kit.alice)], [(kit.bert.public, 60), (kit.alice.public, 40)])
            child = pay([(parent.outpoint(0), kit.bert)], [(kit.carl.public, 60)])
            orphan = pay([(bytes(32) + u8(0), kit.alice)], [(kit.bert.public, 1)])
        await seal(nodes[1], child.raw, orphan.raw)
        await world.until(lambda: nodes[2].consensus.chain.carrying)
        await seal(nodes[2], parent.raw)
        for node in nodes:
            await world.settled(node, [parent.id, child.id])
            await world.settled(node, [orphan.id], "rejected")
        await world.agree()
        assert all(node.consensus.chain.done.carried == () for node in nodes)

    play(story)


def test_batches_expire_and_their_transactions_are_batched_again(play: Callable[..., Any], kit: Any) -> None:
    """A minority's batches run out before it is heard again; what it accepted is committed all the same."""

    async def story(world: Any) -> None:
        nodes = kit.network(world, expiry_seconds=5)
        await world.start()
        await world.agree(beyond=1)
        world.network.partition(kit.names[:3], kit.names[3:])
        (away,) = await world.submit(nodes[3], *transfers(kit, kit.bert, 0, 1))
        await trio.sleep(20)
        assert await nodes[3].statuses([away]) == ["pending"]
        world.network.heal()
        for node in nodes:
            await world.settled(node, [away])
        assert len(nodes[3].events.of("bundle_sealed")) >= 2
        late = (nodes[0].consensus.quorum.time - 40 * MICROSECONDS) // MICROSECONDS
        assert late > 0 and not nodes[3].consensus.quorum._open

    play(story)


def test_garbage_on_every_channel_is_scored_and_harms_nothing(play: Callable[..., Any], kit: Any) -> None:
    """A node of no validator says what cannot be read, what nobody signed, what is of other rounds; and asks nonsense."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start()
        await world.agree(beyond=3)
        mallory = world.network.transport("mallory")
        channels = [
            mallory.channel(name, 64, "oldest", 8 * 1024 * 1024)
            for name in ("jolteon.block", "jolteon.vote", "jolteon.batch", "jolteon.request", "jolteon.tx")
        ]
        mallory.open_gate()
        await world.until(lambda: len(mallory.peers()) == 4)
        chance = world.simulation.random
        good = (await nodes[0].consensus.chain.store.blocks_above(0))[0]
        real = [b"", b"B" + good.raw, b"T", b"V" + bytes(200), b"L" + bytes(300), b"C" + good.raw, b"S" + bytes(100)]
        unsigned = good.raw[:-64] + bytes(64)
        future = Block.body(1, 10**9, 0, 2**62, attrs.evolve(good.certificate, round=10**9 - 1), None, ()) + bytes(64)
        for turn in range(30):
            for peer in [peer.id for peer in mallory.peers()]:
                for channel in channels:
                    noise = chance.randbytes(chance.randrange(400))
                    said = chance.choice([*real, unsigned, future, noise, b"Q" + noise, b"T" + noise])
                    try:
                        await channel.send(peer, said)
                    except PeerGone:
                        pass
            await trio.sleep(0.1)
            del turn
        ids = await world.submit(nodes[1], *transfers(kit, kit.alice, 0, 3))
        for node in nodes:
            await world.settled(node, ids, seconds=60)
        await world.agree(beyond=nodes[0].height + 3)
        assert all(mallory.node_id in node.transport.banned() for node in nodes)
        assert not any(node.events.of("equivocation") for node in nodes)
        await mallory.aclose()

    play(story)


def test_what_the_rules_of_an_ended_epoch_still_say_is_not_heard(play: Callable[..., Any], kit: Any) -> None:
    """Between the end of an epoch and its new rules a block on top of the old ones may still be ordered by them."""

    async def story(world: Any) -> None:
        nodes = kit.network(world, kit.names[:1], "registry")
        (node,) = nodes
        await world.start()
        chain, rules = node.consensus.chain, node.consensus.orderer.rules
        await world.until(lambda: rules.blocks)
        stale = [(block, rules.records[block.id]) for block in rules.blocks.values()]
        await world.submit(node, register(kit, kit.alice, 0, 0, 3, True))
        await world.until(lambda: chain.epoch.number == 2)
        fresh = [(attrs.evolve(block, ref=attrs.evolve(block.ref, height=node.height + 1)), one) for block, one in stale]
        await chain.order(fresh, node.consensus.orderer.rules.blocks)
        chain.consider(*fresh[0])
        height = node.height
        await world.until(lambda: node.height > height + 3)

    play(story)
