"""The Jellyfish Merkle tree: the state of every version that is kept, updated once per block in one batch.

Nodes are never changed: an update at a version writes new ones on the ways to the changed keys, and says which old ones no
later version uses (``stale``). A version's root is the node at depth 0 with that version. Nothing here stores anything:
nodes come from a ``NodeReader`` and go to whoever applies the ``TreeUpdate``.

The tree falls into sixteen shards by the first nibble of the key hash: below the root no update of one shard touches
another (``shard_of``), so that shards may be updated side by side and put together by the root node.

Invariants
- The root depends on the pairs of key and value hashes alone: not on the order of insertion, not on what was there before.
- A subtree with one leaf is that leaf, stored where the subtree would begin; an internal node has at least two leaves.
- A node reachable from the root of version v is in no ``stale`` of an update at v or before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from attrs import define, field, frozen

from nodewright.errors import StoreCorrupt
from nodewright_aptos.hashing import EMPTY_TREE
from nodewright_aptos.jmtnodes import (
    Child,
    Internal,
    Leaf,
    Node,
    child_with_siblings,
    internal_hashes,
    leaf_hashes,
    nibble_at,
    node_key,
)

SHARDS: Final = 16


class NodeReader(Protocol):
    async def nodes(self, keys: Sequence[bytes]) -> list[Node | None]:
        """Nodes by key, in order. Nobody changes one."""


@frozen
class Root:
    """Where a tree begins: the version of its root node; None is the empty tree."""

    version: int | None = None
    hash: bytes = EMPTY_TREE


# Made once per changed value: a frozen class costs three times as much to build. Nobody assigns to one.
@define
class Change:
    """``value_hash`` None takes the key out."""

    key_hash: bytes
    value_hash: bytes | None
    state_key: bytes


@define
class TreeUpdate:
    """``nodes`` to write (``Node.encode``) and ``stale`` node keys, which belong to versions before the update's."""

    root: Root
    nodes: dict[bytes, Node] = field(factory=dict)
    stale: list[bytes] = field(factory=list)


def shard_of(key_hash: bytes) -> int:
    return key_hash[0] >> 4


# --- loading ---------------------------------------------------------------------------------------------------------


async def load_paths(reader: NodeReader, root: Root, changes: Sequence[Change]) -> dict[bytes, Node]:
    """All nodes on the ways to the changed keys (sorted), level by level; with a key that goes, the leaves beside it."""
    loaded: dict[bytes, Node] = {}
    if root.version is None:
        return loaded
    frontier = [(node_key(root.version, b"", 0), 0, len(changes))]
    depth = 0
    while frontier:
        found = await read_nodes(reader, [key for key, _, _ in frontier])
        below: list[tuple[bytes, int, int]] = []
        for (key, low, high), node in zip(frontier, found, strict=True):
            loaded[key] = node
            if low < high and isinstance(node, Internal):
                below += _below(node, depth, changes, low, high)
        frontier = below
        depth += 1
    return loaded


def _below(node: Internal, depth: int, changes: Sequence[Change], low: int, high: int) -> Iterable[tuple[bytes, int, int]]:
    groups = _groups(changes, depth, low, high)
    found = []
    for nibble, start, end in groups:
        child = node.children[nibble]
        if child is not None:
            found.append((node_key(child[0], changes[start].key_hash, depth + 1), start, end))
    if any(changes[at].value_hash is None for at in range(low, high)):
        changed = {nibble for nibble, _, _ in groups}
        for nibble, child in enumerate(node.children):
            if child is not None and child[2] == 1 and nibble not in changed:
                key = node_key(child[0], _toward(changes[low].key_hash, depth, nibble), depth + 1)
                found.append((key, 0, 0))
    return found


def _toward(key_hash: bytes, depth: int, nibble: int) -> bytes:
    """A key that goes as this one does for ``depth`` nibbles, and then to ``nibble``."""
    byte = key_hash[depth >> 1]
    byte = byte & 0xF0 | nibble if depth & 1 else nibble << 4
    return key_hash[: depth >> 1] + bytes([byte])


def _groups(changes: Sequence[Change], depth: int, low: int, high: int) -> list[tuple[int, int, int]]:
    """(nibble, start, end) of the changes that go the same way at ``depth``."""
    at, odd = depth >> 1, depth & 1
    groups = []
    while low < high:
        byte = changes[low].key_hash[at]
        nibble, end = byte & 0x0F if odd else byte >> 4, low + 1
        while end < high:
            byte = changes[end].key_hash[at]
            if (byte & 0x0F if odd else byte >> 4) != nibble:
                break
            end += 1
        groups.append((nibble, low, end))
        low = end
    return groups


