"""The order in which the transactions of a partitioned block stand: who has the smaller part of a key runs first.

For each key the shards that touch it are ranked, fewest transactions first. A sender's score is the mean over its keys of
rank / (shards of the key - 1): 0 where all its keys are mostly others', 1 where they are mostly its own shard's. Scores
go up along the order, so that a key is handed from shard to shard instead of to and fro, and the shard that has most to
do with it waits the least often. Senders that share no key with another shard fill the gaps between.

Equal scores keep the block's order. Putting them together by shard would save a message here and there, and have each shard
wait until the one before it is done.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nodewright_aptos.partition.hypergraph import Hypergraph
from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Access, Array

# Scores are compared in steps of this.
STEPS: Final = 1 << 16
GAPS: Final = 64


def ordered(access: Access, graph: Hypergraph, shard: Array, shards: int) -> Array:
    """``shard`` (V,) i4 of each sender. Answers the order (n,) i8."""
    loops = inner()
    touched = np.zeros((graph.edges, shards), np.int32)
    loops.touches(
        access.senders,
        access.read_starts,
        access.reads,
        access.write_starts,
        access.writes,
        graph.edge_of,
        shard,
        np.full(access.key_count, -1, np.int64),
        touched,
    )
    score = np.empty(access.sender_count, np.float64)
    loops.scores(graph.pin_starts, graph.pins, touched, shard, score)
    free = score < 0
    steps = np.rint(score * STEPS).astype(np.int64)
    gaps = 1 + np.arange(int(free.sum()), dtype=np.int64) % (GAPS - 1)
    steps[free] = gaps * (STEPS // GAPS)
    _, places = np.unique(steps, return_inverse=True)
    order = np.empty(len(access), np.int64)
    values = np.ascontiguousarray(places.astype(np.int64)[access.senders])
    loops.group(values, np.zeros(int(places.max(initial=0)) + 2, np.int64), order)
    return order
