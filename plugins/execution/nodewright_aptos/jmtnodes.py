"""Nodes of the Jellyfish Merkle tree: their keys, their bytes, their hashes.

A node's key is version u64 big-endian ‖ nibble count u8 ‖ nibbles, two in a byte, the last one padded with 0. Its bytes are

- internal: 0x01 ‖ bitmap of children u16 ‖ bitmap of those that are leaves u16 (both little-endian), and for each child in
  order version (LEB128) ‖ hash 32 ‖, where it is no leaf, the count of leaves under it (LEB128);
- leaf: 0x02 ‖ key hash 32 ‖ value hash 32 ‖ state key in BCS ‖ version u64 little-endian: when its value was written.

A leaf hashes as H_SparseMerkleLeafNode(key hash ‖ value hash). An internal node hashes as a binary tree of four levels over
its sixteen places, H_SparseMerkleInternal(left ‖ right), where a half with nothing in it counts as the placeholder, and one
with a single leaf and nothing else as that leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define

from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.hashing import EMPTY_TREE, TREE_INTERNAL, TREE_LEAF, digest, pairs
from nodewright_aptos.statekeys import read_serialised, serialised

ROOT_NIBBLES: Final = 0
MAX_DEPTH: Final = 64
_INTERNAL: Final = b"\1"
_LEAF: Final = b"\2"

# version of its node, hash, leaves under it (1 where it is a leaf itself)
Child = tuple[int, bytes, int]


@define
class Internal:
    """``children`` by nibble, sixteen places."""

    children: list[Child | None]

    def encode(self) -> bytes:
        existing = leaves = 0
        parts = [_INTERNAL, b""]
        for nibble, child in enumerate(self.children):
            if child is None:
                continue
            version, hash, count = child
            existing |= 1 << nibble
            parts.append(leb128(version))
            parts.append(hash)
            if count == 1:
                leaves |= 1 << nibble
            else:
                parts.append(leb128(count))
        parts[1] = existing.to_bytes(2, "little") + leaves.to_bytes(2, "little")
        return b"".join(parts)

    @property
    def leaf_count(self) -> int:
        return sum(child[2] for child in self.children if child is not None)

    def hash(self) -> bytes:
        (hash,) = internal_hashes([self])
        return hash


@define
class Leaf:
    """``version`` is the ledger's when its value was written."""

    key_hash: bytes
    value_hash: bytes
    state_key: bytes
    version: int

    def encode(self) -> bytes:
        where = serialised(self.state_key) + self.version.to_bytes(8, "little")
        return b"".join((_LEAF, self.key_hash, self.value_hash, where))

    def hash(self) -> bytes:
        return digest(TREE_LEAF, self.key_hash + self.value_hash)


Node = Internal | Leaf


def leb128(value: int) -> bytes:
    """Of 64 bits, unlike the lengths of BCS."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_leb128(reader: Reader) -> int:
    value = shift = 0
    while True:
        byte = reader.u8()
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise Malformed("a LEB128 number has more than 64 bits")


def decode_node(raw: bytes) -> Node:
    """Raises Malformed."""
    reader = Reader(raw)
    kind = reader.take(1)
    if kind == _LEAF:
        leaf = Leaf(reader.take(32), reader.take(32), read_serialised(reader), reader.u64())
        reader.finish()
        return leaf
    if kind != _INTERNAL:
        raise Malformed("not a node of the tree")
    existing, leaves = reader.u16(), reader.u16()
    if leaves & ~existing:
        raise Malformed("a node has a leaf where it has no child")
    children: list[Child | None] = [None] * 16
    for nibble in range(16):
        if existing >> nibble & 1:
            version, hash = _read_leb128(reader), reader.take(32)
            children[nibble] = version, hash, 1 if leaves >> nibble & 1 else _read_leb128(reader)
    reader.finish()
    return Internal(children)


def node_key(version: int, key_hash: bytes, depth: int) -> bytes:
    """Of the node at ``depth`` nibbles on the way to a key."""
    path = key_hash[: (depth + 1) >> 1]
    if depth & 1:
        path = path[:-1] + bytes([path[-1] & 0xF0])
    return version.to_bytes(8, "big") + bytes([depth]) + path


def nibble_at(key_hash: bytes, depth: int) -> int:
    byte = key_hash[depth >> 1]
    return byte & 0x0F if depth & 1 else byte >> 4


def leaf_hashes(leaves: Sequence[Leaf]) -> list[bytes]:
    """In order, in one batch."""
    hashed = pairs(TREE_LEAF, b"".join([leaf.key_hash + leaf.value_hash for leaf in leaves]))
    return [hashed[at : at + 32] for at in range(0, len(hashed), 32)]


def internal_hashes(nodes: Sequence[Internal]) -> list[bytes]:
    """In order: each of the four levels of all nodes in one batch."""
    hashes = [None if child is None else child[1] for node in nodes for child in node.children]
    single = [child is not None and child[2] == 1 for node in nodes for child in node.children]
    for _ in range(4):
        hashes, single = _halve(hashes, single)
    return [EMPTY_TREE if hash is None else hash for hash in hashes]


def _halve(hashes: list[bytes | None], single: list[bool]) -> tuple[list[bytes | None], list[bool]]:
    """One level up: each two places become one. ``single``: that place is one leaf and nothing else."""
    above: list[bytes | None] = []
    alone: list[bool] = []
    wanted: list[int] = []
    data: list[bytes] = []
    for at in range(0, len(hashes), 2):
        left, right = hashes[at], hashes[at + 1]
        if left is None and right is None:
            above.append(None)
            alone.append(False)
        elif right is None and single[at]:
            above.append(left)
            alone.append(True)
        elif left is None and single[at + 1]:
            above.append(right)
            alone.append(True)
        else:
            wanted.append(len(above))
            data.append(EMPTY_TREE if left is None else left)
            data.append(EMPTY_TREE if right is None else right)
            above.append(None)
            alone.append(False)
    hashed = pairs(TREE_INTERNAL, b"".join(data)) if data else b""
    for place, index in enumerate(wanted):
        above[index] = hashed[32 * place : 32 * place + 32]
    return above, alone


# --- proofs ----------------------------------------------------------------------------------------------------------


def _range_hash(children: Sequence[Child | None]) -> bytes:
    """Of a part of a node's places, 1, 2, 4 or 8 of them."""
    there = [child for child in children if child is not None]
    if not there:
        return EMPTY_TREE
    if len(children) == 1 or (len(there) == 1 and there[0][2] == 1):
        return there[0][1]
    half = len(children) // 2
    return digest(TREE_INTERNAL, _range_hash(children[:half]) + _range_hash(children[half:]))


def child_with_siblings(node: Internal, nibble: int) -> tuple[int | None, list[bytes]]:
    """The way to a nibble: the place of the child that it leads to (another one's, where a lone leaf stands for its whole
    half; None where there is nothing), and the siblings on it, from the top down."""
    siblings: list[bytes] = []
    start, width = 0, 16
    while width > 1:
        width //= 2
        mine, other = (start, start + width) if nibble & width == 0 else (start + width, start)
        siblings.append(_range_hash(node.children[other : other + width]))
        start = mine
        there = [at for at in range(mine, mine + width) if node.children[at] is not None]
        if not there:
            return None, siblings
        child = node.children[there[0]]
        if width == 1 or (len(there) == 1 and child is not None and child[2] == 1):
            return there[0], siblings
    return start, siblings
