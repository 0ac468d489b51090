"""One network of 40 nodes and 20 shards, each node with its own shards' state alone: the same seed, the same hashes."""

from __future__ import annotations

from typing import Any

NODES, SHARDS = 40, 20
FEW_NODES, FEW_SHARDS = 12, 6  # within the default budget


def test_twenty_shards_on_forty_nodes_twice(tell: Any, near: Any, budget: int) -> None:
    """``--budget 67`` runs the whole 200 blocks; the default one a smaller network."""
    blocks = min(200, 3 * budget)
    count, shards = (NODES, SHARDS) if budget > 1 else (FEW_NODES, FEW_SHARDS)

    async def story(world: Any) -> tuple[list[bytes], list[str]]:
        # Two mandates a validator: with the network's usual 68 a shard, each would check nearly every chunk.
        nodes = await world.found(count, shards, track="assigned", consensus={"mandates_per_shard": 4})
        sent = await world.trade(nodes, min(40, blocks), 0.2)
        await near.until(lambda: min(node.height for node in nodes) >= blocks, 50_000)
        await world.same()
        settled = [await world.settled(nodes[0], one) for one in sent]
        chain = nodes[0].consensus.chain
        hashes = []
        for height in range(blocks):
            held = await chain.at(height)
            hashes.append(held.info.hash if held is not None else b"")
        missed = sum(ran.missed for ran in chain.head.info.ran)
        assert missed <= shards // 2, "chunks of every shard are made, endorsed and included"
        assert min(node.consensus.network.witnesses.judged for node in nodes) > 0
        return hashes, settled

    first, second = tell(story, 7), tell(story, 7)
    assert first.value == second.value
    assert first.digest == second.digest
