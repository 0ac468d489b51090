"""What was committed and is not yet known to be on the server's device: the newest value of each such key. Pure.

Invariants:

- a key is here from the moment its commit returns until the *last* commit that wrote it is retired; a reader asks here
  first, so that it does not matter what the server has meanwhile, or has lost;
- ``size`` is what commits not yet retired hold, keys and values.
"""

from __future__ import annotations

from attrs import define

from nodewright_aerospike.entry import Tables


@define(slots=True)
class Commit:
    """A commit in the journal under ``number``."""

    number: int
    tables: Tables
    size: int


class Overlay:
    __slots__ = ("_numbers", "rows", "size")

    def __init__(self) -> None:
        self.rows: Tables = {}
        self._numbers: dict[str, dict[bytes, int]] = {}
        self.size = 0

    def add(self, commit: Commit) -> None:
        for table, rows in commit.tables.items():
            self.rows.setdefault(table, {}).update(rows)
            self._numbers.setdefault(table, {}).update(dict.fromkeys(rows, commit.number))
        self.size += commit.size

    def retire(self, commit: Commit) -> None:
        number = commit.number
        for table, rows in commit.tables.items():
            held, numbers = self.rows[table], self._numbers[table]
            for key in rows:
                if numbers[key] == number:
                    del held[key], numbers[key]
        self.size -= commit.size
