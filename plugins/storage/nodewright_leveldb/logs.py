"""LevelDB's log files: which one is written now, and whether what they hold is whole.

The prefix rule. LevelDB exchanges a full log for a new one without syncing it, so that at a power cut the tail of the old
one may be gone and the new one be there. ``RotationGuard`` keeps that from happening: an empty batch before each commit has
LevelDB make the exchange, where it is due, before the commit's own record is written; whether it did is seen from the size
of the log, and the old log is synced, with the folder, before the commit is. The commit itself then makes no exchange:
the memory table was looked at a moment ago, and an empty batch adds nothing to it. So a log that is not the newest is
synced whole, and a synced record in the newest means that all before it are, too.

The format of a log is LevelDB's (doc/log_format.md of its source): blocks of 32 KiB, in them records of masked CRC-32C
u32 ‖ length u16 ‖ type u8 ‖ data, the CRC over type and data; none begins in the last six bytes of a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

BLOCK_BYTES = 32 * 1024
_HEADER_BYTES = 7
_TYPES = (1, 2, 3, 4)  # full, first, middle, last
_MASK_DELTA = 0xA282EAD8


def log_files(path: Path) -> list[Path]:
    """In the order in which they were begun."""
    return [path / name for _, name in sorted((int(name[:-4]), name) for name in os.listdir(path) if _is_log(name))]


def data_files(path: Path) -> list[Path]:
    """Logs and tables."""
    return [path / name for name in sorted(os.listdir(path)) if _is_log(name) or name.endswith((".ldb", ".sst"))]


def _is_log(name: str) -> bool:
    return name.endswith(".log") and name[:-4].isdigit()


class RotationGuard:
    """Used by whoever writes to one open database, one commit at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def rotated(self, write_nothing: Callable[[], Any]) -> bool:
        """Write an empty batch; whether that began a new log (or the log is not known yet): then ``settle`` comes next."""
        if self._descriptor < 0:
            write_nothing()
            return True
        before = os.fstat(self._descriptor).st_size
        write_nothing()
        return os.fstat(self._descriptor).st_size == before

    def settle(self) -> None:
        """Sync the log before this one and the folder, and follow the new one. Blocks."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)
            self.close()
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._descriptor = os.open(log_files(self._path)[-1], os.O_RDONLY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Sync the log that is written now. Blocks."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# --- what a log holds ------------------------------------------------------------------------------------------------


@frozen
class Damage:
    """The first record of a log that is not whole: ``good`` bytes before it are. ``at_end`` where nothing that is whole
    comes after it in this log: as a power cut leaves it, and as LevelDB itself goes on from."""

    path: Path
    good: int
    size: int
    at_end: bool


def first_damage(path: Path) -> Damage | None:
    """None where every record is whole, or the last one is only cut off by the end of the file, or zeros follow it. Reads
    and sums all of it in Python: some seconds for each 10 MiB."""
    data = path.read_bytes()
    good: int | None = None
    for start in range(0, len(data), BLOCK_BYTES):
        for at, whole in _records(memoryview(data)[start : start + BLOCK_BYTES]):
            if whole and good is not None:
                return Damage(path, good, len(data), at_end=False)
            if not whole and good is None:
                good = start + at
    return None if good is None or not any(data[good:]) else Damage(path, good, len(data), at_end=True)


def _records(block: memoryview) -> Iterator[tuple[int, bool]]:
    """(where it begins, whether it is whole) of each record in a block. Behind one whose length cannot be, the rest of the
    block is given up."""
    at = 0
    while len(block) - at >= _HEADER_BYTES:
        crc = int.from_bytes(block[at : at + 4], "little")
        end = at + _HEADER_BYTES + int.from_bytes(block[at + 4 : at + 6], "little")
        kind = block[at + 6]
        if kind not in _TYPES or end > len(block):
            if kind not in _TYPES or len(block) == BLOCK_BYTES:  # else cut off by the end of the file
                yield at, False
            return
        yield at, masked(crc32c(block[at + 6 : end])) == crc
        at = end


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 if byte & 1 else byte >> 1
        entries.append(byte)
    return tuple(entries)


_CRC = _table()


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli), RFC 3720 appendix B.4."""
    crc = 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
