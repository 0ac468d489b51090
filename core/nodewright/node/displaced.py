"""Transactions that gave way to another one, kept whole while that one may itself give way. No clock, no I/O.

A block ordered B, which conflicts with A: A is ``replaced``. A reorganisation brings C, which conflicts with B and not with
A: nothing stands against A any more, and its sender was told that it is accepted. So it is offered again.

Invariants: an id is held at most once, under the winner it gave way to last; at most ``max_bytes`` of transactions are
held, the oldest are let go first; what ``take`` gives is in the order in which it was put, parents first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

MAX_BYTES = 16 * 1024 * 1024


class Displaced:
    """Winners go by the text that statuses show of them: the journal has nothing else."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        # Not a dict: finding its first key costs as much as was deleted before it.
        self._held: OrderedDict[bytes, tuple[bytes, str]] = OrderedDict()
        self._losers: dict[str, dict[bytes, None]] = {}
        self.bytes_used = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, id: bytes) -> bool:
        return id in self._held

    def put(self, id: bytes, raw: bytes, winner: str) -> None:
        self.forget((id,))
        self._held[id] = (raw, winner)
        self._losers.setdefault(winner, {})[id] = None
        self.bytes_used += len(raw)
        while self.bytes_used > self._max_bytes:
            self.forget((next(iter(self._held)),))

    def forget(self, ids: Iterable[bytes]) -> None:
        for id in ids:
            found = self._held.pop(id, None)
            if found is None:
                continue
            raw, winner = found
            self.bytes_used -= len(raw)
            losers = self._losers[winner]
            del losers[id]
            if not losers:
                del self._losers[winner]

    def take(self, winners: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """(id, raw) of all that gave way to these; held no longer."""
        if not self._held:
            return []
        found = [(id, self._held[id][0]) for winner in winners for id in self._losers.get(winner, ())]
        self.forget([id for id, _ in found])
        return found

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """(id, raw), oldest first."""
        return ((id, raw) for id, (raw, _) in list(self._held.items()))
