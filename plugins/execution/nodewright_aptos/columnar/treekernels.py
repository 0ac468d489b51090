"""The compiled half of the columnar tree (``tree``): build, insert, mark and rehash one shard of it.

A shard is the subtree of one first nibble. Its arrays (all C-contiguous):

- ``payload`` (leaves, 8) u64: key hash ‖ value hash of a leaf, as the 64 bytes that its own hash is over.
- ``leaf_slot`` (leaves,) i32: the slot that holds the leaf's hash, NOWHERE for the only leaf of a shard.
- ``hashes`` (2 · nodes, 4) u64: slot 2·n is the hash of node n's left child and 2·n + 1 of its right one, so that the 64
  bytes a node is hashed from lie in one cache line, and hashing touches no other node but to write the result.
- ``child`` (2 · nodes,) i32: what stands in a slot: EMPTY, a node's number, or leaf l as -2 - l.
- ``node_slot`` (nodes,) i32: the slot that holds the node's own hash, NOWHERE for the shard's top (number 0).
- ``depth`` (nodes,) u8: bits above the node.
- ``runs`` (n, 2) i64: ranges of nodes of one depth, each after all that is below it. The top of the shard is numbered
  first, then chunk by chunk what is above about ``CHUNK`` leaves, each chunk level by level: it is rehashed while the
  second-level cache has it, and memory is gone through in one direction. Nodes inserted later come after those (``built``)
  until the shard is built anew; below one of them are only leaves and others of them.
- ``dirty`` (nodes,) u8: to be hashed again; all 0 between calls.

Import through ``nodewright.kernels.warm_up`` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.sha3 import LANES, hash_pairs
from nodewright.kernels.compiled.tools import njit, types
from nodewright_aptos.columnar.memory import prefetch

EMPTY = -1
NOWHERE = -1
SHARD_BITS = 4
MAX_DEPTH = 256
AHEAD = 4 * LANES  # hashes: what is wanted then is fetched now
CHUNK = 2048  # leaves: with the nodes above them about 300 KiB

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


@njit(
    types.int64(
        KEYS, INTS, INTS, KEYS, INTS, INTS, BYTES, LONGS, KEYS, KEYS, types.int64, types.int64, types.int64, types.int64
    ),
    nogil=True,
    cache=True,
)
def _level(
    payload: Any,
    order: Any,
    leaf_slot: Any,
    hashes: Any,
    child: Any,
    node_slot: Any,
    depth: Any,
    ranges: Any,
    leaf_hashes: Any,
    blank: Any,
    level: Any,
    first: Any,
    last: Any,
    after: Any,
) -> Any:
    """What is under the nodes from ``first`` to ``last``, all at depth ``level``; nodes below them are numbered from
    ``after`` on. How many nodes there are then, -1 where there is no room."""
    capacity = node_slot.shape[0]
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
                hashes[slot] = blank[0]
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
    return after


@njit(
    types.UniTuple(types.int64, 2)(
        KEYS, INTS, INTS, KEYS, INTS, INTS, BYTES, types.int64[:, ::1], LONGS, KEYS, KEYS, types.int64
    ),
    nogil=True,
    cache=True,
)
def build(
    payload: Any,
    order: Any,
    leaf_slot: Any,
    hashes: Any,
    child: Any,
    node_slot: Any,
    depth: Any,
    runs: Any,
    ranges: Any,
    leaf_hashes: Any,
    blank: Any,
    chunk: Any,
) -> Any:
    """The nodes over the leaves ``order`` (sorted by key, two or more): (how many, how many runs). (-1, 0): the arrays have
    no room; (-2, 0): two keys are the same.

    ``ranges``: scratch of two int64 per node (which leaves are under it). ``leaf_hashes`` (leaves, 4): of every leaf of
    ``order``. ``blank`` (1, 4): the hash of an empty subtree. Inner slots are not hashed yet."""
    if node_slot.shape[0] < 1:
        return -1, 0
    node_slot[0] = NOWHERE
    ranges[0], ranges[1] = 0, order.shape[0]
    tops = np.empty(MAX_DEPTH + 1, np.int64)  # where each level of the top begins
    first, last = np.int64(0), np.int64(1)  # the nodes of this level
    level = SHARD_BITS
    top = 0
    while first < last and order.shape[0] > chunk * (last - first):
        if level == MAX_DEPTH:
            return -2, 0
        after = _level(
            payload, order, leaf_slot, hashes, child, node_slot, depth, ranges, leaf_hashes, blank, level, first, last, last
        )
        if after < 0:
            return -1, 0
        tops[top] = first
        top += 1
        first, last = last, after
        level += 1
    after = last
    count = 0
    for root in range(first, last):
        begin, end = np.int64(root), np.int64(root + 1)
        at = level
        own = count
        while begin < end:
            if at == MAX_DEPTH:
                return -2, 0
            if count + MAX_DEPTH >= runs.shape[0]:
                return -1, 0
            more = _level(
                payload,
                order,
                leaf_slot,
                hashes,
                child,
                node_slot,
                depth,
                ranges,
                leaf_hashes,
                blank,
                at,
                begin,
                end,
                after,
            )
            if more < 0:
                return -1, 0
            begin, end = after, more
            after = more
            at += 1
            runs[count, 0], runs[count, 1] = begin, end
            count += 1
        for i in range((count - own) // 2):  # the deepest first
            for side in range(2):
                runs[own + i, side], runs[count - 1 - i, side] = runs[count - 1 - i, side], runs[own + i, side]
    while first < last:
        runs[count, 0], runs[count, 1] = first, last
        count += 1
        if not top:
            break
        top -= 1
        first, last = tops[top], first
    return after, count


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
            later = leaves[min(first + lane + AHEAD, count - 1)]
            prefetch(payload_at + np.uintp(64 * np.int64(later)))
            prefetch(hashes_at + np.uintp(32 * np.int64(leaf_slot[later])))
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


@njit(types.void(PREFIX, KEYS, INTS, INTS, types.int64, KEYS), nogil=True, cache=True)
def _hash_nodes(prefix: Any, hashes: Any, node_slot: Any, nodes: Any, count: Any, top: Any) -> None:
    """The hashes of the first ``count`` of ``nodes``, none of which is above another, into their slots."""
    sources, targets = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    sources_at, targets_at = np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data)
    prefix_at = np.uintp(prefix.ctypes.data)
    hashes_at, top_at = np.uintp(hashes.ctypes.data), np.uintp(top.ctypes.data)
    for first in range(0, count, LANES):
        for lane in range(LANES):
            node = np.int64(nodes[min(first + lane, count - 1)])
            slot = np.int64(node_slot[node])
            sources[lane] = hashes_at + np.uintp(64 * node)
            targets[lane] = top_at if slot == NOWHERE else hashes_at + np.uintp(32 * slot)
            later = np.int64(nodes[min(first + lane + AHEAD, count - 1)])
            prefetch(hashes_at + np.uintp(64 * later))
            prefetch(hashes_at + np.uintp(32 * np.int64(node_slot[later])))
        hash_pairs(prefix_at, sources_at, targets_at)


@njit(types.int64(PREFIX, KEYS, INTS, BYTES, BYTES, types.int64[:, ::1], INTS, KEYS), nogil=True, cache=True)
def rehash(prefix: Any, hashes: Any, node_slot: Any, dirty: Any, depth: Any, runs: Any, later: Any, top: Any) -> Any:
    """Hash all dirty nodes, each after those below it; that of node 0 goes to ``top``. ``later`` holds the dirty ones that
    were inserted. Returns how many were hashed."""
    longest = np.int64(later.shape[0])
    for at in range(runs.shape[0]):
        longest = max(longest, runs[at, 1] - runs[at, 0])
    chosen = np.empty(longest + 1, np.int32)
    depths = np.empty(later.shape[0], np.uint8)
    for place in range(later.shape[0]):
        depths[place] = depth[later[place]]
    order = np.argsort(depths, kind="mergesort")
    rest = np.int64(later.shape[0])
    total = rest
    while rest:
        level = depths[order[rest - 1]]
        count = np.int64(0)
        while rest and depths[order[rest - 1]] == level:
            rest -= 1
            chosen[count] = later[order[rest]]
            dirty[chosen[count]] = 0
            count += 1
        _hash_nodes(prefix, hashes, node_slot, chosen, count, top)
    for at in range(runs.shape[0]):
        count = np.int64(0)
        for node in range(runs[at, 0], runs[at, 1]):
            chosen[count] = node
            count += dirty[node]
            dirty[node] = 0
        if count:
            _hash_nodes(prefix, hashes, node_slot, chosen, count, top)
            total += count
    return total
