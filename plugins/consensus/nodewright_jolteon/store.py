"""What Jolteon keeps in ``stores.chain``.

``jl_blocks`` height u64 big-endian ‖ id → block; ``jl_ids`` id → height; ``jl_heights`` height → id of the committed chain;
``jl_done`` id → ``Done``; ``jl_txs`` transaction → ``Place``, of the committed chain; ``jl_ledger`` height → certificate of
the ledger; ``jl_epochs`` number u64 big-endian → ``Epoch``; ``jl_batches`` digest → batch; ``jl_expiry`` expiration u64
big-endian ‖ digest → nothing, of batches that no committed block ordered; ``jl_meta`` markers.

Invariants: a block is stored before it is voted for, a batch before it is signed; the committed chain grows by one batch of
rows a block, before the execution commits it, and never changes; a transaction's row names the first block that kept it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from attrs import field, frozen

from nodewright.interfaces.common import BlockRef, BundleRef
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright.storage.rows import sound
from nodewright_jolteon.batches import Batch
from nodewright_jolteon.codec import Malformed, Reader, blob, ref, u32, u64, vector
from nodewright_jolteon.formats import MAX_BATCH_BYTES, MAX_PROOFS, Block, LedgerCertificate, LedgerInfo
from nodewright_jolteon.leaders import Record
from nodewright_jolteon.validators import MAX_VALIDATORS, Epoch

T = TypeVar("T")

BLOCKS: Final = "jl_blocks"
IDS: Final = "jl_ids"
HEIGHTS: Final = "jl_heights"
DONE: Final = "jl_done"
TXS: Final = "jl_txs"
LEDGER: Final = "jl_ledger"
EPOCHS: Final = "jl_epochs"
BATCHES: Final = "jl_batches"
EXPIRY: Final = "jl_expiry"
META: Final = "jl_meta"
TABLES: Final = (BLOCKS, IDS, HEIGHTS, DONE, TXS, LEDGER, EPOCHS, BATCHES, EXPIRY, META)
HEAD: Final = b"head"

MAX_TRANSACTIONS: Final = 1 << 20
MAX_REASON_BYTES: Final = 4096


@frozen
class Carried:
    """A transaction to be ordered again: the time (microseconds) of the block that had it first, and its body."""

    id: bytes
    since: int
    raw: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self.id + u64(self.since) + blob(self.raw)

    @classmethod
    def decode(cls, data: Reader) -> Carried:
        return cls(data.hash(), data.u64(), data.blob(MAX_BATCH_BYTES))


@frozen
class Done:
    """What running a block came to, as the chain remembers it. ``bundles`` in the order they ran; ``rejected`` with the
    reason, ``retried`` are to be ordered again; ``updates``: voting powers that change when the epoch ends."""

    info: LedgerInfo
    record: Record
    bundles: tuple[BundleRef, ...] = ()
    prologue: bytes = b""
    prologue_id: bytes = b""
    kept: int = 0
    rejected: Mapping[bytes, str] = field(factory=dict)
    retried: tuple[bytes, ...] = ()
    carried: tuple[Carried, ...] = ()
    updates: Mapping[bytes, int] = field(factory=dict)

    def encode(self) -> bytes:
        return b"".join(
            (
                self.info.encode(),
                self.record.encode(),
                vector(self.bundles, lambda one: one.id + u32(one.count) + u32(one.size)),
                blob(self.prologue),
                blob(self.prologue_id),
                u32(self.kept),
                vector(list(self.rejected.items()), lambda item: item[0] + blob(item[1].encode()[:MAX_REASON_BYTES])),
                vector(self.retried, bytes),
                vector(self.carried, Carried.encode),
                vector(sorted(self.updates.items()), lambda item: blob(item[0]) + u64(item[1])),
            )
        )

    @classmethod
    def decode(cls, row: bytes) -> Done:
        data = Reader(row)
        return cls(
            LedgerInfo.decode(data),
            Record.decode(data),
            data.vector(lambda: BundleRef(data.hash(), data.u32(), data.u32()), MAX_PROOFS + 1),
            data.blob(MAX_BATCH_BYTES),
            data.blob(64),
            data.u32(),
            dict(
                data.vector(lambda: (data.hash(), data.blob(MAX_REASON_BYTES).decode(errors="replace")), MAX_TRANSACTIONS)
            ),
            data.vector(data.hash, MAX_TRANSACTIONS),
            data.vector(lambda: Carried.decode(data), MAX_TRANSACTIONS),
            dict(data.vector(lambda: (data.blob(64), data.u64()), 4 * MAX_VALIDATORS)),
        )


@frozen
class Place:
    """Of a transaction in the committed chain: which bundle of the block that ran, and where in it."""

    height: int
    bundle: int
    index: int

    def encode(self) -> bytes:
        return self.height.to_bytes(8, "big") + self.bundle.to_bytes(4, "big") + self.index.to_bytes(4, "big")

    @classmethod
    def decode(cls, row: bytes) -> Place:
        if len(row) != 16:
            raise Malformed(f"it has {len(row)} bytes")
        return cls(int.from_bytes(row[:8], "big"), int.from_bytes(row[8:12], "big"), int.from_bytes(row[12:16], "big"))


def _big(number: int) -> bytes:
    return number.to_bytes(8, "big")


class ChainStore:
    def __init__(self, store: KeyValueStore) -> None:
        self.store = store

    async def _one(self, table: str, key: bytes) -> bytes | None:
        return (await self.store.get_many(table, [key]))[0]

    async def _read(self, table: str, key: bytes, what: str, read: Callable[[bytes], T]) -> T | None:
        row = await self._one(table, key)
        return None if row is None else sound("stores.chain", what, read, row)

    # --- blocks ---

    async def is_empty(self) -> bool:
        return not (await self.store.scan(BLOCKS, limit=1)).items

    async def put_block(self, block: Block) -> None:
        """Durable."""
        batch = WriteBatch()
        self._add_block(batch, block)
        await self.store.commit(batch)

    @staticmethod
    def _add_block(batch: WriteBatch, block: Block) -> None:
        batch.put(BLOCKS, _big(block.height) + block.id, block.raw)
        batch.put(IDS, block.id, _big(block.height))

    async def block(self, id: bytes) -> Block | None:
        height = await self._one(IDS, id)
        row = await self._one(BLOCKS, height + id) if height is not None else None
        return None if row is None else _decoded(row)

    async def blocks_above(self, height: int) -> list[Block]:
        """Every stored block higher than ``height``, lower ones first."""
        found: list[Block] = []
        after: bytes | None = _big(height) + b"\xff" * 32
        while after is not None:
            page = await self.store.scan(BLOCKS, after=after, limit=256)
            found += [_decoded(row) for _, row in page.items]
            after = page.after
        return found

    async def drop(self, blocks: Iterable[Block]) -> None:
        """Blocks that never will be committed."""
        batch = WriteBatch()
        for block in blocks:
            batch.delete(BLOCKS, _big(block.height) + block.id)
            batch.delete(IDS, block.id)
        if batch:
            await self.store.commit(batch, durable=False)

    # --- the committed chain ---

    async def head(self) -> BlockRef | None:
        return await self._read(META, HEAD, "the head", lambda row: Reader(row).ref())

    async def begin(self, done: Done, epoch: Epoch) -> None:
        """Genesis. Durable."""
        batch = WriteBatch()
        batch.put(HEIGHTS, _big(done.info.block.height), done.info.block.id)
        batch.put(DONE, done.info.block.id, done.encode())
        batch.put(EPOCHS, _big(epoch.number), epoch.encode())
        batch.put(META, HEAD, ref(done.info.block))
        await self.store.commit(batch)

    async def decide(
        self,
        block: Block,
        done: Done,
        places: Mapping[bytes, Place],
        certificate: LedgerCertificate | None,
        next_epoch: Epoch | None,
        again: Batch | None,
    ) -> None:
        """Durable: this block is the head of the committed chain. ``again``: what it ordered again, which has no author."""
        batch = WriteBatch()
        self._add_block(batch, block)
        batch.put(HEIGHTS, _big(block.height), block.id)
        batch.put(DONE, block.id, done.encode())
        batch.put(META, HEAD, ref(block.ref))
        batch.put_many(TXS, {id: place.encode() for id, place in places.items()})
        for proof in block.proofs:
            batch.delete(EXPIRY, _big(proof.info.expiration) + proof.info.digest)
        if certificate is not None:
            batch.put(LEDGER, _big(block.height), certificate.encode())
        if next_epoch is not None:
            batch.put(EPOCHS, _big(next_epoch.number), next_epoch.encode())
        if again is not None:
            batch.put(BATCHES, again.info.digest, again.raw)
        await self.store.commit(batch)

    async def id_at(self, height: int) -> bytes | None:
        return await self._one(HEIGHTS, _big(height))

    async def ids_at(self, heights: Sequence[int]) -> list[bytes | None]:
        return list(await self.store.get_many(HEIGHTS, [_big(height) for height in heights]))

    async def done(self, id: bytes) -> Done | None:
        return await self._read(DONE, id, "what a block did", Done.decode)

    async def places(self, ids: Sequence[bytes]) -> list[Place | None]:
        if not ids:
            return []
        rows = await self.store.get_many(TXS, ids)
        return [None if row is None else sound("stores.chain", "a transaction's place", Place.decode, row) for row in rows]

    async def certificates(self, heights: Sequence[int]) -> list[LedgerCertificate | None]:
        rows = await self.store.get_many(LEDGER, [_big(height) for height in heights])
        return [None if row is None else _certificate(row) for row in rows]

    async def certificate_from(self, height: int) -> LedgerCertificate | None:
        """The lowest there is at this height or above."""
        page = await self.store.scan(LEDGER, after=_big(height - 1) if height else None, limit=1)
        return _certificate(page.items[0][1]) if page.items else None

    async def epoch(self, number: int) -> Epoch | None:
        return await self._read(EPOCHS, _big(number), "an epoch", Epoch.decode)

    # --- batches ---

    async def put_batches(self, batches: Sequence[Batch]) -> None:
        """Durable, all with one sync."""
        batch = WriteBatch()
        for one in batches:
            batch.put(BATCHES, one.info.digest, one.raw)
            batch.put(EXPIRY, _big(one.info.expiration) + one.info.digest, b"")
        await self.store.commit(batch)

    async def batch(self, digest: bytes) -> bytes | None:
        return await self._one(BATCHES, digest)

    async def drop_expired(self, time: int, keep: Iterable[bytes]) -> int:
        """Batches that no block ordered and none may any more (microseconds); ``keep`` are ordered and not committed."""
        kept, dropped, after = set(keep), 0, None
        while True:
            page = await self.store.scan(EXPIRY, after=after, limit=1000)
            keys = [key for key, _ in page.items if key < _big(time) and key[8:] not in kept]
            if keys:
                batch = WriteBatch()
                batch.delete_many(EXPIRY, keys)
                batch.delete_many(BATCHES, (key[8:] for key in keys))
                await self.store.commit(batch, durable=False)
                dropped += len(keys)
            after = page.after
            if after is None or after >= _big(time):
                return dropped


def _decoded(row: bytes) -> Block:
    return sound("stores.chain", "a block", Block.decode, row)


def _certificate(row: bytes) -> LedgerCertificate:
    return sound("stores.chain", "a certificate of the ledger", LedgerCertificate.decode, Reader(row))
