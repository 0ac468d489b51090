"""Block headers, approvals and chunk headers of protocol 84, and the first version of each, which the genesis has.

A block's hash covers the lite part (what a light client needs), the rest, and the hash of the block before. A chunk's
hash covers its inner header and the Merkle root of its encoded parts. A chunk carries the results of the *previous* chunk
of its shard. The consensus owns what these fields mean; here is their form alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Final

from attrs import frozen

from nodewright_near.borsh import U16, U32, U64, U128, Blob, Enum, Flag, Option, Vector, encode, struct
from nodewright_near.merkle import combine
from nodewright_near.primitives import AccountId, Hash, PublicKey, Signature, hash256

MAX_VALIDATORS: Final = 4096
MAX_SHARDS: Final = 4096


@struct
@frozen
class ValidatorStakeV1:
    account_id: AccountId
    public_key: PublicKey
    stake: U128


VALIDATOR_STAKE: Final = Enum({0: ValidatorStakeV1})
ValidatorStake = Annotated[ValidatorStakeV1, VALIDATOR_STAKE]
Proposals = Annotated[tuple[ValidatorStakeV1, ...], Vector(VALIDATOR_STAKE, MAX_VALIDATORS)]


def bp_hash_v1(validators: tuple[ValidatorStakeV1, ...]) -> bytes:
    """Of the next epoch's block producers, in the unversioned form of the genesis."""
    return hash256(encode(validators, Vector(ValidatorStakeV1, MAX_VALIDATORS)))


def bp_hash(validators: tuple[ValidatorStakeV1, ...]) -> bytes:
    return hash256(encode(validators, Proposals))


# --- blocks -----------------------------------------------------------------------------------------------------------


@struct
@frozen
class InnerLite:
    """``timestamp`` in nanoseconds since 1970."""

    height: U64
    epoch_id: Hash
    next_epoch_id: Hash
    prev_state_root: Hash
    prev_outcome_root: Hash
    timestamp: U64
    next_bp_hash: Hash
    block_merkle_root: Hash


@struct
@frozen
class ChallengeResult:
    account_id: AccountId
    is_double_sign: Flag


Challenges = Annotated[tuple[ChallengeResult, ...], Vector(ChallengeResult, MAX_VALIDATORS)]
Approvals = Annotated[tuple[bytes | None, ...], Vector(Option(Signature), MAX_VALIDATORS)]
Mask = Annotated[tuple[bool, ...], Vector(Flag, MAX_SHARDS)]
Endorsements = Annotated[tuple[bytes, ...], Vector(Blob(MAX_VALIDATORS), MAX_SHARDS)]


@struct
@frozen
class InnerRestV1:
    chunk_receipts_root: Hash
    chunk_headers_root: Hash
    chunk_tx_root: Hash
    chunks_included: U64
    challenges_root: Hash
    random_value: Hash
    validator_proposals: Annotated[tuple[ValidatorStakeV1, ...], Vector(ValidatorStakeV1, MAX_VALIDATORS)]
    chunk_mask: Mask
    gas_price: U128
    total_supply: U128
    challenges_result: Challenges
    last_final_block: Hash
    last_ds_final_block: Hash
    approvals: Approvals
    latest_protocol_version: U32


@struct
@frozen
class InnerRest:
    """Version 5. The two fields of challenges are always empty; ``chunk_endorsements`` is a bitmap for each shard."""

    block_body_hash: Hash
    prev_chunk_outgoing_receipts_root: Hash
    chunk_headers_root: Hash
    chunk_tx_root: Hash
    challenges_root: Hash
    random_value: Hash
    prev_validator_proposals: Proposals
    chunk_mask: Mask
    next_gas_price: U128
    total_supply: U128
    challenges_result: Challenges
    last_final_block: Hash
    last_ds_final_block: Hash
    block_ordinal: U64
    prev_height: U64
    epoch_sync_data_hash: Annotated[bytes | None, Option(Hash)]
    approvals: Approvals
    latest_protocol_version: U32
    chunk_endorsements: Endorsements


def block_hash(lite: InnerLite, rest: InnerRest | InnerRestV1, prev_hash: bytes) -> bytes:
    return combine(combine(hash256(encode(lite)), hash256(encode(rest))), prev_hash)


@struct
@frozen
class BlockHeaderV1:
    prev_hash: Hash
    inner_lite: InnerLite
    inner_rest: InnerRestV1
    signature: Signature

    def hash(self) -> bytes:
        return block_hash(self.inner_lite, self.inner_rest, self.prev_hash)


