"""NEAR's Merkle trees: leaves are SHA-256 of an item's Borsh form, an odd last node goes up as it is, no leaf is zero."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Final

from attrs import frozen

from nodewright_near.borsh import Enum, Vector, codec_of, struct
from nodewright_near.primitives import NO_HASH, Hash
from nodewright_near.rowhashes import sha256_rows

MAX_PATH: Final = 64


@struct
@frozen
class Left:
    pass


@struct
@frozen
class Right:
    pass


@struct
@frozen
class MerkleStep:
    """A sibling on the way up, and on which side of it the path is not."""

    hash: Hash
    direction: Annotated[Left | Right, Enum({0: Left, 1: Right})]


MerklePath = tuple[MerkleStep, ...]
MERKLE_PATH: Final = Vector(codec_of(MerkleStep), MAX_PATH)
_LEFT, _RIGHT = Left(), Right()


def combine(left: bytes, right: bytes) -> bytes:
    return sha256(left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """n hashes of 32 bytes -> the root."""
    return root_of_row(b"".join(leaves))


def root_of_row(row: bytes) -> bytes:
    """n hashes one behind the other -> the root."""
    if not row:
        return NO_HASH
    while len(row) > 32:
        pairs = len(row) // 64 * 64
        row = sha256_rows(row[:pairs], 64) + row[pairs:]
    return row


def merklize(leaves: Sequence[bytes]) -> tuple[bytes, list[MerklePath]]:
    """n hashes -> the root, and for each leaf its path, from the leaf up."""
    if not leaves:
        return NO_HASH, []
    rows = [list(leaves)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        above = [combine(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
        rows.append([*above, row[-1]] if len(row) & 1 else above)
    paths = []
    for leaf in range(len(leaves)):
        steps, at = [], leaf
        for row in rows[:-1]:
            sibling = at ^ 1
            if sibling < len(row):
                steps.append(MerkleStep(row[sibling], _LEFT if sibling < at else _RIGHT))
            at >>= 1
        paths.append(tuple(steps))
    return rows[-1][0], paths


def climb(leaf: bytes, path: Sequence[MerkleStep]) -> bytes:
    """The root that a leaf and its path lead to."""
    for step in path:
        leaf = combine(step.hash, leaf) if isinstance(step.direction, Left) else combine(leaf, step.hash)
    return leaf


def extend_frontier(frontier: Sequence[bytes], count: int, leaf: bytes) -> tuple[bytes, ...]:
    """The roots of the full subtrees, largest first, of ``count`` leaves -> those of ``count + 1`` leaves."""
    row = [*frontier, leaf]
    while count & 1:
        right = row.pop()
        row.append(combine(row.pop(), right))
        count >>= 1
    return tuple(row)


def frontier_root(frontier: Sequence[bytes]) -> bytes:
    """The root over the same leaves as ``merkle_root`` gives."""
    if not frontier:
        return NO_HASH
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = combine(left, root)
    return root
