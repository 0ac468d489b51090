"""Who leads a round: by reputation from the chain itself, by rotation where there is not enough of it. Pure.

Rounds are cut into stretches of ``STRETCH``. The leaders of a stretch follow from the blocks of the ``WINDOW`` rounds that
end a whole stretch before it: almost always ordered by then, so that everybody sees the same. Who led and failed there
weighs 1, who led or voted 1,000, anybody else 10, times voting power (the weights that Aptos gives).

Invariant: the leader of a block's round depends on nothing but the blocks below it and the validators of its epoch. So
every node that has a block's ancestors judges its author alike.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from attrs import define, field, frozen

from nodewright_jolteon.codec import Reader, digest, u32, u64, vector
from nodewright_jolteon.validators import MAX_VALIDATORS, Epoch

ACTIVE, INACTIVE, FAILED = 1000, 10, 1
FAILURE_PERCENT = 10  # of its rounds that a leader may fail in and still count as active
STRETCH = 16
WINDOW_PER_VALIDATOR = 10
MAX_FAILED = 10  # skipped rounds that a block reports at most, the last ones


@frozen
class Record:
    """What a block says about validators. ``voters`` are those of its parent, ``failed`` the leaders of skipped rounds."""

    round: int
    id: bytes
    author: int
    voters: tuple[int, ...]
    failed: tuple[int, ...]

    def encode(self) -> bytes:
        return u64(self.round) + self.id + u32(self.author) + vector(self.voters, u32) + vector(self.failed, u32)

    @classmethod
    def decode(cls, data: Reader) -> Record:
        round, id, author = data.u64(), data.hash(), data.u32()
        return cls(round, id, author, data.vector(data.u32, MAX_VALIDATORS), data.vector(data.u32, MAX_FAILED))


@define
class Leaders:
    """``history``: records of this epoch's ordered blocks, oldest first; as much of it as is looked at."""

    epoch: Epoch
    history: list[Record] = field(factory=list)
    _weights: dict[tuple[int, bytes], list[int]] = field(factory=dict)

    @property
    def window(self) -> int:
        return WINDOW_PER_VALIDATOR * len(self.epoch.validators)

    def leader(self, round: int, path: Sequence[Record] = ()) -> int:
        """``path``: the records above ``history`` that the round stands on, oldest first."""
        count = len(self.epoch.validators)
        until = (round // STRETCH - 1) * STRETCH
        if until <= 0 or count == 1:
            return round % count
        seen = self._before(self.history, until)
        seen_path = self._before(path, until) if seen == len(self.history) else 0
        last = path[seen_path - 1] if seen_path else self.history[seen - 1] if seen else None
        if last is None:
            return round % count
        key = until, last.id
        weights = self._weights.get(key)
        if weights is None:
            first = max(0, until - self.window)
            looked_at = [one for one in (*self.history[:seen], *path[:seen_path]) if one.round >= first]
            if len(self._weights) > 8:
                self._weights.pop(next(iter(self._weights)))
            weights = self._weights[key] = self._weigh(looked_at)
        return _drawn(weights, digest("leader", u64(self.epoch.number), u64(round), last.id))

    def failed(self, parent_round: int, round: int, path: Sequence[Record] = ()) -> tuple[int, ...]:
        """The leaders of the rounds between a block of ``round`` and its parent, which stands at the end of ``path``."""
        skipped = range(max(parent_round + 1, round - MAX_FAILED), round)
        return tuple(self.leader(one, path) for one in skipped)

    def ordered(self, record: Record) -> None:
        self.history.append(record)
        keep = record.round - self.window - 3 * STRETCH
        drop = self._before(self.history, keep)
        if drop > STRETCH:
            del self.history[:drop]

    @staticmethod
    def _before(records: Sequence[Record], round: int) -> int:
        return bisect_left(records, round, key=lambda record: record.round)

    def _weigh(self, records: Sequence[Record]) -> list[int]:
        members = self.epoch.validators.members
        led, failed, voted = ([0] * len(members) for _ in range(3))
        for record in records:
            led[record.author] += 1
            for place in record.failed:
                failed[place] += 1
            for place in record.voters:
                voted[place] += 1
        weights = []
        for place, member in enumerate(members):
            if 100 * failed[place] > FAILURE_PERCENT * (led[place] + failed[place]):
                weight = FAILED
            else:
                weight = ACTIVE if led[place] or voted[place] else INACTIVE
            weights.append(weight * member.power)
        return weights


def _drawn(weights: Sequence[int], seed: bytes) -> int:
    """One place, each with the chance of its weight."""
    at = int.from_bytes(seed, "little") % sum(weights)
    for place, weight in enumerate(weights):
        if at < weight:
            return place
        at -= weight
    raise AssertionError("the weights do not reach their own sum")
