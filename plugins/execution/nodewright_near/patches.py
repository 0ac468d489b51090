"""Records that a sandbox puts over the state: with the next chunk of their shard, and again whenever that one is run anew.

Table ``near_patches``: shard u16 big-endian ‖ block id -> ``Patch``, from before the block is run until it is committed.

Invariants
- A block is run with the same patch every time, also after a crash: its patch is durable before it is run the first time.
- A patch is bound to one block of its shard. One that is bound to a block which never came to be is of no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright_near.borsh import U64, Blob, Vector, decode, encode, struct

PATCHES: Final = "near_patches"
MAX_ROWS: Final = 1 << 20


@struct
@frozen
class Row:
    key: Annotated[bytes, Blob()]
    value: Annotated[bytes, Blob()]


@struct
@frozen
class Patch:
    height: U64
    rows: Annotated[tuple[Row, ...], Vector(Row, MAX_ROWS)]


def _key(block: bytes, shard: int) -> bytes:
    return shard.to_bytes(2, "big") + block


class Patches:
    """``pending`` wait for the next run of their shard; ``bound`` are blocks that were run with one since the start and are
    not committed yet."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._known: dict[bytes, Patch] = {}
        self.pending: dict[int, dict[bytes, bytes]] = {}
        self.bound: set[bytes] = set()

    async def open(self) -> None:
        page = await self._store.scan(PATCHES)
        while True:
            for key, raw in page.items:
                self._known[key] = decode(Patch, raw)
            if page.after is None:
                return
            page = await self._store.scan(PATCHES, after=page.after)

    def add(self, shard: int, rows: Mapping[bytes, bytes]) -> None:
        self.pending.setdefault(shard, {}).update(rows)

    async def of(self, block: BlockRef, shard: int) -> dict[bytes, bytes]:
        """What is to be put over the state of the shard after this block. What is pending is bound to it."""
        key = _key(block.id, shard)
        found = self._known.get(key)
        if found is None and shard in self.pending:
            rows = self.pending.pop(shard)
            found = Patch(block.height, tuple(Row(*row) for row in rows.items()))
            batch = WriteBatch()
            batch.put(PATCHES, key, encode(found))
            self._known[key] = found
            self.bound.add(block.id)
            await self._store.commit(batch)
        return {} if found is None else {row.key: row.value for row in found.rows}

    def _up_to(self, block: BlockRef, shard: int) -> list[bytes]:
        prefix = _key(b"", shard)
        return [key for key, patch in self._known.items() if key[:2] == prefix and patch.height <= block.height]

    def forget(self, block: BlockRef, shard: int, batch: WriteBatch) -> None:
        """With the batch that commits the block: none up to its height is run on this shard again."""
        for key in self._up_to(block, shard):
            batch.delete(PATCHES, key)

    def forgotten(self, block: BlockRef, shard: int) -> None:
        """That batch is committed."""
        for key in self._up_to(block, shard):
            del self._known[key]
            self.bound.discard(key[2:])
