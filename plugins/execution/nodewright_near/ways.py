"""Other values under keys that the trie has already: the frequent batch of changes, node by node from the leaves up.

Where no key comes or goes and no value changes its length, a trie keeps its shape: each node on the way to a changed value
gets other hashes at places that do not move. ``Ways`` holds such nodes of one state, each linked to the one above it, and
moves on with the state. ``trie.update`` does the same for any changes; this does it with fewer steps, or not at all.

Invariants
- Every step in ``steps``, and every leaf in ``leaves`` whose way up has no step that is ``gone``, is the node at its path
  in the trie under ``root``.
- ``patch`` answers what ``trie.update`` would, with the same nodes in ``changed``; or None, with ``changed`` as it was.
  Raises Missing as it does, and then too nothing has changed.
- What is held is bounded: when there are too many keys it is all forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nodewright.kernels import sha256_many
from nodewright_near.trie import EMPTY_ROOT, Source
from nodewright_near.trienodes import BRANCH, BRANCH_WITH_VALUE, EXTENSION, LEAF, nibbles, pack

MAX_KEYS: Final = 1 << 17


class Step:
    """A node: its path and bytes, the node above, and where in that its own hash stands."""

    __slots__ = ("above", "at", "gone", "path", "raw")

    def __init__(self, path: bytes, raw: bytes, at: int, above: Step | None) -> None:
        self.path = path
        self.raw = raw
        self.at = at
        self.above = above
        self.gone = False


class Ways:
    def __init__(self) -> None:
        self.root = EMPTY_ROOT
        self.leaves: dict[bytes, Step] = {}  # by key
        self.steps: dict[bytes, Step] = {}  # by path, leaves too
        self.reshaped = False  # whether a step has gone since all was forgotten

    def _forget(self, root: bytes) -> None:
        self.root, self.leaves, self.steps, self.reshaped = root, {}, {}, False

    def patch(
        self,
        source: Source,
        root: bytes,
        changes: Mapping[bytes, bytes | None],
        changed: dict[bytes, bytes | None],
    ) -> bytes | None:
        """The root after ``changes``; None where they are of another kind."""
        if root == EMPTY_ROOT or not changes:
            return None
        if root != self.root or len(self.leaves) >= MAX_KEYS:
            self._forget(root)
        if None in changes.values() or not self._learn(source, changes):
            return None
        work: list[tuple[Step, bytes]] = []
        above: dict[Step, bytearray] = {}
        levels: dict[int, list[Step]] = {}
        leaves = self.leaves
        values: list[bytes] = [value for value in changes.values() if value is not None]
        for key, value, digest in zip(changes, values, sha256_many(values), strict=True):
            leaf = leaves[key]
            raw = leaf.raw
            at = 5 + int.from_bytes(raw[1:5], "little")
            if int.from_bytes(raw[at : at + 4], "little") != len(value):
                return None
            work.append((leaf, b"%b%b%b" % (raw[: at + 4], digest, raw[-8:])))
            step = leaf.above
            while step is not None and step not in above:
                above[step] = bytearray(step.raw)
                depth = len(step.path)
                if depth in levels:
                    levels[depth].append(step)
                else:
                    levels[depth] = [step]
                step = step.above
        # From here on nothing is refused any more.
        while True:
            for (step, raw), digest in zip(work, sha256_many([raw for _, raw in work]), strict=True):
                step.raw = changed[step.path] = raw
                if step.above is None:
                    self.root = digest
                    return digest
                at = step.at
                above[step.above][at : at + 32] = digest
            work = [(step, bytes(above[step])) for step in levels.pop(max(levels))]

    def follow(self, old: bytes, new: bytes, changed: Mapping[bytes, bytes | None]) -> None:
        """The state under ``old`` was moved to ``new`` by ``trie.update``, which gave these nodes."""
        if old != self.root:
            return
        self.root = new
        for path in self.steps.keys() & changed.keys():
            step, raw = self.steps[path], changed[path]
            if raw is not None and _shape(raw) == _shape(step.raw):
                step.raw = raw
            else:
                step.gone = self.reshaped = True
                del self.steps[path]

    def _learn(self, source: Source, keys: Iterable[bytes]) -> bool:
        """Whether each key has a leaf; then it is in ``leaves``, and nothing above it is gone. Raises Missing."""
        leaves = self.leaves
        unknown = [key for key in keys if key not in leaves]
        if self.reshaped:
            whole: set[Step] = set()
            for key in keys:
                step = leaves.get(key)
                climbed: list[Step] = []
                while step is not None and not step.gone and step not in whole:
                    climbed.append(step)
                    step = step.above
                if step is None or not step.gone:
                    whole.update(climbed)
                else:
                    unknown.append(key)
        # Neighbours share most of their way.
        last: Step | None = None
        for way, key in sorted([(nibbles(key), key) for key in unknown]):
            while last is not None and not way.startswith(last.path):
                last = last.above
            last = self._find(source, way, last)
            if last is None:
                return False
            leaves[key] = last
        return True

    def _find(self, source: Source, way: bytes, start: Step | None) -> Step | None:
        """The leaf that this way leads to and no further; None for any other. ``start``: a step on it. Raises Missing."""
        steps = self.steps
        path, digest, at = b"", self.root, 0
        above: Step | None = None
        if start is not None:
            path, at, above = start.path, start.at, start.above
        while True:
            step = steps.get(path)
            if step is None or step.above is not above:
                step = steps[path] = Step(path, source.node(path, digest), at, above)
            raw = step.raw
            kind, depth = raw[0], len(path)
            if kind in (BRANCH, BRANCH_WITH_VALUE):
                at = 3 if kind == BRANCH else 39
                mask = raw[at - 2] | raw[at - 1] << 8
                if len(way) == depth or not mask >> way[depth] & 1:
                    return None
                at += 32 * (mask & ((1 << way[depth]) - 1)).bit_count()
                path = way[: depth + 1]
            else:
                at = 5 + int.from_bytes(raw[1:5], "little")
                if kind == LEAF:
                    return step if pack(way[depth:], True) == raw[5:at] else None
                path = way[: depth + 2 * (at - 6) + (raw[5] >> 4 & 1)]
                if kind != EXTENSION or pack(path[depth:], False) != raw[5:at]:
                    return None
            above, digest = step, raw[at : at + 32]


def _shape(raw: bytes) -> bytes:
    """What of a node says where its hashes stand, and which keys they are for."""
    kind = raw[0]
    if kind == BRANCH:
        return raw[:3]
    if kind == BRANCH_WITH_VALUE:
        return raw[:1] + raw[37:39]
    return raw[: 5 + int.from_bytes(raw[1:5], "little")]
