"""Subtrees in Teranode's byte formats, and how a block's Merkle root is composed from them. Pure.

A subtree is a column of transaction ids with a column of fees and one of sizes. Its identity is the Merkle root over its
leaves. Leaf 0 of a block's first subtree is the placeholder ``FF``×32 (fee 0, size 0), which the coinbase replaces
when the block's root is taken. Every subtree of a block but the last has the first's length, a power of two.

Layouts (integers little-endian):
- subtree: root32 ‖ fees8 ‖ size8 ‖ n8 ‖ n×(txid32, fee8, size8) ‖ c8 ‖ c×conflicting txid32
- ids: n×txid32 (what peers exchange, and what a ``.subtree`` file of ids holds)
- meta: root32 ‖ n4 ‖ n×inpoints; inpoints = p4 ‖ p×parent32 ‖ p×(k4, k×vout4)
- data: the raw transactions in leaf order, placeholder left out
In a file each is preceded by its 8-byte space-padded magic.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence

from attrs import field, frozen

from nodewright import kernels
from nodewright_nakamoto import merkle
from nodewright_nakamoto.compact import MalformedError

PLACEHOLDER = b"\xff" * 32
MAX_LEAVES = 1 << 20
RECORD = struct.Struct("<32sQQ")
PREFIX = struct.Struct("<32sQQQ")
MAX_SUBTREE_BYTES = PREFIX.size + RECORD.size * MAX_LEAVES + 8 + 32 * MAX_LEAVES

MAGIC_SUBTREE = b"S-1.0   "
MAGIC_META = b"SM-1.0  "
MAGIC_DATA = b"SD-1.0  "
MAGIC_BLOCK = b"B-1.0   "


@frozen
class Subtree:
    """``leaves`` is 32·n bytes including a placeholder; ``fees`` and ``sizes`` have n entries each."""

    root: bytes
    leaves: bytes = field(repr=False)
    fees: Sequence[int] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)
    conflicting: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.leaves) // 32

    @property
    def has_placeholder(self) -> bool:
        return self.leaves[:32] == PLACEHOLDER

    @property
    def ids(self) -> bytes:
        """The transaction ids without a placeholder."""
        return self.leaves[32:] if self.has_placeholder else self.leaves

    @property
    def count(self) -> int:
        return len(self) - self.has_placeholder

    def body_sizes(self) -> Sequence[int]:
        """Sizes of the transactions of ``ids``, in that order."""
        return self.sizes[1:] if self.has_placeholder else self.sizes


def split_ids(ids: bytes) -> list[bytes]:
    return [ids[i : i + 32] for i in range(0, len(ids), 32)]


def build(leaves: bytes, fees: Iterable[int], sizes: Iterable[int], conflicting: Sequence[bytes] = ()) -> Subtree:
    """A subtree of these columns. O(n) hashing: offload large ones."""
    return Subtree(merkle.root(leaves), leaves, array("Q", fees), array("Q", sizes), tuple(conflicting))


def check_leaves(leaves: bytes, expected: bytes) -> str | None:
    """What is wrong with leaves that claim the root ``expected``: a sentence, or None. O(n)."""
    if not leaves or len(leaves) % 32:
        return "the subtree's length is not a positive multiple of 32 bytes"
    ids = split_ids(leaves)
    if len(ids) > MAX_LEAVES:
        return f"the subtree has {len(ids)} leaves, more than {MAX_LEAVES}"
    if merkle.root(leaves) != expected:
        return "the subtree's Merkle root is not its identifier"
    if len(set(ids)) != len(ids):
        return "the subtree holds a transaction twice"
    if PLACEHOLDER in ids[1:]:
        return "the coinbase placeholder stands elsewhere than in leaf 0"
    if ids == [PLACEHOLDER]:
        return "the subtree holds nothing but the placeholder"
    return None


def encode(subtree: Subtree) -> bytes:
    count = len(subtree.leaves) // 32
    numbers = [array("Q", column) for column in (subtree.fees, subtree.sizes)]
    if sys.byteorder == "big":
        for column in numbers:
            column.byteswap()
    return b"".join(
        (
            PREFIX.pack(subtree.root, sum(subtree.fees), sum(subtree.sizes), count),
            records_of(subtree.leaves, *numbers),
            len(subtree.conflicting).to_bytes(8, "little"),
            *subtree.conflicting,
        )
    )


def records_of(leaves: bytes, fees: array[int], sizes: array[int]) -> bytes:
    """Records of six words each, four of them the id; ``fees`` and ``sizes`` are words as they are to stand there."""
    count = len(leaves) // 32
    if kernels.ready() and count:
        import numpy as np

        table = np.empty((count, 6), np.uint64)
        table[:, :4] = np.frombuffer(leaves, np.uint64).reshape(count, 4)
        table[:, 4], table[:, 5] = np.frombuffer(fees, np.uint64), np.frombuffer(sizes, np.uint64)
        return table.tobytes()
    ids, words = array("Q", leaves), array("Q", bytes(RECORD.size * count))
    for at in range(4):
        words[at::6] = ids[at::4]
    words[4::6], words[5::6] = fees, sizes
    return words.tobytes()


def decode(data: bytes) -> Subtree:
    """Parses the full form. The root is taken as stated: compare it with ``check_leaves`` where it is not one's own."""
    if len(data) < PREFIX.size + 8:
        raise MalformedError("a subtree is cut off before its leaves")
    root, fees, size, count = PREFIX.unpack_from(data)
    end = PREFIX.size + RECORD.size * count
    if not 0 < count <= MAX_LEAVES or end + 8 > len(data):
        raise MalformedError(f"a subtree states {count} leaves and has {len(data)} bytes")
    records = list(RECORD.iter_unpack(data[PREFIX.size : end]))
    fee_column = array("Q", [record[1] for record in records])
    size_column = array("Q", [record[2] for record in records])
    if sum(fee_column) != fees or sum(size_column) != size:
        raise MalformedError("a subtree's stated fees or size is not the sum over its leaves")
    conflicts = int.from_bytes(data[end : end + 8], "little")
    if conflicts > count or len(data) != end + 8 + 32 * conflicts:
        raise MalformedError("a subtree's list of conflicting transactions does not fill its bytes")
    leaves = b"".join([record[0] for record in records])
    return Subtree(root, leaves, fee_column, size_column, tuple(split_ids(data[end + 8 :])))


