"""Tree nodes that were read of the applied state, within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nodewright_aptos.jmtnodes import Node

_NODE_BYTES: Final = 1500


class NodeCache:
    """Tree nodes by key, as many as fit a budget by a rough measure; when it is full, the older half goes."""

    def __init__(self, budget: int) -> None:
        self._most = max(budget // _NODE_BYTES, 64)
        self.rows: dict[bytes, Node] = {}

    def update(self, nodes: Mapping[bytes, Node]) -> None:
        self.rows.update(nodes)
        if len(self.rows) > self._most:
            keys = list(self.rows)
            self.drop(keys[: len(keys) - self._most // 2])

    def drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.rows.pop(key, None)
