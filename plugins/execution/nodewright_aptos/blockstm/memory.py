"""Multi-version memory of one block (Block-STM, section 3): for each key what each transaction wrote, by its place.

A transaction at place i reads the version of the highest place below i, and the state before the block where there is none.
One that was aborted leaves its versions behind as *estimates*: it will probably write there again, so that a reader is told
to wait for it (``Blocked``) and does not run on a value that is about to change.

Aggregators: a version may be a *delta*. Reading sums the deltas down to the highest version that is a value; so writers of
deltas read nothing and none invalidates another. ``settle`` turns a committed transaction's deltas into values, in order:
reading an aggregator walks over what is not committed yet and no further.

Invariants
- A key's places are ascending, and there is one version for each.
- ``record`` leaves exactly the versions of the incarnation that it is given: none of an earlier one survives.
- What ``read`` answers depends on versions below the reader's place alone.
- A speculative sum may lie outside of a u128: it is answered modulo 2**128 and never raises. ``settle``, in commit order,
  is what raises, as sequential execution does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from typing import Final

from nodewright_aptos.state import MAX_AGGREGATOR, aggregate

NOT_WRITTEN: Final = b"\0not written"  # compared by identity


class Blocked(Exception):
    """The version to be read is an estimate of the transaction at place ``writer``."""

    def __init__(self, writer: int) -> None:
        super().__init__(writer)
        self.writer = writer


class _Version:
    """A value, a delta, or a delta over a value of the same transaction."""

    __slots__ = ("delta", "estimate", "value")

    def __init__(self, value: bytes | None, delta: int | None) -> None:
        self.value = value
        self.delta = delta
        self.estimate = False


class _Column:
    __slots__ = ("places", "versions")

    def __init__(self) -> None:
        self.places: list[int] = []
        self.versions: dict[int, _Version] = {}


class MultiVersionMemory:
    """``base`` answers the value before the block; what it raises (``Absent``) goes through ``read``."""

    def __init__(self, count: int, base: Callable[[bytes], bytes | None]) -> None:
        self._base = base
        self._columns: dict[bytes, _Column] = {}
        self._written: list[tuple[bytes, ...]] = [()] * count

    def read(self, key: bytes, place: int) -> bytes | None:
        """Raises Blocked."""
        column = self._columns.get(key)
        if column is None:
            return self._base(key)
        places = column.places
        at = bisect_left(places, place)
        total: int | None = None
        value: bytes | None = NOT_WRITTEN
        while at and value is NOT_WRITTEN:
            at -= 1
            version = column.versions[places[at]]
            if version.estimate:
                raise Blocked(places[at])
            value = version.value
            if version.delta is not None:
                total = version.delta + (total or 0)
        if value is NOT_WRITTEN:
            value = self._base(key)
        if total is None:
            return value
        return ((int.from_bytes(value or b"", "little") + total) & MAX_AGGREGATOR).to_bytes(16, "little")

    def record(self, place: int, writes: Mapping[bytes, bytes | None], deltas: Mapping[bytes, int]) -> bool:
        """What an incarnation wrote in place of what the one before it did. True where it wrote to a key that the one
        before had not: what was read of it above may be wrong."""
        before = self._written[place]
        columns = self._columns
        wider = False
        for key in writes.keys() | deltas.keys() if deltas else writes:
            column = columns.get(key)
            if column is None:
                column = columns[key] = _Column()
            if place not in column.versions:
                wider = True
                insort(column.places, place)
            column.versions[place] = _Version(writes.get(key, NOT_WRITTEN), deltas.get(key))
        for key in before:
            if key not in writes and key not in deltas:
                column = columns[key]
                del column.versions[place]
                del column.places[bisect_left(column.places, place)]
        self._written[place] = (*writes, *[key for key in deltas if key not in writes])
        return wider

    def estimate(self, place: int) -> None:
        """Its transaction was aborted."""
        for key in self._written[place]:
            self._columns[key].versions[place].estimate = True

    def settle(self, place: int) -> None:
        """Its transaction is committed, as are all below. Raises OverflowError where an aggregator leaves its range."""
        for key in self._written[place]:
            version = self._columns[key].versions[place]
            if version.delta is not None:
                before = self.read(key, place) if version.value is NOT_WRITTEN else version.value
                version.value, version.delta = aggregate(before, version.delta), None
