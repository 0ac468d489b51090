"""The pool's journal: what it takes, what it could not take yet, reading it back and rewriting it.

Invariants
- Every record says what was true at the instant that it was appended: ``rewrite`` looks at each status and each pending
  transaction again just before it appends it, with no ``await`` between, so that statuses recorded meanwhile stand where
  they belong.
- A final status is never refused: where the disk is full it is kept in memory and goes before the next record that the
  disk takes. What a crash loses of those is pending again when the journal is read, and the pool then asks the
  execution and consensus what became of it. So a disk that is full can delay a status, and can lose no transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import trio

from nodewright.errors import StoreFull
from nodewright.interfaces.common import Admitted
from nodewright.node.displaced import Displaced
from nodewright.node.journal import SegmentLog
from nodewright.node.records import AdmittedRecord, FinalRecord, decode, encode_admitted, encode_final
from nodewright.node.statuses import FinalStatuses

REWRITE_BATCH = 2048


class PoolJournal:
    """``is_pending`` says whether an id is pending again: then an old final status of it is not written any more."""

    def __init__(
        self, log: SegmentLog, final: FinalStatuses, max_unsaved: int, is_pending: Callable[[bytes], bool]
    ) -> None:
        self.log = log
        self.behind = trio.Event()  # set while something is unsaved
        self._final = final
        self._max_unsaved = max_unsaved
        self._is_pending = is_pending
        self._unsaved: deque[tuple[int, FinalRecord]] = deque()
        self._unsaved_ids = 0

    @property
    def unsaved(self) -> int:
        """Ids whose final status is in memory alone."""
        return self._unsaved_ids

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Synced, behind everything that was unsaved. Raises StoreFull: then nothing of it is kept."""
        waiting, self._unsaved, self._unsaved_ids = self._unsaved, deque(), 0
        late = [encode_final(record) for record in self._still(waiting) if record.ids]
        try:
            await self.log.append([*late, *payloads])
        except StoreFull:
            newer, self._unsaved, self._unsaved_ids = self._unsaved, deque(), 0
            for number, record in [*waiting, *newer]:
                self._keep(number, record)
            raise
        if not self._unsaved and self.behind.is_set():
            self.behind = trio.Event()

    async def finish(self, record: FinalRecord) -> StoreFull | None:
        """``record`` is the last one given to the statuses. Returns what keeps it in memory, None where it is synced."""
        number = self._final.last_number
        try:
            await self.append([encode_final(record)])
        except StoreFull as error:
            self._keep(number, record)
            return error
        return None

    def _keep(self, number: int, record: FinalRecord) -> None:
        self._unsaved.append((number, record))
        self._unsaved_ids += len(record.ids)
        while self._unsaved_ids > self._max_unsaved and len(self._unsaved) > 1:
            self._unsaved_ids -= len(self._unsaved.popleft()[1].ids)
        self.behind.set()

    def _still(self, waiting: Iterable[tuple[int, FinalRecord]]) -> Iterator[FinalRecord]:
        """Without what has another status since, or is pending again."""
        final, is_pending = self._final, self._is_pending
        for number, record in waiting:
            keep = [at for at, id in enumerate(record.ids) if final.number(id) in (0, number) and not is_pending(id)]
            ids = [record.ids[at] for at in keep]
            details = [record.details[at] for at in keep] if record.details else ()
            yield FinalRecord(record.time, record.status, ids, record.block, details)


async def replay(
    log: SegmentLog, final: FinalStatuses, now: float, displaced: Displaced | None = None
) -> dict[bytes, bytes]:
    """Fills ``final`` and ``displaced``; returns what is pending, id → raw, in the order to admit it again. Raises
    StoreCorrupt."""
    raws: dict[bytes, bytes] = {}
    displaced = displaced if displaced is not None else Displaced()
    async for _, payload in log.iterate():
        record = decode(payload)
        if isinstance(record, FinalRecord):
            replaced = record.status == "replaced"
            for at, id in enumerate(record.ids):
                raw = raws.pop(id, None)
                if replaced and raw is not None:
                    displaced.put(id, raw, record.details[at])
            final.record(record, now)
            continue
        displaced.forget(record.ids)
        for id in record.ids:
            final.forget(id)
        if record.restored:
            back = dict(zip(record.ids, record.raws, strict=True))
            raws = back | {id: raw for id, raw in raws.items() if id not in back}
        else:
            raws.update(zip(record.ids, record.raws, strict=True))
    return raws


async def rewrite(
    log: SegmentLog,
    final: FinalStatuses,
    pending: Mapping[bytes, Admitted],
    now: Callable[[], float],
    displaced: Displaced | None = None,
) -> int:
    """Append all that is alive; returns the sequence below which the log is no longer needed. The caller lets no batch be
    between the journal and ``pending`` meanwhile. Raises StoreFull: then the log is needed whole."""
    first = await log.append([encode_final(FinalRecord(now(), "expired", ()))])
    # Before the statuses, which take them out of the pending ones again.
    gone = [(id, raw) for id, raw in (displaced.items() if displaced is not None else ()) if _replaced(final, id)]
    for start in range(0, len(gone), REWRITE_BATCH):
        part = gone[start : start + REWRITE_BATCH]
        await log.append([encode_admitted(AdmittedRecord(now(), [id for id, _ in part], [raw for _, raw in part]))])
    for record in final.records():
        await log.append([encode_final(record)])
    held = list(pending.values())
    for start in range(0, len(held), REWRITE_BATCH):
        alive = [item for item in held[start : start + REWRITE_BATCH] if item.id in pending]
        if alive:
            admitted = AdmittedRecord(now(), [item.id for item in alive], [item.raw for item in alive])
            await log.append([encode_admitted(admitted)])
    return first


def _replaced(final: FinalStatuses, id: bytes) -> bool:
    status = final.get(id)
    return status is not None and status.status == "replaced"
