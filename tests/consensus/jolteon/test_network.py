"""Four validators over a simulated network under load: one killed, partitions, a late joiner, a node that only follows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from nodewright_jolteon.batches import Batch


def transfers(kit: Any, key: Any, first: int, count: int) -> list[bytes]:
    return [kit.transfer(key, nonce, kit.carl.public, 1).raw for nonce in range(first, first + count)]


async def load(world: Any, kit: Any, nodes: Any, key: Any, count: int, seconds: float, ids: list[bytes]) -> None:
    """Transfers of one account, one after the other, each at some node that is up."""
    for nonce in range(count):
        up = [node for node in nodes if node.running]
        node = up[nonce % len(up)]
        (id,) = await world.submit(node, *transfers(kit, key, nonce, 1))
        ids.append(id)
        await trio.sleep(seconds)


@pytest.mark.parametrize("harsh", [False, True], ids=["kept contract", "harsh network"])
@pytest.mark.parametrize("seed", range(1))
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
        assert place is not None and await nodes[2].consensus.transactions(ids[:1]) == transfers(kit, kit.alice, 0, 1)

    play(story, seed, kit.harsh if harsh else None)


@pytest.mark.parametrize("victim", [None, 0, 1, 2, 3], ids=["leader", "ada", "bob", "cleo", "dan"])
def test_one_is_killed_under_load_and_comes_back(
    play: Callable[..., Any], kit: Any, book: Any, victim: int | None, budget: int
) -> None:
    if victim is not None and victim >= budget:
        pytest.skip("one of them in the small budget")

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        ids: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, world, kit, nodes, kit.alice, 20, 0.4, ids)
            await world.agree(beyond=3)
            if victim is None:
                rules = nodes[0].consensus.orderer.rules
                dead = nodes[rules.leader(rules.round + 1, rules.safety.certificate.block.id)]
            else:
                dead = nodes[victim]
            await dead.crash()
            alive = [node for node in nodes if node is not dead]
            height = max(node.height for node in alive)
            await world.until(lambda: min(node.height for node in alive) > height + 5, 60)
        await world.start(dead)
        for node in nodes:
            await world.settled(node, ids)
        await world.agree(beyond=height + 10)
        assert (await dead.state())[kit.carl.public].balance == 100_020

    play(story, 10 + (victim or 0))


@pytest.mark.parametrize("seed", range(2))
def test_partition_and_heal(play: Callable[..., Any], kit: Any, book: Any, seed: int, budget: int) -> None:
    """The larger side goes on, the smaller waits; split in halves neither decides; healed, all agree, nothing is lost."""
    if seed >= budget:
        pytest.skip("one seed in the small budget")

    async def story(world: Any) -> None:
        nodes, names = kit.network(world), kit.names
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        await world.agree(beyond=2)
        world.network.partition(names[:3], names[3:])
        (away,) = await world.submit(nodes[3], kit.transfer(kit.bert, 0, kit.carl.public, 5).raw)
        ids = await world.submit(nodes[0], *transfers(kit, kit.alice, 0, 5))
        await world.settled(nodes[0], ids, seconds=60)
        assert await nodes[3].statuses([away]) == ["pending"]
        world.network.partition(names[:2], names[2:])
        await trio.sleep(10)
        heads = [node.height for node in nodes]
        await trio.sleep(20)
        assert [node.height for node in nodes] == heads
        world.network.heal()
        for node in nodes:
            await world.settled(node, [away, *ids])
        await world.agree(beyond=max(heads) + 2)

    play(story, seed)


def test_a_dead_leader_is_asked_less(play: Callable[..., Any], kit: Any) -> None:
    """Reputation: after a while hardly a round is lost to a validator that is gone."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start()
        await world.agree(beyond=2)
        await nodes[2].crash()
        alive = [node for node in nodes if node.running]
        start = nodes[0].consensus.orderer.rules.round
        await world.until(lambda: nodes[0].consensus.orderer.rules.round > start + 56, 200)
        rules = nodes[0].consensus.orderer.rules
        leaders = [rules.leader(at, rules.safety.certificate.block.id) for at in range(rules.round, rules.round + 40)]
        assert leaders.count(2) <= 2
        await world.agree(*alive)

    play(story)


