"""The tree of known headers: work, best chain, forks, marks. Pure; what is durable of it is in ``store``.

Invariants:
- every node but the root has its parent in the tree; ``work`` is the parent's plus its own;
- a node is ``connected`` when its body and all its ancestors' are stored;
- a node is ``bad`` when it or an ancestor is marked invalid, by a rule or by the operator;
- a node without a body, a mark and children is there only as long as somebody asks for it (``discard``);
- ``best`` is the connected node that is not bad with the most work; among equals the one whose body came first
  (``sequence``), so that a tie never moves the tip;
- ``active`` is the chain the execution has applied, indexed by height: only ``consensus`` moves it, by one block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from nodewright.interfaces.common import BlockRef
from nodewright_nakamoto.header import Header, work_of

MEDIAN_SPAN = 11
MAX_LOCATOR = 64


class Node:
    """One header in the tree."""

    __slots__ = (
        "bad",
        "children",
        "connected",
        "have",
        "header",
        "height",
        "id",
        "mark",
        "parent",
        "reason",
        "sequence",
        "work",
    )

    def __init__(self, id: bytes, header: Header, parent: Node | None) -> None:
        self.id = id
        self.header = header
        self.parent = parent
        self.height: int = parent.height + 1 if parent else 0
        self.work: int = (parent.work if parent else 0) + work_of(header.bits)
        self.children: list[Node] = []
        self.have = False
        self.connected = False
        self.sequence = 0
        self.mark = ""  # "", "invalid" (a rule) or "manual" (the operator)
        self.reason = ""
        self.bad: bool = parent.bad if parent else False

    @property
    def time(self) -> int:
        return self.header.time

    @property
    def bits(self) -> int:
        return self.header.bits

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.height, self.id)

    def __repr__(self) -> str:
        return f"Node({self.ref})"


class Branch:
    """A chain seen from one tip (what difficulty rules look at)."""

    def __init__(self, index: ChainIndex, tip: Node) -> None:
        self._index = index
        self._tip = tip

    def ancestor(self, height: int) -> Node:
        return self._index.ancestor(self._tip, height)


class ChainIndex:
    def __init__(self, genesis: Header) -> None:
        self.root = Node(genesis.id, genesis, None)
        self.nodes: dict[bytes, Node] = {self.root.id: self.root}
        self.active: list[Node] = [self.root]
        self.best = self.root
        self.marked: dict[bytes, Node] = {}
        self.root.have = self.root.connected = True
        self._sequence = 0

    def __contains__(self, id: bytes) -> bool:
        return id in self.nodes

    def __len__(self) -> int:
        return len(self.nodes)

    def get(self, id: bytes) -> Node | None:
        return self.nodes.get(id)

    @property
    def tip(self) -> Node:
        """The head of the active chain."""
        return self.active[-1]

    # --- growth ---

    def add(self, header: Header) -> Node:
        """Add a header whose parent is known (KeyError otherwise). Adding it twice gives the node there is."""
        id = header.id
        node = self.nodes.get(id)
        if node is None:
            parent = self.nodes[header.previous]
            node = Node(id, header, parent)
            parent.children.append(node)
            self.nodes[id] = node
        return node

    def discard(self, node: Node, keep: Collection[bytes]) -> None:
        """Take the node and those below it out of the tree, down to one that has a body, a mark or another child, or that
        is to be kept."""
        while node.parent is not None and not (node.children or node.have or node.mark or node.id in keep):
            node.parent.children.remove(node)
            self.nodes.pop(node.id, None)
            node = node.parent

    def next_sequence(self) -> int:
        """An arrival number for a body that is about to be stored."""
        self._sequence += 1
        return self._sequence

    def stored(self, node: Node, sequence: int) -> None:
        """The node's body is durable under this arrival number."""
        self._sequence = max(self._sequence, sequence)
        if not node.have:
            node.sequence = sequence
            node.have = True
            self._connect(node)

    def _connect(self, node: Node) -> None:
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current.have and current.parent is not None and current.parent.connected and not current.connected:
                current.connected = True
                if not current.bad and self._better(current, self.best):
                    self.best = current
                waiting.extend(current.children)

    @staticmethod
    def _better(one: Node, other: Node) -> bool:
        return (one.work, -one.sequence) > (other.work, -other.sequence)

    # --- marks ---

    def mark(self, node: Node, kind: str, reason: str) -> None:
        """Mark invalid (``invalid`` by a rule, ``manual`` by the operator); its descendants become bad with it."""
        node.mark, node.reason = kind, reason
        self.marked[node.id] = node
        for current in self._subtree(node):
            current.bad = True
        self._choose()

    def clear(self, node: Node) -> list[Node]:
        """Take back every mark on the node, its ancestors and its descendants; returns the nodes that were marked."""
        cleared = []
        top = node
        for current in self.back(node):
            if current.mark:
                top = current
        for current in [*self.back(node), *self._subtree(node)]:
            if current.mark:
                current.mark = current.reason = ""
                self.marked.pop(current.id, None)
                cleared.append(current)
        for current in self._subtree(top):
            current.bad = bool(current.mark or (current.parent and current.parent.bad))
        self._choose()
        return cleared

    def _subtree(self, node: Node) -> Iterator[Node]:
        """The node and its descendants, parents first."""
        waiting = [node]
        while waiting:
            current = waiting.pop()
            yield current
            waiting.extend(current.children)

    def _choose(self) -> None:
        self.best = self.root
        for node in self.nodes.values():
            if node.connected and not node.bad and self._better(node, self.best):
                self.best = node

    # --- questions ---

    def on_active(self, node: Node) -> bool:
        return node.height < len(self.active) and self.active[node.height] is node

    def back(self, node: Node) -> Iterator[Node]:
        """The node and its ancestors down to genesis."""
        current: Node | None = node
        while current is not None:
            yield current
            current = current.parent

    def ancestor(self, node: Node, height: int) -> Node:
        """The ancestor (or the node itself) of that height; O(distance to the active chain)."""
        if not 0 <= height <= node.height:
            raise ValueError(f"no ancestor of height {height} below {node.height}")
        for current in self.back(node):
            if current.height == height:
                return current
            if self.on_active(current):
                return self.active[height]
        raise AssertionError("every branch ends at genesis")

    def is_ancestor(self, one: Node, of: Node) -> bool:
        """Whether ``one`` is ``of`` or below it on its chain."""
        return one.height <= of.height and self.ancestor(of, one.height) is one

    def fork_point(self, one: Node, other: Node) -> Node:
        """The last common ancestor."""
        height = min(one.height, other.height)
        one, other = self.ancestor(one, height), self.ancestor(other, height)
        while one is not other:
            assert one.parent is not None and other.parent is not None
            one, other = one.parent, other.parent
        return one

    def path(self, base: Node, tip: Node) -> list[Node]:
        """The nodes above ``base`` up to ``tip``, lowest first; ``base`` is an ancestor of ``tip``."""
        nodes = []
        current = tip
        while current is not base:
            nodes.append(current)
            assert current.parent is not None
            current = current.parent
        return nodes[::-1]

    def branch(self, tip: Node) -> Branch:
        return Branch(self, tip)

    def median_time(self, node: Node) -> int:
        """Median time of the node and up to ten ancestors."""
        times = []
        for current in self.back(node):
            times.append(current.time)
            if len(times) == MEDIAN_SPAN:
                break
        return sorted(times)[len(times) // 2]

    def median_time_past(self, block: BlockRef, height: int) -> int:
        """See ``interfaces.execution.ChainTimes``."""
        return self.median_time(self.ancestor(self.nodes[block.id], height))

    def locator(self, node: Node) -> list[bytes]:
        """Ids from the node back to genesis: ten one by one, then with doubling gaps; at most MAX_LOCATOR."""
        heights: list[int] = []
        step, height = 1, node.height
        while height > 0 and len(heights) < MAX_LOCATOR - 1:
            heights.append(height)
            if len(heights) >= 10:
                step *= 2
            height -= step
        return [self.ancestor(node, height).id for height in [*heights, 0]]

    def after_locator(self, locator: Iterable[bytes], limit: int) -> list[Node]:
        """Up to ``limit`` nodes of the active chain after the first locator entry that stands on it."""
        start = 0
        for id in locator:
            node = self.nodes.get(id)
            if node is not None and self.on_active(node):
                start = node.height
                break
        return self.active[start + 1 : start + 1 + limit]

    def tips(self) -> list[Node]:
        """Every node without a child that is not bad, and every bad branch's end, most work first."""
        return sorted((node for node in self.nodes.values() if not node.children), key=lambda node: -node.work)
