"""Where the local search begins: senders that share keys in groups, whole groups in shards.

A search that moves one sender at a time finds groups but cannot move them: once the shards are full, a group that came to
lie in two of them stays so. Hence groups are found first and packed, the heaviest first: connected components that are no
larger than a shard, and in larger ones the senders of one label, where senders and keys take over labels from each other
(Raghavan, Albert and Kumara, 2007; no label may have more than a quarter of a shard). What does not fit under the cap is
spilled, sender by sender. Where a block has no groups, this is the heaviest sender first.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nodewright_aptos.partition.hypergraph import Hypergraph
from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Array

ROUNDS: Final = 8
PIECES: Final = 4  # a group has at most this part of a shard
# Pairs of groups that are looked at to even out shards; with many groups the first packing is even.
LOOKS: Final = 4_000_000


def begin(graph: Hypergraph, shards: int, cap: int, visit: Array, shard: Array, loads: Array) -> None:
    """Places the senders of ``visit``, which share keys, into ``shard`` (V,) i4 and ``loads`` (S,) i8 zeros."""
    loops = inner()
    share = int(graph.weights.sum()) // shards
    component = _components(graph)
    small = np.bincount(component, graph.weights, minlength=1)[component] <= share
    labels = component.copy()
    rest = np.ascontiguousarray(visit[~small[visit]])
    labels[rest] = len(labels) + graph.edges + _labels(graph, rest, share // PIECES)[rest]
    _, group = np.unique(labels[visit], return_inverse=True)
    size = np.bincount(group, graph.weights[visit]).astype(np.int64)
    heaviest_first = np.argsort(-size, kind="stable")
    place = np.zeros(len(size), np.int32)
    loops.pack(heaviest_first, size, place, loads)
    loops.even(size, place, loads, cap, LOOKS * shards // len(size) ** 2)
    shard[visit] = place[group]
    lightest_first = np.lexsort((group, size[group]))
    loops.spill(
        np.ascontiguousarray(visit[lightest_first]), graph.weights, shard, loads, cap, np.full(shards, -1, np.int64)
    )


def _components(graph: Hypergraph) -> Array:
    """For each sender the lowest number of a sender that it hangs together with."""
    senders = len(graph.weights)
    parent = np.arange(senders + graph.edges, dtype=np.int64)
    inner().components(np.arange(senders, dtype=np.int64), graph.pin_starts, graph.pins, parent, senders)
    return parent[:senders]


def _labels(graph: Hypergraph, visit: Array, limit: int) -> Array:
    """A label for each sender. To begin with all have their own: keys are labels 0 .. E - 1, senders E and up."""
    loops = inner()
    edges, senders = graph.edges, len(graph.weights)
    key_starts = np.zeros(edges + 1, np.int64)
    by_key = np.empty(len(graph.pins), np.int64)
    loops.group(graph.pins, key_starts, by_key)
    by_key = np.repeat(np.arange(senders), np.diff(graph.pin_starts))[by_key]
    every = np.arange(edges + senders, dtype=np.int64)
    keys, key_labels, labels = every[:edges], every[:edges].copy(), every[edges:].copy()
    weightless, no_mass, counts = np.zeros(edges, np.int64), np.zeros(len(every), np.int64), np.zeros(len(every), np.int64)
    mass = np.concatenate((weightless, graph.weights))
    for _ in range(ROUNDS):
        changes = loops.adopt(visit, graph.pin_starts, graph.pins, key_labels, labels, graph.weights, mass, limit, counts)
        loops.adopt(keys, key_starts, by_key, labels, key_labels, weightless, no_mass, 0, counts)
        if changes * 100 < len(visit):
            break
    return labels
