"""What the wrappers share: the store behind them, and rows held in memory in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodewright.errors import StoreError
from nodewright.interfaces.storage import Compaction, KeyValueStore, TableListing

Changes = Mapping[str, Mapping[bytes, bytes | None]]

INHERITED = frozenset({"ordered", "snapshot", "volatile"})
ROW_BYTES = 200  # what a row takes beside its key and value: objects, hash table, order of use

ABSENT = object()  # no row is held; None stands for one that is held as deleted


class Wrapper:
    """A key-value store in front of another one, which it alone uses. ``slot`` is its own, for messages."""

    def __init__(self, inner: KeyValueStore, slot: str) -> None:
        self.inner = inner
        self.slot = slot
        self.capabilities: frozenset[str] = frozenset(getattr(inner, "capabilities", ())) & INHERITED

    async def tables(self) -> list[str]:
        """As ``TableListing``. Raises StoreError where the store behind cannot name its tables."""
        if not isinstance(self.inner, TableListing):
            raise StoreError(
                f"{self.slot}: the store behind it cannot name its tables, so that some could be missed: use a version of "
                "its plugin whose store has tables()"
            )
        return await self.inner.tables()

    async def compact(self) -> None:
        """As ``Compaction``; nothing where the store behind keeps no room for what was deleted."""
        if isinstance(self.inner, Compaction):
            await self.inner.compact()


class Layer:
    """Rows held by table, None for a deleted one, and the bytes of memory they take."""

    __slots__ = ("size", "tables")

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes | None]] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.tables)

    def apply(self, changes: Changes) -> None:
        size = 0
        for table, rows in changes.items():
            if not rows:
                continue
            held = self.tables.setdefault(table, {})
            for key, value in rows.items():
                old: Any = held.get(key, ABSENT)
                if old is ABSENT:
                    size += ROW_BYTES + len(key)
                elif old is not None:
                    size -= len(old)
                if value is not None:
                    size += len(value)
                held[key] = value
        self.size += size

    def with_(self, changes: Changes) -> dict[str, dict[bytes, bytes | None]]:
        """Its rows with others laid over them, as a copy."""
        merged = {table: dict(rows) for table, rows in self.tables.items()}
        for table, rows in changes.items():
            merged.setdefault(table, {}).update(rows)
        return merged


def look_up(table: str, keys: Sequence[bytes], layers: Sequence[Layer]) -> tuple[list[Any], list[bytes]]:
    """What the layers hold of these keys, the first that has one: values with ABSENT where none has; and those keys."""
    found: list[Any] = [ABSENT] * len(keys)
    missing = list(keys)
    for rows in [layer.tables[table] for layer in layers if table in layer.tables]:
        missing = []
        for index, key in enumerate(keys):
            if found[index] is ABSENT:
                value = rows.get(key, ABSENT)
                found[index] = value
                if value is ABSENT:
                    missing.append(key)
    return found, missing


def filled(found: list[Any], values: Sequence[bytes | None]) -> list[bytes | None]:
    """``found`` with the values in place of what was absent, in order."""
    given = iter(values)
    return [next(given) if value is ABSENT else value for value in found]
