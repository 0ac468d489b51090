"""The genesis state on its way into a store: rows and trie nodes of each kept shard in batches, in bounded memory.

Invariants: a shard's marker (``ShardStore.install``) is written after all its rows and nodes, durably, so that a start that
was cut off begins that shard again, with the same rows; the roots of all shards stand beside the markers (``ROOTS_KEY`` of
``near_meta``) once they are known, so that no later start makes them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import define, field

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright_near.bulk import Bulk
from nodewright_near.generated import Row
from nodewright_near.genesis import GenesisRows, ValueRefs
from nodewright_near.shardstore import META, NODES, ROWS, ShardStore, node_key, row_key, row_value

ROOTS_KEY: Final = b"genesis"
SLICE_ROWS: Final = 10_000
TOLD_ROWS: Final = 200_000
# A row in a cache takes about this much beside its own bytes.
_CACHED_ROW: Final = 120


@define
class _Work:
    """One shard's rows, so far."""

    shard: int
    rows: Iterator[Row]
    bulk: Bulk = field(factory=Bulk)
    refs: ValueRefs = field(factory=ValueRefs)
    root: bytes | None = None

    def slice(self) -> tuple[list[Row], dict[bytes, bytes]]:
        """The next rows, and the nodes that they finish. Without rows it is done: ``root`` is set."""
        rows = list(islice(self.rows, SLICE_ROWS))
        for key, value in rows:
            self.bulk.add(key, self.refs(value))
        if not rows:
            self.root = self.bulk.finish()
        nodes, self.bulk.nodes = self.bulk.nodes, {}
        return rows, nodes


def _batch(shard: int, rows: list[Row], nodes: Mapping[bytes, bytes]) -> WriteBatch:
    batch = WriteBatch()
    for key, value in rows:
        batch.put(ROWS, row_key(shard, key), row_value(key, value))
    for path, raw in nodes.items():
        batch.put(NODES, node_key(shard, path), raw)
    return batch


class Founding:
    """``shards``: those kept here; of the others only the root is made."""

    def __init__(
        self, store: KeyValueStore, environment: Environment, shards: Mapping[int, ShardStore], cache_bytes: int
    ) -> None:
        self._store = store
        self._environment = environment
        self._shards = shards
        self._cached = cache_bytes // max(len(shards), 1) // 2

    async def known(self) -> list[bytes] | None:
        """The roots, where an earlier start has made them and every kept shard is there."""
        if any(shard.applied is None for shard in self._shards.values()):
            return None
        (row,) = await self._store.get_many(META, [ROOTS_KEY])
        return None if row is None else [row[at : at + 32] for at in range(0, len(row), 32)]

    async def write(self, rows: GenesisRows) -> list[bytes]:
        """Rows and nodes of kept shards that have no state yet; the roots of all. The markers are for the caller."""
        roots = [await self._shard(number, rows) for number in range(rows.shards)]
        batch = WriteBatch()
        batch.put(META, ROOTS_KEY, b"".join(roots))
        await self._store.commit(batch)
        return roots

    async def _shard(self, number: int, rows: GenesisRows) -> bytes:
        work = _Work(number, rows.shard(number))
        shard = self._shards.get(number)
        wanted = shard if shard is not None and shard.applied is None else None
        done, values_size, nodes_size = 0, 0, 0
        while work.root is None:
            part, nodes = await self._environment.offload(work.slice)
            if wanted is not None:
                await self._store.commit(await self._environment.offload(_batch, number, part, nodes), durable=False)
                # What fits is at hand from the start; putting in what does not would only drive the first ones out.
                values_size += sum(len(key) + len(value) + _CACHED_ROW for key, value in part)
                nodes_size += sum(len(path) + len(raw) + _CACHED_ROW for path, raw in nodes.items())
                if values_size <= self._cached:
                    wanted.values.update(dict(part))
                if nodes_size <= self._cached:
                    wanted.nodes.update(nodes)
            done += len(part)
            if part and done % TOLD_ROWS < SLICE_ROWS <= done:
                self._environment.logger.info("making the genesis state", shard=number, rows=done)
        return work.root