@struct
@frozen
class BlockHeaderV5:
    prev_hash: Hash
    inner_lite: InnerLite
    inner_rest: InnerRest
    signature: Signature

    @cached_property
    def _hash(self) -> bytes:
        return block_hash(self.inner_lite, self.inner_rest, self.prev_hash)

    def hash(self) -> bytes:
        return self._hash


BlockHeader = BlockHeaderV1 | BlockHeaderV5
BLOCK_HEADER: Final = Enum(
    {0: BlockHeaderV1, 4: BlockHeaderV5}, {1: "BlockHeaderV2", 2: "BlockHeaderV3", 3: "BlockHeaderV4"}
)


@struct
@frozen
class Endorsement:
    parent_hash: Hash


@struct
@frozen
class Skip:
    parent_height: U64


APPROVAL: Final = Enum({0: Endorsement, 1: Skip})


@struct
@frozen
class Approval:
    inner: Annotated[Endorsement | Skip, APPROVAL]
    target_height: U64
    signature: Signature
    account_id: AccountId


def approval_of(parent_hash: bytes, parent_height: int, target_height: int) -> Endorsement | Skip:
    return Endorsement(parent_hash) if target_height == parent_height + 1 else Skip(parent_height)


def approval_message(inner: Endorsement | Skip, target_height: int) -> bytes:
    """The bytes that are signed."""
    return encode(inner, APPROVAL) + target_height.to_bytes(8, "little")


def endorsement_message(chunk_hash: bytes) -> bytes:
    """The bytes that a chunk validator signs."""
    kind = b"ChunkEndorsement"
    return chunk_hash + len(kind).to_bytes(4, "little") + kind


# --- chunks -----------------------------------------------------------------------------------------------------------


@struct
@frozen
class CongestionInfo:
    """Of one shard after a chunk: gas of its delayed and of its buffered receipts, bytes of both, and the one shard that
    may still send when it is full."""

    delayed_receipts_gas: U128 = 0
    buffered_receipts_gas: U128 = 0
    receipt_bytes: U64 = 0
    allowed_shard: U16 = 0


@struct
@frozen
class BandwidthRequest:
    to_shard: U16
    requested_values_bitmap: Annotated[bytes, Blob(5)]


@struct
@frozen
class BandwidthRequestsV1:
    requests: Annotated[tuple[BandwidthRequest, ...], Vector(BandwidthRequest, MAX_SHARDS)] = ()


@struct
@frozen
class ChunkInnerV1:
    prev_block_hash: Hash
    prev_state_root: Hash
    prev_outcome_root: Hash
    encoded_merkle_root: Hash
    encoded_length: U64
    height_created: U64
    shard_id: U64
    prev_gas_used: U64
    gas_limit: U64
    prev_balance_burnt: U128
    prev_outgoing_receipts_root: Hash
    tx_root: Hash
    prev_validator_proposals: Annotated[tuple[ValidatorStakeV1, ...], Vector(ValidatorStakeV1, MAX_VALIDATORS)]


@struct
@frozen
class ChunkInner:
    """Version 4."""

    prev_block_hash: Hash
    prev_state_root: Hash
    prev_outcome_root: Hash
    encoded_merkle_root: Hash
    encoded_length: U64
    height_created: U64
    shard_id: U64
    prev_gas_used: U64
    gas_limit: U64
    prev_balance_burnt: U128
    prev_outgoing_receipts_root: Hash
    tx_root: Hash
    prev_validator_proposals: Proposals
    congestion_info: Annotated[CongestionInfo, Enum({0: CongestionInfo})]
    bandwidth_requests: Annotated[BandwidthRequestsV1, Enum({0: BandwidthRequestsV1})]


CHUNK_INNER: Final = Enum({3: ChunkInner}, {0: "ShardChunkHeaderInnerV1", 1: "V2", 2: "V3", 4: "V5"})


def chunk_hash_v1(inner: ChunkInnerV1) -> bytes:
    """The first version hashes its inner header alone."""
    return hash256(encode(inner))


@struct
@frozen
class ChunkHeader:
    """Version 3, as a block carries it. ``height_included`` is set by the block's producer and not hashed."""

    inner: Annotated[ChunkInner, CHUNK_INNER]
    height_included: U64
    signature: Signature

    @cached_property
    def _hash(self) -> bytes:
        return combine(hash256(encode(self.inner, CHUNK_INNER)), self.inner.encoded_merkle_root)

    def hash(self) -> bytes:
        return self._hash


CHUNK_HEADER: Final = Enum({2: ChunkHeader}, {0: "ShardChunkHeaderV1", 1: "ShardChunkHeaderV2"})


def chunk_headers_leaf(chunk_hash: bytes, height_included: int) -> bytes:
    return hash256(chunk_hash + height_included.to_bytes(8, "little"))