def test_late_joiner_and_follower(play: Callable[..., Any], kit: Any) -> None:
    """A validator that starts late catches up by pages; so does a node that is no validator, which hands its transactions
    to one, and says it when they refuse."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start(*nodes[:3])
        ids: list[bytes] = []
        for nonce in range(6):
            ids += await world.submit(nodes[nonce % 3], *transfers(kit, kit.alice, nonce, 1))
            await trio.sleep(1)
        await world.until(lambda: nodes[0].height > 75)
        await world.start(nodes[3])
        await world.settled(nodes[3], ids)
        follower = world.node("eve", validator=False)
        await world.start(follower)
        await world.until(lambda: follower.height > 75)
        await world.settled(follower, ids)
        theirs = await world.submit(follower, *transfers(kit, kit.bert, 0, 3))
        await world.settled(follower, theirs)
        for node in nodes:
            await world.settled(node, theirs)
        await world.agree()
        assert not follower.events.of("vote")
        proof = await follower.consensus.query("ledger_proof", height=20)
        assert proof is not None and proof["height"] >= 20 and len(proof["signatures"]) >= 3

    play(story)


def test_the_same_seed_gives_the_same_run(play: Callable[..., Any], kit: Any) -> None:
    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start()
        await world.submit(nodes[0], *transfers(kit, kit.alice, 0, 3))
        await world.agree(beyond=4)

    one, again, other = play(story, 5, kit.harsh), play(story, 5, kit.harsh), play(story, 6, kit.harsh)
    assert one.events == again.events and one.digest == again.digest
    assert one.digest != other.digest


@pytest.mark.parametrize("seed", range(4))
def test_without_work_nothing_is_produced_and_no_round_is_given_up(play: Callable[..., Any], kit: Any, seed: int) -> None:
    async def story(world: Any) -> None:
        world.found(kit.names, {"accounts": [(kit.alice.public.hex(), 1000)]})
        nodes = [world.node(name, produce_empty=False) for name in kit.names]
        await world.start()
        ids = await world.submit(nodes[1], *transfers(kit, kit.alice, 0, 3))
        for node in nodes:
            await world.settled(node, ids, seconds=20)
        await trio.sleep(10)
        heights, rounds = [node.height for node in nodes], [node.consensus.orderer.rules.round for node in nodes]
        await trio.sleep(60)
        assert [node.height for node in nodes] == heights
        assert [node.consensus.orderer.rules.round for node in nodes] == rounds
        ids = await world.submit(nodes[2], *transfers(kit, kit.alice, 3, 1))
        for node in nodes:
            await world.settled(node, ids, seconds=20)

    play(story, seed)


def test_one_that_reads_nothing_any_more_costs_the_others_nothing(play: Callable[..., Any], kit: Any) -> None:
    """Its messages wait at the others until they give it up; who leads and votes does not wait for it."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)

        def deaf(node: Any) -> None:
            channel = node.transport.channel

            def narrow(name: str, inbox: int = 256, policy: str = "block", most: int = 4 * 1024 * 1024) -> Any:
                made = channel(name, 1, "block", most)

                async def silence() -> Any:
                    await trio.sleep_forever()

                if name != "jolteon.request":
                    made.receive = silence
                return made

            node.transport.channel = narrow

        nodes[3].before = deaf
        await world.start()
        ids: list[bytes] = []
        for nonce in range(30):
            ids += await world.submit(nodes[nonce % 3], *transfers(kit, kit.alice, nonce, 1))
            await trio.sleep(0.2)
        for node in nodes[:3]:
            await world.settled(node, ids, seconds=60)
        height = nodes[0].height
        await world.until(lambda: nodes[0].height > height + 20, 60)

    play(story)


def test_one_whose_timeouts_are_of_a_round_gone_by_is_told_to_ask(play: Callable[..., Any], kit: Any) -> None:
    async def story(world: Any) -> None:
        ahead, late, *_ = kit.network(world)
        await world.start()
        await world.agree(beyond=2)
        asked: list[bytes] = []
        late.consensus.network.sync.lacking = asked.append
        old = SimpleNamespace(epoch=ahead.consensus.orderer.rules.epoch.number, round=0)
        await ahead.consensus.network._take_timeout(late.transport.node_id, old)
        await world.until(lambda: ahead.transport.node_id in asked, 5)

    play(story)


def test_a_batch_that_comes_twice_is_signed_once_it_is_durable_and_counts_once(play: Callable[..., Any], kit: Any) -> None:
    """An author sends its batch again every second until it is proved; a busy validator still has the first in hand."""

    async def story(world: Any) -> None:
        nodes = kit.network(world)
        await world.start()
        await world.agree(beyond=2)
        author, signer = nodes[0], nodes[1]
        made, taken = author.consensus.quorum, signer.consensus.quorum
        expiration = int((made._environment.now() + 20) * 1e6)
        batch = Batch.make(made.place, 1, made.epoch.number, expiration, transfers(kit, kit.alice, 0, 2))
        put, durable, signed = taken._store.put_batches, trio.Event(), []

        async def slow(batches: Any) -> None:
            if batch in batches:
                await durable.wait()
                assert not signed, "it was signed before it was on the disk"
            await put(batches)

        def tell(channel: Any, peer: bytes, payload: bytes) -> None:
            if payload.startswith(b"S" + batch.info.digest):
                signed.append(payload)

        taken._store.put_batches, taken._sender.tell = slow, tell
        before = taken._of_author.get(made.place, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(taken._on_batch, author.transport.node_id, batch.raw)
            await trio.sleep(0.1)
            durable.set()
        assert signed
        assert taken._of_author[made.place] == before + batch.info.size

    play(story)
