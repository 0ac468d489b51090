"""What bounds clients, apart from any socket: tokens per client address, and bytes held for requests and answers.

Invariants: a client's bucket never holds more than its burst; the table of clients is bounded (the stalest go first); what
``Budget`` has out is at most its total, and one client's part at most its share, but for a single holder larger than that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_CLIENTS: Final = 4096
SMALL_BYTES: Final = 64 * 1024  # of each connection, free of the budget
GRACE_SECONDS: Final = 5.0  # before the least rate counts


class RateLimit:
    """A token bucket per client address: ``rate`` requests a second, ``burst`` at once. ``rate`` 0 switches it off.

    ``clock`` is the environment's monotonic clock in seconds."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = max(1, burst)
        self.clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, client: str) -> float:
        """Take one token; 0.0 if there was one, else the seconds until there will be."""
        if self.rate <= 0:
            return 0.0
        now = self.clock()
        tokens, at = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - at) * self.rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self.rate


class Budget:
    """``total`` bytes for all clients, at most half of them for one."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.share = total // 2
        self.used = 0
        self.of: dict[str, int] = {}

    def take(self, client: str, count: int, holds: int) -> bool:
        """Whether ``client`` may hold ``count`` bytes more for something that holds ``holds`` already. What is alone may be
        larger than its share: it could never be served otherwise."""
        mine = self.of.get(client, 0)
        if (self.used + count > self.total and self.used > holds) or (mine + count > self.share and mine > holds):
            return False
        self.used += count
        self.of[client] = mine + count
        return True

    def give(self, client: str, count: int) -> None:
        self.used -= count
        left = self.of[client] - count
        if left:
            self.of[client] = left
        else:
            del self.of[client]
