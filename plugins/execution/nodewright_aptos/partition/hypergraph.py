"""Senders as vertices, weighted by their transactions; keys that two or more senders touch as hyperedges."""

from __future__ import annotations

import numpy as np
from attrs import define

from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Access, Array


@define
class Hypergraph:
    """V senders, E shared keys numbered from 0. Sender v touches ``pins[pin_starts[v]:pin_starts[v + 1]]``, each once."""

    weights: Array  # (V,) i8
    pin_starts: Array  # (V + 1,) i8
    pins: Array  # i8
    edge_of: Array  # (K,) i8: number of a key among the shared, or -1
    edges: int


def hypergraph(access: Access) -> Hypergraph:
    loops = inner()
    starts = np.zeros(access.sender_count + 1, np.int64)
    own = np.empty(len(access), np.int64)
    loops.group(access.senders, starts, own)
    pin_starts = np.zeros(access.sender_count + 1, np.int64)
    pins = np.empty(len(access.reads) + len(access.writes), np.int64)
    edge_of = np.zeros(access.key_count, np.int64)
    edges = loops.pins(
        starts,
        own,
        access.read_starts,
        access.reads,
        access.write_starts,
        access.writes,
        np.full(access.key_count, -1, np.int64),
        edge_of,
        pin_starts,
        pins,
    )
    return Hypergraph(np.diff(starts), pin_starts, np.ascontiguousarray(pins[: pin_starts[-1]]), edge_of, int(edges))
