"""Other values under keys that the trie has already: the frequent batch of changes, all nodes of a level at once.

Where no key comes or goes and no value changes its length, a trie keeps its shape: each node on the way to a changed value
gets other hashes at places that do not move. ``Ways`` holds such nodes of one state and moves on with it. They are
numbered, and stand as columns: the bytes of node n are ``data[starts[n]:ends[n]]``, and its own hash stands ``at[n]`` bytes
into those of the node ``above[n]``. ``trie.update`` does the same for any changes; this does it with fewer steps, or not at
all.

Invariants
- The node that ``steps`` names by its path, and every leaf in ``leaves`` whose way up has no node that is ``gone``, is the
  one at its path in the trie under ``root``.
- ``patch`` answers what ``trie.update`` would, with the same nodes in ``changed``; or None, with ``changed`` as it was.
  Raises Missing as it does, and then too nothing has changed.
- The compiled kernel (``waykernels``) and the plain loop do the same to the same columns.
- What is held is bounded: when there are too many keys it is all forgotten.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from nodewright.kernels import sha256_many
from nodewright.kernels.switch import compiled
from nodewright_near.layers import Layer
from nodewright_near.trie import EMPTY_ROOT, Missing, Source
from nodewright_near.trienodes import BRANCH, BRANCH_WITH_VALUE, LEAF, nibbles, pack

MAX_KEYS: Final = 1 << 17
# Compiled beside the core's kernels: ``warm_up(KERNELS)``.
KERNELS: Final = "nodewright_near.waykernels"
# Fewer keys are done sooner by the plain loop.
WORTH_A_CALL: Final = 16
NOTHING: Final = -1


class Ways:
    def __init__(self) -> None:
        self._forget(EMPTY_ROOT)

    def _forget(self, root: bytes) -> None:
        self.root = root
        self.leaves: dict[bytes, int] = {}  # by key
        self.steps: dict[bytes, int] = {}  # by path, leaves too
        self.gone: set[int] = set()  # nodes that have been replaced by others since
        self._data = bytearray()
        self.paths: list[bytes] = []
        self._starts, self._ends = array("q"), array("q")
        self._above, self._at, self._depths = array("q"), array("q"), array("q")

    def _raw(self, step: int) -> bytes:
        return bytes(self._data[self._starts[step] : self._ends[step]])

    def learn(self, source: Source, root: bytes, keys: Collection[bytes]) -> None:
        """The ways of these keys of the state under ``root``, as far as nodes are at hand; nothing where they are many."""
        if root != EMPTY_ROOT and len(keys) <= MAX_KEYS // 2:
            self._forget(root)
            with suppress(Missing):
                self._learn(source, keys)

    def move(
        self, source: Source, root: bytes, changes: Mapping[bytes, bytes | None]
    ) -> tuple[bytes, Mapping[bytes, bytes | None]] | None:
        """The root after ``changes``, and the nodes that changed; None where they are of another kind. Raises Missing."""
        if root == EMPTY_ROOT or not changes:
            return None
        if root != self.root or len(self.leaves) >= MAX_KEYS or 2 * len(self.gone) > len(self.paths):
            self._forget(root)
        if None in changes.values() or not self._learn(source, changes):
            return None
        leaves = [self.leaves[key] for key in changes]
        values: list[bytes] = [value for value in changes.values() if value is not None]
        kernels, paths = compiled(KERNELS), self.paths
        if kernels is None or len(leaves) < WORTH_A_CALL:
            plain = self._plain(leaves, values)
            if plain is None:
                return None
            self.root, order, raws = plain
            return self.root, dict(zip([paths[step] for step in order], raws, strict=True))
        columns = self._starts, self._ends, self._above, self._at, self._depths
        done = kernels.patch(self._data, *columns, leaves, values)
        if done is None:
            return None
        self.root, *layer = done
        return self.root, Layer(paths, *layer)

    def _plain(self, leaves: Sequence[int], values: Sequence[bytes]) -> tuple[bytes, list[int], list[bytes]] | None:
        """The root, the nodes that changed, far ones first, and their bytes; None, and nothing changed, where a value has
        another length than the one before."""
        data, starts, ends, places = self._data, self._starts, self._ends, []
        for leaf, value in zip(leaves, values, strict=True):
            start = starts[leaf]
            place = start + 5 + int.from_bytes(data[start + 1 : start + 5], "little")
            if int.from_bytes(data[place : place + 4], "little") != len(value):
                return None
            places.append(place + 4)
        seen: set[int] = set()
        levels: dict[int, list[int]] = {}
        for leaf, place, digest in zip(leaves, places, sha256_many(values), strict=True):
            data[place : place + 32] = digest
            step = leaf
            while step != NOTHING and step not in seen:
                seen.add(step)
                levels.setdefault(self._depths[step], []).append(step)
                step = self._above[step]
        order: list[int] = []
        raws: list[bytes] = []
        digest = self.root
        for depth in sorted(levels, reverse=True):
            of_level = [bytes(data[starts[step] : ends[step]]) for step in levels[depth]]
            for step, digest in zip(levels[depth], sha256_many(of_level), strict=True):
                above = self._above[step]
                if above != NOTHING:
                    place = starts[above] + self._at[step]
                    data[place : place + 32] = digest
            order += levels[depth]
            raws += of_level
        return digest, order, raws

    def follow(self, old: bytes, new: bytes, changed: Mapping[bytes, bytes | None]) -> None:
        """The state under ``old`` was moved to ``new`` by ``trie.update``, which gave these nodes."""
        if old != self.root:
            return
        self.root = new
        for path in self.steps.keys() & changed.keys():
            step, raw = self.steps[path], changed[path]
            if raw is not None and _shape(raw) == _shape(self._raw(step)):
                self._data[self._starts[step] : self._ends[step]] = raw
            else:
                self.gone.add(step)
                del self.steps[path]

    def _learn(self, source: Source, keys: Iterable[bytes]) -> bool:
        """Whether each key has a leaf; then it is in ``leaves``, and nothing above it is gone. Raises Missing."""
        leaves, gone = self.leaves, self.gone
        unknown = [key for key in keys if key not in leaves]
        if gone:
            whole: set[int] = set()
            for key in keys:
                step = leaves.get(key, NOTHING)
                climbed: list[int] = []
                while step != NOTHING and step not in gone and step not in whole:
                    climbed.append(step)
                    step = self._above[step]
                if step not in gone:
                    whole.update(climbed)
                else:
                    unknown.append(key)
        # Neighbours share most of their way.
        last = NOTHING
        paths = self.paths
        for way, key in sorted([(nibbles(key), key) for key in unknown]):
            while last != NOTHING and not way.startswith(paths[last]):
                last = self._above[last]
            last = self._find(source, key, way, last)
            if last == NOTHING:
                return False
            leaves[key] = last
        return True

    def _find(self, source: Source, key: bytes, way: bytes, start: int) -> int:
        """The leaf that this way (the key's nibbles) leads to and no further; NOTHING for any other. ``start``: a node on
        it, or NOTHING. Raises Missing."""
        steps, starts, aboves, data = self.steps, self._starts, self._above, self._data
        path, digest, at, above, end = b"", self.root, 0, NOTHING, len(way)
        if start != NOTHING:
            path, at, above = self.paths[start], self._at[start], aboves[start]
        while True:
            step = steps.get(path, NOTHING)
            depth = len(path)
            if step == NOTHING or aboves[step] != above:
                raw = source.node(path, digest)
                step = len(starts)
                self.paths.append(path)
                starts.append(len(data))
                data += raw
                self._ends.append(len(data))
                aboves.append(above)
                self._at.append(at)
                self._depths.append(depth)
                steps[path] = step
            else:
                raw = bytes(data[starts[step] : self._ends[step]])
            kind = raw[0]
            if kind in (BRANCH, BRANCH_WITH_VALUE):
                at = 3 if kind == BRANCH else 39
                mask = raw[at - 2] | raw[at - 1] << 8
                if end == depth or not mask >> way[depth] & 1:
                    return NOTHING
                at += 32 * (mask & ((1 << way[depth]) - 1)).bit_count()
                path = way[: depth + 1]
            else:
                at = 5 + int.from_bytes(raw[1:5], "little")
                if not _leads(key, way, depth, raw[5:at], kind == LEAF):
                    return NOTHING
                if kind == LEAF:
                    return step
                path = way[: depth + 2 * (at - 6) + (raw[5] >> 4 & 1)]
            above, digest = step, raw[at : at + 32]


def _leads(key: bytes, way: bytes, depth: int, part: bytes, ends: bool) -> bool:
    """Whether the hex-prefix key of a node at ``depth`` is what comes there on the way, and, of a leaf, all that does."""
    odd = part[0] >> 4 & 1
    if len(part) == 1 and odd and not ends:  # one nibble
        return depth < len(way) and part[0] == 0x10 | way[depth]
    size = 2 * (len(part) - 1) + odd
    if len(way) - depth < size or (ends and len(way) - depth != size):
        return False
    if depth + odd & 1:  # it does not stand on whole bytes of the key
        return pack(way[depth : depth + size], ends) == part
    flag = (0x20 if ends else 0) | (0x10 | way[depth] if odd else 0)
    return part[0] == flag and key.startswith(part[1:], depth + odd >> 1)


def _shape(raw: bytes) -> bytes:
    """What of a node says where its hashes stand, and which keys they are for."""
    kind = raw[0]
    if kind == BRANCH:
        return raw[:3]
    if kind == BRANCH_WITH_VALUE:
        return raw[:1] + raw[37:39]
    return raw[: 5 + int.from_bytes(raw[1:5], "little")]
