"""What a node may keep of a chunk whose shard's state it does not keep: its transactions' ids, and the receipts that it
brought to shards that are kept, each group with its path to the root in the header. Enough to run those shards again and to
know what stands in the chain; not enough to serve the body to others, who get it from those who keep the shard.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from attrs import define, frozen

from nodewright_near.borsh import Vector, decode, struct
from nodewright_near.chunks import MAX_TRANSACTIONS, ChunkBody, ReceiptProof
from nodewright_near.headers import CHUNK_HEADER, MAX_SHARDS, ChunkHeader
from nodewright_near.primitives import Hash
from nodewright_near.receipts import Receipt
from nodewright_nightshade.chunking import Chunk, Sent


@struct
@frozen
class StoredPartial:
    """``proofs`` of every shard, in order: without receipts for those that are not kept here."""

    header: Annotated[ChunkHeader, CHUNK_HEADER]
    ids: Annotated[tuple[bytes, ...], Vector(Hash, MAX_TRANSACTIONS)]
    proofs: Annotated[tuple[ReceiptProof, ...], Vector(ReceiptProof, MAX_SHARDS)]

    @classmethod
    def of(cls, chunk: Chunk, kept: Collection[int], boundaries: tuple[str, ...]) -> StoredPartial:
        sent = chunk.outgoing(boundaries)
        proofs = tuple(
            ReceiptProof(group if shard in kept else (), chunk.shard, shard, path)
            for shard, (group, path) in enumerate(zip(sent.groups, sent.paths, strict=True))
        )
        return cls(chunk.header, tuple(chunk.ids), proofs)


@define
class PartialChunk(Chunk):
    """``body`` has no transactions, and the receipts for kept shards alone."""

    known_ids: tuple[bytes, ...] = ()

    @property
    def ids(self) -> list[bytes]:
        return list(self.known_ids)

    @staticmethod
    def read(row: bytes) -> PartialChunk:
        stored: StoredPartial = decode(StoredPartial, row)
        groups: list[tuple[Receipt, ...]] = [proof.receipts for proof in stored.proofs]
        receipts = tuple(receipt for group in groups for receipt in group)
        sent = Sent(groups, [], [], [proof.path for proof in stored.proofs])
        return PartialChunk(stored.header, ChunkBody((), receipts), sent, known_ids=stored.ids)
