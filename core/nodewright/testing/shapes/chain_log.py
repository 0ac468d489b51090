"""The chain store of the small chains: blocks by id, the best chain by height, what each block did, where transactions are.

Invariants
- A height's row and the head change in one batch (``decide``), with the rows of what the block did; ``retract`` takes the
  same rows back.
- A transaction's row names the first block of the best chain that kept it: one that is ordered again later changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from nodewright.errors import StoreCorrupt
from nodewright.interfaces import BlockRef, BundleRef, KeyValueStore, Location, WriteBatch
from nodewright.testing.shapes.codec import Reader, blob, ref, u32, u64, vector

BLOCKS = "blocks"
HEIGHTS = "heights"
DONE = "done"
TRANSACTIONS = "transactions"
MARKS = "marks"
META = "meta"
HEAD = b"head"


@frozen
class Carried:
    """A transaction to be ordered again: how often it was, and its body."""

    id: bytes
    attempts: int
    raw: bytes


@frozen
class Done:
    """What a block did, as the chain remembers it. ``kept`` are (transaction id, bundle id, index in it)."""

    commitment: bytes = b""
    kept: Sequence[tuple[bytes, bytes, int]] = ()
    rejected: Mapping[bytes, str] = field(factory=dict)
    carried: Sequence[Carried] = ()

    def encode(self) -> bytes:
        return (
            blob(self.commitment)
            + vector(self.kept, lambda item: item[0] + item[1] + u32(item[2]))
            + vector(list(self.rejected.items()), lambda item: item[0] + blob(item[1].encode()))
            + vector(self.carried, lambda item: item.id + u32(item.attempts) + blob(item.raw))
        )

    @classmethod
    def decode(cls, row: bytes) -> Done:
        data = Reader(row)
        return cls(
            data.blob(),
            data.vector(lambda: (data.hash(), data.hash(), data.u32())),
            dict(data.vector(lambda: (data.hash(), data.blob().decode()))),
            data.vector(lambda: Carried(data.hash(), data.u32(), data.blob())),
        )


class ChainLog:
    def __init__(self, store: KeyValueStore, genesis: BlockRef) -> None:
        self.store = store
        self.genesis = genesis
        self.head = genesis

    async def open(self) -> None:
        (row,) = await self.store.get_many(META, [HEAD])
        self.head = Reader(row).ref() if row is not None else self.genesis

    async def is_empty(self) -> bool:
        return not (await self.store.scan(BLOCKS, limit=1)).items

    async def put_block(self, block: BlockRef, raw: bytes) -> None:
        """Durable on return. Rows are in order of height, so that ``blocks_from`` reads a range."""
        batch = WriteBatch()
        batch.put(BLOCKS, ref(block), raw)
        batch.put(MARKS, block.id, u64(block.height))
        await self.store.commit(batch)

    async def block(self, id: bytes) -> bytes | None:
        (height,) = await self.store.get_many(MARKS, [id])
        return (await self.store.get_many(BLOCKS, [height + id]))[0] if height is not None else None

    async def blocks_above(self, height: int) -> list[bytes]:
        """Every stored block higher than ``height``, lower ones first."""
        rows: list[bytes] = []
        after: bytes | None = u64(height) + b"\xff" * 32
        while after is not None:
            page = await self.store.scan(BLOCKS, after=after)
            rows += [row for _, row in page.items]
            after = page.after
        return rows

    async def at(self, height: int) -> BlockRef | None:
        if height == 0:
            return self.genesis
        (id,) = await self.store.get_many(HEIGHTS, [u64(height)])
        return BlockRef(height, id) if id is not None else None

    async def done(self, id: bytes) -> Done:
        (row,) = await self.store.get_many(DONE, [id])
        return Done.decode(row) if row is not None else Done()

    async def decide(self, block: BlockRef, done: Done) -> Done:
        """Durable: this block is the best of its height and the head. Returns ``done`` without rejections of transactions
        that an earlier block kept."""
        earlier = await self.locate([*done.rejected, *(id for id, _, _ in done.kept)])
        known = {
            id: place
            for id, place in zip([*done.rejected, *(id for id, _, _ in done.kept)], earlier, strict=True)
            if place is not None and place.block != block
        }
        done = Done(
            done.commitment,
            [item for item in done.kept if item[0] not in known],
            {id: reason for id, reason in done.rejected.items() if id not in known},
            done.carried,
        )
        batch = WriteBatch()
        batch.put(HEIGHTS, u64(block.height), block.id)
        batch.put(DONE, block.id, done.encode())
        batch.put(META, HEAD, ref(block))
        for id, bundle, index in done.kept:
            batch.put(TRANSACTIONS, id, bundle + u32(index) + ref(block))
        await self.store.commit(batch)
        self.head = block
        return done

    async def retract(self, block: BlockRef, parent: BlockRef) -> None:
        """Durable: ``block``, which is the head, leaves the best chain."""
        if block != self.head:
            raise StoreCorrupt(f"block {block} is not the head {self.head}")
        batch = WriteBatch()
        batch.delete(HEIGHTS, u64(block.height))
        batch.put(META, HEAD, ref(parent))
        batch.delete_many(TRANSACTIONS, (id for id, _, _ in (await self.done(block.id)).kept))
        await self.store.commit(batch)
        self.head = parent

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        places: list[Location | None] = []
        for row in await self.store.get_many(TRANSACTIONS, ids):
            if row is None:
                places.append(None)
                continue
            data = Reader(row)
            places.append(Location(data.hash(), data.u32(), data.ref()))
        return places


def bundle_refs(refs: Sequence[BundleRef]) -> bytes:
    return vector(refs, lambda item: item.id + u32(item.count) + u32(item.size) + u32(item.shard))


def read_bundle_refs(data: Reader, maximum: int = 256) -> tuple[BundleRef, ...]:
    return data.vector(lambda: BundleRef(data.hash(), data.u32(), data.u32(), data.u32()), maximum)
