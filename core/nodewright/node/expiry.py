"""Which pending transactions are due to expire. No clock of its own.

Invariant: after ``due``, no more are held here than 1,024 and two for each that is pending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

from nodewright.interfaces.common import Admitted


class ExpiryQueue:
    """Ordered by time, then by arrival. One that consensus has taken is looked at again ``again_seconds`` later."""

    def __init__(self, again_seconds: float) -> None:
        self._again = again_seconds
        self._heap: list[tuple[float, int, Admitted]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, item: Admitted) -> None:
        self._count += 1
        heappush(self._heap, (at, self._count, item))

    def due(self, now: float, held: Mapping[bytes, Admitted], is_taken: Callable[[bytes], bool]) -> list[bytes]:
        """Ids whose time is over; those no longer held are forgotten."""
        if len(self._heap) > 1024 + 2 * len(held):  # a block committed most of them long before their time
            self._heap = [entry for entry in self._heap if held.get(entry[2].id) is entry[2]]
            heapify(self._heap)
        ids: list[bytes] = []
        while self._heap and self._heap[0][0] <= now:
            item = heappop(self._heap)[2]
            if held.get(item.id) is not item:
                continue
            if is_taken(item.id):
                self.add(now + self._again, item)
            else:
                ids.append(item.id)
        return ids
