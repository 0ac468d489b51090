"""Blocks: what one is made of, what follows of it for the next, and every check that needs no state. Pure.

A block carries, for each shard, the header of its newest chunk: a new one (``height_included`` is the block's height), or
the old one carried over where none was included. A new chunk is made for the height above the block's parent, also where
the block skips that height. A chunk header publishes what running the shard's *previous* chunk came
to. ``Info`` is what a block's descendants need to know of the chain below it, so that no check walks back.

A block is the last of its epoch once a block less than three below the epoch's ``epoch_length`` is final: what follows is
said by the block itself (``ends_epoch``). The id of an epoch is the hash of the last block of the epoch before the last;
those of the first two are zero and the genesis block's hash. Near its end an epoch's blocks are approved by the next one's
validators too (``needs_next``), so that no change of validators splits what is final.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Final

from attrs import evolve, frozen

from nodewright.interfaces.common import BlockRef
from nodewright_near.borsh import U32, U64, Fixed, Option, Vector, decode, encode, struct
from nodewright_near.chunks import ChunkExtra
from nodewright_near.headers import (
    BLOCK_HEADER,
    CHUNK_HEADER,
    CHUNK_INNER,
    MAX_SHARDS,
    MAX_VALIDATORS,
    BandwidthRequestsV1,
    BlockHeaderV5,
    ChunkHeader,
    ChunkInner,
    InnerLite,
    InnerRest,
    block_hash,
    chunk_headers_leaf,
)
from nodewright_near.merkle import extend_frontier, frontier_root, merkle_root
from nodewright_near.primitives import NO_HASH, NO_SIGNATURE, Hash, Signature, hash256
from nodewright_nightshade.doomslug import finality
from nodewright_nightshade.vrf import PROOF_BYTES, output

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
MAX_FUTURE_SECONDS: Final = 120


class InvalidBlock(Exception):
    """A rule is broken: whoever signed it is at fault."""


class FutureBlock(InvalidBlock):
    """Its time is too far ahead of this node's clock: it may be good later."""


@struct
@frozen
class Body:
    """``vrf_proof``: the producer's, for the random value before; ``vrf_value``: the hash of its output. ``endorsements``:
    for each shard, a signature or none for each validator of its chunk, in the order of the epoch."""

    chunks: Annotated[tuple[ChunkHeader, ...], Vector(CHUNK_HEADER, MAX_SHARDS)]
    vrf_value: Hash
    vrf_proof: Annotated[bytes, Fixed(PROOF_BYTES)]
    endorsements: Annotated[
        tuple[tuple[bytes | None, ...], ...], Vector(Vector(Option(Signature), MAX_VALIDATORS), MAX_SHARDS)
    ]


@struct
@frozen
class Block:
    header: Annotated[BlockHeaderV5, BLOCK_HEADER]
    body: Body

    @property
    def height(self) -> int:
        return self.header.inner_lite.height

    @property
    def hash(self) -> bytes:
        return self.header.hash()

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.height, self.hash)

    def is_new(self, shard: int) -> bool:
        return self.header.inner_rest.chunk_mask[shard]

    def encode(self) -> bytes:
        return encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Block:
        """Raises Malformed."""
        block: Block = decode(cls, data)
        return block


@struct
@frozen
class Ran:
    """The block in which a shard last ran a chunk, and how many it has missed since."""

    height: U64
    block: Hash
    missed: U64

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.height, self.block)


@struct
@frozen
class Info:
    """Of a block and the chain below it. ``frontier``: of the Merkle tree over the hashes of all blocks before its child;
    ``before_epoch`` and ``in_epoch``: last block of the epoch before, and first height of this one."""

    height: U64
    hash: Hash
    prev: Hash
    prev_height: U64
    ordinal: U64
    epoch: U32
    epoch_id: Hash
    next_epoch_id: Hash
    epoch_start: U64
    last_final: Hash
    last_final_height: U64
    last_ds_final: Hash
    frontier: Annotated[tuple[bytes, ...], Vector(Hash, 64)]
    ran: Annotated[tuple[Ran, ...], Vector(Ran, MAX_SHARDS)]

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.height, self.hash)