async def read_nodes(reader: NodeReader, keys: Sequence[bytes]) -> list[Node]:
    """Raises StoreCorrupt where one is not there."""
    nodes = []
    for key, node in zip(keys, await reader.nodes(keys), strict=True):
        if node is None:
            raise StoreCorrupt(
                f"stores.state lacks node {key.hex()} of its state tree: restore this store from a copy, or sync it anew"
            )
        nodes.append(node)
    return nodes


# --- updating --------------------------------------------------------------------------------------------------------


@define
class _Place:
    """What an update puts at a place of a node: a leaf or an internal node, new (``hash`` is not known yet) or old."""

    node: Leaf | _Branch | None
    child: Child | None


@define
class _Branch:
    """An internal node being made. ``places`` by nibble: an old child, or what is new there."""

    key_hash: bytes
    places: list[Child | _Place | None]


class Updater:
    """One update: ``run`` once, on changes sorted by key hash without repetition and with their paths loaded."""

    def __init__(self, loaded: dict[bytes, Node], version: int) -> None:
        self._loaded = loaded
        self._version = version
        self._leaves: list[tuple[_Place, int, bytes]] = []  # a new place, its depth, its key
        self._branches: list[list[tuple[_Place, _Branch]]] = []  # by depth
        self._stale: list[bytes] = []

    def run(self, root: Root, changes: Sequence[Change]) -> TreeUpdate:
        if not changes:
            return TreeUpdate(root)
        key = None if root.version is None else node_key(root.version, b"", 0)
        place = self._update(key, None, changes, 0, len(changes), 0)
        if place is not None and not isinstance(place, _Place):
            return TreeUpdate(root)  # nothing was changed by it
        update = TreeUpdate(Root(), stale=self._stale)
        if place is None:
            return update
        self._hash(update)
        assert place.child is not None
        update.root = Root(self._version, place.child[1])
        return update

    def _leaf(self, leaf: Leaf, depth: int) -> _Place:
        place = _Place(leaf, None)
        self._leaves.append((place, depth, leaf.key_hash))
        return place

    def _branch(self, branch: _Branch, depth: int) -> _Place:
        place = _Place(branch, None)
        while len(self._branches) <= depth:
            self._branches.append([])
        self._branches[depth].append((place, branch))
        return place

    def _update(
        self, key: bytes | None, child: Child | None, changes: Sequence[Change], low: int, high: int, depth: int
    ) -> Child | _Place | None:
        """The place at ``depth`` after ``changes[low:high]``. ``key`` of the node there, which its parent knows as
        ``child`` (None at the root)."""
        node = None if key is None else self._loaded[key]
        if isinstance(node, Internal):
            assert key is not None
            return self._update_internal(node, key, child, changes, low, high, depth)
        leaves = [self._fresh(change) for change in changes[low:high] if change.value_hash is not None]
        if node is not None and key is not None:
            if all(change.key_hash != node.key_hash for change in changes[low:high]):
                if not leaves:
                    return child if child is not None else (self._version, b"", 1)
                leaves.insert(bisect_left(leaves, node.key_hash, key=lambda leaf: leaf.key_hash), node)
            self._stale.append(key)
        return self._plant(leaves, 0, len(leaves), depth)

    def _fresh(self, change: Change) -> Leaf:
        assert change.value_hash is not None
        return Leaf(change.key_hash, change.value_hash, change.state_key, self._version)

    def _update_internal(
        self,
        node: Internal,
        key: bytes,
        child: Child | None,
        changes: Sequence[Change],
        low: int,
        high: int,
        depth: int,
    ) -> Child | _Place | None:
        places: list[Child | _Place | None] = list(node.children)
        changed = False
        for nibble, start, end in _groups(changes, depth, low, high):
            old = node.children[nibble]
            below = None if old is None else node_key(old[0], changes[start].key_hash, depth + 1)
            fresh = self._update(below, old, changes, start, end, depth + 1)
            if fresh is not old:
                places[nibble] = fresh
                changed = True
        if not changed:
            return child if child is not None else (self._version, b"", 2)
        self._stale.append(key)
        there = [(nibble, place) for nibble, place in enumerate(places) if place is not None]
        if not there:
            return None
        if len(there) == 1:
            nibble, lone = there[0]
            if isinstance(lone, _Place) and isinstance(lone.node, Leaf):
                self._leaves = [entry for entry in self._leaves if entry[0] is not lone]
                return self._leaf(lone.node, depth)
            if not isinstance(lone, _Place) and lone[2] == 1:
                moved = node_key(lone[0], _toward(changes[low].key_hash, depth, nibble), depth + 1)
                leaf = self._loaded[moved]
                assert isinstance(leaf, Leaf)
                self._stale.append(moved)
                return self._leaf(leaf, depth)
        return self._branch(_Branch(changes[low].key_hash, places), depth)

    def _plant(self, leaves: Sequence[Leaf], low: int, high: int, depth: int) -> _Place | None:
        """A subtree of these leaves alone (sorted)."""
        if low == high:
            return None
        if high - low == 1:
            return self._leaf(leaves[low], depth)
        places: list[Child | _Place | None] = [None] * 16
        start = low
        while start < high:
            nibble, end = nibble_at(leaves[start].key_hash, depth), start + 1
            while end < high and nibble_at(leaves[end].key_hash, depth) == nibble:
                end += 1
            places[nibble] = self._plant(leaves, start, end, depth + 1)
            start = end
        return self._branch(_Branch(leaves[low].key_hash, places), depth)

    def _hash(self, update: TreeUpdate) -> None:
        """Leaves, then internal nodes from the deepest level up: each level in batches."""
        version, nodes = self._version, update.nodes
        new = [place.node for place, _, _ in self._leaves if isinstance(place.node, Leaf)]
        for (place, depth, key_hash), leaf, hash in zip(self._leaves, new, leaf_hashes(new), strict=True):
            place.child = version, hash, 1
            nodes[node_key(version, key_hash, depth)] = leaf
        for depth in reversed(range(len(self._branches))):
            made = []
            for _, branch in self._branches[depth]:
                children = [place.child if isinstance(place, _Place) else place for place in branch.places]
                made.append(Internal(children))
            for (place, branch), node, hash in zip(self._branches[depth], made, internal_hashes(made), strict=True):
                place.child = version, hash, node.leaf_count
                nodes[node_key(version, branch.key_hash, depth)] = node


