"""Merkle trees of 32-byte leaves with Bitcoin's duplicate-last rule. Pure; leaves and levels are concatenated bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nodewright.kernels.hashes import merkle_levels, merkle_root


def root(leaves: bytes) -> bytes:
    """The root of 32·n bytes, n >= 1; of a single leaf the leaf itself."""
    if not leaves or len(leaves) % 32:
        raise ValueError("leaves must be a positive multiple of 32 bytes")
    return merkle_root(leaves)


def branch(leaves: bytes, index: int) -> list[bytes]:
    """The siblings from leaf ``index`` up to the root, lowest first."""
    siblings = []
    for level in merkle_levels(leaves)[:-1]:
        other = index ^ 1
        if 32 * other >= len(level):
            other = index
        siblings.append(level[32 * other : 32 * other + 32])
        index >>= 1
    return siblings


def climb(leaf: bytes, index: int, siblings: Sequence[bytes]) -> bytes:
    """The root that ``leaf`` at ``index`` has with these siblings."""
    sha = hashlib.sha256
    for sibling in siblings:
        pair = sibling + leaf if index & 1 else leaf + sibling
        leaf = sha(sha(pair).digest()).digest()
        index >>= 1
    return leaf


def depth(count: int) -> int:
    """Levels above the leaves of a tree of ``count`` >= 1 leaves."""
    return (count - 1).bit_length()


def lift(node: bytes, levels: int) -> bytes:
    """A root paired with itself ``levels`` times: what a shorter last subtree contributes to the block's tree."""
    sha = hashlib.sha256
    for _ in range(levels):
        node = sha(sha(node + node).digest()).digest()
    return node
