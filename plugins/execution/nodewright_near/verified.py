"""Transactions whose signature was good once: the same bytes are neither read nor checked again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nodewright_near.transactions import SignedTransaction

_OBJECT_BYTES: Final = 1500


class Verified:
    """By id, within a budget; the oldest go first. Who asks compares the bytes: an id does not cover the signature."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._by_id: dict[bytes, SignedTransaction] = {}

    def get(self, id: bytes) -> SignedTransaction | None:
        return self._by_id.get(id)

    def add(self, transactions: Iterable[SignedTransaction]) -> None:
        for signed in transactions:
            if self._by_id.setdefault(signed.id, signed) is signed:
                self._used += len(signed.raw) + _OBJECT_BYTES
        while self._used > self._budget:
            old = self._by_id.pop(next(iter(self._by_id)))
            self._used -= len(old.raw) + _OBJECT_BYTES
