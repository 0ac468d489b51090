"""Partitioners by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from nodewright_aptos.partition.baselines import by_components, round_robin
from nodewright_aptos.partition.fanout import by_fanout
from nodewright_aptos.partition.inner import KERNELS
from nodewright_aptos.partition.model import MAX_SHARDS, Access, Partition

__all__ = ["KERNELS", "PARTITIONERS", "partition"]

PARTITIONERS: Final[dict[str, Callable[[Access, int, int], Partition]]] = {
    "fanout": by_fanout,
    "components": by_components,
    "round-robin": round_robin,
}


def partition(access: Access, shards: int, partitioner: str = "fanout", seed: int = 0, reorder: bool = True) -> Partition:
    """Blocking; off the event loop. Without ``reorder`` the block keeps its order and there is one round: for whoever may
    not change it. Raises ValueError for an unknown name, or a number of shards that is not in 1 .. ``MAX_SHARDS``."""
    if partitioner not in PARTITIONERS:
        raise ValueError(f"partitioner {partitioner!r} is not one of {', '.join(PARTITIONERS)}")
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"{shards} executor shards: 1 to {MAX_SHARDS} are possible")
    made = PARTITIONERS[partitioner](access, shards, seed)
    if not reorder:
        made.order = np.arange(len(access), dtype=np.int64)
        made.rounds = np.zeros(len(access), np.int32)
    return made
