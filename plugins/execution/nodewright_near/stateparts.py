"""A shard's state cut into parts that each prove themselves against its root. Pure.

The nodes of a trie in the order in which a walk from the root meets them (a node before its children, children by nibble)
stand one behind the other: each begins where the memory usage of those before it ends, and takes what it uses itself. Part
``index`` is all nodes that begin within its PART_MEMORY of that line, with the values of those that have one. Beside them
it brings the nodes on the way from the root to the first of them, and those beside that way, whose size says where the
others begin. So the root alone says how many parts there are and what is in each: whoever walks a part from the root, and
finds every node, finds all of it; one that lacks anything, or holds anything more, is none.

Invariants: a node, and the value that it names, is in exactly one part; the parts of a root are the same whoever cuts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from attrs import define, field, frozen

from nodewright_near.borsh import Blob, Malformed, Vector, decode, encode, struct
from nodewright_near.trie import EMPTY_ROOT, ByHash, Missing, Source
from nodewright_near.trienodes import Branch, Extension, Leaf, ValueRef, decode_node, from_nibbles, node_total

PART_MEMORY: Final = 1 << 20
MAX_PART_BYTES: Final = 16 * 1024 * 1024
AT_ONCE: Final = 128


@struct
@frozen
class StatePart:
    """Nodes and values, each once, in the order of their bytes."""

    blobs: Annotated[tuple[bytes, ...], Vector(Blob(MAX_PART_BYTES), 1 << 18)]


@frozen
class Member:
    """A node of the part at its path, and the key and reference of the value that it names."""

    path: bytes
    raw: bytes
    key: bytes = b""
    value: ValueRef | None = None


@define
class Walk:
    """Over one part of the trie under ``root``. ``run`` may be called again where a node was missing."""

    root: bytes
    index: int
    size: int = PART_MEMORY
    members: list[Member] = field(factory=list)
    seen: set[bytes] = field(factory=set)
    count: int = 1
    _at: int = 0
    _stack: list[tuple[bytes, bytes]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        if self.root != EMPTY_ROOT:
            self._stack.append((b"", self.root))

    def run(self, source: Source) -> None:
        """Raises Missing with what is wanted next, Malformed."""
        low, high = self.index * self.size, (self.index + 1) * self.size
        stack = self._stack
        while stack and self._at < high:
            path, digest = stack[-1]
            try:
                raw = source.node(path, digest)
            except Missing:
                raise Missing(stack[: -AT_ONCE - 1 : -1]) from None
            stack.pop()
            self.seen.add(raw)
            total = node_total(raw)
            if not path:
                self.count = max(1, -(-total // self.size))
            if self._at + total <= low:
                self._at += total
                continue
            node = decode_node(raw)
            if self._at >= low:
                self.members.append(_member(path, raw, node))
            if isinstance(node, Leaf):
                self._at += total
            elif isinstance(node, Extension):
                self._at += total - node.below
                stack.append((path + node.part, node.child))
            else:
                self._at += total - node.below
                stack += [(path + bytes([nibble]), node.children[nibble]) for nibble in sorted(node.children, reverse=True)]


def _member(path: bytes, raw: bytes, node: Leaf | Extension | Branch) -> Member:
    if isinstance(node, Leaf):
        return Member(path, raw, from_nibbles(path + node.part), node.value)
    if isinstance(node, Branch) and node.value is not None:
        return Member(path, raw, from_nibbles(path), node.value)
    return Member(path, raw)


def write(walk: Walk, values: Sequence[bytes]) -> bytes:
    """The bytes of a part that was walked; ``values`` of its members that have one."""
    return encode(StatePart(tuple(sorted({*walk.seen, *values}))))


@frozen
class Checked:
    """``rows``: key and value; ``nodes``: path and node."""

    count: int
    rows: tuple[tuple[bytes, bytes], ...]
    nodes: tuple[tuple[bytes, bytes], ...]


def check(root: bytes, index: int, raw: bytes, size: int = PART_MEMORY) -> Checked | None:
    """What the part of this number holds; None where these bytes are not that part."""
    if len(raw) > MAX_PART_BYTES:
        return None
    try:
        part: StatePart = decode(StatePart, raw)
        source, walk = ByHash(part.blobs), Walk(root, index, size)
        walk.run(source)
        rows = tuple(_rows(walk, source))
    except (Malformed, Missing, ValueError):
        return None
    if index >= walk.count or not source.complete():
        return None
    return Checked(walk.count, rows, tuple((one.path, one.raw) for one in walk.members))


def _rows(walk: Walk, source: ByHash) -> Iterator[tuple[bytes, bytes]]:
    for one in walk.members:
        if one.value is not None:
            yield one.key, source.value(one.value)
