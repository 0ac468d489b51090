"""State from others: a late node that runs nothing of the past, and a validator that is drawn for a shard it never kept."""

from __future__ import annotations

import base64
from typing import Any

import trio

BIG = 900_000  # bytes of a value: several parts a shard


def data(users: int) -> list[Any]:
    """Contract data of accounts of the first and the last shard."""
    rows = []
    for name in ("a0.user", "z1.user"):
        for at in range(users):
            value = base64.b64encode(bytes([at]) * BIG).decode()
            key = base64.b64encode(b"key%d" % at).decode()
            rows.append({"Data": {"account_id": name, "data_key": key, "value": value}})
    return rows


def test_a_late_node_takes_the_state_and_runs_only_what_follows(tell: Any, near: Any) -> None:
    """Two peers give parts that are none: who is asked is cut off, and others are. The node is killed while parts come."""

    async def story(world: Any) -> None:
        consensus = {"epoch_length": 10, "records": data(3)}
        settings = {"state_sync_epochs": 2, "keep_epochs": 4}
        await world.found(4, 2, observers=1, late=["o0.observer"], consensus=consensus, **settings)
        first = list(world.up)
        sent = await world.trade(first, 4, 0.3)
        await near.until(lambda: min(node.final for node in first) > 65)
        giver = first[0].consensus.chain
        early = await giver.at(5)
        assert await giver.store.chunk(early.block.body.chunks[0].hash()) is None, "nobody has what is long past"
        kept = await giver.at(giver.final.info.height - 20)
        assert await giver.store.chunk(kept.block.body.chunks[0].hash()) is not None
        late, liars = world.nodes["o0.observer"], first[1:3]

        def lying(state_part: Any) -> Any:
            async def lies(*which: Any) -> bytes | None:
                part = await state_part(*which)
                return None if part is None else part[:-1] + bytes([part[-1] ^ 1])

            return lies

        for liar in liars:
            liar.engine.state_part = lying(liar.engine.state_part)
        taken: list[Any] = []

        def watch(die_after: int) -> None:
            take = late.engine.take_part

            async def watched(target: Any, index: int, part: bytes) -> bool:
                good = await take(target, index, part)
                taken.append((good, target.block, target.shard, index))
                if sum(one[0] for one in taken) == die_after:
                    raise near.Died
                return bool(good)

            late.engine.take_part = watched

        await late.start()
        watch(3)
        await late.dead()
        await late.start()
        assert late.consensus.chain.light
        assert late.consensus.chain.tracked == frozenset()
        watch(0)
        await near.until(lambda: late.consensus.chain.tracked == frozenset({0, 1}))
        assert not late.consensus.chain.light
        good = [one[1:] for one in taken if one[0]]
        assert len(good) > 4
        assert len(set(good)) == len(good), "what had come in was not asked for again"
        sent += await world.trade([late], 2, 0.2)
        await near.until(lambda: late.final > max(node.final for node in first) - 3)
        assert (await late.consensus.chain.at(5)).info.hash == early.info.hash
        assert not all(one[0] for one in taken), "a liar was asked"
        assert set(late.transport.banned()) <= {liar.transport.node_id for liar in liars}
        assert late.transport.banned()
        for node in first:
            await world.all_committed(node, sent)
        await trio.sleep(20)
        await world.same()
        await world.books(late)
        # As any other: it is killed, and comes back by what it has.
        await late.kill()
        await late.start()
        assert late.consensus.chain.tracked == frozenset({0, 1})
        await near.until(lambda: late.final > max(node.final for node in first) - 3)
        await world.books(late)

    tell(story)


def test_a_validator_fetches_the_shards_it_is_drawn_for_ahead(tell: Any, near: Any) -> None:
    """The fifth stakes while it keeps nothing, and makes chunks once it is one; shards that it leaves are let go."""

    async def story(world: Any) -> None:
        nodes = await world.found(5, 4, consensus={"epoch_length": 10}, staked=4, track="assigned")
        fifth = nodes[4]
        assert fifth.engine.kept == ()
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        signed = world.staking(fifth.name, 300 * near.NEAR, nodes[0].consensus.final().id)
        await nodes[0].pool.submit([signed.raw])
        chain = fifth.consensus.chain

        def members() -> set[int]:
            epoch = chain.epochs.of(chain.chunk_epoch(chain.head.info))
            place = epoch.places.get(fifth.name)
            return {shard for shard, those in enumerate(epoch.chunk_producers) if place in those}

        await near.until(lambda: bool(chain.tracked))
        assert not members(), "ahead of the epoch in which it makes chunks"
        await near.until(lambda: bool(members()))
        assert members() <= chain.tracked == set(fifth.engine.kept)
        made = []
        say = fifth.consensus.producer.say

        async def heard(said: Any, to: Any = ()) -> None:
            made.append(type(said).__name__)
            await say(said, to)

        fifth.consensus.producer.say = heard
        await near.until(lambda: "Chunk" in made)
        sent = await world.trade(nodes[:4], 4, 0.3)
        await fifth.kill()
        await fifth.start()
        assert members() <= fifth.consensus.chain.tracked
        epoch = nodes[0].consensus.chain.final.info.epoch
        await near.until(lambda: nodes[0].consensus.chain.final.info.epoch > epoch + 1)
        for node in nodes:
            assert set(node.engine.kept) == node.consensus.chain.tracked == node.consensus.network._wanted()
        assert sum(len(node.engine.kept) for node in nodes) < 4 * 2 + 4, "what is not needed is let go"
        await trio.sleep(20)
        await world.same()
        for node in nodes:
            await world.books(node)
        assert len(sent) == 4

    tell(story)
