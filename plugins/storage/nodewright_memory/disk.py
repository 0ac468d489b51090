"""A disk in memory: what a memory store writes to, and what a test or simulator crashes.

Invariants:

- ``live`` is every commit so far; ``base`` is what would survive if the power went now and nothing unsynced had reached
  the disk; ``unsynced`` are the commits between the two, in order;
- a durable commit moves ``base`` up to ``live``;
- a crash keeps ``base`` and a *prefix* of ``unsynced``, and every store opened before it is dead from then on;
- one store at a time has the disk open; every opening has a higher epoch than the one before.

A volatile disk (``keep_history=False``) has no ``base``: it never crashes, and keeps one copy of the rows only.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from nodewright.errors import LeaseLost, StoreError, StoreFull, StoreLocked

Rows = dict[bytes, bytes]
Changes = Mapping[str, Mapping[bytes, bytes | None]]


class Table:
    """Rows by key, with the sorted keys made when a scan asks for them: ``_order`` holds every key that was there at the
    last scan (deleted ones too), ``_added`` the new ones since, so that a write costs a dict write."""

    __slots__ = ("_added", "_dropped", "_order", "rows")

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows: Rows = rows if rows is not None else {}
        self._order: list[bytes] = []
        self._added: list[bytes] = list(self.rows)
        self._dropped = False

    def apply(self, changes: Mapping[bytes, bytes | None]) -> int:
        """Returns by how many bytes the table grew."""
        rows = self.rows
        grown = 0
        for key, value in changes.items():
            if value is None:
                gone = rows.pop(key, None)
                if gone is not None:
                    self._dropped = True
                    grown -= len(key) + len(gone)
                continue
            old = rows.get(key)
            if old is None:
                self._added.append(key)
                grown += len(key) + len(value)
            else:
                grown += len(value) - len(old)
            rows[key] = value
        return grown

    def keys(self) -> list[bytes]:
        """The keys in order. Not to be changed by the caller."""
        if self._added or self._dropped:
            merged = self._order + self._added
            merged.sort()
            if self._dropped:
                merged = list(dict.fromkeys(filter(self.rows.__contains__, merged)))
            self._order, self._added, self._dropped = merged, [], False
        return self._order

    def copy(self) -> Table:
        return Table(dict(self.rows))


@define(slots=True, eq=False)
class MemoryDisk:
    """``capacity_bytes`` bounds keys and values together; None is no bound."""

    name: str = ""
    keep_history: bool = True
    capacity_bytes: int | None = None
    live: dict[str, Table] = field(factory=dict)
    base: dict[str, Table] = field(factory=dict)
    unsynced: list[Changes] = field(factory=list)
    used_bytes: int = 0
    epoch: int = 0
    _owner: str | None = None

    def attach(self, owner: str) -> int:
        """Open the disk; returns the epoch that ``commit`` has to show. Raises StoreLocked."""
        if self._owner is not None:
            raise StoreLocked(
                f"the memory disk {self.name!r} is in use by {self._owner}: stop that node first, or choose another disk"
            )
        self._owner = owner
        self.epoch += 1
        return self.epoch

    def take_over(self) -> None:
        """What an operator does to an owner that must not go on: its next call raises LeaseLost, the disk is free."""
        self._owner = None
        self.epoch += 1

    def detach(self, epoch: int) -> None:
        if epoch == self.epoch:
            self._owner = None

    def check(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise LeaseLost(f"the memory disk {self.name!r} was crashed or taken over: open it again")

    def commit(self, epoch: int, changes: Changes, durable: bool) -> None:
        self.check(epoch)
        if self.capacity_bytes is not None:
            added = sum(
                len(key) + len(value) for rows in changes.values() for key, value in rows.items() if value is not None
            )
            if self.used_bytes + added > self.capacity_bytes:
                raise StoreFull(f"the memory disk {self.name!r} holds at most {self.capacity_bytes} bytes")
        self.used_bytes += _apply(self.live, changes)
        if not self.keep_history:
            return
        self.unsynced.append({table: dict(rows) for table, rows in changes.items()})
        if durable:
            for earlier in self.unsynced:
                _apply(self.base, earlier)
            self.unsynced.clear()

    def crash(self, keep: int = 0) -> None:
        """The power goes: ``keep`` of the unsynced commits, the oldest ones, had reached the disk."""
        if not self.keep_history:
            raise StoreError("a volatile memory disk cannot crash: it keeps nothing")
        if not 0 <= keep <= len(self.unsynced):
            raise ValueError(f"keep is 0 to {len(self.unsynced)}")
        for survived in self.unsynced[:keep]:
            _apply(self.base, survived)
        self.unsynced.clear()
        self.live = {name: table.copy() for name, table in self.base.items()}
        self.used_bytes = sum(len(k) + len(v) for table in self.live.values() for k, v in table.rows.items())
        self.take_over()


def _apply(tables: dict[str, Table], changes: Changes) -> int:
    grown = 0
    for name, rows in changes.items():
        if rows:
            table = tables.get(name)
            if table is None:
                table = tables[name] = Table()
            grown += table.apply(rows)
    return grown


_disks: dict[tuple[str, str, str], MemoryDisk] = {}


def named_disk(name: str, node: str, slot: str) -> MemoryDisk:
    """The disk of this process by name, node and slot; made at the first call. It lives until ``forget_disks``."""
    key = (name, node, slot)
    if key not in _disks:
        _disks[key] = MemoryDisk(name=f"{name}/{node}/{slot}")
    return _disks[key]


def forget_disks(name: str) -> None:
    """Drop every disk of that name, opened or not."""
    for key in [key for key in _disks if key[0] == name]:
        del _disks[key]
