"""Reading the pool's journal back, and rewriting it.

Invariant: every record says what was true at the instant that it was appended: ``rewrite`` looks at each status and each
pending transaction again just before it appends it, with no ``await`` between, so that statuses recorded meanwhile stand
where they belong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nodewright.interfaces.common import Admitted
from nodewright.node.journal import SegmentLog
from nodewright.node.records import AdmittedRecord, FinalRecord, decode, encode_admitted, encode_final
from nodewright.node.statuses import FinalStatuses

REWRITE_BATCH = 2048


async def replay(log: SegmentLog, final: FinalStatuses, now: float) -> dict[bytes, bytes]:
    """Fills ``final``; returns what is pending, id → raw, in the order to admit it again. Raises StoreCorrupt."""
    raws: dict[bytes, bytes] = {}
    async for _, payload in log.iterate():
        record = decode(payload)
        if isinstance(record, FinalRecord):
            for id in record.ids:
                raws.pop(id, None)
            final.record(record, now)
            continue
        for id in record.ids:
            final.forget(id)
        if record.restored:
            back = dict(zip(record.ids, record.raws, strict=True))
            raws = back | {id: raw for id, raw in raws.items() if id not in back}
        else:
            raws.update(zip(record.ids, record.raws, strict=True))
    return raws


async def rewrite(
    log: SegmentLog, final: FinalStatuses, pending: Mapping[bytes, Admitted], now: Callable[[], float]
) -> int:
    """Append all that is alive; returns the sequence below which the log is no longer needed. The caller lets no batch be
    between the journal and ``pending`` meanwhile. Raises StoreFull: then the log is needed whole."""
    first = await log.append([encode_final(FinalRecord(now(), "expired", ()))])
    for record in final.records():
        await log.append([encode_final(record)])
    held = list(pending.values())
    for start in range(0, len(held), REWRITE_BATCH):
        part = [item for item in held[start : start + REWRITE_BATCH] if item.id in pending]
        if part:
            admitted = AdmittedRecord(now(), [item.id for item in part], [item.raw for item in part])
            await log.append([encode_admitted(admitted)])
    return first
