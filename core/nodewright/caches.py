"""What is kept in memory because it will be asked for again, within a budget of bytes.

Invariants: what is held, by the estimate below, is at most the budget once a call returns. Nothing that is answered differs
from what was last put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

_ROW_BYTES: Final = 120  # a row's place in the dict and the headers of its key and value
_OBJECT_BYTES: Final = 1500  # a parsed transaction beside its bytes
_ABSENT: Any = object()
_NOTHING: Final[Mapping[bytes, bytes | None]] = {}


class RowCache:
    """Rows of a store by key, None where there is none; when it is full, the older half goes. Who reads looks into ``rows``
    itself; who writes goes through ``update``."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self.rows: dict[bytes, bytes | None] = {}

    def update(self, changes: Mapping[bytes, bytes | None]) -> None:
        rows, used = self.rows, self._used
        old_values = list(map(rows.get, changes))
        if None not in old_values and None not in changes.values():
            # The frequent case: other values where there were some.
            used += sum(map(len, changes.values())) - sum(map(len, old_values))  # type: ignore[arg-type]
            rows.update(changes)
            changes = _NOTHING
        for key, value in changes.items():
            old = rows.get(key, _ABSENT)
            if old is _ABSENT:
                used += len(key) + _ROW_BYTES
            elif old is not None:
                used -= len(old)
            if value is not None:
                used += len(value)
            rows[key] = value
        self._used = used
        while self._used > self._budget:
            for old_key in list(rows)[: len(rows) // 2 + 1]:
                gone = rows.pop(old_key)
                self._used -= len(old_key) + (len(gone) if gone is not None else 0) + _ROW_BYTES


class Transaction(Protocol):
    @property
    def id(self) -> bytes: ...

    @property
    def raw(self) -> bytes: ...


T = TypeVar("T", bound=Transaction)


class Verified(Generic[T]):
    """Transactions whose signatures were good once, by id; when it is full, the oldest eighth goes. Where an id does not
    cover the signatures, who asks compares the bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._by_id: dict[bytes, T] = {}

    def get(self, id: bytes) -> T | None:
        return self._by_id.get(id)

    def add(self, transactions: Iterable[T]) -> None:
        """One that is here already stays as it is."""
        by_id = self._by_id
        for transaction in transactions:
            id = transaction.id
            if id not in by_id:
                by_id[id] = transaction
                self._used += len(transaction.raw) + _OBJECT_BYTES
        if self._used > self._budget:
            # Many at once: the first key of a dict is found by going over all that were deleted before it.
            for id in list(by_id):
                self._used -= len(by_id.pop(id).raw) + _OBJECT_BYTES
                if self._used <= self._budget * 7 // 8:
                    break
