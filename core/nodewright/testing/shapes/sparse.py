"""A sparse Merkle tree, whole or in part. Pure; nodes are immutable and shared between versions.

Keys are 32 bytes and end at the first node where they are alone: a leaf hashes (key, value), an inner node its two
children, nothing is 32 zero bytes. A ``Stub`` stands for a part that was left out and is known by its hash only; a tree
with stubs is a proof of what it does hold, and can be read and changed there with the same results as the whole tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import field, frozen

from nodewright.testing.shapes.codec import Malformed, Reader, blob, digest, u8

EMPTY = bytes(32)
DEPTH = 256


class LeftOut(LookupError):
    """The key's path runs into a part that this tree does not hold."""


@frozen
class Leaf:
    key: bytes
    value: bytes
    hash: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "hash", digest(b"leaf", self.key, self.value))


@frozen
class Inner:
    left: Node | None
    right: Node | None
    hash: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "hash", digest(b"inner", root(self.left), root(self.right)))


@frozen
class Stub:
    hash: bytes


Node = Leaf | Inner | Stub


def root(tree: Node | None) -> bytes:
    return tree.hash if tree is not None else EMPTY


def bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def get(tree: Node | None, key: bytes) -> bytes | None:
    """Raises LeftOut."""
    depth = 0
    while isinstance(tree, Inner):
        tree = tree.right if bit(key, depth) else tree.left
        depth += 1
    if isinstance(tree, Stub):
        raise LeftOut(key.hex())
    return tree.value if tree is not None and tree.key == key else None


def put(tree: Node | None, key: bytes, value: bytes, depth: int = 0) -> Node:
    """The tree with ``key`` set. Raises LeftOut."""
    if tree is None:
        return Leaf(key, value)
    if isinstance(tree, Stub):
        raise LeftOut(key.hex())
    if isinstance(tree, Inner):
        if bit(key, depth):
            return Inner(tree.left, put(tree.right, key, value, depth + 1))
        return Inner(put(tree.left, key, value, depth + 1), tree.right)
    if tree.key == key:
        return Leaf(key, value)
    if bit(tree.key, depth):
        return put(Inner(None, tree), key, value, depth)
    return put(Inner(tree, None), key, value, depth)


def build(rows: Mapping[bytes, bytes]) -> Node | None:
    tree: Node | None = None
    for key, value in rows.items():
        tree = put(tree, key, value)
    return tree


def items(tree: Node | None) -> Iterator[tuple[bytes, bytes]]:
    """In key order. Raises LeftOut."""
    if isinstance(tree, Stub):
        raise LeftOut("a part of the tree")
    if isinstance(tree, Leaf):
        yield tree.key, tree.value
    elif tree is not None:
        yield from items(tree.left)
        yield from items(tree.right)


def prune(tree: Node | None, keys: Iterable[bytes]) -> Node | None:
    """The part of the tree that reading or setting ``keys`` visits; the rest becomes stubs. Same root."""
    return _prune(tree, sorted(set(keys)), 0)


def _prune(tree: Node | None, keys: list[bytes], depth: int) -> Node | None:
    if tree is None or not keys:
        return Stub(tree.hash) if tree is not None else None
    if not isinstance(tree, Inner):
        return tree
    left = _prune(tree.left, [key for key in keys if not bit(key, depth)], depth + 1)
    right = _prune(tree.right, [key for key in keys if bit(key, depth)], depth + 1)
    return Inner(left, right)


def encode(tree: Node | None) -> bytes:
    if tree is None:
        return u8(0)
    if isinstance(tree, Leaf):
        return u8(1) + tree.key + blob(tree.value)
    if isinstance(tree, Stub):
        return u8(2) + tree.hash
    return u8(3) + encode(tree.left) + encode(tree.right)


def decode(data: Reader, path: int = 0, depth: int = 0) -> Node | None:
    """Bounded by the reader's data, since every node takes a byte. Raises Malformed: also for a leaf off its path."""
    if depth > DEPTH:
        raise Malformed("a tree is at most 256 deep")
    tag = data.u8()
    if tag == 0:
        return None
    if tag == 1:
        leaf = Leaf(data.hash(), data.blob(256))
        if int.from_bytes(leaf.key, "big") >> (DEPTH - depth) != path:
            raise Malformed("a leaf is where its key does not lead")
        return leaf
    if tag == 2:
        return Stub(data.hash())
    if tag != 3:
        raise Malformed(f"there is no node of kind {tag}")
    left = decode(data, path << 1, depth + 1)
    return Inner(left, decode(data, path << 1 | 1, depth + 1))
