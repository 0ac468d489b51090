"""What a partition costs: values that shards send each other, how far keys are spread, how even the shards are."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from nodewright_aptos.partition.hypergraph import Hypergraph, hypergraph
from nodewright_aptos.partition.inner import inner
from nodewright_aptos.partition.model import Access, Array, Messages, Partition

# Of a message, in transactions: some milliseconds, where one takes some tens of microseconds.
LATENCY: Final = 100


def messages(access: Access, partition: Partition) -> Messages:
    """Every value that a shard must send another, if each transaction writes what it may. The readers of a write are those
    after it in the order up to the next that writes the key, that one too if it reads it; for each other shard that one of
    them stands in, one message. Values of before the block are no messages: they are read from the coordinator."""
    count, _ = _walk(access, partition, 0)
    table = np.zeros((count, 4), np.int64)
    _walk(access, partition, count, table)
    return Messages(*(np.ascontiguousarray(table[:, column]) for column in range(4)))


def _walk(access: Access, partition: Partition, room: int, table: Array = None) -> tuple[int, int]:
    """Messages, and how many there are in the longest chain of which each waits for the one before."""
    words = (partition.shards + 31) // 32
    hops = np.zeros(access.key_count, np.int64)
    count = inner().messages(
        partition.order,
        partition.shard,
        access.read_starts,
        access.reads,
        access.write_starts,
        access.writes,
        np.full(access.key_count, -1, np.int64),
        np.zeros((access.key_count, words), np.int64),
        hops,
        np.zeros((0, 4), np.int64) if table is None else table,
    )
    return int(count), int(hops.max(initial=0))


def _span(access: Access, partition: Partition) -> int:
    return int(
        inner().span(
            partition.order,
            partition.shard,
            access.read_starts,
            access.reads,
            access.write_starts,
            access.writes,
            np.zeros(partition.shards, np.int64),
            np.zeros(access.key_count, np.int64),
            np.full(access.key_count, -1, np.int64),
            LATENCY,
        )
    )


def figures(access: Access, partition: Partition, graph: Hypergraph | None = None) -> dict[str, Any]:
    """``graph`` where the caller has it already.

    - ``fanout``: shards that a key is touched in, mean over the keys that two or more senders touch;
    - ``cross_shard_messages``: as ``messages`` has them; ``message_chain``: most of them that wait for each other;
    - ``span``: how long the block takes, each shard running its transactions in order and one after another and messages
      taking as long as ``LATENCY`` of them, over what it would take if no shard ever waited and all had as many;
    - ``imbalance``: transactions of the largest shard over the mean;
    - ``rounds``, and ``last_round``: transactions in the last of them, 0 where there is but one.
    """
    graph = hypergraph(access) if graph is None else graph
    loops = inner()
    seen = np.zeros((access.key_count, (partition.shards + 31) // 32), np.int64)
    loops.spread(partition.shard, access.read_starts, access.reads, seen)
    loops.spread(partition.shard, access.write_starts, access.writes, seen)
    shared = seen[graph.edge_of >= 0]
    places = sum(int(((shared >> bit) & 1).sum()) for bit in range(32))
    count, chain = _walk(access, partition, 0)
    sizes = np.bincount(partition.shard, minlength=partition.shards)
    rounds = int(partition.rounds.max(initial=0)) + 1
    return {
        "fanout": places / max(graph.edges, 1),
        "cross_shard_messages": count,
        "message_chain": chain,
        "span": _span(access, partition) * partition.shards / max(len(access), 1),
        "imbalance": float(sizes.max()) * partition.shards / max(len(access), 1),
        "rounds": rounds,
        "last_round": int((partition.rounds == rounds - 1).sum()) if rounds > 1 else 0,
    }
