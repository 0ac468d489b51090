"""Chunks: a body to a header and parts, a body to the parcels that it delivers, and the checks of both. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from attrs import define, field, frozen

from nodewright.interfaces.common import BlockRef, BundleRef, Parcel
from nodewright.kernels import sha256_many
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.chunks import MAX_CHUNK_BYTES, ChunkBody, ChunkExtra, ParcelProof
from nodewright_near.genesis import shard_of
from nodewright_near.headers import BandwidthRequestsV1, ChunkHeader, ChunkInner
from nodewright_near.merkle import MerklePath, merkle_root, merklize
from nodewright_near.primitives import hash256
from nodewright_near.receipts import RECEIPTS, Receipt, outgoing_leaf, receipts_payload
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade import erasure
from nodewright_nightshade.blocks import Network, chunk_signing_message, extra_of
from nodewright_nightshade.keys import Signer


@frozen
class Sent:
    """What a chunk delivers: receipts by destination and their paths; of a whole chunk also each group in Borsh, and the
    leaves of its outgoing root."""

    groups: list[tuple[Receipt, ...]]
    payloads: list[bytes]
    leaves: list[bytes]
    paths: list[MerklePath]


class InvalidChunk(Exception):
    """The body is not what the header commits to, or the header breaks a rule."""


@define
class Chunk:
    """Nobody assigns to its fields but ``_sent`` and ``_hash``, which remember what follows of the others."""

    header: ChunkHeader
    body: ChunkBody
    _sent: Sent | None = field(default=None, eq=False, repr=False)
    _hash: bytes = field(default=b"", eq=False, repr=False)

    def outgoing(self, boundaries: Sequence[str]) -> Sent:
        if self._sent is None:
            groups, payloads, leaves = by_destination(self.body.prev_outgoing_receipts, boundaries)
            self._sent = Sent(groups, payloads, leaves, merklize(leaves)[1])
        return self._sent

    @property
    def hash(self) -> bytes:
        if not self._hash:
            self._hash = self.header.hash()
        return self._hash

    @property
    def shard(self) -> int:
        return self.header.inner.shard_id

    @property
    def ids(self) -> list[bytes]:
        return [signed.id for signed in self.body.transactions]

    @property
    def ref(self) -> BundleRef:
        transactions = self.body.transactions
        return BundleRef(self.hash, len(transactions), sum(len(signed.raw) for signed in transactions), self.shard)


def part_leaf(part: bytes) -> bytes:
    return hash256(len(part).to_bytes(4, "little") + part)


def parts_of(body: bytes, producers: int) -> list[bytes]:
    data, total = erasure.counts(producers)
    return erasure.encode(body, data, total)


@lru_cache(maxsize=64)
def _small_root(body: bytes, producers: int) -> bytes:
    return parts_root(parts_of(body, producers))


def body_root(body: bytes, producers: int) -> bytes:
    """Of all parts of a body. Small ones are often met again: an empty body is the same in every shard."""
    return _small_root(body, producers) if len(body) <= 1024 else parts_root(parts_of(body, producers))


@lru_cache(maxsize=4)
def _nothing_sent(shards: int) -> bytes:
    return merkle_root([outgoing_leaf(shard, encode((), RECEIPTS)) for shard in range(shards)])


def parts_root(parts: Sequence[bytes]) -> bytes:
    return merkle_root([part_leaf(part) for part in parts])


def transactions_root(transactions: Sequence[SignedTransaction]) -> bytes:
    return merkle_root(sha256_many([signed.raw for signed in transactions]))


def by_destination(
    receipts: Sequence[Receipt], boundaries: Sequence[str]
) -> tuple[list[tuple[Receipt, ...]], list[bytes], list[bytes]]:
    """As they are, in Borsh, and the leaves of the outgoing root."""
    groups = [tuple(receipts)]
    if boundaries:
        sent: list[list[Receipt]] = [[] for _ in range(len(boundaries) + 1)]
        for receipt in receipts:
            sent[shard_of(receipt.receiver_id, boundaries)].append(receipt)
        groups = [tuple(group) for group in sent]
    payloads = [receipts_payload(group) for group in groups]
    return groups, payloads, [outgoing_leaf(shard, payload) for shard, payload in enumerate(payloads)]


def make(
    signer: Signer,
    prev_hash: bytes,
    height: int,
    shard: int,
    extra: ChunkExtra,
    receipts: Sequence[Receipt],
    transactions: Sequence[SignedTransaction],
    producers: int,
    network: Network,
) -> Chunk:
    """``extra`` and ``receipts`` are what the shard's last run came to and sent."""
    body = ChunkBody(tuple(transactions), tuple(receipts))
    raw = encode(body)
    inner = ChunkInner(
        prev_hash,
        extra.state_root,
        extra.outcome_root,
        body_root(raw, producers),
        len(raw),
        height,
        shard,
        extra.gas_used,
        network.gas_limit,
        extra.balance_burnt,
        extra.outgoing_root,
        transactions_root(transactions),
        extra.proposals,
        extra.congestion,
        BandwidthRequestsV1(),
    )
    return Chunk(ChunkHeader(inner, 0, signer.sign(chunk_signing_message(inner))), body)


