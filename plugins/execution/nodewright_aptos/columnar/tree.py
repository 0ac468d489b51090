"""A Jellyfish Merkle tree held in arrays: what gives the root of a large state after each block without touching a store.

The same tree as the node's versioned one (``jmt``): a leaf is H_SparseMerkleLeafNode(key hash ‖ value hash), a node
H_SparseMerkleInternal(left ‖ right), a subtree of one leaf that leaf, an empty one the placeholder. It keeps the newest
version only and gives no proofs: it is an index of a state, which can be built anew from that state's keys and values.

Sixteen shards by the first nibble of the key hash share nothing: each ``Shard.update`` releases the GIL and may run in a
thread of its own (``update`` of one shard is one job). Their sixteen tops are put together by ``root``.

Invariants
- Between calls every slot of every shard holds the hash of what stands in it, and nothing is marked dirty.
- A root depends on the set of (key hash, value hash) alone, not on the order in which leaves came or went.
- No two leaves have one key; the tree in which somebody tried (ValueError) is not used again.
- A leaf keeps its code until it is removed, whatever is inserted or built anew around it.

Not here: values, state keys, versions. Needs the compiled kernels (``nodewright.kernels.switch``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from nodewright_aptos import hashing
from nodewright_aptos.columnar import aligned
from nodewright_aptos.columnar import treekernels as kernels

SHARDS: Final = 16
CODE_BITS: Final = 27  # of a leaf's code, below the four of its shard
MAX_LEAVES: Final = 1 << CODE_BITS  # of one shard

_LEAF: Final = np.frombuffer(hashing.TREE_LEAF, np.uint8)
_INTERNAL: Final = np.frombuffer(hashing.TREE_INTERNAL, np.uint8)
_EMPTY: Final = np.frombuffer(bytearray(hashing.EMPTY_TREE), np.uint8)
_LEAST: Final = 64

Array = Any


def shard_of(keys: Array) -> Array:
    """(n, 32) u8 -> the shard of each key."""
    return keys[:, 0] >> 4


class Shard:
    """The leaves under one first nibble; see ``treekernels`` for the arrays."""

    def __init__(self) -> None:
        self.leaves = 0  # used rows of payload, removed ones among them
        self.alive = 0
        self.nodes = 0
        self.built = 0
        self.payload = np.zeros((0, 8), np.uint64)
        self.leaf_slot = np.zeros(0, np.int32)
        self.gone = np.zeros(0, np.bool_)
        self._free: list[int] = []
        self._top = np.frombuffer(bytearray(hashing.EMPTY_TREE), np.uint64).reshape(1, 4)
        self._make_room(0)
        self.runs = np.zeros((0, 2), np.int64)

    def _make_room(self, nodes: int) -> None:
        """Empty arrays for so many nodes."""
        self.hashes = aligned.empty((2 * nodes, 4), np.uint64)
        self.child = np.empty(2 * nodes, np.int32)
        self.node_slot = np.empty(nodes, np.int32)
        self.depth = np.empty(nodes, np.uint8)
        self.dirty = np.zeros(nodes, np.uint8)

    def top(self) -> tuple[bytes, int]:
        """The hash of the subtree, and how many leaves it has."""
        return self._top.tobytes() if self.alive else hashing.EMPTY_TREE, self.alive

    def find(self, key: bytes) -> int:
        """The leaf of a key hash, -1 where there is none."""
        words = np.frombuffer(bytearray(key), np.uint64)
        if self.nodes:
            return int(kernels.find(self.payload, self.child, words, self.nodes))
        for leaf in range(self.leaves):
            if not self.gone[leaf] and self.payload[leaf, :4].tobytes() == key:
                return leaf
        return -1

    def update(self, leaves: Array) -> int:
        """The value hashes of these leaves (i32, repetitions allowed) were changed in ``payload``: hash all that depends on
        them. Returns how many hashes that took."""
        if not len(leaves):
            return 0
        if len(leaves) > self.leaves // 64:
            # Leaves lie in the order of their keys (but for those that came later), and so do the slots above them.
            ordered = np.empty(len(leaves), np.int32)
            leaves = ordered[: kernels.in_order(leaves, np.zeros(self.leaves, np.uint8), ordered)]
        kernels.hash_leaves(_LEAF, self.payload, leaves, self.leaf_slot, self.hashes, self._top)
        return len(leaves) + self._rehash(leaves)

    def _rehash(self, leaves: Array) -> int:
        if not self.nodes:
            return 0
        later = np.empty(self.nodes - self.built, np.int32)
        count = kernels.mark(leaves, self.leaf_slot, self.node_slot, self.dirty, later, self.built)
        hashed = kernels.rehash(
            _INTERNAL, self.hashes, self.node_slot, self.dirty, self.depth, self.runs, later[:count], self._top
        )
        return int(hashed)

    def add(self, payload: Array) -> Array:
        """New leaves, key hash ‖ value hash each ((n, 8) u64), of keys that are not here yet and differ. Returns theirs."""
        count = len(payload)
        if not self.leaves:
            order = _by_key(payload[:, :4])
            rows = np.empty(count, np.int32)
            rows[order] = self._add(payload[order])
            return rows
        return self._add(payload)

    def _add(self, payload: Array) -> Array:
        count = len(payload)
        rows = np.empty(count, np.int32)
        reused = min(count, len(self._free))
        for at in range(reused):
            rows[at] = self._free.pop()
        fresh = count - reused
        if self.leaves + fresh > MAX_LEAVES:
            raise OverflowError(f"a shard of the tree has at most {MAX_LEAVES} leaves")
        rows[reused:] = np.arange(self.leaves, self.leaves + fresh, dtype=np.int32)
        self._grow_leaves(self.leaves + fresh)
        self.leaves += fresh
        self.payload[rows] = payload
        self.gone[rows] = False
        few = self.nodes and count <= max(self.alive // 8, 16)
        self.alive += count
        if not few or not self._insert(rows) or self.nodes - self.built > max(self.built // 2, 1024):
            self.build()
        return rows

    def _insert(self, rows: Array) -> bool:
        """Below the existing nodes, hashed; False where it must be built anew instead."""
        for leaf in rows:
            while True:
                nodes = kernels.insert(
                    self.payload,
                    self.leaf_slot,
                    self.hashes,
                    self.child,
                    self.node_slot,
                    self.depth,
                    int(leaf),
                    self.nodes,
                    _EMPTY,
                )
                if nodes >= 0:
                    break
                if nodes == -2:
                    raise ValueError("two leaves of a tree have the same key")
                self._grow_nodes()
            self.nodes = int(nodes)
        self.update(rows)
        return True

    def remove(self, leaves: Array) -> None:
        """Builds the shard anew: rare, as no account is ever deleted."""
        for leaf in set(leaves.tolist()):
            self.gone[leaf] = True
            self._free.append(leaf)
            self.alive -= 1
        self.build()

    def _grow_leaves(self, wanted: int) -> None:
        have = len(self.payload)
        if wanted <= have:
            return
        size = max(wanted, min(have + have // 2, have + (1 << 20)), _LEAST) if have else max(wanted, _LEAST)
        for name in ("payload", "leaf_slot", "gone"):
            old = getattr(self, name)
            grown = aligned.zeros((size, *old.shape[1:]), old.dtype)
            grown[:have] = old
            setattr(self, name, grown)

    def _grow_nodes(self) -> None:
        have = len(self.node_slot)
        room = max(have // 4, 2 * kernels.MAX_DEPTH)
        for name, factor in (("hashes", 2), ("child", 2), ("node_slot", 1), ("depth", 1), ("dirty", 1)):
            old = getattr(self, name)
            grown = aligned.zeros((len(old) + factor * room, *old.shape[1:]), old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)

    def build(self) -> None:
        """All nodes from the leaves."""
        rows = np.flatnonzero(~self.gone[: self.leaves]).astype(np.int32)
        self.nodes = self.built = 0
        self.runs = np.zeros((0, 2), np.int64)
        if len(rows) < 2:
            self._make_room(0)
            self.leaf_slot[rows] = kernels.NOWHERE
            self.update(rows)
            return
        order = rows[_by_key(self.payload[rows, :4])]
        # Each leaf's hash, before it is known where it goes.
        leaf_hashes = np.empty((self.leaves, 4), np.uint64)
        kernels.hash_leaves(_LEAF, self.payload, rows, np.arange(self.leaves, dtype=np.int32), leaf_hashes, self._top)
        room = int(1.6 * len(rows)) + 2 * kernels.MAX_DEPTH
        while True:
            self._make_room(room)
            runs = np.empty((room // 16 + 2 * kernels.MAX_DEPTH, 2), np.int64)
            nodes, count = kernels.build(
                self.payload,
                order,
                self.leaf_slot,
                self.hashes,
                self.child,
                self.node_slot,
                self.depth,
                runs,
                np.empty(2 * room, np.int64),
                leaf_hashes,
                _EMPTY.view(np.uint64).reshape(1, 4),
                kernels.CHUNK,
            )
            if nodes >= 0:
                break
            if nodes == -2:
                raise ValueError("two leaves of a tree have the same key")
            room *= 2
        self.nodes = self.built = int(nodes)
        self.runs = runs[:count].copy()
        self._rehash(rows)


def _by_key(keys: Array) -> Array:
    """The order of (n, 4) u64 as the 32 bytes that they are."""
    words = keys.byteswap()
    order = np.argsort(words[:, 0], kind="stable")
    first = words[order, 0]
    if np.any(first[1:] == first[:-1]):  # keys that share 8 bytes: made so, never by chance
        order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return order


class ColumnarTree:
    """Sixteen shards. A leaf's code is its shard and its place there: (shard << 27) | leaf, an int32."""

    def __init__(self) -> None:
        self.shards = [Shard() for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum(shard.alive for shard in self.shards)

    def add(self, keys: Array, value_hashes: Array) -> Array:
        """(n, 32) u8 each; keys that are not here yet and differ. Returns the codes of the new leaves, i32."""
        codes = np.empty(len(keys), np.int32)
        payload = np.concatenate((keys, value_hashes), axis=1).view(np.uint64)
        where = shard_of(keys)
        for number in range(SHARDS):
            chosen = np.flatnonzero(where == number)
            if len(chosen):
                codes[chosen] = self.shards[number].add(payload[chosen]) | (number << CODE_BITS)
        return codes

    def find(self, key: bytes) -> int:
        """The code of a key hash, -1 where there is none."""
        shard = key[0] >> 4
        leaf = self.shards[shard].find(key)
        return -1 if leaf < 0 else leaf | shard << CODE_BITS

    def update(self, codes: Array, value_hashes: Array) -> int:
        """New value hashes ((n, 32) u8) of leaves; of a leaf that occurs twice the last one. Returns how many hashes."""
        total = 0
        values = value_hashes.view(np.uint64)
        shards, leaves = codes >> CODE_BITS, codes & (MAX_LEAVES - 1)
        for number in range(SHARDS):
            chosen = np.flatnonzero(shards == number)
            if len(chosen):
                shard = self.shards[number]
                own = np.ascontiguousarray(leaves[chosen])
                for at, leaf in zip(chosen, own, strict=True) if len(set(own.tolist())) < len(own) else ():
                    shard.payload[leaf, 4:] = values[at]
                else:
                    shard.payload[own, 4:] = values[chosen]
                total += shard.update(own)
        return total

    def remove(self, codes: Array) -> None:
        shards, leaves = codes >> CODE_BITS, codes & (MAX_LEAVES - 1)
        for number in range(SHARDS):
            if np.any(shards == number):
                self.shards[number].remove(leaves[shards == number])

    def root(self) -> bytes:
        level = [shard.top() for shard in self.shards]
        while len(level) > 1:
            level = [_join(level[at], level[at + 1]) for at in range(0, len(level), 2)]
        return level[0][0]


def _join(left: tuple[bytes, int], right: tuple[bytes, int]) -> tuple[bytes, int]:
    """Two subtrees of one depth, as (hash, leaves)."""
    leaves = left[1] + right[1]
    if leaves <= 1:
        return (left if left[1] else right)[0], leaves
    return hashing.digest(hashing.TREE_INTERNAL, left[0] + right[0]), leaves