def decode_leaves(data: bytes) -> bytes:
    """The leaf column of the full form (for peers that ask for ids only)."""
    count = int.from_bytes(data[48:56], "little")
    if kernels.ready() and 0 < count <= (len(data) - PREFIX.size) // RECORD.size:
        import numpy as np

        table = np.frombuffer(data, np.uint64, 6 * count, PREFIX.size).reshape(count, 6)
        return table[:, :4].tobytes()
    words = array("Q", data[PREFIX.size : PREFIX.size + RECORD.size * count])  # six to a record, four of them the id
    leaves = array("Q", bytes(32 * count))
    for at in range(4):
        leaves[at::4] = words[at::6]
    return leaves.tobytes()


def encode_meta(root: bytes, inpoints: Sequence[Sequence[tuple[bytes, Sequence[int]]]]) -> bytes:
    """Per leaf its inpoints: (parent txid, output indices) with parents deduplicated."""
    parts = [root, len(inpoints).to_bytes(4, "little")]
    for leaf in inpoints:
        parts.append(len(leaf).to_bytes(4, "little"))
        parts.extend(parent for parent, _ in leaf)
        for _, outputs in leaf:
            parts.append(struct.pack(f"<I{len(outputs)}I", len(outputs), *outputs))
    return b"".join(parts)


