"""Chunks by parts: what proves a part, and a producer that dies while it hands its chunk round."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright.errors import PeerGone
from nodewright_near.borsh import encode
from nodewright_near.chunks import ChunkExtra
from nodewright_near.headers import ChunkHeader, CongestionInfo
from nodewright_nightshade import chunking, parts
from nodewright_nightshade.blocks import Network
from nodewright_nightshade.erasure import counts
from nodewright_nightshade.keys import Signer
from nodewright_nightshade.parts import SMALL_BODY, Part

ZERO = bytes(32)


def header(body: bytes, producers: int) -> ChunkHeader:
    extra = ChunkExtra(ZERO, ZERO, ZERO, 0, 0, (), CongestionInfo())
    network = Network(1, 50, 1, 1, 1, 84)
    made = chunking.make(Signer("a", SigningKey(ZERO)), ZERO, 1, 0, extra, (), (), producers, network).header
    inner = evolve(made.inner, encoded_length=len(body), encoded_merkle_root=chunking.body_root(body, producers))
    return ChunkHeader(inner, 0, made.signature)


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=3000), st.integers(1, 30), st.data())
def test_a_part_is_of_its_number_and_its_body_alone(body: bytes, producers: int, data: st.DataObject) -> None:
    head, cut = header(body, producers), parts.cut(body, producers)
    needed, total = counts(producers)
    assert len(cut) == total
    assert all(parts.proves(head, part, producers) for part in cut)
    chosen = data.draw(st.lists(st.sampled_from(cut), min_size=needed, max_size=needed, unique_by=lambda part: part.index))
    assert parts.rebuild(head, {part.index: part for part in chosen}, producers) == body
    part = data.draw(st.sampled_from(cut))
    assert not parts.proves(head, evolve(part, index=total), producers)
    assert not parts.proves(head, evolve(part, data=part.data + b"\0"), producers)
    flipped = bytes([part.data[0] ^ 1]) + part.data[1:]
    assert not parts.proves(head, evolve(part, data=flipped), producers)
    for other in range(total):
        # A path of the same sides is that of another part: then its bytes would have to be the same too.
        assert other == part.index or not parts.proves(head, Part(other, part.path, part.data), producers)
    if part.path:
        assert not parts.proves(head, evolve(part, path=part.path[:-1]), producers)


@pytest.mark.seeds(1)
def test_a_producer_dies_while_it_hands_its_chunk_round(tell: Any, near: Any, seed: int) -> None:
    """Three of six others have a part each, two of them are enough: the others make a block with the chunk."""

    async def story(world: Any) -> None:
        nodes = await world.found(7, 1)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        died: list[Any] = []

        def dying(node: Any) -> Any:
            delivery = node.consensus.network.delivery
            push = delivery.push

            async def half(chunk: Any, places: dict[bytes, int]) -> None:
                if died or chunk.header.inner.encoded_length <= SMALL_BODY:
                    await push(chunk, places)
                    return
                died.append((node, chunk))
                cut = parts.cut(encode(chunk.body), 7)
                known = [peer for peer in sorted(places) if peer != node.transport.node_id]
                for peer in world.dice.sample(known, 3):
                    message = parts.pushed(chunk.header, cut, 7, places[peer])
                    assert len(message.parts) == 1
                    try:
                        await delivery.channel.send(peer, encode(message))
                    except PeerGone:
                        continue
                await trio.sleep(0.1)  # what was sent is on its way
                node._scope.cancel()

            return half

        for node in nodes:
            node.consensus.network.delivery.push = dying(node)
        block = nodes[0].consensus.final().id
        sent = [world.transfer("a0.user", "b0.user", 1, block) for _ in range(200)]
        await nodes[0].pool.submit([one.raw for one in sent])
        world.sent += [("a0.user", "b0.user", 1)] * len(sent)
        await near.until(lambda: bool(died))
        node, chunk = died[0]
        await node.dead()
        for other in world.up:
            await world.all_committed(other, sent)
        chain = world.up[0].consensus.chain
        included = set()
        for height in range(chain.final.info.height + 1):
            held = await chain.at(height)
            included |= {one.hash() for one in held.block.body.chunks} if held is not None else set()
        assert chunk.hash in included
        await node.start()
        await near.at_rest(world, sent)

    tell(story, seed)
