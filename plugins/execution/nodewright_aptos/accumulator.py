"""The transaction accumulator: an append-only Merkle tree over TransactionInfo hashes, and the small one over events.

Leaves are padded on the right with a placeholder up to a power of two; a node is H(left ‖ right), and one whose leaves are
all placeholders is the placeholder itself. ``Accumulator`` holds only the roots of the complete ("frozen") subtrees, by
level; a block is appended level by level in batches. Of the nodes that are completed, those on every eighth level
(``PAGE_LEVEL``) are given back to be stored: with the leaves they are enough for any proof.

Invariants: ``frozen[level]`` is there exactly where bit ``level`` of ``leaves`` is set; the root depends on the leaves in
order and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from nodewright_aptos import bcs
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.hashing import EMPTY_ACCUMULATOR, TRANSACTION_ACCUMULATOR, digest, pairs

PAGE_LEVEL: Final = 8
MAX_LEVELS: Final = 63

Position = tuple[int, int]  # level, index within the level
# A node that is complete: (level, index) -> its hash.
Nodes = Callable[[int, int], bytes]


@frozen
class Accumulator:
    """``leaves`` of them; ``frozen`` by level, None where that bit of ``leaves`` is 0."""

    leaves: int = 0
    frozen: tuple[bytes | None, ...] = ()
    prefix: bytes = TRANSACTION_ACCUMULATOR

    def append(self, hashes: Sequence[bytes]) -> tuple[Accumulator, dict[Position, bytes]]:
        """With these leaves after its own, and the nodes completed by them that are to be stored."""
        if not hashes:
            return self, {}
        roots: list[bytes | None] = []
        stored: dict[Position, bytes] = {}
        nodes, first, level = b"".join(hashes), self.leaves, 0
        while nodes or level < len(self.frozen):
            own = self.frozen[level] if level < len(self.frozen) else None
            if own is not None:
                nodes, first = own + nodes, first - 1
            count = len(nodes) // 32
            if level and level % PAGE_LEVEL == 0:
                fresh = 1 if own is not None else 0
                for at in range(fresh, count):
                    stored[level, first + at] = nodes[32 * at : 32 * at + 32]
            odd = count & 1
            roots.append(nodes[-32:] if odd else None)
            whole = nodes[: len(nodes) - 32 * odd]
            nodes = pairs(self.prefix, whole) if whole else b""
            first >>= 1
            level += 1
        return Accumulator(self.leaves + len(hashes), tuple(roots), self.prefix), stored

    @property
    def root(self) -> bytes:
        current: bytes | None = None
        rest = self.leaves
        for root in self.frozen:
            if current is None:
                if root is not None and rest == 1:
                    return root
                current = None if root is None else digest(self.prefix, root + EMPTY_ACCUMULATOR)
            elif root is not None:
                current = digest(self.prefix, root + current)
            else:
                current = digest(self.prefix, current + EMPTY_ACCUMULATOR)
            rest >>= 1
        return EMPTY_ACCUMULATOR if current is None else current

    def encode(self) -> bytes:
        """The count and the frozen roots from the lowest level up."""
        return bcs.u64(self.leaves) + bcs.vector(root for root in self.frozen if root is not None)


def read_accumulator(reader: Reader) -> Accumulator:
    leaves = reader.u64()
    roots = list(reader.vector(lambda: reader.take(32), MAX_LEVELS, 32))
    if len(roots) != leaves.bit_count():
        raise Malformed("an accumulator has one frozen root for each bit of its count")
    levels = [roots.pop(0) if leaves >> level & 1 else None for level in range(leaves.bit_length())]
    return Accumulator(leaves, tuple(levels))


def root_of(prefix: bytes, hashes: Sequence[bytes]) -> bytes:
    """Of a tree over these leaves alone."""
    if not hashes:
        return EMPTY_ACCUMULATOR
    if len(hashes) == 1:
        return hashes[0]
    level = b"".join(hashes)
    while len(level) > 32:
        if len(level) & 32:
            level += EMPTY_ACCUMULATOR
        level = pairs(prefix, level)
    return level


def roots_of(prefix: bytes, trees: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Of many small trees, in order: each level of all of them in one batch."""
    levels = [b"".join(hashes) for hashes in trees]
    growing = [at for at, level in enumerate(levels) if len(level) > 32]
    while growing:
        for at in growing:
            if len(levels[at]) & 32:
                levels[at] += EMPTY_ACCUMULATOR
        hashed = pairs(prefix, b"".join([levels[at] for at in growing]))
        place = 0
        for at in growing:
            size = len(levels[at]) // 2
            levels[at] = hashed[place : place + size]
            place += size
        growing = [at for at in growing if len(levels[at]) > 32]
    return [level or EMPTY_ACCUMULATOR for level in levels]


def prove(leaf: int, leaves: int, node: Nodes, prefix: bytes = TRANSACTION_ACCUMULATOR) -> list[bytes]:
    """Siblings of a leaf from the bottom up, in the tree of ``leaves`` of them. ``node`` answers any complete node."""
    if not 0 <= leaf < leaves:
        raise ValueError(f"there is no leaf {leaf} among {leaves}")
    siblings = []
    for level in range((leaves - 1).bit_length()):
        index = (leaf >> level) ^ 1
        siblings.append(_node(level, index, leaves, node, prefix))
    return siblings


def _node(level: int, index: int, leaves: int, node: Nodes, prefix: bytes) -> bytes:
    if index << level >= leaves:
        return EMPTY_ACCUMULATOR
    if (index + 1) << level <= leaves:
        return node(level, index)
    left = _node(level - 1, 2 * index, leaves, node, prefix)
    right = _node(level - 1, 2 * index + 1, leaves, node, prefix)
    return digest(prefix, left + right)


def verify(root: bytes, leaf: int, hash: bytes, siblings: Sequence[bytes], prefix: bytes = TRANSACTION_ACCUMULATOR) -> bool:
    """Whether the leaf stands there in the tree with that root."""
    current = hash
    for level, sibling in enumerate(siblings):
        current = digest(prefix, sibling + current if leaf >> level & 1 else current + sibling)
    return not leaf >> len(siblings) and current == root
