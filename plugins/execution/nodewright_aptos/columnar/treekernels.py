"""The compiled half of the columnar tree (``tree``): build, insert, mark and rehash one shard of it.

A shard is the subtree of one first nibble. Its arrays (all C-contiguous):

- ``payload`` (leaves, 8) u64: key hash ‖ value hash of a leaf, as the 64 bytes that its own hash is over.
- ``leaf_slot`` (leaves,) i32: the slot that holds the leaf's hash, NOWHERE for the only leaf of a shard.
- ``hashes`` (2 · nodes, 4) u64: slot 2·n is the hash of node n's left child and 2·n + 1 of its right one, so that the 64
  bytes a node is hashed from lie in one cache line, and hashing touches no other node but to write the result.
- ``child`` (2 · nodes,) i32: what stands in a slot: EMPTY, a node's number, or leaf l as -2 - l.
- ``node_slot`` (nodes,) i32: the slot that holds the node's own hash, NOWHERE for the shard's top (number 0).
- ``depth`` (nodes,) u8: bits above the node. Nodes are numbered level by level, so that a level is a range and rehashing
  goes through memory in one direction; those inserted later come after (``built``) until the shard is built anew.
- ``dirty`` (nodes,) u8: to be hashed again; all 0 between calls.

Import through ``nodewright.kernels.warm_up`` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.sha3 import LANES, hash_pairs
from nodewright.kernels.compiled.tools import njit, types

EMPTY = -1
NOWHERE = -1
SHARD_BITS = 4
MAX_DEPTH = 256

KEYS = types.uint64[:, ::1]
INTS = types.int32[::1]
LONGS = types.int64[::1]
BYTES = types.uint8[::1]
PREFIX = types.Array(types.uint8, 1, "C", readonly=True)


@njit(types.int64(KEYS, types.int64, types.int64), nogil=True, cache=True)
def _bit(payload: Any, leaf: Any, depth: Any) -> Any:
    """Bit ``depth`` of a leaf's key, the highest of the first byte being 0."""
    word = payload[leaf, depth >> 6]
    return np.int64((word >> np.uint64((depth & 56) + 7 - (depth & 7))) & np.uint64(1))


@njit(types.int64(KEYS, INTS, INTS, KEYS, INTS, INTS, BYTES, LONGS, LONGS, KEYS, types.uint8[::1]), nogil=True, cache=True)
def build(
    payload: Any,
    order: Any,
    leaf_slot: Any,
    hashes: Any,
    child: Any,
    node_slot: Any,
    depth: Any,
    levels: Any,
    ranges: Any,
    leaf_hashes: Any,
    empty: Any,
) -> Any:
    """The nodes over the leaves ``order`` (sorted by key, two or more). How many; -1: the arrays have no room; -2: two keys
    are the same.

    ``ranges``: scratch of two int64 per node (which leaves are under it). ``levels`` (MAX_DEPTH + 1,): where the nodes of
    each depth begin. ``leaf_hashes`` (leaves, 4): of every leaf of ``order``. ``empty``: the 32 bytes of an empty subtree.
    Inner slots are not hashed yet."""
    capacity = node_slot.shape[0]
    blank = empty.view(np.uint64)
    if capacity < 1:
        return -1
    node_slot[0] = NOWHERE
    ranges[0], ranges[1] = 0, order.shape[0]
    first, last = 0, 1  # the nodes of this level
    level = SHARD_BITS
    for d in range(level + 1):
        levels[d] = 0
    while first < last:
        if level == MAX_DEPTH:
            return -2
        after = last
        for node in range(first, last):
            low, high = ranges[2 * node], ranges[2 * node + 1]
            depth[node] = level
            a, b = low, high  # the first leaf whose bit is set
            while a < b:
                middle = (a + b) >> 1
                if _bit(payload, order[middle], level):
                    b = middle
                else:
                    a = middle + 1
            for side in range(2):
                begin = low if side == 0 else a
                end = a if side == 0 else high
                slot = 2 * node + side
                if begin == end:
                    child[slot] = EMPTY
                    hashes[slot] = blank
                elif end - begin == 1:
                    leaf = order[begin]
                    child[slot] = -2 - leaf
                    leaf_slot[leaf] = slot
                    hashes[slot] = leaf_hashes[leaf]
                else:
                    if after >= capacity:
                        return -1
                    child[slot] = after
                    node_slot[after] = slot
                    ranges[2 * after], ranges[2 * after + 1] = begin, end
                    after += 1
        first, last = last, after
        level += 1
        levels[level] = first
    for d in range(level + 1, MAX_DEPTH + 1):
        levels[d] = last
    return last


