"""A trie built at once from sorted keys, node by node from below, holding one way from the root at a time.

``Bulk.add`` takes keys in rising order; finished nodes collect in ``nodes`` by path, from where the caller takes them
whenever it likes; ``finish`` gives the root. What comes out is what ``trie.update`` makes of the same rows.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from attrs import define, field

from nodewright_near.trie import EMPTY_ROOT
from nodewright_near.trienodes import (
    NODE_COST,
    Extension,
    Leaf,
    ValueRef,
    nibbles,
    value_cost,
)

_NOTHING_SHARED: Final = -1


def _shared(left: bytes, right: bytes) -> int:
    """How many nibbles both begin with; keys beside each other share many, so that they are compared as numbers."""
    end = min(len(left), len(right))
    differs = int.from_bytes(left[:end], "big") ^ int.from_bytes(right[:end], "big")
    return end - (differs.bit_length() + 7) // 8


@define
class _Open:
    """A branch whose children are still coming, in order."""

    depth: int
    mask: int = 0
    hashes: list[bytes] = field(factory=list)
    below: int = 0
    value: ValueRef | None = None

    def take(self, nibble: int, digest: bytes, total: int) -> None:
        self.mask |= 1 << nibble
        self.hashes.append(digest)
        self.below += total

    def encode(self) -> tuple[bytes, int]:
        """Its bytes and memory usage; see ``trienodes``."""
        hashes = b"".join(self.hashes)
        mask = self.mask.to_bytes(2, "little")
        if self.value is None:
            total = NODE_COST + self.below
            return b"\x01%b%b%b" % (mask, hashes, total.to_bytes(8, "little")), total
        total = NODE_COST + self.below + value_cost(self.value[0])
        length, digest = self.value
        return b"\x02%b%b%b%b%b" % (length.to_bytes(4, "little"), digest, mask, hashes, total.to_bytes(8, "little")), total


class Bulk:
    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self._open: list[_Open] = []
        self._waiting: tuple[bytes, ValueRef] | None = None
        self._root = EMPTY_ROOT

    def add(self, key: bytes, value: ValueRef) -> None:
        """ValueError where ``key`` is not above the one before."""
        path = nibbles(key)
        if self._waiting is not None:
            last, _ = self._waiting
            if path <= last:
                raise ValueError(f"keys of a trie built at once must rise: {key!r}")
            self._place(*self._waiting, _shared(last, path))
        self._waiting = path, value

    def finish(self) -> bytes:
        """The root. ``nodes`` has the last of them."""
        if self._waiting is not None:
            self._place(*self._waiting, _NOTHING_SHARED)
            self._waiting = None
        return self._root

    def _place(self, path: bytes, value: ValueRef, shared: int) -> None:
        """``shared``: nibbles that the next key begins with too."""
        stack = self._open
        if shared != _NOTHING_SHARED and (not stack or stack[-1].depth < shared):
            stack.append(_Open(shared))
        above = stack[-1].depth if stack else _NOTHING_SHARED
        if len(path) == above:
            stack[-1].value = value
        else:
            leaf = Leaf(path[above + 1 :], value)
            self._hand(path, above, leaf.encode(), leaf.total())
        while stack and stack[-1].depth > shared:
            branch = stack.pop()
            if shared != _NOTHING_SHARED and (not stack or stack[-1].depth < shared):
                stack.append(_Open(shared))
            above = stack[-1].depth if stack else _NOTHING_SHARED
            raw, total = branch.encode()
            if branch.depth > above + 1:
                digest = sha256(raw).digest()
                self.nodes[path[: branch.depth]] = raw
                over = Extension(path[above + 1 : branch.depth], digest, total)
                raw, total = over.encode(), over.total()
            self._hand(path, above, raw, total)

    def _hand(self, path: bytes, above: int, raw: bytes, total: int) -> None:
        """A finished node to the branch at depth ``above`` on its way."""
        digest = sha256(raw).digest()
        self.nodes[path[: above + 1]] = raw
        if self._open:
            self._open[-1].take(path[above], digest, total)
        else:
            self._root = digest
