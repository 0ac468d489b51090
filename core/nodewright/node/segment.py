"""One file of a segment log: its bytes, and how a file cut at any byte is read. Pure but for the file calls given in.

Layout (integers little-endian)::

    header   magic 8 ‖ first sequence u64 ‖ sequence the segment before ended at u64 ‖ crc32 of these 24 bytes u32
    record   length u32 (top bit: first record of a write) ‖ crc32 u32 over sequence u64 ‖ length u32 ‖ payload ‖ payload

Invariants
- A record's checksum covers its sequence, so that no record is read in another's place and zeros are never a record.
- ``scan`` of a file cut anywhere yields exactly the records that were whole before the cut.
- A write that begins after another one was synced is marked. A damaged record *followed by* a whole write is therefore
  damage to synced data, never a torn tail: it raises StoreCorrupt instead of dropping what was acknowledged.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from nodewright.errors import StoreCorrupt

MAGIC = b"NWLOG\x00\x00\x01"
HEADER = struct.Struct("<8sQQI")
RECORD = struct.Struct("<II")
CHECKED = struct.Struct("<QI")
STARTS_WRITE = 0x8000_0000
MAX_RECORD_BYTES = 1 << 30
INDEX_BYTES = 64 * 1024


class Segment:
    """A segment's place in the log. ``first`` is its first sequence, ``end`` one past its last, ``size`` its bytes that
    are synced; ``index`` holds (sequence, offset) at least every INDEX_BYTES, the first record always."""

    __slots__ = ("end", "first", "gap_from", "index", "path", "size")

    def __init__(self, path: Path, first: int, gap_from: int) -> None:
        self.path = path
        self.first = first
        self.gap_from = gap_from
        self.end = first
        self.size = HEADER.size
        self.index: list[tuple[int, int]] = []

    def offset_before(self, sequence: int) -> tuple[int, int]:
        """The nearest indexed (sequence, offset) at or before ``sequence``."""
        low, high = 0, len(self.index)
        while low < high:
            middle = (low + high) // 2
            if self.index[middle][0] <= sequence:
                low = middle + 1
            else:
                high = middle
        return self.index[low - 1] if low else (self.first, HEADER.size)


def name_of(first: int) -> str:
    return f"{first:020d}.log"


def header_bytes(first: int, gap_from: int) -> bytes:
    head = HEADER.pack(MAGIC, first, gap_from, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def encode(first: int, payloads: Sequence[bytes]) -> list[bytes]:
    """The pieces of one write: records ``first``, ``first + 1`` … in order, two pieces each."""
    pieces: list[bytes] = []
    mark = STARTS_WRITE
    for sequence, payload in enumerate(payloads, first):
        length = len(payload) | mark
        mark = 0
        check = zlib.crc32(payload, zlib.crc32(CHECKED.pack(sequence, length)))
        pieces.append(RECORD.pack(length, check))
        pieces.append(payload)
    return pieces


def whole_record(data: bytes | memoryview, offset: int, sequence: int) -> int | None:
    """The end of the record at ``offset`` if it is whole and has this sequence, else None."""
    if offset + RECORD.size > len(data):
        return None
    length, check = RECORD.unpack_from(data, offset)
    end: int = offset + RECORD.size + (length & ~STARTS_WRITE)
    if end > len(data) or length & ~STARTS_WRITE > MAX_RECORD_BYTES:
        return None
    payload = data[offset + RECORD.size : end]
    if zlib.crc32(payload, zlib.crc32(CHECKED.pack(sequence, length))) != check:
        return None
    return end


def read_header(data: bytes) -> tuple[int, int] | None:
    """(first, gap_from), or None if the header is not whole."""
    if len(data) < HEADER.size:
        return None
    magic, first, gap_from, check = HEADER.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[: HEADER.size - 4]) != check:
        return None
    return first, gap_from


def scan(segment: Segment, data: bytes) -> int:
    """Fill ``end``, ``size`` and ``index`` from the file's bytes; returns how many bytes after ``size`` are no whole
    record. Raises StoreCorrupt where synced data is damaged."""
    view = memoryview(data)
    offset, sequence, indexed = HEADER.size, segment.first, -INDEX_BYTES
    while (end := whole_record(view, offset, sequence)) is not None:
        if offset - indexed >= INDEX_BYTES:
            segment.index.append((sequence, offset))
            indexed = offset
        offset, sequence = end, sequence + 1
    segment.end, segment.size = sequence, offset
    torn = len(data) - offset
    if torn and _write_follows(view, offset, sequence):
        raise StoreCorrupt(
            f"{segment.path}: record {sequence} at byte {offset} is damaged and later records are whole: this is no "
            f"interrupted write but a failing disk; restore the folder from a copy"
        )
    return torn


def _write_follows(view: memoryview, offset: int, sequence: int) -> bool:
    """Whether a marked, whole record stands after the damaged one, as its length field tells it."""
    while offset + RECORD.size <= len(view):
        length, check = RECORD.unpack_from(view, offset)
        if not length and not check:
            return False  # zeros: the file was extended and never filled
        length &= ~STARTS_WRITE
        offset, sequence = offset + RECORD.size + length, sequence + 1
        if whole_record(view, offset, sequence) is None:
            continue
        if RECORD.unpack_from(view, offset)[0] & STARTS_WRITE:
            return True
    return False


def read_records(segment: Segment, sequence: int, max_bytes: int) -> list[tuple[int, bytes]]:
    """Whole records of the synced part from ``sequence`` on: at least one, then as many as fit ``max_bytes``.

    Raises FileNotFoundError if the segment was dropped, StoreCorrupt if the file is not what was synced."""
    end_of_file, end = segment.size, segment.end
    at, offset = segment.offset_before(sequence)
    found: list[tuple[int, bytes]] = []
    with segment.path.open("rb") as file:
        file.seek(offset)
        taken = 0
        while at < end and offset < end_of_file and (not found or taken < max_bytes):
            head = file.read(RECORD.size)
            if len(head) < RECORD.size:
                raise StoreCorrupt(f"{segment.path} ends at byte {offset}, before its record {at}")
            length, check = RECORD.unpack(head)
            size = length & ~STARTS_WRITE
            if offset + RECORD.size + size > end_of_file:
                raise StoreCorrupt(f"{segment.path}: record {at} at byte {offset} is damaged")
            payload = file.read(size)
            if zlib.crc32(payload, zlib.crc32(CHECKED.pack(at, length))) != check:
                raise StoreCorrupt(f"{segment.path}: record {at} at byte {offset} is damaged")
            if at >= sequence:
                found.append((at, payload))
                taken += size
            at, offset = at + 1, offset + RECORD.size + size
    return found


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, pieces: Sequence[bytes], max_pieces: int = 512) -> int:
    """Append all pieces; returns the bytes written. Raises OSError part of the way: the caller truncates."""
    written = 0
    for start in range(0, len(pieces), max_pieces):
        part = b"".join(pieces[start : start + max_pieces])
        view = memoryview(part)
        while view:
            count = os.write(descriptor, view)
            written += count
            view = view[count:]
    return written
