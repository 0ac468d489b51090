"""What a chunk's body is, and the messages of stateless validation. Form alone: producing and checking is elsewhere."""

from __future__ import annotations

from typing import Annotated, Final

from attrs import frozen

from nodewright_near.borsh import U64, Blob, Vector, struct
from nodewright_near.merkle import MERKLE_PATH, MerkleStep
from nodewright_near.primitives import AccountId, Hash, Signature
from nodewright_near.receipts import RECEIPTS, Receipt
from nodewright_near.transactions import SignedTransaction

MAX_TRANSACTIONS: Final = 1 << 17
MAX_PARTS: Final = 1024
MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024


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


@struct
@frozen
class PartialState:
    """A part of the trie: nodes and values by what they hash to, each once, in the order of their bytes."""

    nodes: Annotated[tuple[bytes, ...], Vector(Blob(), 1 << 22)]