@njit(types.int64(KEYS, INTS, types.uint64[::1], types.int64), nogil=True, cache=True)
def find(payload: Any, child: Any, key: Any, nodes: Any) -> Any:
    """The leaf with this key (4 words), in a shard that has nodes; -1 where there is none."""
    node = np.int64(0)
    depth = SHARD_BITS
    while nodes:
        bit = np.int64((key[depth >> 6] >> np.uint64((depth & 56) + 7 - (depth & 7))) & np.uint64(1))
        below = child[2 * node + bit]
        if below == EMPTY:
            return -1
        if below < EMPTY:
            leaf = -2 - below
            for i in range(4):
                if payload[leaf, i] != key[i]:
                    return -1
            return leaf
        node = np.int64(below)
        depth += 1
    return -1


@njit(types.int64(KEYS, INTS, KEYS, INTS, INTS, BYTES, types.int64, types.int64, BYTES), nogil=True, cache=True)
def insert(
    payload: Any,
    leaf_slot: Any,
    hashes: Any,
    child: Any,
    node_slot: Any,
    depth: Any,
    leaf: Any,
    nodes: Any,
    empty: Any,
) -> Any:
    """Give ``leaf``, whose key no other leaf has, its place below the existing nodes (at least one). Returns the number of
    nodes after it; -1 where there is no room for them, -2 where another leaf has its key; then nothing has changed."""
    node = np.int64(0)
    level = np.int64(SHARD_BITS)
    blank = empty.view(np.uint64)
    while True:
        slot = 2 * node + _bit(payload, leaf, level)
        below = np.int64(child[slot])
        if below <= EMPTY:
            break
        node = below
        level += 1
    if below == EMPTY:
        child[slot] = -2 - leaf
        leaf_slot[leaf] = slot
        return nodes
    other = -2 - below
    fork = level + 1
    while _bit(payload, leaf, fork) == _bit(payload, other, fork):
        fork += 1
        if fork == MAX_DEPTH:
            return -2
    if nodes + fork - level > node_slot.shape[0]:
        return -1
    old = np.int64(slot)
    spare = hashes[old].copy()
    for at in range(level + 1, fork + 1):
        child[slot] = nodes
        node_slot[nodes] = slot
        depth[nodes] = at
        side = _bit(payload, leaf, at)
        slot = 2 * nodes + side
        child[2 * nodes + 1 - side] = EMPTY
        hashes[2 * nodes + 1 - side] = blank
        nodes += 1
    child[slot] = -2 - leaf
    leaf_slot[leaf] = slot
    child[slot ^ 1] = below
    leaf_slot[other] = slot ^ 1
    hashes[slot ^ 1] = spare
    return nodes


@njit(types.int64(INTS, BYTES, INTS), nogil=True, cache=True)
def in_order(leaves: Any, seen: Any, out: Any) -> Any:
    """The leaves each once and ascending into ``out``; how many. ``seen``: zeroes, one for each leaf there is."""
    for at in range(leaves.shape[0]):
        seen[leaves[at]] = 1
    count = np.int64(0)
    for leaf in range(seen.shape[0]):
        if seen[leaf]:
            out[count] = leaf
            count += 1
    return count


