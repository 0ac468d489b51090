"""A patched trie's hashes, level by level, in one compiled call. See ``ways`` for the tables.

Import through ``nodewright.kernels.warm_up`` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.sha256 import BYTES, sha256_ranges
from nodewright.kernels.compiled.tools import njit, types

WORDS = types.Array(types.int64, 1, "C", readonly=True)
PLACES = types.int64[::1]
ARENA = types.uint8[::1]


@njit(
    types.int64(ARENA, WORDS, WORDS, WORDS, WORDS, WORDS, WORDS, BYTES, PLACES, PLACES, PLACES, ARENA),
    nogil=True,
    cache=True,
)
def rehash(
    data: Any,
    starts: Any,
    ends: Any,
    above: Any,
    at: Any,
    depths: Any,
    leaves: Any,
    values: Any,
    value_starts: Any,
    value_ends: Any,
    order: Any,
    root: Any,
) -> Any:
    """Value i goes under the leaf node ``leaves[i]`` (each once). Nodes are ``data[starts[n]:ends[n]]``; the hash of node n
    stands ``at[n]`` bytes into node ``above[n]`` (-1: it is the root). ``order`` (as long as there are nodes) is filled
    with the nodes that changed, those far from the root first; ``root`` with its hash, 32 bytes. Answers how many there
    are; -1, and nothing changed, where a value has another length than the one before."""
    count, nodes = leaves.shape[0], starts.shape[0]
    places = np.empty(count, np.int64)
    for item in range(count):
        start = starts[leaves[item]]
        key = np.int64(0)
        for i in range(4):
            key |= np.int64(data[start + 1 + i]) << (8 * i)
        place = start + 5 + key
        size = np.int64(0)
        for i in range(4):
            size |= np.int64(data[place + i]) << (8 * i)
        if size != value_ends[item] - value_starts[item]:
            return -1
        places[item] = place + 4
    digests = np.empty((count, 32), np.uint8)
    sha256_ranges(values, value_starts, value_ends, False, digests)
    seen = np.zeros(nodes, np.uint8)
    levels = np.zeros(1, np.int64)
    changed = 0
    for item in range(count):
        for i in range(32):
            data[places[item] + i] = digests[item, i]
        node = leaves[item]
        while node >= 0 and not seen[node]:
            seen[node] = 1
            order[changed] = node
            changed += 1
            depth = depths[node]
            if depth >= levels.shape[0]:
                wider = np.zeros(2 * depth + 2, np.int64)
                wider[: levels.shape[0]] = levels
                levels = wider
            levels[depth] += 1
            node = above[node]
    # The deepest level first: where each begins, then each node to its place.
    first = np.empty(levels.shape[0], np.int64)
    begin = np.int64(0)
    for depth in range(levels.shape[0] - 1, -1, -1):
        first[depth] = begin
        begin += levels[depth]
    found = order[:changed].copy()
    for item in range(changed):
        depth = depths[found[item]]
        order[first[depth]] = found[item]
        first[depth] += 1
    begin = np.int64(0)
    for depth in range(levels.shape[0] - 1, -1, -1):
        width = levels[depth]
        if not width:
            continue
        from_, to = np.empty(width, np.int64), np.empty(width, np.int64)
        for item in range(width):
            node = order[begin + item]
            from_[item], to[item] = starts[node], ends[node]
        hashes = np.empty((width, 32), np.uint8)
        sha256_ranges(data, from_, to, False, hashes)
        for item in range(width):
            node = order[begin + item]
            if above[node] >= 0:
                place = starts[above[node]] + at[node]
                for i in range(32):
                    data[place + i] = hashes[item, i]
            else:
                for i in range(32):
                    root[i] = hashes[item, i]
        begin += width
    return changed


@njit(types.void(ARENA, WORDS, WORDS, PLACES, PLACES, ARENA), nogil=True, cache=True)
def gather(data: Any, starts: Any, ends: Any, order: Any, after: Any, out: Any) -> None:
    """The bytes of the nodes in ``order`` one behind the other; node i ends at ``after[i]``."""
    begin = 0
    for item in range(order.shape[0]):
        node = order[item]
        size = ends[node] - starts[node]
        for i in range(size):
            out[begin + i] = data[starts[node] + i]
        begin += size
        after[item] = begin


def patch(
    data: bytearray,
    starts: Any,
    ends: Any,
    above: Any,
    at: Any,
    depths: Any,
    leaves: list[int],
    values: list[bytes],
) -> tuple[bytes, Any, Any, Any, bytes] | None:
    """The root, and of the nodes that changed, far ones first: numbers, sizes, where each ends in the bytes that come last,
    and these. None, and nothing changed, where a value has another length. The columns are arrays of signed 64-bit
    numbers; nothing of what is answered is a view of them."""
    columns = [np.frombuffer(column, np.int64) for column in (starts, ends, above, at, depths)]
    arena = np.frombuffer(data, np.uint8)
    value_ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
    value_starts = np.zeros(len(values), np.int64)
    value_starts[1:] = value_ends[:-1]
    order, root = np.empty(len(starts), np.int64), np.empty(32, np.uint8)
    joined = np.frombuffer(b"".join(values) or b"\0", np.uint8)
    count = rehash(arena, *columns, np.array(leaves, np.int64), joined, value_starts, value_ends, order, root)
    if count < 0:
        return None
    order = order[:count].copy()
    after, sizes = np.empty(count, np.int64), columns[1][order] - columns[0][order]
    out = np.empty(int(sizes.sum()), np.uint8)
    gather(arena, columns[0], columns[1], order, after, out)
    return root.tobytes(), order, sizes, after, out.tobytes()
