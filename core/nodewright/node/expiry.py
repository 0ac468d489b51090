"""Which pending transactions are due to expire. No clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from nodewright.interfaces.common import Admitted


class ExpiryQueue:
    """Ordered by time, then by arrival. One that consensus has taken is looked at again ``again_seconds`` later."""

    def __init__(self, again_seconds: float) -> None:
        self._again = again_seconds
        self._heap: list[tuple[float, int, Admitted]] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, at: float, item: Admitted) -> None:
        self._count += 1
        heappush(self._heap, (at, self._count, item))

    def due(self, now: float, held: Mapping[bytes, Admitted], is_taken: Callable[[bytes], bool]) -> list[bytes]:
        """Ids whose time is over; those no longer held are forgotten."""
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
