"""Chunk bodies, the messages of stateless validation, and what execution and consensus hand each other. Form alone."""

from __future__ import annotations

from typing import Annotated, Final

from attrs import frozen

from nodewright_near.borsh import U32, U64, U128, Blob, Enum, Vector, encode, struct
from nodewright_near.headers import MAX_SHARDS, CongestionInfo, Proposals
from nodewright_near.merkle import MERKLE_PATH, MerkleStep
from nodewright_near.primitives import AccountId, Hash, Signature, hash256
from nodewright_near.receipts import RECEIPTS, Receipt
from nodewright_near.transactions import SignedTransaction

MAX_TRANSACTIONS: Final = 1 << 17
MAX_PARTS: Final = 1024
MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
MAX_LOCKS: Final = 1 << 20


@struct
@frozen
class ChunkBody:
    """Transactions, and the receipts that the previous chunk of the shard sent out. This is what is cut into parts."""

    transactions: Annotated[tuple[SignedTransaction, ...], Vector(SignedTransaction, MAX_TRANSACTIONS)]
    prev_outgoing_receipts: Annotated[tuple[Receipt, ...], RECEIPTS]


@struct
@frozen
class ReceiptProof:
    """All receipts of one chunk for one shard, and the path that ties them to the chunk's outgoing root."""

    receipts: Annotated[tuple[Receipt, ...], RECEIPTS]
    from_shard: U64
    to_shard: U64
    path: Annotated[tuple[MerkleStep, ...], MERKLE_PATH]


@struct
@frozen
class ChunkEndorsement:
    account_id: AccountId
    chunk_hash: Hash
    signature: Signature


# --- what this node's execution and consensus hand each other --------------------------------------------------------


@struct
@frozen
class ChunkExtra:
    """What running a chunk came to: what the next chunk header of the shard publishes, field by field.

    Its hash is the execution's commitment; a consensus can make it from a header alone."""

    state_root: Hash
    outcome_root: Hash
    outgoing_root: Hash
    gas_used: U64
    balance_burnt: U128
    proposals: Proposals
    congestion: Annotated[CongestionInfo, Enum({0: CongestionInfo})]

    def commitment(self) -> bytes:
        return hash256(encode(self))


@struct
@frozen
class ShardLoad:
    """Of one shard as the parent block shows it: its congestion, and how many chunks it missed in a row."""

    shard: U64
    info: CongestionInfo
    missed_chunks: U64


@struct
@frozen
class Locked:
    """What an account has to leave at stake, in yoctoNEAR."""

    account: AccountId
    stake: U128


@struct
@frozen
class RunContext:
    """``BlockContext.extra``: agreed data that only NEAR's chunks depend on.

    ``timestamp`` in nanoseconds (0: the block's whole seconds count). ``refused`` numbers the transactions of the chunk (in
    its order) whose block hash is too old or of another chain: who orders blocks knows, the execution does not. ``loads``
    are those of all shards; none where there is but one. ``locks``: what accounts of this shard must leave at stake, said
    in its first run of an epoch; what they have locked beyond that is given back to them."""

    timestamp: U64 = 0
    refused: Annotated[tuple[int, ...], Vector(U32, MAX_TRANSACTIONS)] = ()
    loads: Annotated[tuple[ShardLoad, ...], Vector(ShardLoad, MAX_SHARDS)] = ()
    locks: Annotated[tuple[Locked, ...], Vector(Locked, MAX_LOCKS)] = ()


@struct
@frozen
class ParcelProof:
    """Ties the receipts for one shard to the commitment of the chunk that sent them."""

    extra: ChunkExtra
    path: Annotated[tuple[MerkleStep, ...], MERKLE_PATH]


@struct
@frozen
class StateWitness:
    """All of the state that running a chunk reads or changes: what the parent came to, and nodes and values of the trie,
    each once, in the order of their bytes."""

    parent: ChunkExtra
    state: Annotated[tuple[bytes, ...], Vector(Blob(), 1 << 22)]
