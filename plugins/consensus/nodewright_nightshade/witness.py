"""State witnesses: all that somebody without state needs to see that a chunk says the truth.

A chunk C on a block P says what running its shard's last chunk L, in the block P names for it, came to. The witness brings
the state that this run reads (as the execution records it), the transactions of L, and the receipts that it took in, each
tied to a chunk header of the chain. Whoever has the chain's blocks puts together from it the very request that was
executed, runs it on the witness alone, and compares. Blocks in which the shard missed its chunk change nothing of its
state: they only add the receipts of other shards' chunks, which are among those brought.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final

from attrs import frozen

from nodewright.interfaces.common import Parcel
from nodewright.interfaces.execution import Outcome
from nodewright_near.borsh import Blob, Malformed, Vector, decode, encode, struct
from nodewright_near.chunks import MAX_TRANSACTIONS
from nodewright_near.headers import CHUNK_HEADER, ChunkHeader
from nodewright_near.merkle import MERKLE_PATH, MerkleStep, climb
from nodewright_near.primitives import NO_HASH, Hash
from nodewright_near.receipts import RECEIPTS, Receipt, outgoing_leaf
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade import running
from nodewright_nightshade.blocks import extra_of
from nodewright_nightshade.chain import Chain, Held
from nodewright_nightshade.chunking import Chunk, parcel_of, transactions_root
from nodewright_nightshade.running import describe

MAX_WITNESS_BYTES: Final = 32 * 1024 * 1024
MAX_SOURCES: Final = 1 << 16


class BadWitness(Exception):
    """It does not show that the chunk says the truth."""


@struct
@frozen
class Brought:
    """The receipts of one chunk for the witness's shard, and the path to that chunk's outgoing root."""

    chunk: Hash
    receipts: Annotated[tuple[Receipt, ...], RECEIPTS]
    path: Annotated[tuple[MerkleStep, ...], MERKLE_PATH]


@struct
@frozen
class Witness:
    """``block``: where the shard last ran. ``receipts``: of every new chunk since the run before that, in their order."""

    epoch_id: Hash
    chunk: Annotated[ChunkHeader, CHUNK_HEADER]
    block: Hash
    state: Annotated[bytes, Blob(MAX_WITNESS_BYTES)]
    receipts: Annotated[tuple[Brought, ...], Vector(Brought, MAX_SOURCES)]
    transactions: Annotated[tuple[SignedTransaction, ...], Vector(SignedTransaction, MAX_TRANSACTIONS)]


async def last_run(chain: Chain, header: ChunkHeader) -> tuple[Held, Held] | None:
    """The block in which the shard of a chunk last ran, and its parent; None where it never ran (after the genesis)."""
    parent = await chain.find(header.inner.prev_block_hash)
    if parent is None:
        raise BadWitness("the block that the chunk stands on is not here")
    ran = parent.info.ran[header.inner.shard_id]
    if ran.block == chain.root.info.hash:
        return None
    at = await chain.find(ran.block)
    before = await chain.parent(at.info) if at is not None else None
    if at is None or before is None:
        raise BadWitness("the block in which the shard last ran is not here")
    return at, before


async def epoch_of(chain: Chain, header: ChunkHeader) -> bytes:
    parent = await chain.find(header.inner.prev_block_hash)
    assert parent is not None  # last_run has found it
    return chain.chunk_epoch(parent.info)


async def make(chain: Chain, header: ChunkHeader) -> bytes:
    """For a chunk of a shard whose state is kept here. Raises BadWitness where it would not hold."""
    shard = header.inner.shard_id
    places = await last_run(chain, header)
    if places is None:
        raise BadWitness("the shard has not run yet")
    at, before = places
    stored = await chain.store.witness(shard, at.info.hash)
    if stored is None:
        stored = await record(chain, at, shard)
    chunks = await chain.chunks_of(at.block, {})
    receipts = []
    path = await chain.path_since(at, before, shard)
    for below, above in pairwise(path):
        bodies = chunks if above is at else await chain.chunks_of(above.block, {})
        for source in running.sources([below, above], range(chain.genesis.network.shards)):
            if source.header.inner.prev_outgoing_receipts_root != NO_HASH:
                sent = bodies[source.shard].outgoing(chain.genesis.boundaries)
                receipts.append(Brought(bodies[source.shard].hash, sent.groups[shard], sent.paths[shard]))
    if extra_of(header.inner) != (await chain.run_of(at.info, shard)).extra:
        raise BadWitness("the chunk says what running the last one here did not come to")
    epoch = await epoch_of(chain, header)
    return encode(Witness(epoch, header, at.info.hash, stored, tuple(receipts), tuple(chunks[shard].body.transactions)))


async def record(chain: Chain, at: Held, shard: int) -> bytes:
    """What the shard's run in a block read of the state; while its parent's state is still here."""
    before = await chain.parent(at.info)
    assert before is not None  # the genesis runs nothing
    request = await chain.request(at, before, shard, await chain.chunks_of(at.block, {}), record_witness=True)
    outcome = await chain.execution.execute(request)
    if not isinstance(outcome, Outcome) or outcome.witness is None:
        raise BadWitness("the state before the run is gone")
    return outcome.witness


async def keep_for_later(chain: Chain, held: Held, shard: int) -> None:
    """Before a run is committed: where the shard has missed its chunks since, the next one's witness will still need it."""
    if chain.head.info.ran[shard].block == held.info.hash and await chain.store.witness(shard, held.info.hash) is None:
        await chain.store.put_witness(shard, held.info.hash, await record(chain, held, shard))


