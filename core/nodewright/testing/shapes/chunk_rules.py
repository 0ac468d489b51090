"""Chunks of the sharded shape: formats, and the pure rules of which receipts a chunk takes in. No trio, clock or sockets.

A block names at most one new chunk per shard. A chunk publishes the *outcome of its shard's previous chunk* (its commitment
and the roots of what that one sent), and names the bundle that runs next; so a block is agreed on before it is executed.

Rules
- A shard runs in a block only if the block has a new chunk of it; its parent state is its last block that had one.
- A block's run of a shard takes in, in the order of blocks and then of source shards, every parcel that other shards'
  chunks published in blocks after the shard's last chunk, up to and including this block.
- A chunk stands in a block only with the signatures of a quorum that re-ran the previous chunk from its witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from nodewright.interfaces import BlockRef, BundleRef, Parcel
from nodewright.testing.shapes.bft_formats import BftBlock, Validators, read_signatures, signatures
from nodewright.testing.shapes.chain_log import bundle_refs, read_bundle_refs
from nodewright.testing.shapes.codec import Malformed, Reader, digest, ref, u8, vector

MAX_SHARDS = 16
NO_WITNESS = bytes(32)


@frozen
class Ran:
    """What a chunk publishes of its shard's last run."""

    commitment: bytes
    outgoing: tuple[tuple[int, bytes], ...]
    witness: bytes

    def encode(self) -> bytes:
        return self.commitment + vector(self.outgoing, lambda item: u8(item[0]) + item[1]) + self.witness

    @classmethod
    def decode(cls, row: bytes) -> Ran:
        data = Reader(row)
        return cls(data.hash(), data.vector(lambda: (data.u8(), data.hash()), MAX_SHARDS), data.hash())


@frozen
class Chunk:
    """``parent`` is the block it is made for; ``ran`` the last block in which the shard ran, whose outcome ``commitment``
    and ``outgoing`` (destination, parcel root) publish; ``witness`` is the hash of the witness that shows it."""

    shard: int
    parent: BlockRef
    ran: BlockRef
    commitment: bytes
    outgoing: tuple[tuple[int, bytes], ...]
    witness: bytes
    bundle: BundleRef
    endorsements: tuple[tuple[int, bytes], ...] = ()

    def message(self) -> bytes:
        return digest(b"endorsement", self.body())

    def body(self) -> bytes:
        return (
            u8(self.shard)
            + ref(self.parent)
            + ref(self.ran)
            + self.commitment
            + vector(self.outgoing, lambda item: u8(item[0]) + item[1])
            + self.witness
            + bundle_refs([self.bundle])
        )

    def encode(self) -> bytes:
        return self.body() + signatures(self.endorsements)

    @classmethod
    def decode(cls, data: Reader) -> Chunk:
        shard, parent, ran, commitment = data.u8(), data.ref(), data.ref(), data.hash()
        outgoing = data.vector(lambda: (data.u8(), data.hash()), MAX_SHARDS)
        witness, bundles = data.hash(), read_bundle_refs(data, 1)
        if len(bundles) != 1:
            raise Malformed("a chunk names one bundle")
        return cls(shard, parent, ran, commitment, outgoing, witness, bundles[0], read_signatures(data))

    def endorsed(self, validators: Validators) -> bool:
        return validators.signed(self.message(), self.endorsements, validators.quorum)


def encode_chunks(chunks: Sequence[Chunk]) -> bytes:
    return vector(chunks, Chunk.encode)


def decode_chunks(payload: bytes) -> tuple[Chunk, ...]:
    """Raises Malformed."""
    data = Reader(payload)
    chunks = data.vector(lambda: Chunk.decode(data), MAX_SHARDS)
    data.finish()
    return chunks


@frozen
class Published:
    """That ``block``'s run of shard ``source`` sent a parcel with this root, as a later header says."""

    block: BlockRef
    source: int
    destination: int
    root: bytes
    commitment: bytes

    @property
    def name(self) -> bytes:
        """Under which its body and proof are kept. The root alone will not do: two forks send the same receipts, with
        proofs that differ."""
        return self.root + self.commitment

    def parcel(self, payload: bytes, proof: bytes) -> Parcel:
        return Parcel(self.source, self.destination, payload, self.root, proof, self.block, self.commitment)


@frozen
class ShardView:
    """What a chain of blocks says of every shard at its tip.

    ``ran`` is the last block with a new chunk, ``bundle`` what it ran, ``before`` the one before it with ``commitment`` the
    state it ran on; ``taken`` the parcels that run took in, ``waiting`` those published since."""

    ran: BlockRef
    before: BlockRef
    commitment: bytes
    bundle: BundleRef | None = None
    taken: tuple[Published, ...] = ()
    waiting: tuple[Published, ...] = ()
    time: int = 0
    author: int = 0


@frozen
class View:
    """``height`` is that of the block whose view it is."""

    height: int
    shards: Mapping[int, ShardView] = field(factory=dict)

    @classmethod
    def genesis(cls, block: BlockRef, commitments: Sequence[bytes]) -> View:
        return cls(
            block.height, {shard: ShardView(block, block, commitment) for shard, commitment in enumerate(commitments)}
        )

    def problem(self, block: BftBlock, validators: Validators) -> str | None:
        """Why ``block`` cannot follow this view."""
        try:
            chunks = decode_chunks(block.payload)
        except Malformed as error:
            return str(error)
        if [chunk.shard for chunk in chunks] != sorted({chunk.shard for chunk in chunks}):
            return "chunks are not one per shard, in order"
        for chunk in chunks:
            state = self.shards.get(chunk.shard)
            if state is None or chunk.parent != block.parent or chunk.ran != state.ran:
                return f"the chunk of shard {chunk.shard} is for another block"
            if not chunk.endorsed(validators):
                return f"the chunk of shard {chunk.shard} is not endorsed by a quorum"
        return None

    def after(self, block: BftBlock) -> View:
        """The view at ``block``, which has no problem."""
        chunks = {chunk.shard: chunk for chunk in decode_chunks(block.payload)}
        published = [
            Published(chunk.ran, chunk.shard, destination, root, chunk.commitment)
            for chunk in chunks.values()
            for destination, root in chunk.outgoing
        ]
        shards: dict[int, ShardView] = {}
        for shard, state in self.shards.items():
            waiting = (*state.waiting, *(item for item in published if item.destination == shard))
            chunk = chunks.get(shard)
            if chunk is None:
                shards[shard] = ShardView(
                    state.ran, state.before, state.commitment, state.bundle, state.taken, waiting, state.time, state.author
                )
            else:
                shards[shard] = ShardView(
                    block.ref, state.ran, chunk.commitment, chunk.bundle, waiting, (), block.time, block.author
                )
        return View(block.ref.height, shards)
