"""Nodes of the Merkle-Patricia trie as bytes: forms, hex-prefix keys, memory usage. What a tree of them does: ``trie``.

A node is stored and hashed as Borsh(node) ‖ memory usage u64 of its whole subtree. Kinds: 0 leaf (key, length and hash
of the value), 1 branch (mask, hashes of children), 2 branch that has a value too, 3 extension (key, hash of the child). A
value stands elsewhere, under its key, and in a witness under its hash.

Memory usage: 50 a node, 2 a byte of a hex-prefix key, and for a value 50 and 1 a byte.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from attrs import define

from nodewright_near.borsh import Malformed

LEAF: Final = 0
BRANCH: Final = 1
BRANCH_WITH_VALUE: Final = 2
EXTENSION: Final = 3

NODE_COST: Final = 50
KEY_BYTE_COST: Final = 2
MAX_NODE_BYTES: Final = 8192

_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
_HEX: Final = bytes.maketrans(bytes(range(16)), b"0123456789abcdef")

# Length and SHA-256 of a value.
ValueRef = tuple[int, bytes]


def nibbles(key: bytes) -> bytes:
    """One byte, 0 to 15, for each half byte, the high one first."""
    return key.hex().encode().translate(_NIBBLES)


def from_nibbles(path: bytes) -> bytes:
    return bytes.fromhex(path.translate(_HEX).decode())


def shared_length(left: bytes, right: bytes) -> int:
    """How many bytes both begin with."""
    end = min(len(left), len(right))
    if left[:end] == right[:end]:
        return end
    at = 0
    while left[at] == right[at]:
        at += 1
    return at


def value_ref(value: bytes) -> ValueRef:
    return len(value), sha256(value).digest()


def pack(part: bytes, leaf: bool) -> bytes:
    """Hex-prefix form: whether it ends a key, whether its count of nibbles is odd, and the nibbles."""
    flag = 0x20 if leaf else 0
    if len(part) & 1:
        return bytes([flag | 0x10 | part[0]]) + from_nibbles(part[1:])
    return bytes([flag]) + from_nibbles(part)


def unpack(data: bytes) -> tuple[bytes, bool]:
    """Raises Malformed for anything that ``pack`` would not have made."""
    if not data or data[0] & 0xC0 or (not data[0] & 0x10 and data[0] & 0x0F):
        raise Malformed("a key of the trie is not in hex-prefix form")
    rest = nibbles(data[1:])
    return (bytes([data[0] & 0x0F]) + rest if data[0] & 0x10 else rest), bool(data[0] & 0x20)


def value_cost(length: int) -> int:
    return NODE_COST + length


def key_cost(part: bytes) -> int:
    return NODE_COST + KEY_BYTE_COST * (1 + len(part) // 2)


@define
class Leaf:
    part: bytes
    value: ValueRef

    def total(self) -> int:
        return key_cost(self.part) + value_cost(self.value[0])

    def encode(self) -> bytes:
        key = pack(self.part, True)
        length, digest = self.value
        return b"\x00%b%b%b%b%b" % (
            len(key).to_bytes(4, "little"),
            key,
            length.to_bytes(4, "little"),
            digest,
            self.total().to_bytes(8, "little"),
        )


@define
class Extension:
    """``below`` is the memory usage of the child."""

    part: bytes
    child: bytes
    below: int

    def total(self) -> int:
        return key_cost(self.part) + self.below

    def encode(self) -> bytes:
        key = pack(self.part, False)
        return b"\x03%b%b%b%b" % (
            len(key).to_bytes(4, "little"),
            key,
            self.child,
            self.total().to_bytes(8, "little"),
        )


@define
class Branch:
    """``children`` by nibble; ``below`` is the memory usage of all of them."""

    value: ValueRef | None
    children: dict[int, bytes]
    below: int

    def total(self) -> int:
        return NODE_COST + self.below + (value_cost(self.value[0]) if self.value is not None else 0)

    def encode(self) -> bytes:
        mask = sum(1 << nibble for nibble in self.children)
        hashes = b"".join([self.children[nibble] for nibble in sorted(self.children)])
        body = mask.to_bytes(2, "little") + hashes + self.total().to_bytes(8, "little")
        if self.value is None:
            return b"\x01" + body
        return b"\x02%b%b%b" % (self.value[0].to_bytes(4, "little"), self.value[1], body)


Node = Leaf | Extension | Branch


def node_total(raw: bytes) -> int:
    return int.from_bytes(raw[-8:], "little")


def decode_node(raw: bytes) -> Node:
    """Raises Malformed: a memory usage that a leaf contradicts included."""
    kind = raw[0] if raw else 255
    size = len(raw)
    total = node_total(raw)
    if kind in (BRANCH, BRANCH_WITH_VALUE):
        at, value = 1, None
        if kind == BRANCH_WITH_VALUE:
            value = (int.from_bytes(raw[1:5], "little"), raw[5:37])
            at = 37
        mask = int.from_bytes(raw[at : at + 2], "little")
        at += 2
        if size != at + 32 * mask.bit_count() + 8:
            raise Malformed("a branch has not the size that its mask asks for")
        children = {}
        for nibble in range(16):
            if mask >> nibble & 1:
                children[nibble] = raw[at : at + 32]
                at += 32
        own = NODE_COST + (value_cost(value[0]) if value is not None else 0)
        return Branch(value, children, total - own)
    if kind not in (LEAF, EXTENSION) or size < 45:
        raise Malformed("these bytes are no node of a trie")
    length = int.from_bytes(raw[1:5], "little")
    rest = 44 if kind == LEAF else 40
    if size != 5 + length + rest:
        raise Malformed("a node has not the size that its key asks for")
    part, ends = unpack(raw[5 : 5 + length])
    at = 5 + length
    if ends is not (kind == LEAF):
        raise Malformed("a key of the trie ends where it must not, or the reverse")
    if kind == LEAF:
        leaf = Leaf(part, (int.from_bytes(raw[at : at + 4], "little"), raw[at + 4 : at + 36]))
        if leaf.total() != total:
            raise Malformed("a leaf lies about its memory usage")
        return leaf
    return Extension(part, raw[at : at + 32], total - key_cost(part))
