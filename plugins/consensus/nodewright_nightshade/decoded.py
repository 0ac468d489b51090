"""Rows of a table as the objects that were read from them, so that a row is decoded once while it is asked for often.

Invariants: while a write is in flight nothing is answered from here and nothing put in, since a read beside it may be of
before or after; once it has ended what it wrote is not here; a read that a write ended during is not put in either. At most
``limit`` objects of a table, the ones asked for least lately go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Decoded:
    """``limits``: how many objects of each table; tables that are not named are not kept."""

    def __init__(self, limits: Mapping[str, int], on: bool = True) -> None:
        self._limits = limits if on else {}
        self._tables: dict[str, OrderedDict[bytes, Any]] = {table: OrderedDict() for table in self._limits}
        self._writing = 0
        self._writes = 0
        self.hits = 0

    @contextmanager
    def write(self, tables: Mapping[str, Iterable[bytes]]) -> Iterator[None]:
        """Around a write of these keys."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self._writes += 1
            for table, keys in tables.items():
                kept = self._tables.get(table)
                if kept:
                    for key in keys:
                        kept.pop(key, None)

    def get(self, table: str, key: bytes) -> Any:
        """None where it is not here."""
        kept = self._tables.get(table)
        if not kept or self._writing or key not in kept:
            return None
        kept.move_to_end(key)
        self.hits += 1
        return kept[key]

    @property
    def moment(self) -> int | None:
        """To be given to ``put`` with what is read from now on; None while nothing may be put in."""
        return None if self._writing else self._writes

    def put(self, table: str, key: bytes, value: Any, moment: int | None) -> None:
        kept = self._tables.get(table)
        if kept is None or value is None or moment is None or moment != self.moment:
            return
        kept[key] = value
        kept.move_to_end(key)
        if len(kept) > self._limits[table]:
            kept.popitem(last=False)