@njit(types.void(PREFIX, KEYS, INTS, INTS, KEYS, KEYS), nogil=True, cache=True)
def hash_leaves(prefix: Any, payload: Any, leaves: Any, leaf_slot: Any, hashes: Any, alone: Any) -> None:
    """The hash of each of ``leaves`` into its slot (``alone`` for a leaf that has none)."""
    sources, targets = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    sources_at, targets_at = np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data)
    prefix_at, payload_at = np.uintp(prefix.ctypes.data), np.uintp(payload.ctypes.data)
    hashes_at, alone_at = np.uintp(hashes.ctypes.data), np.uintp(alone.ctypes.data)
    count = leaves.shape[0]
    for first in range(0, count, LANES):
        for lane in range(LANES):
            leaf = leaves[min(first + lane, count - 1)]
            slot = leaf_slot[leaf]
            sources[lane] = payload_at + np.uintp(64 * np.int64(leaf))
            targets[lane] = alone_at if slot == NOWHERE else hashes_at + np.uintp(32 * np.int64(slot))
        hash_pairs(prefix_at, sources_at, targets_at)


@njit(types.int64(INTS, INTS, INTS, BYTES, INTS, types.int64), nogil=True, cache=True)
def mark(leaves: Any, leaf_slot: Any, node_slot: Any, dirty: Any, later: Any, built: Any) -> Any:
    """Mark every node above these leaves. Those numbered from ``built`` on go into ``later`` too; returns how many."""
    count = np.int64(0)
    for at in range(leaves.shape[0]):
        slot = leaf_slot[leaves[at]]
        while slot != NOWHERE:
            node = slot >> 1
            if dirty[node]:
                break
            dirty[node] = 1
            if node >= built:
                later[count] = node
                count += 1
            slot = node_slot[node]
    return count


@njit(types.int64(PREFIX, KEYS, INTS, BYTES, BYTES, LONGS, INTS, KEYS), nogil=True, cache=True)
def rehash(prefix: Any, hashes: Any, node_slot: Any, dirty: Any, depth: Any, levels: Any, later: Any, top: Any) -> Any:
    """Hash all dirty nodes, the deepest first; that of node 0 goes to ``top``. ``later`` holds the dirty ones that were
    inserted. Returns how many were hashed."""
    sources, targets = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    sources_at, targets_at = np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data)
    prefix_at = np.uintp(prefix.ctypes.data)
    hashes_at, top_at = np.uintp(hashes.ctypes.data), np.uintp(top.ctypes.data)
    depths = np.empty(later.shape[0], np.uint8)
    for at in range(later.shape[0]):
        depths[at] = depth[later[at]]
    order = np.argsort(depths, kind="mergesort")
    rest = later.shape[0]
    total = np.int64(0)
    for level in range(MAX_DEPTH - 1, SHARD_BITS - 1, -1):
        node, end = levels[level], levels[level + 1]
        if node == end and (rest == 0 or depths[order[rest - 1]] < level):
            continue
        waiting = 0
        while True:
            found = np.int64(-1)
            while node < end:
                if dirty[node]:
                    found = node
                    node += 1
                    break
                node += 1
            if found < 0 and rest > 0 and depths[order[rest - 1]] == level:
                rest -= 1
                found = np.int64(later[order[rest]])
            if found >= 0:
                dirty[found] = 0
                slot = np.int64(node_slot[found])
                sources[waiting] = hashes_at + np.uintp(64 * found)
                targets[waiting] = top_at if slot == NOWHERE else hashes_at + np.uintp(32 * slot)
                waiting += 1
                total += 1
            if waiting == LANES or (found < 0 and waiting):
                for lane in range(waiting, LANES):
                    sources[lane], targets[lane] = sources[0], targets[0]
                hash_pairs(prefix_at, sources_at, targets_at)
                waiting = 0
            if found < 0:
                break
    return total
