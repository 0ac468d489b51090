"""The transaction records that the ``utxo`` adapter keeps in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from nodewright.storage.utxo_records import Record


class RecordCache:
    """The records used last, within a budget of bytes; one over a sixteenth of it is not kept."""

    __slots__ = ("_budget", "_records", "used")

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._records: OrderedDict[bytes, Record] = OrderedDict()
        self.used = 0

    def get(self, txid: bytes) -> Record | None:
        record = self._records.get(txid)
        if record is not None:
            self._records.move_to_end(txid)
        return record

    def peek(self, txid: bytes) -> Record | None:
        return self._records.get(txid)

    def put(self, txid: bytes, record: Record) -> None:
        if record.size * 16 > self._budget:
            self.pop(txid)
            return
        old = self._records.get(txid)
        if old is not None:
            self.used -= old.size
        self._records[txid] = record
        self.used += record.size
        while self.used > self._budget:
            _, gone = self._records.popitem(last=False)
            self.used -= gone.size

    def put_all(self, records: Mapping[bytes, Record]) -> None:
        """As ``put`` for each, in order."""
        held = self._records
        sizes = [record.size for record in records.values()]
        total = sum(sizes)
        if not sizes or max(sizes) * 16 > self._budget or total > self._budget or not held.keys().isdisjoint(records):
            for txid, record in records.items():
                self.put(txid, record)
            return
        held.update(records)
        self.used += total
        while self.used > self._budget:
            _, gone = held.popitem(last=False)
            self.used -= gone.size

    def pop(self, txid: bytes) -> None:
        record = self._records.pop(txid, None)
        if record is not None:
            self.used -= record.size

    def clear(self) -> None:
        self._records.clear()
        self.used = 0