def ordered(changes: Iterable[Change]) -> list[Change]:
    """Sorted by key hash, as updates take them; each key once."""
    return sorted(changes, key=lambda change: change.key_hash)


def apply_changes(loaded: dict[bytes, Node], root: Root, changes: Sequence[Change], version: int) -> TreeUpdate:
    """Pure: ``changes`` in order (``ordered``), their paths in ``loaded`` (``load_paths``)."""
    return Updater(loaded, version).run(root, changes)


async def update(reader: NodeReader, root: Root, changes: Iterable[Change], version: int) -> TreeUpdate:
    """The tree after ``changes``, at a version above all its nodes'."""
    listed = ordered(changes)
    return apply_changes(await load_paths(reader, root, listed), root, listed, version)


# --- reading ---------------------------------------------------------------------------------------------------------


@frozen
class Proof:
    """``leaf`` is what stands on the way to the key: its own leaf (it is there), another one or None (it is not).
    ``siblings`` from the bottom up."""

    leaf: Leaf | None
    siblings: tuple[bytes, ...]


async def prove(reader: NodeReader, root: Root, key_hash: bytes) -> Proof:
    """Of inclusion or exclusion under ``root``."""
    siblings: list[bytes] = []
    if root.version is None:
        return Proof(None, ())
    key, depth = node_key(root.version, b"", 0), 0
    while True:
        (node,) = await read_nodes(reader, [key])
        if isinstance(node, Leaf):
            return Proof(node, tuple(reversed(siblings)))
        place, more = child_with_siblings(node, nibble_at(key_hash, depth))
        siblings += more
        if place is None:
            return Proof(None, tuple(reversed(siblings)))
        child = node.children[place]
        assert child is not None
        key = node_key(child[0], _toward(key_hash, depth, place), depth + 1)
        depth += 1


async def reachable(reader: NodeReader, root: Root) -> dict[bytes, Leaf | Internal]:
    """Every node under a root, by node key: for checks, not for the running of a node."""
    found: dict[bytes, Node] = {}
    todo: list[tuple[bytes, bytes]] = [] if root.version is None else [(node_key(root.version, b"", 0), b"")]
    while todo:
        nodes = await read_nodes(reader, [key for key, _ in todo])
        below = []
        for (key, path), node in zip(todo, nodes, strict=True):
            found[key] = node
            if isinstance(node, Internal):
                depth = key[8]
                for nibble, child in enumerate(node.children):
                    if child is not None:
                        way = _toward(path.ljust((depth >> 1) + 1, b"\0"), depth, nibble)
                        below.append((node_key(child[0], way, depth + 1), way))
        todo = below
    return found
