"""Where the bodies of single transactions lie in a stored subtree's data, without reading the subtree whole.

A subtree's records have one length each, its bodies have not: the place of body i is the sum of the sizes before it. Of
each subtree the sum at every STRIDE-th record is kept (8 KiB for a million leaves), so that one transaction costs the read
of at most STRIDE records and of the body itself.

Invariants:
- marks are those of a subtree whose blobs are durable and never change (they are stored under their root);
- of at most MAX_SUBTREES subtrees the marks are kept, the one asked for longest ago leaves first;
- one subtree is scanned at a time, SCAN_RECORDS records of it in memory.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import trio

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import BlobStore
from nodewright_nakamoto.subtree import PLACEHOLDER, PREFIX, RECORD

STRIDE = 1024  # records
SCAN_RECORDS = 64 * STRIDE
MAX_SUBTREES = 2048
SPAN_BYTES = 1024 * 1024  # of bodies read at once
GAP_BYTES = 16 * 1024  # bytes that nobody asked for, read rather than a second time begun


def sizes_of(records: bytes) -> array[int]:
    """The size column of leaf records; that of a placeholder is 0."""
    words = array("Q", records)
    if sys.byteorder == "big":
        words.byteswap()
    sizes = words[5::6]
    if records[:32] == PLACEHOLDER:
        sizes[0] = 0
    return sizes


def _sums(records: bytes) -> list[int]:
    """The bytes of bodies of each STRIDE of records."""
    sizes = sizes_of(records)
    return [sum(sizes[at : at + STRIDE]) for at in range(0, len(sizes), STRIDE)]


class Offsets:
    """Reads single bodies of the subtrees in ``blobs``, whose kinds are ``subtree`` (the full form) and ``data``."""

    def __init__(self, blobs: BlobStore, environment: Environment, subtree: str, data: str) -> None:
        self._blobs = blobs
        self._environment = environment
        self._subtree = subtree
        self._data = data
        self._marks: OrderedDict[bytes, array[int]] = OrderedDict()
        self._scanning = trio.Lock()

    def forget(self, id: bytes) -> None:
        self._marks.pop(id, None)

    async def bodies(self, id: bytes, leaves: Sequence[int], count: int) -> dict[int, bytes]:
        """By leaf (of ``count``, a placeholder counted) its body. Raises StoreCorrupt; empty where the subtree is not there
        any more."""
        marks = await self._get_marks(id, count)
        if marks is None:
            return {}
        spans: list[tuple[int, int, int]] = []  # leaf, offset, size
        by_stride: dict[int, list[int]] = {}
        for leaf in sorted(set(leaves)):
            by_stride.setdefault(leaf // STRIDE, []).append(leaf)
        for stride, its in by_stride.items():
            records = await self._records(id, stride * STRIDE, its[-1] + 1 - stride * STRIDE)
            if records is None:
                return {}
            sizes, at, done = sizes_of(records), marks[stride], 0
            for leaf in its:
                within = leaf - stride * STRIDE
                at += sum(sizes[done:within])
                done = within
                spans.append((leaf, at, sizes[within]))
        return await self._read(id, spans)

    async def _read(self, id: bytes, spans: list[tuple[int, int, int]]) -> dict[int, bytes]:
        """``spans`` is in order of offset; neighbours are read together."""
        found: dict[int, bytes] = {}
        start = 0
        while start < len(spans):
            first, end = spans[start][1], spans[start][1] + spans[start][2]
            stop = start + 1
            while stop < len(spans):
                _, at, size = spans[stop]
                if at - end > GAP_BYTES or at + size - first > SPAN_BYTES:
                    break
                end, stop = at + size, stop + 1
            data = await self._blobs.read(self._data, id, first, end - first)
            if data is None:
                return {}
            if len(data) != end - first:
                raise StoreCorrupt(f"the bodies of bundle {id[::-1].hex()} end before its records say")
            for leaf, at, size in spans[start:stop]:
                found[leaf] = data[at - first : at - first + size]
            start = stop
        return found

    async def _records(self, id: bytes, first: int, count: int) -> bytes | None:
        data = await self._blobs.read(self._subtree, id, PREFIX.size + RECORD.size * first, RECORD.size * count)
        if data is not None and len(data) != RECORD.size * count:
            raise StoreCorrupt(f"bundle {id[::-1].hex()} ends before its records do")
        return data

    async def _get_marks(self, id: bytes, count: int) -> array[int] | None:
        if id not in self._marks:
            async with self._scanning:
                if id not in self._marks:  # else another scanned it meanwhile
                    marks = await self._scan(id, count)
                    if marks is None:
                        return None
                    self._marks[id] = marks
                    if len(self._marks) > MAX_SUBTREES:
                        self._marks.popitem(last=False)
        self._marks.move_to_end(id)
        return self._marks[id]

    async def _scan(self, id: bytes, count: int) -> array[int] | None:
        marks = array("Q", [0])
        for first in range(0, count, SCAN_RECORDS):
            records = await self._records(id, first, min(SCAN_RECORDS, count - first))
            if records is None:
                return None
            for one in await self._environment.offload(_sums, records):
                marks.append(marks[-1] + one)
        return marks
