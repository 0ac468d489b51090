"""``SegmentLog``: an append-only log of records in files of bounded size. The pool's journal and the event log stand on it.

Invariants
- ``append`` returns only when its records, and all of a lower sequence, are on the disk (written and synced). Concurrent
  appends share one write and one sync; records get their sequence when ``append`` is called, in call order.
- After a crash at any instant the log holds a prefix of what was appended, with every append that had returned whole.
  A torn tail is cut off when the log is opened, with a log line; anything else that does not read is StoreCorrupt.
- A write that fails (disk full, I/O error) leaves no record of any append that shared it: the file is cut back to its last
  synced length before those appends raise. If it cannot be cut back, the log is broken: every later append raises.
- Sequences only grow, also over the gaps that failed writes and ``skip_to`` leave (a segment names where the one before it
  ended, so a gap is told from a missing file). The sequence of a record that was kept is never given out again.
- ``drop_before(s)`` deletes whole segments below ``s`` only, never the one being written.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.environment import Environment
from nodewright.node import segment as files
from nodewright.node.segment import Segment
from nodewright.storage.full import write_error

FIRST_SEQUENCE = 1


class _Write:
    """Appends that share one write."""

    __slots__ = ("done", "error", "first", "payloads")

    def __init__(self, first: int) -> None:
        self.first = first
        self.payloads: list[bytes] = []
        self.done = trio.Event()
        self.error: StoreError | None = None


class SegmentLog:
    """Opened by ``SegmentLog.open``. ``segment_bytes`` is when a new file is begun, not a limit on a write."""

    def __init__(self, environment: Environment, folder: Path, segment_bytes: int) -> None:
        self._environment = environment
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._descriptor: int | None = None
        self._next = FIRST_SEQUENCE
        self._write: _Write | None = None
        self._lock = trio.Lock()
        self._broken: str | None = None
        self._closed = False
        self._read_only = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, environment: Environment, folder: Path, segment_bytes: int = 32 * 1024 * 1024, read_only: bool = False
    ) -> AsyncIterator[SegmentLog]:
        """Raises StoreCorrupt, StoreError. One opener at a time: the caller holds the folder's lock. ``read_only`` leaves
        the files as they are: an unfinished write at the end is passed over, and nothing can be appended."""
        log = cls(environment, folder, segment_bytes)
        log._read_only = read_only
        await environment.offload(log._load)
        try:
            yield log
        finally:
            with trio.CancelScope(shield=True):
                await log._close()

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def first_sequence(self) -> int:
        """The lowest sequence still held (``next_sequence`` if there is none)."""
        return next((segment.first for segment in self._segments if segment.end > segment.first), self._next)

    @property
    def next_sequence(self) -> int:
        """What the next appended record gets."""
        return self._next

    @property
    def synced_sequence(self) -> int:
        """One past the last record that is on the disk."""
        return self._segments[-1].end if self._segments else self._next

    @property
    def bytes_used(self) -> int:
        return sum(segment.size for segment in self._segments)

    async def read(self, sequence: int, max_bytes: int = 1024 * 1024) -> list[tuple[int, bytes]]:
        """(sequence, payload) of synced records from ``sequence`` on (or the next one held): at least one if there is any,
        then about ``max_bytes``. Empty at the end. Raises StoreCorrupt."""
        while True:
            segment = next((item for item in self._segments if item.end > max(sequence, item.first)), None)
            if segment is None:
                return []
            try:
                return await self._environment.offload(files.read_records, segment, max(sequence, segment.first), max_bytes)
            except FileNotFoundError:
                if segment in self._segments:
                    raise StoreCorrupt(f"{segment.path} has vanished") from None
            except OSError as error:
                raise StoreError(f"{segment.path} cannot be read: {error.strerror}") from error

    async def iterate(self, sequence: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """All synced records from ``sequence`` on, up to the end as it is when it gets there."""
        while page := await self.read(sequence):
            for item in page:
                yield item
            sequence = page[-1][0] + 1

    # --- writing ------------------------------------------------------------------------------------------------------

    async def append(self, payloads: Sequence[bytes]) -> int:
        """Write and sync; returns the first record's sequence, the others follow it.

        Raises StoreFull (nothing of it is kept; may be tried again) or StoreError. A caller that is cancelled while it
        waits does not know whether its records are kept: none of them is half kept."""
        if self._broken is not None:
            raise StoreError(self._broken)
        if self._closed or self._read_only:
            raise StoreError(f"the log {self._folder} is {'closed' if self._closed else 'open for reading only'}")
        if not payloads:
            await trio.lowlevel.checkpoint()
            return self._next
        if max(map(len, payloads)) > files.MAX_RECORD_BYTES:
            raise ValueError(f"a record is larger than {files.MAX_RECORD_BYTES} bytes")
        write = self._write
        leads = write is None
        if write is None:
            write = self._write = _Write(self._next)
        first = write.first + len(write.payloads)
        write.payloads.extend(payloads)
        self._next = first + len(payloads)
        if leads:
            # The one that began the write carries it out for all: it may not be cancelled half-way.
            with trio.CancelScope(shield=True):
                await self._carry_out(write)
        else:
            await write.done.wait()
        if write.error is not None:
            raise type(write.error)(str(write.error))
        return first

    async def skip_to(self, sequence: int) -> None:
        """The next record gets ``sequence`` (which must not be below ``next_sequence``); the gap is on record."""
        async with self._lock:
            if sequence < self._next or self._write is not None:
                raise ValueError(f"cannot skip to {sequence}: the next sequence is {self._next}")
            self._next = sequence

    async def drop_before(self, sequence: int) -> None:
        """Delete segments all of whose records are below ``sequence``."""
        async with self._lock:
            keep = next(
                (index for index, segment in enumerate(self._segments[:-1]) if segment.end > sequence),
                max(len(self._segments) - 1, 0),
            )
            dropped, self._segments = self._segments[:keep], self._segments[keep:]
            if dropped:
                await self._environment.offload(_delete, [segment.path for segment in dropped])

    async def drop_to(self, max_bytes: int) -> None:
        """Delete the oldest segments until at most ``max_bytes`` are held, but for the one being written."""
        used, keep = self.bytes_used, 0
        while used > max_bytes and keep < len(self._segments) - 1:
            used -= self._segments[keep].size
            keep += 1
        if keep:
            await self.drop_before(self._segments[keep].first)

    async def _carry_out(self, write: _Write) -> None:
        try:
            async with self._lock:
                self._write = None  # later appends begin the next write
                if self._broken is not None:
                    write.error = StoreError(self._broken)
                else:
                    await self._environment.offload(self._write_and_sync, write)
        except StoreError as error:
            write.error = error
            if self._write is None and self._next == write.first + len(write.payloads):
                self._next = write.first
            # Otherwise those queued behind it have numbers already: the next segment records the gap.
        except BaseException as error:
            self._broken = f"the log {self._folder} is broken: {error}"
            write.error = StoreError(self._broken)
            raise
        finally:
            write.done.set()

    # --- in a worker thread, one at a time under the lock -------------------------------------------------------------

    def _write_and_sync(self, write: _Write) -> None:
        pieces = files.encode(write.first, write.payloads)
        last = self._segments[-1] if self._segments else None
        try:
            if last is None or self._descriptor is None or last.size >= self._segment_bytes or write.first != last.end:
                last = self._begin_segment(write.first)
        except OSError as error:
            raise self._failure(error, self._folder) from error
        assert self._descriptor is not None
        try:
            written = files.write_all(self._descriptor, pieces)
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._cut_back(last, error)
            raise self._failure(error, last.path) from error
        indexed = last.index[-1][1] if last.index else -files.INDEX_BYTES
        offset = last.size
        for position, payload in enumerate(write.payloads):
            if offset - indexed >= files.INDEX_BYTES:
                last.index.append((write.first + position, offset))
                indexed = offset
            offset += files.RECORD.size + len(payload)
        assert offset == last.size + written
        # In this order: a reader takes ``end`` as the promise that ``size`` bytes are there.
        last.size = offset
        last.end = write.first + len(write.payloads)

    def _begin_segment(self, first: int) -> Segment:
        last = self._segments[-1] if self._segments else None
        empty = last if last is not None and last.end == last.first else None
        gap_from = first if last is None else empty.gap_from if empty is not None else last.end
        segment = Segment(self._folder / files.name_of(first), first, gap_from)
        descriptor = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            files.write_all(descriptor, [files.header_bytes(first, gap_from)])
            os.fsync(descriptor)
            files.sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            segment.path.unlink(missing_ok=True)
            raise
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        if empty is not None:
            self._segments.remove(empty)
            if empty.path != segment.path:
                empty.path.unlink(missing_ok=True)
        self._segments.append(segment)
        return segment

    def _cut_back(self, segment: Segment, cause: OSError) -> None:
        """Leave the file as it was before the failed write. A page that failed to sync may hold older records too: cutting
        makes it dirty again, and syncing then writes it."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, segment.size)
            os.fsync(self._descriptor)
        except OSError as error:
            self._broken = (
                f"{segment.path} failed ({cause.strerror}) and could not be cut back ({error.strerror}): nothing more is "
                f"accepted until the node is restarted on a sound disk"
            )

    def _failure(self, error: OSError, path: Path) -> StoreError:
        if self._broken is not None:
            return StoreError(self._broken)
        return write_error(error, path)

    def _load(self) -> None:
        try:
            if not self._read_only:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths = sorted(self._folder.glob("*.log"))
            for path in paths:
                self._load_segment(path, last=path == paths[-1])
        except OSError as error:
            raise StoreError(f"the log {self._folder} cannot be opened: {error.strerror}") from error
        if self._segments:
            self._next = self._segments[-1].end
        if self._segments and not self._read_only:
            self._descriptor = os.open(self._segments[-1].path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _load_segment(self, path: Path, last: bool) -> None:
        data = path.read_bytes()
        header = files.read_header(data)
        if header is None:
            if not last or len(data) > files.HEADER.size:
                raise StoreCorrupt(f"{path} does not begin like a segment of a log: restore the folder from a copy")
            if not self._read_only:
                path.unlink()
                self._environment.logger.warning("dropped an unfinished segment", path=str(path))
            return
        segment = Segment(path, *header)
        if path.name != files.name_of(segment.first):
            raise StoreCorrupt(f"{path} holds records from {segment.first} on: it was renamed")
        before = self._segments[-1] if self._segments else None
        if before is not None and before.end == before.first and segment.gap_from == before.gap_from:
            if not self._read_only:
                before.path.unlink()  # an empty segment that this one replaced
            self._segments.pop()
        elif before is not None and segment.gap_from != before.end:
            raise StoreCorrupt(
                f"{path} follows record {segment.gap_from - 1}, but the segment before it ends at "
                f"{before.end - 1}: a file is missing; restore the folder from a copy"
            )
        torn = files.scan(segment, data)
        if torn and not last:
            raise StoreCorrupt(f"{path} is damaged at byte {segment.size}: restore the folder from a copy")
        if torn and not self._read_only:
            self._environment.logger.warning(
                "cut off an unfinished write", path=str(path), bytes=torn, last_sequence=segment.end - 1
            )
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, segment.size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._segments.append(segment)

    async def _close(self) -> None:
        self._closed = True
        async with self._lock:  # a write under way ends first
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                await self._environment.offload(os.close, descriptor)


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
