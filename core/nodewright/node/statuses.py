"""Final statuses of transactions, kept for a stated time and up to a stated number.

Invariants: an id has at most one final status, the last one recorded; a status is kept until ``retention_seconds`` after
it was recorded, or until ``max_count`` newer ones push it out; what many ids share (status, block, time) is held once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import repeat

from nodewright.interfaces.pool import TransactionStatus
from nodewright.node.records import FinalRecord


class _Group:
    __slots__ = ("details", "number", "record")

    def __init__(self, record: FinalRecord, number: int) -> None:
        self.record = record
        self.number = number
        self.details = dict(zip(record.ids, record.details, strict=True)) if record.details else None


class FinalStatuses:
    def __init__(self, retention_seconds: float, max_count: int) -> None:
        self._retention = retention_seconds
        self._max_count = max_count
        self._groups: deque[_Group] = deque()
        self._by_id: dict[bytes, _Group] = {}
        self.last_number = 0
        self._held = 0  # ids over all groups, also those that a later status replaced

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: bytes) -> bool:
        return id in self._by_id

    def number(self, id: bytes) -> int:
        """Which recording the id's status is from, counted from 1; 0 where it has none."""
        group = self._by_id.get(id)
        return group.number if group is not None else 0

    def record(self, record: FinalRecord, now: float) -> None:
        self.last_number += 1
        if record.ids and record.time + self._retention > now:
            group = _Group(record, self.last_number)
            self._groups.append(group)
            self._held += len(record.ids)
            self._by_id.update(zip(record.ids, repeat(group)))
        self.expire(now)

    def get(self, id: bytes) -> TransactionStatus | None:
        group = self._by_id.get(id)
        if group is None:
            return None
        record = group.record
        return TransactionStatus(id, record.status, record.block, group.details[id] if group.details else "")

    def committed(self, id: bytes) -> bool:
        group = self._by_id.get(id)
        return group is not None and group.record.status == "committed"

    def forget(self, id: bytes) -> None:
        """The id is pending again."""
        self._by_id.pop(id, None)

    def expire(self, now: float) -> None:
        groups, by_id = self._groups, self._by_id
        while groups and (groups[0].record.time + self._retention <= now or self._held > self._max_count):
            group = groups.popleft()
            self._held -= len(group.record.ids)
            for id in group.record.ids:
                if by_id.get(id) is group:
                    del by_id[id]

    def records(self) -> Iterator[FinalRecord]:
        """What is kept, oldest first: recording these again gives the same statuses."""
        by_id = self._by_id
        for group in list(self._groups):
            record = group.record
            ids = [id for id in record.ids if by_id.get(id) is group]
            if ids:
                details = [group.details[id] for id in ids] if group.details else ()
                yield FinalRecord(record.time, record.status, ids, record.block, details)