@frozen
class Network:
    """What the genesis says of blocks. Gas prices in yoctoNEAR a unit of gas; ``protocol_version`` of its first epoch."""

    shards: int
    epoch_length: int
    min_gas_price: int
    max_gas_price: int
    gas_limit: int
    protocol_version: int


def extra_of(inner: ChunkInner) -> ChunkExtra:
    """What a chunk header says that running the chunk before it came to."""
    return ChunkExtra(
        inner.prev_state_root,
        inner.prev_outcome_root,
        inner.prev_outgoing_receipts_root,
        inner.prev_gas_used,
        inner.prev_balance_burnt,
        inner.prev_validator_proposals,
        inner.congestion_info,
    )


def chunk_signing_message(inner: ChunkInner) -> bytes:
    """A chunk's producer signs its hash."""
    return sha256(hash256(encode(inner, CHUNK_INNER)) + inner.encoded_merkle_root).digest()


# --- roots ------------------------------------------------------------------------------------------------------------


def _root(items: Sequence[bytes]) -> bytes:
    return merkle_root([hash256(item) for item in items])


def receipts_root(chunks: Sequence[ChunkHeader]) -> bytes:
    return _root([chunk.inner.prev_outgoing_receipts_root for chunk in chunks])


def headers_root(chunks: Sequence[ChunkHeader]) -> bytes:
    return merkle_root([chunk_headers_leaf(chunk.hash(), chunk.height_included) for chunk in chunks])


def transactions_root(chunks: Sequence[ChunkHeader]) -> bytes:
    return _root([chunk.inner.tx_root for chunk in chunks])


def state_root(chunks: Sequence[ChunkHeader]) -> bytes:
    return _root([chunk.inner.prev_state_root for chunk in chunks])


def outcome_root(chunks: Sequence[ChunkHeader]) -> bytes:
    return _root([chunk.inner.prev_outcome_root for chunk in chunks])


