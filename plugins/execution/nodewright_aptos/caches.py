"""What was read of the applied state, within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nodewright_aptos.jmtnodes import Node

_ROW_BYTES: Final = 120
_NODE_BYTES: Final = 1500


class Cache:
    """Bytes by key within a budget; when it is full, the older half goes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self.rows: dict[bytes, bytes | None] = {}

    def update(self, changes: Mapping[bytes, bytes | None]) -> None:
        rows, used = self.rows, self._used
        for key, value in changes.items():
            size = len(value) if value is not None else 0
            if key in rows:
                old = rows[key]
                used += size - (len(old) if old is not None else 0)
            else:
                used += len(key) + size + _ROW_BYTES
            rows[key] = value
        self._used = used
        while self._used > self._budget:
            for old_key in list(rows)[: len(rows) // 2 + 1]:
                gone = rows.pop(old_key)
                self._used -= len(old_key) + (len(gone) if gone is not None else 0) + _ROW_BYTES


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
