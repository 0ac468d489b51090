"""The partitioners to compare with: connected components, and round-robin."""

from __future__ import annotations

from typing import Final

import numpy as np

from nodewright_aptos.partition.hypergraph import hypergraph
from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Access, Array, Partition

# Rounds in which nobody waits for another shard; what is left then goes to a last one.
ROUNDS: Final = 4


def round_robin(access: Access, shards: int, seed: int) -> Partition:
    """Senders in turn, in the block's order, which stays."""
    shard = (access.senders % shards).astype(np.int32)
    return Partition(shards, shard, np.arange(len(access), dtype=np.int64), np.zeros(len(access), np.int32))


def by_components(access: Access, shards: int, seed: int) -> Partition:
    """Connected components of senders and the keys they write, the largest first, each to the shard that has least.

    A component larger than a shard's share is cut into pieces of at most that, its senders in the order in which they come
    in the block. Pieces share keys, so there are rounds: in each a key belongs to the shard that has most transactions on
    it, and who touches another shard's key is dropped to the next round. After ``ROUNDS`` of them the rest runs in a last
    round, in the one shard that has least.
    """
    loops = inner()
    graph = hypergraph(access)
    place = _packed(access, graph.weights, shards)
    shard = place[access.senders]
    rounds = np.zeros(len(access), np.int32)
    written = np.zeros(access.key_count, np.bool_)
    written[access.writes] = True
    contested = (graph.edge_of >= 0) & written
    edge_of = np.full(access.key_count, -1, np.int64)
    edge_of[contested] = np.arange(int(contested.sum()))
    counts = np.zeros((int(contested.sum()), shards), np.int32)
    owner = np.zeros(len(counts), np.int64)
    dropped = np.full(access.sender_count, -1, np.int64)
    remaining = np.arange(len(access), dtype=np.int64)
    for number in range(ROUNDS):
        rest = np.empty(len(remaining), np.int64)
        left = loops.owned_round(
            remaining,
            access.senders,
            shard,
            access.read_starts,
            access.reads,
            access.write_starts,
            access.writes,
            edge_of,
            counts,
            owner,
            dropped,
            number,
            rounds,
            rest,
        )
        remaining = np.ascontiguousarray(rest[:left])
        if not left:
            break
    if len(remaining):
        rounds[remaining] = ROUNDS
        kept = np.bincount(shard[rounds < ROUNDS], minlength=shards)
        shard[remaining] = int(np.argmin(kept))
    order = np.argsort(rounds, kind="stable").astype(np.int64)
    return Partition(shards, shard, order, rounds)


def _packed(access: Access, weights: Array, shards: int) -> Array:
    """Shard (V,) i4 of each sender."""
    senders = access.sender_count
    parent = np.arange(senders + access.key_count, dtype=np.int64)
    inner().components(access.senders, access.write_starts, access.writes, parent, senders)
    component = parent[:senders]
    share = max(1, -(-len(access) // shards))
    members = np.argsort(component, kind="stable")
    total = np.bincount(component, weights, minlength=1).astype(np.int64)
    # Where in its component a sender begins, counted in transactions: a piece is what begins in the same share.
    before = np.cumsum(weights[members]) - weights[members]
    starts = np.zeros(len(total), np.int64)
    starts[1:] = np.cumsum(total)[:-1]
    piece = np.zeros(senders, np.int64)
    piece[members] = (before - starts[component[members]]) // share
    pieces, own = np.unique(component * (shards + 1) + piece, return_inverse=True)
    size = np.bincount(own, weights, minlength=len(pieces)).astype(np.int64)
    loads = [0] * shards
    where = np.zeros(len(pieces), np.int32)
    for one in np.argsort(-size, kind="stable").tolist():
        lightest = loads.index(min(loads))
        where[one] = lightest
        loads[lightest] += int(size[one])
    return where[own]