def bitmap(signed: Sequence[bytes | None]) -> bytes:
    """A bit for each validator of a chunk, the first in the lowest bit of the first byte."""
    found = bytearray(-(-len(signed) // 8))
    for at, signature in enumerate(signed):
        if signature is not None:
            found[at // 8] |= 1 << at % 8
    return bytes(found)


def next_gas_price(price: int, used: int, limit: int, network: Network) -> int:
    """Half full leaves it, full and empty chunks move it by half a hundredth."""
    if not limit:
        return price
    moved = price * (200 * limit + 2 * used - limit) // (200 * limit)
    return max(network.min_gas_price, min(network.max_gas_price, moved))


# --- genesis ----------------------------------------------------------------------------------------------------------


def genesis_chunk(shard: int, root: bytes, height: int, network: Network, extra: ChunkExtra) -> ChunkHeader:
    """Empty, unsigned; what it says of a previous run is the state of the genesis file."""
    inner = ChunkInner(
        NO_HASH,
        root,
        NO_HASH,
        NO_HASH,
        0,
        height,
        shard,
        0,
        network.gas_limit,
        0,
        extra.outgoing_root,
        NO_HASH,
        (),
        extra.congestion,
        BandwidthRequestsV1(),
    )
    return ChunkHeader(inner, height, NO_SIGNATURE)


def genesis_block(
    height: int,
    nanoseconds: int,
    roots: Sequence[bytes],
    extra: ChunkExtra,
    network: Network,
    supply: int,
    producers: bytes,
) -> tuple[Block, Info]:
    """``roots``: each shard's state root. ``producers``: hash over the validators."""
    chunks = tuple(genesis_chunk(shard, root, height, network, extra) for shard, root in enumerate(roots))
    body = Body(chunks, NO_HASH, bytes(PROOF_BYTES), ((),) * len(chunks))
    lite = InnerLite(height, NO_HASH, NO_HASH, state_root(chunks), outcome_root(chunks), nanoseconds, producers, NO_HASH)
    rest = InnerRest(
        hash256(encode(body)),
        receipts_root(chunks),
        headers_root(chunks),
        transactions_root(chunks),
        NO_HASH,
        NO_HASH,
        (),
        (True,) * len(chunks),
        network.min_gas_price,
        supply,
        (),
        NO_HASH,
        NO_HASH,
        1,
        0,
        None,
        (),
        network.protocol_version,
        (b"",) * len(chunks),
    )
    block = Block(BlockHeaderV5(NO_HASH, lite, rest, NO_SIGNATURE), body)
    id = block.hash
    ran = tuple(Ran(height, id, 0) for _ in chunks)
    info = Info(height, id, NO_HASH, 0, 1, 0, NO_HASH, id, height, id, height, id, extend_frontier((), 0, id), ran)
    return block, info


# --- the next block ---------------------------------------------------------------------------------------------------


@frozen
class Place:
    """Where a child of a block stands: what its parent alone says of it."""

    epoch: int
    epoch_id: bytes
    next_epoch_id: bytes
    epoch_start: int
    last_final: bytes
    last_final_height: int
    last_ds_final: bytes


def ends_epoch(info: Info, network: Network) -> bool:
    return info.last_final_height + 3 >= info.epoch_start + network.epoch_length


def needs_next(parent: Info, network: Network) -> bool:
    """Whether a block on this parent is approved by the validators of the next epoch as well."""
    return not ends_epoch(parent, network) and parent.height + 3 >= parent.epoch_start + network.epoch_length


def epoch_after(parent: Info, network: Network) -> bytes:
    """The epoch of a block on this parent, and of the chunks on it."""
    return parent.next_epoch_id if ends_epoch(parent, network) else parent.epoch_id


def place_of(parent: Info, grandparent: Info | None, height: int, network: Network) -> Place:
    ds_final, final = finality(
        height, (parent.height, parent.hash), (grandparent.height, grandparent.hash) if grandparent is not None else None
    )
    final_height = parent.last_final_height
    if final is not None and grandparent is not None:
        final_height = grandparent.height
    same = not ends_epoch(parent, network)
    return Place(
        parent.epoch if same else parent.epoch + 1,
        parent.epoch_id if same else parent.next_epoch_id,
        # The epoch after the next is named by this one's last block.
        parent.next_epoch_id if same else parent.hash,
        parent.epoch_start if same else height,
        final or parent.last_final,
        final_height,
        ds_final or parent.last_ds_final,
    )


def info_of(block: Block, parent: Info, grandparent: Info | None, network: Network) -> Info:
    place = place_of(parent, grandparent, block.height, network)
    id = block.hash
    ran = tuple(
        Ran(block.height, id, 0) if block.is_new(shard) else evolve(before, missed=before.missed + 1)
        for shard, before in enumerate(parent.ran)
    )
    return Info(
        block.height,
        id,
        parent.hash,
        parent.height,
        parent.ordinal + 1,
        place.epoch,
        place.epoch_id,
        place.next_epoch_id,
        place.epoch_start,
        place.last_final,
        place.last_final_height,
        place.last_ds_final,
        extend_frontier(parent.frontier, parent.ordinal, id),
        ran,
    )


def build(
    parent: Block,
    parent_info: Info,
    grandparent: Info | None,
    height: int,
    nanoseconds: int,
    new_chunks: Mapping[int, tuple[ChunkHeader, Sequence[bytes | None]]],
    approvals: Sequence[bytes | None],
    vrf_proof: bytes,
    next_producers: bytes,
    version: int,
    network: Network,
) -> Block:
    """Unsigned. ``new_chunks``: by shard, the chunk and the signatures of its validators. ``next_producers``: hash over the
    validators of the next epoch. ``version``: the newest protocol that its producer votes for."""
    place = place_of(parent_info, grandparent, height, network)
    chunks, mask, endorsements = [], [], []
    for shard, old in enumerate(parent.body.chunks):
        new = new_chunks.get(shard)
        mask.append(new is not None)
        chunks.append(old if new is None else evolve(new[0], height_included=height))
        endorsements.append(() if new is None else tuple(new[1]))
    included = [chunk for chunk, is_new in zip(chunks, mask, strict=True) if is_new]
    before = parent.header.inner_rest
    value = hash256(output(vrf_proof))
    body = Body(tuple(chunks), value, vrf_proof, tuple(endorsements))
    lite = InnerLite(
        height,
        place.epoch_id,
        place.next_epoch_id,
        state_root(chunks),
        outcome_root(chunks),
        nanoseconds,
        next_producers,
        frontier_root(parent_info.frontier),
    )
    rest = InnerRest(
        hash256(encode(body)),
        receipts_root(chunks),
        headers_root(chunks),
        transactions_root(chunks),
        NO_HASH,
        hash256(value),
        tuple(proposal for chunk in included for proposal in chunk.inner.prev_validator_proposals),
        tuple(mask),
        next_gas_price(
            before.next_gas_price,
            sum(chunk.inner.prev_gas_used for chunk in included),
            sum(chunk.inner.gas_limit for chunk in included),
            network,
        ),
        before.total_supply - sum(chunk.inner.prev_balance_burnt for chunk in included),
        (),
        place.last_final,
        place.last_ds_final,
        parent_info.ordinal + 1,
        parent_info.height,
        None,
        tuple(approvals),
        version,
        tuple(bitmap(one) for one in endorsements),
    )
    return Block(BlockHeaderV5(parent_info.hash, lite, rest, NO_SIGNATURE), body)


def check(
    block: Block,
    parent: Block,
    parent_info: Info,
    grandparent: Info | None,
    next_producers: bytes,
    version: int,
    network: Network,
    now: float,
) -> None:
    """Everything but signatures and what chunks say of the state. Raises InvalidBlock. A block equals what ``build`` makes
    of its own free choices (time, chunks, approvals, proof, vote for a protocol). ``version``: that of its epoch."""
    lite, rest, body = block.header.inner_lite, block.header.inner_rest, block.body
    if rest.latest_protocol_version < version:
        raise InvalidBlock(f"its producer runs protocol {rest.latest_protocol_version}, the epoch {version}")
    if block.header.prev_hash != parent_info.hash or lite.height <= parent_info.height:
        raise InvalidBlock("it does not stand on its parent")
    if lite.timestamp <= parent.header.inner_lite.timestamp:
        raise InvalidBlock("its time is not after its parent's")
    if not len(body.chunks) == len(body.endorsements) == len(rest.chunk_mask) == network.shards:
        raise InvalidBlock(f"it has not one chunk for each of {network.shards} shards")
    new = {}
    for shard, (chunk, signed) in enumerate(zip(body.chunks, body.endorsements, strict=True)):
        if not rest.chunk_mask[shard]:
            continue
        inner = chunk.inner
        if (
            inner.shard_id != shard
            or inner.height_created != parent_info.height + 1
            or inner.prev_block_hash != parent_info.hash
        ):
            raise InvalidBlock(f"the chunk of shard {shard} is of another place")
        if inner.gas_limit != network.gas_limit:
            raise InvalidBlock(f"the chunk of shard {shard} has another gas limit")
        new[shard] = (chunk, signed)
    if sum(chunk.inner.prev_balance_burnt for chunk, _ in new.values()) > parent.header.inner_rest.total_supply:
        raise InvalidBlock("its chunks burn more than there is")
    try:
        expected = build(
            parent,
            parent_info,
            grandparent,
            lite.height,
            lite.timestamp,
            new,
            rest.approvals,
            body.vrf_proof,
            next_producers,
            rest.latest_protocol_version,
            network,
        )
    except ValueError as error:
        raise InvalidBlock(f"its random value has no proof: {error}") from error
    if block_hash(lite, rest, parent_info.hash) != expected.hash or body != expected.body:
        raise InvalidBlock("its header is not what its parent and its chunks make it")
    if lite.timestamp > (now + MAX_FUTURE_SECONDS) * 10**9:
        raise FutureBlock("its time is too far ahead")