def decode_meta(data: bytes, max_outputs: int = 1 << 24) -> tuple[bytes, list[list[tuple[bytes, tuple[int, ...]]]]]:
    """(root, inpoints per leaf). Raises MalformedError."""

    def u32(at: int, limit: int) -> int:
        if at + 4 > len(data):
            raise MalformedError("a subtree meta is cut off")
        value = int.from_bytes(data[at : at + 4], "little")
        if value > limit:
            raise MalformedError(f"a subtree meta states {value} of something, over the limit of {limit}")
        return value

    leaves = u32(32, MAX_LEAVES)
    at, result = 36, []
    for _ in range(leaves):
        count = u32(at, (len(data) - at) // 32)
        parents = split_ids(data[at + 4 : at + 4 + 32 * count])
        at += 4 + 32 * count
        leaf = []
        for parent in parents:
            outputs = u32(at, min(max_outputs, (len(data) - at) // 4))
            if at + 4 + 4 * outputs > len(data):
                raise MalformedError("a subtree meta is cut off")
            leaf.append((parent, struct.unpack_from(f"<{outputs}I", data, at + 4)))
            at += 4 + 4 * outputs
        result.append(leaf)
    if at != len(data):
        raise MalformedError("bytes follow a subtree meta")
    return bytes(data[:32]), result


def split_data(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The bodies of a subtree data by their known sizes."""
    if sum(sizes) != len(data):
        raise MalformedError(f"a subtree data has {len(data)} bytes where its transactions have {sum(sizes)}")
    bodies, at = [], 0
    for size in sizes:
        bodies.append(data[at : at + size])
        at += size
    return bodies


def parse_data(data: bytes, extent: Callable[[bytes, int], int]) -> list[bytes]:
    """The bodies where sizes are not known; ``extent(data, offset)`` gives the end of the transaction at ``offset``."""
    bodies, at = [], 0
    while at < len(data):
        end = extent(data, at)
        if not at < end <= len(data):
            raise MalformedError("a subtree data ends inside a transaction")
        bodies.append(data[at:end])
        at = end
    return bodies


# --- a block's tree --------------------------------------------------------------------------------------------------


@frozen
class FirstSubtree:
    """What of the first subtree is needed to place a coinbase: the siblings of leaf 0, O(log n)."""

    siblings: tuple[bytes, ...]

    @classmethod
    def of(cls, leaves: bytes) -> FirstSubtree:
        if leaves[:32] != PLACEHOLDER:
            raise MalformedError("the first subtree of a block has no coinbase placeholder in leaf 0")
        return cls(tuple(merkle.branch(leaves, 0)))

    def root(self, prologue_id: bytes) -> bytes:
        return merkle.climb(prologue_id, 0, self.siblings)


def check_shape(counts: Sequence[int]) -> str | None:
    """What is wrong with the leaf counts of a block's subtrees, in order: a sentence, or None."""
    if not counts:
        return None
    first = counts[0]
    if len(counts) > 1 and (first & (first - 1) or any(count != first for count in counts[:-1])):
        return "every subtree of a block but the last must have the same power-of-two length"
    if counts[-1] > first:
        return "the last subtree of a block is longer than the first"
    return None


def block_leaves(first: bytes, roots: Sequence[bytes], counts: Sequence[int]) -> bytes:
    """The leaves of a block's top tree: ``first`` (its root with the coinbase in place), the other roots, the last one
    lifted to the common depth."""
    nodes = [first, *roots[1:]]
    if len(nodes) > 1:
        nodes[-1] = merkle.lift(nodes[-1], merkle.depth(counts[0]) - merkle.depth(counts[-1]))
    return b"".join(nodes)


def block_root(prologue_id: bytes, first: FirstSubtree | None, roots: Sequence[bytes], counts: Sequence[int]) -> bytes:
    """The Merkle root of a block: the coinbase alone, or composed from its subtrees."""
    if first is None:
        return prologue_id
    return merkle.root(block_leaves(first.root(prologue_id), roots, counts))


def coinbase_branch(first: FirstSubtree | None, roots: Sequence[bytes], counts: Sequence[int]) -> list[bytes]:
    """The Merkle branch of the coinbase: siblings of leaf 0, lowest first; does not depend on the coinbase."""
    if first is None:
        return []
    return [*first.siblings, *merkle.branch(block_leaves(bytes(32), roots, counts), 0)]


def transaction_branch(
    subtree: Subtree,
    position: int,
    leaf: int,
    prologue_id: bytes,
    first: FirstSubtree,
    roots: Sequence[bytes],
    counts: Sequence[int],
) -> tuple[list[bytes], int]:
    """(siblings lowest first, index in the flat tree) of leaf ``leaf`` of the block's subtree number ``position``."""
    leaves = subtree.leaves if position else prologue_id + subtree.leaves[32:]
    siblings = merkle.branch(leaves, leaf)
    if len(roots) > 1:
        node, low = merkle.root(leaves), merkle.depth(len(subtree))
        for _ in range(merkle.depth(counts[0]) - low):
            siblings.append(node)
            node = merkle.lift(node, 1)
        siblings.extend(merkle.branch(block_leaves(first.root(prologue_id), roots, counts), position))
    return siblings, position * counts[0] + leaf
