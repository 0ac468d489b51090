"""Partitioners: how the transactions of a block are divided among executor shards, and in which order they stand then.

- ``model``: ``Access`` (what a block touches, in columns), ``Partition`` (shard, order, rounds), ``Messages``.
- ``declared``: the columns of transactions whose functions declare their keys.
- ``hypergraph``: senders as vertices, keys that two or more of them touch as hyperedges.
- ``fanout``: probabilistic fanout and its local search, which ``groups`` begins; ``ordering``: minority shards first.
- ``baselines``: connected components, round-robin.
- ``measures``: messages between shards, fanout, span, imbalance.
- ``loops`` (``blockloops``, ``searchloops``): the inner loops, plain; ``kernels``: the same, compiled
  (``nodewright.kernels.warm_up(KERNELS)``). Plain ones give the same result and take many times as long.

What is here needs numpy. Nothing here executes anything.
"""

from nodewright_aptos.partition.choose import KERNELS, PARTITIONERS, partition
from nodewright_aptos.partition.declared import Declared, declared_access
from nodewright_aptos.partition.measures import figures, messages
from nodewright_aptos.partition.model import MAX_SHARDS, Access, Messages, Partition

__all__ = [
    "KERNELS",
    "MAX_SHARDS",
    "PARTITIONERS",
    "Access",
    "Declared",
    "Messages",
    "Partition",
    "declared_access",
    "figures",
    "messages",
    "partition",
]