async def judge(chain: Chain, chunk: Chunk, raw: bytes) -> None:
    """Raises BadWitness unless it shows that the chunk says the truth."""
    header = chunk.header
    shard = header.inner.shard_id
    places = await last_run(chain, header)
    if places is None:
        raise BadWitness("the shard has not run yet: there is nothing to show")
    at, before = places
    try:
        if len(raw) > MAX_WITNESS_BYTES:
            raise BadWitness(f"it has {len(raw)} bytes")
        witness: Witness = await chain.environment.offload(decode, Witness, raw)
    except Malformed as error:
        raise BadWitness(f"it cannot be read: {error}") from error
    if witness.chunk != header or witness.block != at.info.hash or witness.epoch_id != await epoch_of(chain, header):
        raise BadWitness("it is for another chunk")
    ran = at.block.body.chunks[shard]
    if transactions_root(witness.transactions) != ran.inner.tx_root:
        raise BadWitness("its transactions are not those of the chunk that ran")
    path = await chain.path_since(at, before, shard)
    incoming = _incoming(witness, running.sources(path, range(chain.genesis.network.shards)), shard)
    refused = await chain.refused_in(witness.transactions, before)
    request = await chain.request_on(at, before, ran, witness.transactions, refused, incoming)
    outcome = await chain.execution.verify_witness(request, witness.state)
    if not isinstance(outcome, Outcome):
        raise BadWitness(f"its state does not carry the run: {describe(outcome)}")
    if outcome.detail["extra"] != extra_of(header.inner):
        raise BadWitness("the run comes to something else than the chunk says")


def _incoming(witness: Witness, sources: list[running.Source], shard: int) -> list[Parcel]:
    wanted = [source for source in sources if source.header.inner.prev_outgoing_receipts_root != NO_HASH]
    if [one.chunk for one in witness.receipts] != [source.header.hash() for source in wanted]:
        raise BadWitness("its receipts are not those of the chunks since the shard last ran")
    found = []
    for brought, source in zip(witness.receipts, wanted, strict=True):
        payload = encode(brought.receipts, RECEIPTS)
        root = source.header.inner.prev_outgoing_receipts_root
        if climb(outgoing_leaf(shard, payload), brought.path) != root:
            raise BadWitness(f"receipts of shard {source.shard} are not those that its chunk sent")
        if brought.receipts:
            found.append(parcel_of(source.header, shard, payload, brought.path, source.ran))
    return found
