"""The keys of one table in order, in memory: what an ordered scan needs and the server does not have. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

_CHUNK = 1024


class KeyIndex:
    """A sorted set of keys, in sorted chunks of at most 2,048: a change moves one chunk, not the whole."""

    __slots__ = ("_chunks", "_firsts", "count")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(keys)
        self._chunks = [ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK)]
        self._firsts = [chunk[0] for chunk in self._chunks]
        self.count = len(ordered)

    def add(self, key: bytes) -> None:
        if not self._chunks:
            self._chunks, self._firsts, self.count = [[key]], [key], 1
            return
        place = max(0, bisect_right(self._firsts, key) - 1)
        chunk = self._chunks[place]
        at = bisect_left(chunk, key)
        if at < len(chunk) and chunk[at] == key:
            return
        insort(chunk, key)
        self.count += 1
        self._firsts[place] = chunk[0]
        if len(chunk) > 2 * _CHUNK:
            self._chunks[place : place + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]
            self._firsts.insert(place + 1, chunk[_CHUNK])

    def discard(self, key: bytes) -> None:
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            return
        chunk = self._chunks[place]
        at = bisect_left(chunk, key)
        if at == len(chunk) or chunk[at] != key:
            return
        del chunk[at]
        self.count -= 1
        if chunk:
            self._firsts[place] = chunk[0]
        else:
            del self._chunks[place], self._firsts[place]

    def update(self, rows: dict[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self.discard(key)
            else:
                self.add(key)

    def range(self, start: bytes, inclusive: bool, end: bytes | None, limit: int) -> list[bytes]:
        """At most ``limit`` keys from ``start`` on and below ``end`` (None: to the last)."""
        found: list[bytes] = []
        place = max(0, bisect_right(self._firsts, start) - 1)
        while place < len(self._chunks) and len(found) < limit:
            chunk = self._chunks[place]
            first = bisect_left(chunk, start) if inclusive else bisect_right(chunk, start)
            last = len(chunk) if end is None else bisect_left(chunk, end)
            found += chunk[first : min(last, first + limit - len(found))]
            if last < len(chunk):
                break
            place += 1
        return found
