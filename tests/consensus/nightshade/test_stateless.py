"""Nodes that keep only their shards: chunks of the others are checked from witnesses alone."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve

from nodewright.errors import ConfigurationError
from nodewright_near.borsh import decode, encode
from nodewright_near.chunks import StateWitness
from nodewright_near.headers import ChunkHeader
from nodewright_nightshade import witness
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.witness import BadWitness, Witness


def counts(nodes: list[Any]) -> list[int]:
    return [node.consensus.network.witnesses.judged for node in nodes]


def test_four_shards_on_four_nodes_each_with_two(tell: Any, near: Any) -> None:
    """Transfers run across shards that nobody keeps all of; one node is killed without warning and comes back."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 4, track="assigned")
        assert all(len(node.engine.kept) == 2 for node in nodes)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = await world.trade(nodes, 12, 0.2)
        await trio.sleep(world.dice.uniform(0, 1))
        lost = world.dice.choice(nodes)
        await lost.kill()
        before = max(node.final for node in world.up)
        sent += await world.trade(nodes, 8, 0.2)
        await near.until(lambda: all(node.final > before + 4 for node in world.up))
        await lost.start()
        await near.at_rest(world, sent)
        assert all(counts(nodes))
        seen = set()
        for height in range(nodes[0].final + 1):
            held = await nodes[0].consensus.chain.at(height)
            seen |= set() if held is None else {chunk.hash() for chunk in held.block.body.chunks}
        assert len(seen) > 3 * nodes[0].final, "most chunks were made, endorsed and included"

    tell(story)


def test_a_shard_that_missed_its_chunks_still_has_a_witness(tell: Any, near: Any) -> None:
    """Its last run is final and committed, and its producer was started anew, when the next chunk is made."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 4, track="assigned")
        await near.until(lambda: all(node.final >= 4 for node in nodes))
        shard = nodes[0].engine.kept[0]
        holders = [node for node in nodes if shard in node.engine.kept]
        for node in holders:
            node.consensus.producer.say = _mute(node.consensus.producer.say, shard)
        await near.until(
            lambda: min(node.final for node in nodes) > nodes[0].consensus.chain.final.info.ran[shard].height + 4
        )
        ran = nodes[0].consensus.chain.head.info.ran[shard]
        assert ran.missed > 4
        for node in holders:
            await node.kill()
            await node.start()
        await near.until(lambda: min(node.consensus.chain.final.info.ran[shard].height for node in nodes) > ran.height)
        sent = await world.trade(nodes, 4, 0.2)
        await near.at_rest(world, sent)

    tell(story)


def _mute(say: Any, shard: int) -> Any:
    async def muted(said: Any, to: Any = ()) -> None:
        if not isinstance(said, Chunk) or said.shard != shard:
            await say(said, to)

    return muted


def test_every_lie_in_a_witness_is_seen_by_everybody(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 2, observers=1, track="assigned")
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        await world.trade(nodes[:4], 30, 0.05)

        def candidates() -> list[tuple[Any, Chunk]]:
            """Chunks on the head of a node that keeps their shard, whose last run took receipts in and ran transactions."""
            found = []
            for node in nodes[:4]:
                chain, producer = node.consensus.chain, node.consensus.producer
                for shard, those in producer.offered.get(chain.head.info.hash, {}).items():
                    ran = chain.held[chain.head.info.ran[shard].block]
                    if shard in node.engine.kept and any(place[0] == shard for place in ran.placed.values()):
                        found += [(node, offered.chunk) for offered in those.values()]
            return found

        await near.until(lambda: bool(candidates()))
        maker, chunk = candidates()[0]
        raw = await witness.make(maker.consensus.chain, chunk.header)
        good: Witness = decode(Witness, raw)
        assert good.transactions
        state: StateWitness = decode(StateWitness, good.state)
        assert len(state.state) > 3

        def without(at: int) -> bytes:
            return encode(evolve(state, state=state.state[:at] + state.state[at + 1 :]))

        lies = [encode(evolve(good, state=without(at))) for at in range(len(state.state))]
        lies.append(encode(evolve(good, state=encode(evolve(state, state=tuple(sorted([*state.state, b"more"])))))))
        lies.append(encode(evolve(good, transactions=good.transactions[1:])))
        lies.append(encode(evolve(good, block=b"\x07" * 32)))
        lies.append(encode(evolve(good, epoch_id=b"\x07" * 32)))
        assert good.receipts, "a run takes in what the chunks beside it bring, be it nothing"
        lies.append(encode(evolve(good, receipts=good.receipts[1:])))
        lies.append(encode(evolve(good, receipts=(*good.receipts, good.receipts[0]))))
        sent = next(run.receipts for run in maker.consensus.chain.runs.values() if run.receipts)
        for at, brought in enumerate(good.receipts):
            other = evolve(brought, receipts=sent[:1] if brought.receipts != sent[:1] else ())
            lies.append(encode(evolve(good, receipts=(*good.receipts[:at], other, *good.receipts[at + 1 :]))))
        for bit in world.dice.sample(range(8 * len(raw)), 60):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            lies.append(bytes(flipped))
        lies += [raw[:-1], raw + b"\0", b""]
        for node in nodes:
            chain = node.consensus.chain
            await witness.judge(chain, chunk, raw)
            for lie in lies:
                with pytest.raises(BadWitness):
                    await witness.judge(chain, chunk, lie)
            # The same witness under a chunk that says something else.
            for claim in ({"prev_state_root": b"\x07" * 32}, {"prev_gas_used": 1}, {"prev_balance_burnt": 1}):
                header = ChunkHeader(evolve(chunk.header.inner, **claim), 0, chunk.header.signature)
                with pytest.raises(BadWitness):
                    await witness.judge(chain, Chunk(header, chunk.body), encode(evolve(good, chunk=header)))

    tell(story)


def test_a_node_that_keeps_too_little_says_what_to_keep(tell: Any) -> None:
    async def story(world: Any) -> None:
        (node,) = await world.found(1, 2)
        node.consensus.chain.tracked = frozenset({1})
        with pytest.raises(ConfigurationError, match=r"execution\.kept = \[0, 1\]"):
            node.consensus._check_tracked()

    tell(story)
