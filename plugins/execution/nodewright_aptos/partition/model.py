"""What a block touches, in columns, and how it is divided among executor shards.

Invariants of a ``Partition``: every transaction is in exactly one shard and stands exactly once in the order; transactions
of one sender keep their order; rounds do not fall along the order. All of it follows from the columns, the number of
shards, the partitioner's name and the seed: whoever computes it gets the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from attrs import define

Array = Any

MAX_SHARDS: Final = 256


@define
class Access:
    """A block of n transactions. Senders and keys are numbered from 0; senders without gaps, in the order in which the
    block names them first (a partitioner may lean on that order, so it must say nothing). Transaction t reads
    ``reads[read_starts[t]:read_starts[t + 1]]`` and writes ``writes[write_starts[t]:write_starts[t + 1]]``, each key once
    in each; a key that it reads and writes stands in both. All columns are contiguous int64."""

    senders: Array  # (n,)
    read_starts: Array  # (n + 1,)
    reads: Array
    write_starts: Array  # (n + 1,)
    writes: Array
    sender_count: int
    key_count: int

    def __len__(self) -> int:
        return len(self.senders)

    @staticmethod
    def of(rows: Sequence[tuple[int, Sequence[int], Sequence[int]]], sender_count: int, key_count: int) -> Access:
        """From (sender, keys read, keys written) of each transaction."""
        reads = [list(dict.fromkeys(row[1])) for row in rows]
        writes = [list(dict.fromkeys(row[2])) for row in rows]
        return Access(
            np.array([row[0] for row in rows], np.int64),
            *_columns(reads),
            *_columns(writes),
            sender_count,
            key_count,
        )


def _columns(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return starts, np.array([key for row in rows for key in row], np.int64)


@define
class Partition:
    """``shard`` (n,) i4 of each transaction; ``order`` (n,) i8 the new order of the block: ``order[i]`` is the transaction
    that stands i-th; ``rounds`` (n,) i4 the round of each transaction, 0 and up: where there are several, no two
    shards touch a key within one of them that the block writes."""

    shards: int
    shard: Array
    order: Array
    rounds: Array

    def sub_blocks(self) -> list[Array]:
        """For each shard its transactions, in order."""
        own = self.shard[self.order]
        grouped = self.order[np.argsort(own, kind="stable")]
        return np.split(grouped, np.cumsum(np.bincount(own, minlength=self.shards))[:-1])


@define
class Messages:
    """The values that shards send each other, in the order in which they are written: the transaction ``writer`` commits
    ``key``, and shard ``shard`` needs it, first of all for its transaction ``reader`` (all (m,) i8)."""

    writer: Array
    key: Array
    shard: Array
    reader: Array

    def __len__(self) -> int:
        return len(self.writer)
