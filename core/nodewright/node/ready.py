"""The order in which pending transactions are handed to consensus. No clock, no I/O.

Given back and restored ones come first, in the order they were put there (a later batch goes before an earlier one: it is
nearer to the chain's tip that is being undone, so parents stay before children). Then arrival order; then, for families
that give ordering keys, ascending key and arrival within equal keys.

Invariant: every transaction ``held`` is in at most one queue position that counts; positions left behind by one that was
settled, or settled and restored, are skipped because they hold another object.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from nodewright.interfaces.common import Admitted
from nodewright.interfaces.execution import Candidate


class ReadyQueue:
    """``held`` is the pool's own mapping of pending transactions, read and never written here."""

    def __init__(self, held: Mapping[bytes, Admitted]) -> None:
        self._held = held
        self._front: deque[Admitted] = deque()
        self._arrived: deque[Admitted] = deque()
        self._keyed: list[tuple[bytes, int, Admitted]] = []
        self._count = 0
        self._taken: set[bytes] = set()
        self._overdue: set[bytes] = set()  # taken when their time was over: not made ready again

    def add(self, transactions: Sequence[Admitted]) -> None:
        """All must be held."""
        keyed = [item for item in transactions if item.ordering_key]
        if not keyed:
            self._arrived.extend(transactions)
            return
        self._arrived.extend(item for item in transactions if not item.ordering_key)
        for item in keyed:
            self._count += 1
            heapq.heappush(self._keyed, (item.ordering_key, self._count, item))

    def add_first(self, transactions: Sequence[Admitted]) -> None:
        self._front.extendleft(reversed(transactions))

    def give_back(self, ids: Sequence[bytes]) -> bool:
        """Returns whether any became ready. Ids that are not taken and pending are passed over; those whose time is over
        wait for nothing but to expire."""
        held, taken = self._held, self._taken
        back = []
        for id in ids:
            if id in taken:
                taken.discard(id)
                item = held.get(id)
                if item is not None and id not in self._overdue:
                    back.append(item)
        self._front.extendleft(reversed(back))
        return bool(back)

    def take(self, max_count: int) -> list[Candidate]:
        chosen: list[Admitted] = []
        held, taken = self._held, self._taken
        for queue in (self._front, self._arrived):
            while queue and len(chosen) < max_count:
                part = [queue.popleft() for _ in range(min(max_count - len(chosen), len(queue)))]
                chosen += [item for item in part if held.get(item.id) is item and item.id not in taken]
        while self._keyed and len(chosen) < max_count:
            item = heapq.heappop(self._keyed)[2]
            if held.get(item.id) is item and item.id not in taken:
                chosen.append(item)
        taken.update([item.id for item in chosen])
        return candidates(chosen)

    def withhold(self, ids: Sequence[bytes]) -> None:
        """Hand these out no more: they are about to get a final status."""
        self._taken.update(ids)

    def drop(self, ids: Sequence[bytes]) -> None:
        """These are pending no longer."""
        if not self._held:
            self._taken = set()
        elif len(self._held) < len(ids):  # a block's worth: look at what stays
            self._taken = self._taken & self._held.keys()
        else:
            self._taken.difference_update(ids)
        if self._overdue:
            self._overdue.difference_update(ids)

    def overdue(self, id: bytes) -> bool:
        """Its time is over: whether it is taken, and so cannot expire before it is given back or settled."""
        if id in self._taken:
            self._overdue.add(id)
            return True
        return False

    def compact(self) -> None:
        """Forget positions that no longer count, so that the queues are bounded by what is pending."""
        held = self._held
        for name in ("_front", "_arrived"):
            queue: deque[Admitted] = getattr(self, name)
            if len(queue) > 1024 + 2 * len(held):
                setattr(self, name, deque(item for item in queue if held.get(item.id) is item))
        if len(self._keyed) > 1024 + 2 * len(held):
            self._keyed = [entry for entry in self._keyed if held.get(entry[2].id) is entry[2]]
            heapq.heapify(self._keyed)


def candidates(transactions: Sequence[Admitted]) -> list[Candidate]:
    return [Candidate(item.id, len(item.raw), item.fee, item.ordering_key, item.shard) for item in transactions]


def first_candidates(held: Mapping[bytes, Admitted], limit: int) -> list[Candidate]:
    return candidates(list(islice(held.values(), limit)))
