"""The state trie: reading, changing in one batch, and proving. Pure; where nodes come from is the caller's.

A node is found by its path (the nibbles from the root to it) or by its hash: a store keeps the nodes of one state by
path, so that nothing has to be collected when they change; a witness keeps them by hash. ``Source.node`` is given both.

Invariants
- The root depends on the set of (key, value) alone, never on the order or grouping of changes.
- ``update`` writes to ``changed`` every node of the new trie that is not in the old one at that path, and None for every
  path at which no node is left; nothing else.
- A node that a source cannot give raises ``Missing``, and nothing has been changed then but ``changed``, which is thrown
  away: the caller fetches it and begins again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol

from nodewright_near.borsh import Malformed
from nodewright_near.primitives import NO_HASH
from nodewright_near.trienodes import (
    BRANCH,
    BRANCH_WITH_VALUE,
    EXTENSION,
    LEAF,
    Branch,
    Extension,
    Leaf,
    Node,
    ValueRef,
    decode_node,
    from_nibbles,
    nibbles,
    node_total,
    pack,
    shared_length,
    unpack,
    value_ref,
)

EMPTY_ROOT: Final = NO_HASH
Item = tuple[bytes, ValueRef | None]
# Hash and memory usage of a subtree.
Subtree = tuple[bytes, int]
# Whether an existing subtree is changed or one is built, its path and hash, and the items for it.
_Job = tuple[bool, bytes, bytes, Sequence[Item]]
# Levels of nodes that one job descends; each is a few frames of Python.
MAX_DEPTH: Final = 100


class Missing(LookupError):
    """``wanted`` are (path, hash) of nodes that are not here."""

    def __init__(self, wanted: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(f"{len(wanted)} nodes of the trie are not here")
        self.wanted = list(wanted)


class Source(Protocol):
    def node(self, path: bytes, digest: bytes) -> bytes:
        """The bytes of a node. Raises Missing."""


def find(source: Source, root: bytes, key: bytes) -> ValueRef | None:
    """Length and hash of the value under ``key``; None where there is none. Raises Missing, Malformed."""
    path = nibbles(key)
    at, digest = 0, root
    while digest != EMPTY_ROOT:
        node = decode_node(source.node(path[:at], digest))
        if isinstance(node, Leaf):
            return node.value if path[at:] == node.part else None
        if isinstance(node, Extension):
            if not path.startswith(node.part, at):
                return None
            at += len(node.part)
            digest = node.child
            continue
        if at == len(path):
            return node.value
        child = node.children.get(path[at])
        if child is None:
            return None
        at += 1
        digest = child
    return None


# A subtree still to be visited: its path and hash, and the keys (as nibbles) whose ways lead into it.
Visit = tuple[bytes, bytes, list[bytes]]


def visits(root: bytes, keys: Iterable[bytes]) -> list[Visit]:
    """Where ``walk`` begins."""
    wanted = sorted({nibbles(key) for key in keys})
    return [(b"", root, wanted)] if wanted and root != EMPTY_ROOT else []


def walk(source: Source, todo: list[Visit]) -> list[Visit]:
    """Visit the ways of keys as far as nodes are here. What comes back begins with a node that is not: fetch those, and
    walk on from there; nothing is left when every way has been walked to its end."""
    missing: list[Visit] = []
    while todo:
        visit = todo.pop()
        path, digest, wanted = visit
        try:
            raw = source.node(path, digest)
        except Missing:
            missing.append(visit)
            continue
        kind, depth = raw[0], len(path)
        if kind in (BRANCH, BRANCH_WITH_VALUE):
            at = 1 if kind == BRANCH else 37
            mask = int.from_bytes(raw[at : at + 2], "little")
            groups: dict[int, list[bytes]] = {}
            for key in wanted:
                if len(key) > depth:
                    nibble = key[depth]
                    if nibble in groups:
                        groups[nibble].append(key)
                    else:
                        groups[nibble] = [key]
            for nibble, group in groups.items():
                if mask >> nibble & 1:
                    place = at + 2 + 32 * (mask & ((1 << nibble) - 1)).bit_count()
                    todo.append((path + bytes([nibble]), raw[place : place + 32], group))
        elif kind == EXTENSION:
            at = 5 + int.from_bytes(raw[1:5], "little")
            below = path + unpack(raw[5:at])[0]
            group = [key for key in wanted if key.startswith(below)]
            if group:
                todo.append((below, raw[at : at + 32], group))
    return missing


def items_under(source: Source, root: bytes, prefix: bytes) -> Iterator[tuple[bytes, ValueRef]]:
    """(key, value reference) of every key that starts with ``prefix``, in key order. Raises Missing."""
    wanted = nibbles(prefix)
    if root == EMPTY_ROOT:
        return
    stack: list[tuple[bytes, bytes]] = [(b"", root)]
    while stack:
        path, digest = stack.pop()
        node = decode_node(source.node(path, digest))
        if isinstance(node, Branch):
            if node.value is not None and path.startswith(wanted):
                yield from_nibbles(path), node.value
            for nibble in sorted(node.children, reverse=True):
                below = path + bytes([nibble])
                if below.startswith(wanted) or wanted.startswith(below):
                    stack.append((below, node.children[nibble]))
            continue
        below = path + node.part
        if isinstance(node, Leaf):
            if below.startswith(wanted):
                yield from_nibbles(below), node.value
        elif below.startswith(wanted) or wanted.startswith(below):
            stack.append((below, node.child))


class _TooDeep(Exception):
    """A subtree far below is to be done first, from a stack of its own."""

    def __init__(self, job: _Job) -> None:
        self.job = job


class _Update:
    """One batch of changes. Methods return the subtree that stands at a path afterwards, or None.

    Keys may be thousands of nodes deep. Past ``MAX_DEPTH`` levels a subtree becomes a job: it is done by itself, its result
    kept, and the job that needs it begun again. Beginning again is harmless: a node made before counts only for its hash.
    """

    def __init__(self, source: Source, changed: dict[bytes, bytes | None]) -> None:
        self.source = source
        self.changed = changed
        self.made: dict[bytes, tuple[bytes, bytes]] = {}
        self.done: dict[tuple[bool, bytes], Any] = {}
        self.depth = 0

    def run(self, job: _Job) -> Any:
        jobs = [job]
        while True:
            kind, path, digest, items = jobs[-1]
            self.depth = 0
            try:
                result = self._apply(path, digest, items) if kind else self._build(path, items)
            except _TooDeep as deeper:
                jobs.append(deeper.job)
                continue
            jobs.pop()
            if not jobs:
                return result
            self.done[kind, path] = result

    def put(self, path: bytes, node: Node) -> Subtree:
        return self.keep(path, node.encode(), node.total())

    def keep(self, path: bytes, raw: bytes, total: int) -> Subtree:
        digest = sha256(raw).digest()
        self.changed[path] = raw
        self.made[path] = digest, raw
        return digest, total

    def load(self, path: bytes, digest: bytes) -> bytes:
        made = self.made.get(path)
        return made[1] if made is not None and made[0] == digest else self.source.node(path, digest)

    def build(self, path: bytes, items: Sequence[Item]) -> Subtree | None:
        """A subtree of the items that have values; ``path`` holds nothing that counts any more."""
        if self.done and (False, path) in self.done:
            known: Subtree | None = self.done[False, path]
            return known
        if self.depth >= MAX_DEPTH:
            raise _TooDeep((False, path, b"", items))
        self.depth += 1
        made = self._build(path, items)
        self.depth -= 1
        return made

    def _build(self, path: bytes, items: Sequence[Item]) -> Subtree | None:
        live = [item for item in items if item[1] is not None]
        if not live:
            self.changed[path] = None
            return None
        depth = len(path)
        first = live[0]
        if len(live) == 1:
            assert first[1] is not None
            return self.put(path, Leaf(first[0][depth:], first[1]))
        shared = shared_length(first[0], live[-1][0])
        if shared > depth:
            child = self.fan(first[0][:shared], None, {}, 0, live)
            assert child is not None
            return self.put(path, Extension(first[0][depth:shared], child[0], child[1]))
        return self.fan(path, None, {}, 0, live)

    def apply(self, path: bytes, digest: bytes, items: Sequence[Item]) -> tuple[Subtree | None, int]:
        """Also the memory usage that the subtree had before."""
        if self.done and (True, path) in self.done:
            known: tuple[Subtree | None, int] = self.done[True, path]
            return known
        if self.depth >= MAX_DEPTH:
            raise _TooDeep((True, path, digest, items))
        self.depth += 1
        made = self._apply(path, digest, items)
        self.depth -= 1
        return made

    def _apply(self, path: bytes, digest: bytes, items: Sequence[Item]) -> tuple[Subtree | None, int]:
        raw = self.load(path, digest)
        before = node_total(raw)
        quick = self.patch(path, raw, before, items) if raw[0] == BRANCH else self.patch_key(path, raw, before, items)
        if quick is not None:
            return quick, before
        node = decode_node(raw)
        if isinstance(node, Branch):
            return self.fan(path, node.value, node.children, node.below, items), before
        if isinstance(node, Leaf):
            own = path + node.part
            merged = list(items)
            if all(key != own for key, _ in items):
                merged.append((own, node.value))
                merged.sort(key=_key)
            return self.build(path, merged), before
        return self.extend(path, digest, node, before, items), before

    def patch(self, path: bytes, raw: bytes, before: int, items: Sequence[Item]) -> Subtree | None:
        """The frequent case: hashes of children change and nothing else. None where it is another case."""
        mask = int.from_bytes(raw[1:3], "little")
        depth = len(path)
        groups: dict[int, list[Item]] = {}
        for item in items:
            if len(item[0]) == depth or item[1] is None or not mask >> item[0][depth] & 1:
                return None
            groups.setdefault(item[0][depth], []).append(item)
        new = bytearray(raw)
        total = before
        for nibble, group in groups.items():
            at = 3 + 32 * (mask & ((1 << nibble) - 1)).bit_count()
            below = path + bytes([nibble])
            one = self.replace(below, raw[at : at + 32], group[0]) if len(group) == 1 else None
            if one is not None:
                new[at : at + 32] = one[0]
                total += one[1]
                continue
            child, old = self.apply(below, raw[at : at + 32], group)
            assert child is not None  # nothing is deleted below
            new[at : at + 32] = child[0]
            total += child[1] - old
        new[-8:] = total.to_bytes(8, "little")
        return self.keep(path, bytes(new), total)

    def replace(self, path: bytes, digest: bytes, item: Item) -> tuple[bytes, int] | None:
        """Most frequent of all: one leaf below gets another value. The hash at ``path`` then, and by how much the memory
        usage grew; None, and nothing changed, where it is another case."""
        key, value = item
        assert value is not None
        ways: list[tuple[bytes, bytes, int]] = []
        while True:
            raw = self.load(path, digest)
            depth, kind = len(path), raw[0]
            if kind == BRANCH:
                mask = int.from_bytes(raw[1:3], "little")
                if len(key) == depth or not mask >> key[depth] & 1:
                    return None
                at = 3 + 32 * (mask & ((1 << key[depth]) - 1)).bit_count()
                below = key[: depth + 1]
            elif kind == EXTENSION:
                at = 5 + int.from_bytes(raw[1:5], "little")
                below = key[: depth + 2 * (at - 6) + (raw[5] >> 4 & 1)]
                if pack(below[depth:], False) != raw[5:at]:
                    return None
            elif kind == LEAF:
                at = 5 + int.from_bytes(raw[1:5], "little")
                if pack(key[depth:], True) != raw[5:at]:
                    return None
                break
            else:
                return None
            ways.append((path, raw, at))
            path, digest = below, raw[at : at + 32]
        size, hashed = value
        grown = size - int.from_bytes(raw[at : at + 4], "little")
        ways.append((path, raw, at))
        part, changed, made = size.to_bytes(4, "little") + hashed, self.changed, self.made
        for path, raw, at in reversed(ways):
            tail = raw[-8:] if not grown else (node_total(raw) + grown).to_bytes(8, "little")
            new = raw[:at] + part + raw[at + len(part) : -8] + tail
            part = sha256(new).digest()
            changed[path] = new
            made[path] = part, new
        return part, grown

    def patch_key(self, path: bytes, raw: bytes, before: int, items: Sequence[Item]) -> Subtree | None:
        """As ``patch``: another value in a leaf, another hash in an extension."""
        if any(item[1] is None for item in items):
            return None
        at = 5 + int.from_bytes(raw[1:5], "little")
        if raw[0] == LEAF:
            key, value = items[0]
            if len(items) > 1 or value is None or pack(key[len(path) :], True) != raw[5:at]:
                return None
            total = before + value[0] - int.from_bytes(raw[at : at + 4], "little")
            body = value[0].to_bytes(4, "little") + value[1]
        elif raw[0] == EXTENSION:
            place = path + unpack(raw[5:at])[0]
            if not all(item[0].startswith(place) for item in items):
                return None
            child, old = self.apply(place, raw[at : at + 32], items)
            assert child is not None  # nothing is deleted below, so that it is a branch still
            total = before + child[1] - old
            body = child[0]
        else:
            return None
        return self.keep(path, raw[:at] + body + total.to_bytes(8, "little"), total)

    def fan(
        self, path: bytes, value: ValueRef | None, children: dict[int, bytes], below: int, items: Sequence[Item]
    ) -> Subtree | None:
        """A branch at ``path`` with these children, changed."""
        depth = len(path)
        groups: dict[int, list[Item]] = {}
        for item in items:
            if len(item[0]) == depth:
                value = item[1]
            else:
                groups.setdefault(item[0][depth], []).append(item)
        children = dict(children)
        for nibble, group in groups.items():
            digest = children.get(nibble)
            place = path + bytes([nibble])
            if digest is None:
                if all(item[1] is None for item in group):
                    continue
                child, old = self.build(place, group), 0
            else:
                child, old = self.apply(place, digest, group)
            below -= old
            if child is None:
                del children[nibble]
            else:
                children[nibble] = child[0]
                below += child[1]
        return self.settle(path, value, children, below)

    def settle(self, path: bytes, value: ValueRef | None, children: dict[int, bytes], below: int) -> Subtree | None:
        """A branch that has lost its reason to be one becomes what it should be."""
        if not children:
            if value is None:
                self.changed[path] = None
                return None
            return self.put(path, Leaf(b"", value))
        if value is None and len(children) == 1:
            ((nibble, digest),) = children.items()
            return self.join(path, bytes([nibble]), (digest, below))
        return self.put(path, Branch(value, children, below))

    def join(self, path: bytes, part: bytes, child: Subtree) -> Subtree:
        """At ``path`` an extension over ``part`` to the child there; one node with it where the child is not a branch."""
        place = path + part
        raw = self.load(place, child[0])
        if raw[0] in (BRANCH, BRANCH_WITH_VALUE):
            return self.put(path, Extension(part, child[0], child[1]))
        node = decode_node(raw)
        self.changed[place] = None
        if isinstance(node, Leaf):
            return self.put(path, Leaf(part + node.part, node.value))
        assert isinstance(node, Extension)
        return self.put(path, Extension(part + node.part, node.child, node.below))

    def extend(self, path: bytes, digest: bytes, node: Extension, before: int, items: Sequence[Item]) -> Subtree | None:
        part = node.part
        place = path + part
        inside = [item for item in items if item[0].startswith(place)]
        outside = [item for item in items if item[1] is not None and not item[0].startswith(place)]
        if not outside:
            if not inside:
                return digest, before
            child, _ = self.apply(place, node.child, inside)
            if child is None:
                self.changed[path] = None
                return None
            return self.join(path, part, child)
        depth = len(path)
        shared = min(shared_length(place, key) for key, _ in outside) - depth
        # Cut in two where the first item leaves it: a branch there, with what is left of the extension as its only child.
        rest = part[shared + 1 :]
        child_hash, child_total = node.child, node.below
        if rest:
            child_hash, child_total = self.put(path + part[: shared + 1], Extension(rest, node.child, node.below))
        if not shared:
            return self.fan(path, None, {part[0]: child_hash}, child_total, items)
        self.changed[path] = None
        live = [item for item in items if item[0].startswith(path + part[:shared])]
        branch = self.fan(path + part[:shared], None, {part[shared]: child_hash}, child_total, live)
        assert branch is not None  # an item outside has a value
        return self.join(path, part[:shared], branch)


def _key(item: Item) -> bytes:
    return item[0]


def update(source: Source, root: bytes, changes: Mapping[bytes, bytes | None], changed: dict[bytes, bytes | None]) -> bytes:
    """The root after ``changes`` (None deletes). New nodes go to ``changed`` by path. Raises Missing, Malformed."""
    if not changes:
        return root
    items: list[Item] = sorted(
        ((nibbles(key), None if value is None else value_ref(value)) for key, value in changes.items()), key=_key
    )
    work = _Update(source, changed)
    made: Subtree | None
    if root == EMPTY_ROOT:
        made = work.run((False, b"", b"", items))
    else:
        made, _ = work.run((True, b"", root, items))
    return made[0] if made is not None else EMPTY_ROOT


class NoNodes:
    """The source of an empty trie."""

    def node(self, path: bytes, digest: bytes) -> bytes:
        raise Missing([(path, digest)])


class Recorder:
    """Hands on what another source has and keeps what was asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.seen: dict[bytes, bytes] = {}

    def node(self, path: bytes, digest: bytes) -> bytes:
        raw = self._source.node(path, digest)
        self.seen[digest] = raw
        return raw


class ByHash:
    """Nodes and values of a witness. ``used`` are those that were asked for: a witness holds nothing else."""

    def __init__(self, blobs: Sequence[bytes]) -> None:
        self._blobs = {sha256(blob).digest(): blob for blob in blobs}
        if len(self._blobs) != len(blobs):
            raise Malformed("a witness holds the same bytes twice")
        self.used: set[bytes] = set()

    def node(self, path: bytes, digest: bytes) -> bytes:
        raw = self._blobs.get(digest)
        if raw is None:
            raise Missing([(path, digest)])
        self.used.add(digest)
        return raw

    def value(self, ref: ValueRef) -> bytes:
        raw = self.node(b"", ref[1])
        if len(raw) != ref[0]:
            raise Malformed("a value has not the length that the trie says")
        return raw

    def complete(self) -> bool:
        return len(self.used) == len(self._blobs)


__all__ = [
    "EMPTY_ROOT",
    "ByHash",
    "Missing",
    "NoNodes",
    "Recorder",
    "Source",
    "find",
    "items_under",
    "update",
    "visits",
    "walk",
]