def read(header: ChunkHeader, raw: bytes, producers: int, boundaries: Sequence[str]) -> Chunk:
    """The body of a header. Raises InvalidChunk."""
    inner = header.inner
    if len(raw) != inner.encoded_length or len(raw) > MAX_CHUNK_BYTES:
        raise InvalidChunk(f"its body has {len(raw)} bytes, its header says {inner.encoded_length}")
    if body_root(raw, producers) != inner.encoded_merkle_root:
        raise InvalidChunk("its body is not what its header commits to")
    try:
        body: ChunkBody = decode(ChunkBody, raw)
    except Malformed as error:
        raise InvalidChunk(f"its body cannot be read: {error}") from error
    if transactions_root(body.transactions) != inner.tx_root:
        raise InvalidChunk("its transactions are not those of its header")
    if not body.prev_outgoing_receipts and inner.prev_outgoing_receipts_root == _nothing_sent(len(boundaries) + 1):
        return Chunk(header, body)
    groups, _, leaves = by_destination(body.prev_outgoing_receipts, boundaries)
    first = inner.prev_outgoing_receipts_root == bytes(32) and not body.prev_outgoing_receipts
    if not first and merkle_root(leaves) != inner.prev_outgoing_receipts_root:
        raise InvalidChunk("its receipts are not those of its header")
    if [receipt for group in groups for receipt in group] != list(body.prev_outgoing_receipts):
        raise InvalidChunk("its receipts are not in the order of their shards")
    return Chunk(header, body)


def parcel(chunk: Chunk, destination: int, ran: BlockRef, boundaries: Sequence[str]) -> Parcel | None:
    """What the shard's previous run (in the block ``ran``) sent to a shard, as this chunk delivers it."""
    if not chunk.body.prev_outgoing_receipts:
        return None
    sent = chunk.outgoing(boundaries)
    if not sent.groups[destination]:
        return None
    payload = sent.payloads[destination] if sent.payloads else receipts_payload(sent.groups[destination])
    return parcel_of(chunk.header, destination, payload, sent.paths[destination], ran)


def parcel_of(header: ChunkHeader, destination: int, payload: bytes, path: MerklePath, ran: BlockRef) -> Parcel:
    """Whether the path leads to the chunk's outgoing root is for who takes the parcel in to check."""
    extra = extra_of(header.inner)
    return Parcel(
        header.inner.shard_id,
        destination,
        payload,
        outgoing_leaf(destination, payload),
        encode(ParcelProof(extra, path)),
        ran,
        extra.commitment(),
    )
