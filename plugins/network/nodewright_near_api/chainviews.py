"""JSON of what the consensus knows: block headers, chunk headers, and the part of a header that a light client reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nodewright_near.borsh import encode
from nodewright_near.chunks import ChunkBody
from nodewright_near.headers import BlockHeaderV5, ChunkHeader, ValidatorStakeV1
from nodewright_near.primitives import NO_SIGNATURE, base58, hash256, key_text
from nodewright_near_api.views import receipt_view, transaction_view
from nodewright_nightshade.blocks import Block


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def stake_view(stake: ValidatorStakeV1) -> dict[str, Any]:
    return {
        "validator_stake_struct_version": "V1",
        "account_id": stake.account_id,
        "public_key": key_text(stake.public_key),
        "stake": str(stake.stake),
    }


def _signature(signature: bytes | None) -> str | None:
    return None if signature is None else key_text(signature or NO_SIGNATURE)


def header_view(header: BlockHeaderV5) -> dict[str, Any]:
    lite, rest = header.inner_lite, header.inner_rest
    return {
        "height": lite.height,
        "prev_height": rest.prev_height,
        "epoch_id": base58(lite.epoch_id),
        "next_epoch_id": base58(lite.next_epoch_id),
        "hash": base58(header.hash()),
        "prev_hash": base58(header.prev_hash),
        "prev_state_root": base58(lite.prev_state_root),
        "block_body_hash": base58(rest.block_body_hash),
        "chunk_receipts_root": base58(rest.prev_chunk_outgoing_receipts_root),
        "chunk_headers_root": base58(rest.chunk_headers_root),
        "chunk_tx_root": base58(rest.chunk_tx_root),
        "outcome_root": base58(lite.prev_outcome_root),
        "chunks_included": sum(rest.chunk_mask),
        "challenges_root": base58(rest.challenges_root),
        "timestamp": lite.timestamp,
        "timestamp_nanosec": str(lite.timestamp),
        "random_value": base58(rest.random_value),
        "validator_proposals": [stake_view(one) for one in rest.prev_validator_proposals],
        "chunk_mask": list(rest.chunk_mask),
        "gas_price": str(rest.next_gas_price),
        "block_ordinal": rest.block_ordinal,
        "rent_paid": "0",
        "validator_reward": "0",
        "total_supply": str(rest.total_supply),
        "challenges_result": [],
        "last_final_block": base58(rest.last_final_block),
        "last_ds_final_block": base58(rest.last_ds_final_block),
        "next_bp_hash": base58(lite.next_bp_hash),
        "block_merkle_root": base58(lite.block_merkle_root),
        "epoch_sync_data_hash": None if rest.epoch_sync_data_hash is None else base58(rest.epoch_sync_data_hash),
        "approvals": [_signature(one) for one in rest.approvals],
        "signature": key_text(header.signature),
        "latest_protocol_version": rest.latest_protocol_version,
        "chunk_endorsements": [list(one) for one in rest.chunk_endorsements],
    }


def chunk_header_view(chunk: ChunkHeader) -> dict[str, Any]:
    inner = chunk.inner
    congestion = inner.congestion_info
    return {
        "chunk_hash": base58(chunk.hash()),
        "prev_block_hash": base58(inner.prev_block_hash),
        "outcome_root": base58(inner.prev_outcome_root),
        "prev_state_root": base58(inner.prev_state_root),
        "encoded_merkle_root": base58(inner.encoded_merkle_root),
        "encoded_length": inner.encoded_length,
        "height_created": inner.height_created,
        "height_included": chunk.height_included,
        "shard_id": inner.shard_id,
        "gas_used": inner.prev_gas_used,
        "gas_limit": inner.gas_limit,
        "rent_paid": "0",
        "validator_reward": "0",
        "balance_burnt": str(inner.prev_balance_burnt),
        "outgoing_receipts_root": base58(inner.prev_outgoing_receipts_root),
        "tx_root": base58(inner.tx_root),
        "validator_proposals": [stake_view(one) for one in inner.prev_validator_proposals],
        "congestion_info": {
            "delayed_receipts_gas": str(congestion.delayed_receipts_gas),
            "buffered_receipts_gas": str(congestion.buffered_receipts_gas),
            "receipt_bytes": congestion.receipt_bytes,
            "allowed_shard": congestion.allowed_shard,
        },
        "bandwidth_requests": {
            "V1": {
                "requests": [
                    {"to_shard": one.to_shard, "requested_values_bitmap": {"data": list(one.requested_values_bitmap)}}
                    for one in inner.bandwidth_requests.requests
                ]
            }
        },
        "signature": key_text(chunk.signature),
    }


def block_view(block: Block, author: str) -> dict[str, Any]:
    return {
        "author": author,
        "header": header_view(block.header),
        "chunks": [chunk_header_view(chunk) for chunk in block.body.chunks],
    }


def chunk_view(header: ChunkHeader, body: ChunkBody, author: str) -> dict[str, Any]:
    """``receipts`` are those that the shard's chunk before this one sent out."""
    return {
        "author": author,
        "header": chunk_header_view(header),
        "transactions": [transaction_view(signed) for signed in body.transactions],
        "receipts": [receipt_view(receipt) for receipt in body.prev_outgoing_receipts],
    }


def lite_view(header: BlockHeaderV5) -> dict[str, Any]:
    """What a light client needs to compute the block's hash."""
    lite = header.inner_lite
    return {
        "prev_block_hash": base58(header.prev_hash),
        "inner_rest_hash": base58(hash256(encode(header.inner_rest))),
        "inner_lite": {
            "height": lite.height,
            "epoch_id": base58(lite.epoch_id),
            "next_epoch_id": base58(lite.next_epoch_id),
            "prev_state_root": base58(lite.prev_state_root),
            "outcome_root": base58(lite.prev_outcome_root),
            "timestamp": lite.timestamp,
            "timestamp_nanosec": str(lite.timestamp),
            "next_bp_hash": base58(lite.next_bp_hash),
            "block_merkle_root": base58(lite.block_merkle_root),
        },
    }


def stakes_view(validators: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [
        {"validator_stake_struct_version": "V1", "account_id": name, "public_key": key, "stake": str(stake)}
        for name, key, stake in validators
    ]
