"""The fanout partitioner: a local search that lets as few shards as possible touch a key.

What is lowered is the probabilistic fanout of every key, the sum over shards of 1 - (1 - p) ** n with n the senders there
that touch it: what its fanout would be were each of them taken with probability p (Kabiljo et al., Social Hash Partitioner,
2017). A small p shows the search which way to go long before the last sender of a key leaves a shard; at p = 1 it is the
fanout itself. A sender that goes from a to b gains p times the sum over its keys of (1 - p) ** (n_a - 1) - (1 - p) ** n_b.

p begins at ``FIRST`` and goes halfway to 1 whenever an iteration improves too little. In an iteration each sender goes
where it gains most if that shard has room, else it is exchanged for the one that gains most the other way.

Invariants: no shard has more transactions than its cap; at one p the objective never rises.

Memory: four bytes for each shared key and shard, and as much again for the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from attrs import define

from nodewright_aptos.partition.groups import begin
from nodewright_aptos.partition.hypergraph import Hypergraph, hypergraph
from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Access, Array, Partition
from nodewright_aptos.partition.ordering import ordered

FIRST: Final = 0.1
ITERATIONS: Final = 40
# An iteration that improves by less than this share of the objective is the last at its p.
STALLED: Final = 0.001
# Above this p is 1 next.
LAST: Final = 0.8
SLACK: Final = 1.02


@define
class Step:
    """What one iteration did, told to whoever watches: the objective is at ``p``, before and after."""

    p: float
    before: float
    after: float
    moves: int


def cap_of(weights: Array, shards: int) -> int:
    """Most transactions of a shard: 1 + 1.02 times the mean, and no less than the heaviest sender with the mean, which
    no division could avoid."""
    total = int(weights.sum())
    heaviest = int(weights.max(initial=0))
    return max(1 + int(SLACK * total / shards), -(-total // shards) + heaviest)


def powers(p: float, most: int) -> Array:
    """(most + 2,) f8: (1 - p) ** i, and p in the last place. By multiplication, so that it is the same everywhere."""
    table = np.empty(most + 2, np.float64)
    table[0] = 1.0
    for index in range(1, most + 1):
        table[index] = table[index - 1] * (1.0 - p)
    table[-1] = p
    return table


def shuffled(count: int, seed: int) -> Array:
    """A permutation that follows from the seed whatever the version of numpy: indices by their splitmix64."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable").astype(np.int64)


def search(graph: Hypergraph, shards: int, seed: int, watch: Callable[[Step], None] | None = None) -> Array:
    """Shard (V,) i4 of each sender. ``watch`` is told of each iteration."""
    loops = inner()
    weights, starts = graph.weights, graph.pin_starts
    cap = cap_of(weights, shards)
    bound = starts[1:] > starts[:-1]
    order = shuffled(len(weights), seed)
    heaviest_first = order[np.argsort(-weights[order], kind="stable")]
    shard = np.zeros(len(weights), np.int32)
    loads = np.zeros(shards, np.int64)
    visit = np.ascontiguousarray(order[bound[order]])
    if len(visit):
        begin(graph, shards, cap, visit, shard, loads)
    if shards > 1 and len(visit):
        state = _Search(graph, shard, loads, cap, visit, shards)
        p = FIRST
        for _ in range(ITERATIONS):
            step = state.iterate(p)
            if watch is not None:
                watch(step)
            if step.before - step.after < STALLED * step.before:
                if p == 1.0:
                    break
                p = (1.0 + p) / 2 if p < LAST else 1.0
    # Senders that share nothing fill up what is lightest.
    loops.pack(np.ascontiguousarray(heaviest_first[~bound[heaviest_first]]), weights, shard, loads)
    return shard


class _Search:
    """Where every sender is, how many senders of each shared key are in each shard, and how full the shards are."""

    def __init__(self, graph: Hypergraph, shard: Array, loads: Array, cap: int, visit: Array, shards: int) -> None:
        self.graph = graph
        self.shard = shard
        self.loads = loads
        self.cap = cap
        self.visit = visit
        self.shards = shards
        self.counts = np.zeros((graph.edges, shards), np.int32)
        inner().tally(graph.pin_starts, graph.pins, graph.weights, shard, self.counts, np.zeros(shards, np.int64))
        self.most = int(np.bincount(graph.pins, minlength=1).max())
        self.blocked = np.empty((len(visit), 2), np.int64)
        self.gains = np.empty(len(visit), np.float64)

    def iterate(self, p: float) -> Step:
        graph, shards, loops = self.graph, self.shards, inner()
        power = powers(p, self.most)
        before = float(loops.objective(self.counts, power))
        figures = np.zeros(2, np.float64)
        search = (graph.pin_starts, graph.pins, graph.weights, self.shard, self.counts, self.loads, self.cap, power)
        waiting = loops.sweep(self.visit, *search, np.empty(shards, np.float64), self.blocked, self.gains, figures)
        if waiting:
            senders, to = self.blocked[:waiting, 0], self.blocked[:waiting, 1]
            pair = self.shard[senders] * shards + to
            listed = np.lexsort((-self.gains[:waiting], pair))
            pair_starts = np.zeros(shards * shards + 1, np.int64)
            np.cumsum(np.bincount(pair, minlength=shards * shards), out=pair_starts[1:])
            loops.swap(pair_starts, np.ascontiguousarray(senders[listed]), *search, figures)
        return Step(p, before, before - float(figures[1]), int(figures[0]))


def by_fanout(access: Access, shards: int, seed: int) -> Partition:
    graph = hypergraph(access)
    place = search(graph, shards, seed)
    order = ordered(access, graph, place, shards)
    return Partition(shards, place[access.senders], order, np.zeros(len(access), np.int32))
