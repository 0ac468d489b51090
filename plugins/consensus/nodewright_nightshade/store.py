"""What Nightshade keeps in ``stores.chain``.

``ns_blocks`` hash → block; ``ns_infos`` hash → ``Info``; ``ns_chunks`` chunk hash → header ‖ body; ``ns_above`` height u64
big-endian ‖ hash → nothing (blocks above the final one, for a start); ``ns_final`` height → hash of the final chain;
``ns_runs`` block hash ‖ shard u32 → what running the shard's chunk there came to, and all receipts it sent; ``ns_txs``
transaction id → block hash ‖ height ‖ shard ‖ index, of the final chain; ``ns_witness`` shard u32 → block hash ‖ the state
that the shard's run there read, where that run was committed before its witness was made; ``ns_epochs`` epoch id →
``EpochSet``; ``ns_meta`` the final block, and what was counted in its epoch up to it.

Invariants: a block is stored with its info, its chunks and what running them came to in one durable batch, before the
execution commits anything of it (the next chunks publish it); the final chain grows by one batch a block, and never
changes; ``ns_txs`` has the transactions that ran, and each once. Of chunks of shards outside ``whole`` only that part is
stored which runs of kept shards need (``ns_parts``, see ``partial``). What was read last is kept as objects (``decoded``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeVar

from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright.storage.rows import sound
from nodewright_near.borsh import Malformed, String, Vector, decode, encode, struct
from nodewright_near.chunks import MAX_TRANSACTIONS, ChunkBody, ChunkExtra
from nodewright_near.headers import CHUNK_HEADER, ChunkHeader
from nodewright_near.primitives import Hash
from nodewright_near.receipts import RECEIPTS, Receipt
from nodewright_nightshade.blocks import Block, Info
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.decoded import Decoded
from nodewright_nightshade.partial import PartialChunk, StoredPartial
from nodewright_nightshade.selection import EpochSet, Tally

T = TypeVar("T")

BLOCKS: Final = "ns_blocks"
INFOS: Final = "ns_infos"
CHUNKS: Final = "ns_chunks"
ABOVE: Final = "ns_above"
FINAL: Final = "ns_final"
RUNS: Final = "ns_runs"
PARTS: Final = "ns_parts"
TXS: Final = "ns_txs"
WITNESS: Final = "ns_witness"
EPOCHS: Final = "ns_epochs"
META: Final = "ns_meta"
TABLES: Final = (BLOCKS, INFOS, CHUNKS, ABOVE, FINAL, RUNS, TXS, WITNESS, EPOCHS, META, PARTS)
# Objects kept; a chunk and a run may have thousands of transactions or receipts.
DECODED: Final = {BLOCKS: 32, INFOS: 512, CHUNKS: 8, PARTS: 8, RUNS: 16}


@struct
@frozen
class Discarded:
    """A transaction that had its place in a chunk and no effect."""

    id: Hash
    reason: String


@struct
@frozen
class Run:
    """What running a shard's chunk came to, the receipts it sent, in the order of their destinations, and the transactions
    that it discarded."""

    extra: ChunkExtra
    receipts: Annotated[tuple[Receipt, ...], RECEIPTS]
    discarded: Annotated[tuple[Discarded, ...], Vector(Discarded, MAX_TRANSACTIONS)] = ()


@struct
@frozen
class StoredChunk:
    header: Annotated[ChunkHeader, CHUNK_HEADER]
    body: ChunkBody


@frozen
class Place:
    """Of a transaction on the final chain."""

    block: BlockRef
    shard: int
    index: int

    @staticmethod
    def prefix(block: BlockRef) -> bytes:
        """What the places of one block begin with; shard and index follow, four bytes each."""
        return block.id + block.height.to_bytes(8, "big")

    @classmethod
    def decode(cls, row: bytes) -> Place:
        if len(row) != 48:
            raise Malformed(f"it has {len(row)} bytes")
        height = int.from_bytes(row[32:40], "big")
        return cls(BlockRef(height, row[:32]), int.from_bytes(row[40:44], "big"), int.from_bytes(row[44:48], "big"))


def _height(height: int) -> bytes:
    return height.to_bytes(8, "big")


def _run_key(block: bytes, shard: int) -> bytes:
    return block + shard.to_bytes(4, "big")


def _read_info(row: bytes) -> Info:
    info: Info = decode(Info, row)
    return info


def _read_run(row: bytes) -> Run:
    run: Run = decode(Run, row)
    return run


def _read_chunk(row: bytes) -> Chunk:
    stored: StoredChunk = decode(StoredChunk, row)
    return Chunk(stored.header, stored.body)


class ChainStore:
    """``whole``: shards whose chunk bodies are stored whole (None: all)."""

    def __init__(self, store: KeyValueStore, decoded: bool = True) -> None:
        self.store = store
        self.decoded = Decoded(DECODED, decoded)
        self.whole: frozenset[int] | None = None
        self._boundaries: tuple[str, ...] = ()

    def keep_whole(self, shards: frozenset[int], boundaries: tuple[str, ...]) -> None:
        """From now on, of chunks of all other shards, only a part."""
        self.whole, self._boundaries = shards, boundaries

    async def _one(self, table: str, key: bytes) -> bytes | None:
        return (await self.store.get_many(table, [key]))[0]

    async def _object(self, table: str, key: bytes, read: Callable[[bytes], T]) -> T | None:
        known: T | None = self.decoded.get(table, key)
        if known is not None:
            return known
        moment = self.decoded.moment
        row = await self._one(table, key)
        if row is None:
            return None
        found = sound("stores.chain", f"a row of the table {table}", read, row)
        self.decoded.put(table, key, found, moment)
        return found

    async def _commit(self, batch: WriteBatch) -> None:
        with self.decoded.write(batch.tables):
            await self.store.commit(batch)

    # --- blocks ---

    async def put_block(
        self,
        block: Block,
        info: Info,
        chunks: Sequence[Chunk],
        runs: Mapping[int, Run],
        epochs: Sequence[EpochSet] = (),
    ) -> None:
        """Durable. ``chunks``: the bodies of its new chunks; ``runs``: what running those of shards kept here came to;
        ``epochs``: those that it fixes."""
        batch = WriteBatch()
        for epoch in epochs:
            batch.put(EPOCHS, epoch.id, encode(epoch))
        batch.put(BLOCKS, info.hash, block.encode())
        batch.put(INFOS, info.hash, encode(info))
        batch.put(ABOVE, _height(info.height) + info.hash, b"")
        for chunk in chunks:
            if isinstance(chunk, PartialChunk):
                continue  # it was read from here
            if self.whole is None or chunk.shard in self.whole:
                batch.put(CHUNKS, chunk.hash, encode(StoredChunk(chunk.header, chunk.body)))
            else:
                batch.put(PARTS, chunk.hash, encode(StoredPartial.of(chunk, self.whole, self._boundaries)))
        for shard, run in runs.items():
            batch.put(RUNS, _run_key(info.hash, shard), encode(run))
        await self._commit(batch)
        self._put_in(block, info, chunks, runs)

    def _put_in(self, block: Block, info: Info, chunks: Sequence[Chunk], runs: Mapping[int, Run]) -> None:
        """What was just written is asked for first."""
        decoded, moment = self.decoded, self.decoded.moment
        decoded.put(BLOCKS, info.hash, block, moment)
        decoded.put(INFOS, info.hash, info, moment)
        for chunk in chunks:
            if self.whole is None or chunk.shard in self.whole:
                decoded.put(CHUNKS, chunk.hash, chunk, moment)
        for shard, run in runs.items():
            decoded.put(RUNS, _run_key(info.hash, shard), run, moment)

    async def block(self, id: bytes) -> Block | None:
        return await self._object(BLOCKS, id, Block.decode)

    async def info(self, id: bytes) -> Info | None:
        return await self._object(INFOS, id, _read_info)

    async def infos(self, ids: Sequence[bytes]) -> list[Info | None]:
        rows = await self.store.get_many(INFOS, ids)
        return [None if row is None else sound("stores.chain", "a block's setting", _read_info, row) for row in rows]

    async def chunk(self, id: bytes) -> Chunk | None:
        return await self._object(CHUNKS, id, _read_chunk)

    async def part(self, id: bytes) -> PartialChunk | None:
        """What is stored of a chunk of a shard outside ``whole``."""
        return await self._object(PARTS, id, PartialChunk.read)

    async def above(self) -> list[bytes]:
        """Hashes of blocks that were not final yet, lower ones first."""
        found: list[bytes] = []
        after: bytes | None = None
        while True:
            page = await self.store.scan(ABOVE, after=after, limit=1000)
            found += [key[8:] for key, _ in page.items]
            after = page.after
            if after is None:
                return found

    async def epoch(self, id: bytes) -> EpochSet | None:
        row = await self._one(EPOCHS, id)
        epoch: EpochSet | None = None if row is None else sound("stores.chain", "an epoch", decode, EpochSet, row)
        return epoch

    # --- the final chain ---

    async def final_hash(self, height: int) -> bytes | None:
        return await self._one(FINAL, _height(height))

    async def final_hashes(self, heights: Sequence[int]) -> list[bytes | None]:
        return list(await self.store.get_many(FINAL, [_height(height) for height in heights]))

    async def put_final(
        self, info: Info, tally: Tally, transactions: Sequence[tuple[bytes, int, int]], dropped: Sequence[Info]
    ) -> None:
        """Durable. ``transactions``: (id, shard, index) of its new chunks. ``dropped``: blocks that never will be final."""
        batch = WriteBatch()
        batch.put(META, b"tally", encode(tally))
        batch.put(FINAL, _height(info.height), info.hash)
        batch.put(META, b"final", info.hash)
        batch.delete(ABOVE, _height(info.height) + info.hash)
        place = Place.prefix(info.ref)
        rows = {
            id: b"%b%b%b" % (place, shard.to_bytes(4, "big"), index.to_bytes(4, "big")) for id, shard, index in transactions
        }
        batch.put_many(TXS, rows)
        for other in dropped:
            batch.delete(ABOVE, _height(other.height) + other.hash)
        await self._commit(batch)

    async def final(self) -> bytes | None:
        return await self._one(META, b"final")

    async def tally(self) -> Tally | None:
        """Of the epoch of the final block, up to it."""
        row = await self._one(META, b"tally")
        tally: Tally | None = None if row is None else sound("stores.chain", "the epoch's tally", decode, Tally, row)
        return tally

    async def places(self, ids: Sequence[bytes]) -> list[Place | None]:
        rows = await self.store.get_many(TXS, ids)
        return [None if row is None else sound("stores.chain", "a transaction's place", Place.decode, row) for row in rows]

    # --- runs ---

    async def run(self, block: bytes, shard: int) -> Run | None:
        return await self._object(RUNS, _run_key(block, shard), _read_run)

    async def put_run(self, block: bytes, shard: int, run: Run) -> None:
        batch = WriteBatch()
        batch.put(RUNS, _run_key(block, shard), encode(run))
        await self._commit(batch)

    async def put_chunks(self, chunks: Sequence[Chunk]) -> None:
        """Bodies of chunks of blocks that are stored already."""
        batch = WriteBatch()
        for chunk in chunks:
            batch.put(CHUNKS, chunk.hash, encode(StoredChunk(chunk.header, chunk.body)))
        await self._commit(batch)

    async def prune(self, blocks: Sequence[Block], end: int) -> None:
        """Bodies and runs of these blocks go; ``end``: the height up to which that is done."""
        batch = WriteBatch()
        for block in blocks:
            id = block.hash
            for shard, header in enumerate(block.body.chunks):
                if block.is_new(shard):
                    batch.delete(CHUNKS, header.hash())
                    batch.delete(PARTS, header.hash())
                    batch.delete(RUNS, _run_key(id, shard))
        batch.put(META, b"pruned", _height(end))
        await self._commit(batch)

    async def pruned(self) -> int:
        """Below this height bodies and runs are gone."""
        return int.from_bytes(await self._one(META, b"pruned") or b"", "big")

    # --- state on its way in: see ``statesync`` ---

    async def put_light(self, light: bool) -> None:
        await self._mark(b"light", b"" if light else None)

    async def light(self) -> bool:
        return await self._one(META, b"light") is not None

    async def put_adopting(self, shards: Iterable[int]) -> None:
        await self._mark(b"adopting", b"".join(shard.to_bytes(2, "big") for shard in sorted(shards)) or None)

    async def adopting(self) -> frozenset[int]:
        row = await self._one(META, b"adopting") or b""
        return frozenset(int.from_bytes(row[at : at + 2], "big") for at in range(0, len(row), 2))

    async def _mark(self, name: bytes, value: bytes | None) -> None:
        batch = WriteBatch()
        if value is None:
            batch.delete(META, name)
        else:
            batch.put(META, name, value)
        await self._commit(batch)

    async def put_witness(self, shard: int, block: bytes, state: bytes) -> None:
        batch = WriteBatch()
        batch.put(WITNESS, shard.to_bytes(4, "big"), block + state)
        await self._commit(batch)

    async def witness(self, shard: int, block: bytes) -> bytes | None:
        row = await self._one(WITNESS, shard.to_bytes(4, "big"))
        return row[32:] if row is not None and row[:32] == block else None
