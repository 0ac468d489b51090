"""Switches of the consensus: each off and on the same network comes to the same state; and that each does something."""

from __future__ import annotations

from typing import Any

import trio

from nodewright.interfaces import HEAD
from nodewright_nightshade.decoded import Decoded
from nodewright_nightshade.partial import PartialChunk

OFF = {"early_prepare_transactions": False, "decoded_cache": False, "own_tasks": False}
LEAN = {"save_untracked_partial_chunks_parts": False}


def test_the_state_is_the_same_with_every_switch_on_and_off(tell: Any, near: Any) -> None:
    """What is prepared early is what the chunk gets; objects read before are the rows; tasks only change who waits."""

    async def traded(world: Any, **switches: Any) -> tuple[Any, list[bytes]]:
        (node,) = await world.found(1, 2, **switches)
        await near.until(lambda: node.final >= 2)
        sent = await world.trade([node], 12, 0.4)
        await near.at_rest(world, sent, 10)
        return node, [(await node.engine.query(HEAD, "extra", shard=shard)).state_root for shard in range(2)]

    async def on(world: Any) -> list[bytes]:
        node, roots = await traded(world)
        assert node.consensus.producer.preparing.used > 5
        assert node.consensus.chain.store.decoded.hits
        return roots

    async def off(world: Any) -> list[bytes]:
        node, roots = await traded(world, **OFF)
        assert node.consensus.producer.preparing is None
        assert not node.consensus.chain.store.decoded.hits
        return roots

    assert tell(on).value == tell(off).value


def test_bodies_of_other_shards_need_not_be_kept(tell: Any, near: Any) -> None:
    """Nodes with two of four shards each, of the others only what reached theirs; witnesses made and judged in the path of
    chunks; the state synced now and then. One is killed, loses what was not synced, and comes back by what is kept."""

    async def story(world: Any) -> None:
        world.execution = {"sync_bytes": 1 << 20}
        nodes = await world.found(4, 4, track="assigned", own_tasks=False, **LEAN)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        sent = await world.trade(nodes, 6, 0.2)
        await nodes[2].kill()
        await nodes[2].start()
        await near.at_rest(world, sent, 15)
        for node in nodes:
            partly = await parts(node)
            assert partly > node.final / 2, "bodies of half of the shards are not here"

    tell(story)


async def parts(node: Any) -> int:
    """How many chunks it has in part; those of its shards it has whole."""
    chain, partly = node.consensus.chain, 0
    for height in range(1, node.final + 1):
        held = await chain.at(height)
        for shard, header in enumerate(held.block.body.chunks if held is not None else ()):
            if not held.block.is_new(shard):
                continue
            whole, part = await chain.store.chunk(header.hash()), await chain.store.part(header.hash())
            assert (whole is None) != (part is None)
            assert whole is not None or isinstance(part, PartialChunk)
            assert whole is not None or shard not in node.engine.kept
            partly += part is not None
    return partly


async def test_decoded_objects_are_passed_by_while_a_write_is_in_flight() -> None:
    kept = Decoded({"t": 2})
    kept.put("t", b"a", 1, kept.moment)
    before = kept.moment
    with kept.write({"t": [b"a"]}):
        assert kept.get("t", b"a") is None
        assert kept.moment is None
        kept.put("t", b"b", 2, kept.moment)
        with kept.write({"u": [b"z"]}):
            pass
        assert kept.get("t", b"a") is None
    assert kept.get("t", b"a") is None, "it was written anew"
    kept.put("t", b"a", "old", before)
    assert kept.get("t", b"a") is None, "read before the write, put in after it"
    for at, key in enumerate((b"a", b"b", b"c")):
        kept.put("t", key, at + 1, kept.moment)
    assert [kept.get("t", key) for key in (b"a", b"b", b"c")] == [None, 2, 3]
    kept.put("not kept", b"a", 1, kept.moment)
    assert kept.get("not kept", b"a") is None
    off = Decoded({"t": 2}, on=False)
    off.put("t", b"a", 1, off.moment)
    assert off.get("t", b"a") is None
    await trio.lowlevel.checkpoint()
