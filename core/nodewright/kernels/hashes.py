"""Batch hashes and Merkle trees over bytes: the compiled kernel where it is ready and worth its call, else plain."""

from __future__ import annotations

from collections.abc import Sequence

from nodewright.kernels import plain
from nodewright.kernels.plain import hash160, merkle_depth, merkle_lift, ripemd160, sha256d
from nodewright.kernels.switch import compiled

__all__ = [
    "hash160",
    "hash160_many",
    "merkle_depth",
    "merkle_levels",
    "merkle_lift",
    "merkle_root",
    "ripemd160",
    "sha256_many",
    "sha256d",
    "sha256d_many",
    "sha256d_pairs",
]

# Below this many messages the arrays cost more than hashlib does.
WORTH_A_CALL = 8


def sha256_many(messages: Sequence[bytes]) -> list[bytes]:
    """n messages of any length -> n digests of 32 bytes, in order."""
    kernels = compiled()
    if kernels is None or len(messages) < WORTH_A_CALL:
        return plain.sha256_many(messages)
    digests: list[bytes] = kernels.sha256_list(messages, False)
    return digests


def sha256d_many(messages: Sequence[bytes]) -> list[bytes]:
    """n messages of any length -> n double SHA-256 digests, in order."""
    kernels = compiled()
    if kernels is None or len(messages) < WORTH_A_CALL:
        return plain.sha256d_many(messages)
    digests: list[bytes] = kernels.sha256_list(messages, True)
    return digests


def sha256d_pairs(pairs: bytes | bytearray | memoryview) -> bytes:
    """n messages of 64 bytes, concatenated -> n double SHA-256 digests, concatenated. ValueError for another length."""
    if len(pairs) % 64:
        raise ValueError(f"pairs come as multiples of 64 bytes, not {len(pairs)}")
    kernels = compiled()
    if kernels is None or len(pairs) < 64 * WORTH_A_CALL:
        return plain.sha256d_pairs(pairs)
    digests: bytes = kernels.sha256d_pairs(pairs)
    return digests


def hash160_many(messages: Sequence[bytes]) -> list[bytes]:
    """RIPEMD-160 of SHA-256 of n messages: n values of 20 bytes."""
    kernels = compiled()
    if kernels is None or len(messages) < WORTH_A_CALL:
        return [hash160(message) for message in messages]
    digests: list[bytes] = kernels.hash160_list(messages)
    return digests


def merkle_levels(leaves: bytes | bytearray | memoryview) -> list[bytes]:
    """32·n bytes -> all levels, leaves first, root last (Bitcoin's rule: an odd last node is paired with itself)."""
    kernels = compiled()
    if kernels is None or len(leaves) < 64 * WORTH_A_CALL or len(leaves) % 32:
        return plain.merkle_levels(leaves)
    levels: list[bytes] = kernels.merkle_levels(leaves)
    return levels


def merkle_root(leaves: bytes | bytearray | memoryview) -> bytes:
    """32·n bytes -> the root (see ``merkle_levels``)."""
    return merkle_levels(leaves)[-1]
