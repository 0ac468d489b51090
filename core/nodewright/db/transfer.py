"""Moving what stores hold from one to another: page by page, measured on the way out and again where it has arrived.

Invariants: a table or kind counts as arrived only when the destination, read again, has the measure that the source gave;
the format record is written after everything else, durably.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from attrs import evolve, frozen

from nodewright.db.contents import Measure, Sum, body, ids, measure_kind, measure_table, pages, size_of
from nodewright.db.progress import Progress, silent
from nodewright.db.stopped import StoppedNode, StoreSlot
from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.storage import FormatRecord, WriteBatch


@frozen
class Moved:
    """``part`` is a table or a kind of blobs of ``slot``; ``unit`` is ``rows`` or ``blobs``."""

    slot: str
    part: str
    unit: str
    measure: Measure


def pair(source: StoreSlot, target: StoreSlot) -> None:
    """Raises StoreError where what one holds cannot go into the other."""
    for store in (source, target):
        if store.volatile:
            raise StoreError(
                f"{store.slot}: {store.planned.spec.name} keeps nothing once it is closed: choose another store"
            )
        if store.rows is None and store.bodies is None:
            raise StoreError(
                f"{store.slot}: {store.planned.spec.name} keeps unspent outputs in a form of its own, which cannot be "
                "carried row by row: start a node on an empty store and let it fetch the chain"
            )
    if (source.rows is None) != (target.rows is None):
        raise StoreError(f"{source.slot}: {source.describe()} and {target.describe()} do not hold the same kind of data")


async def copy_store(source: StoreSlot, target: StoreSlot, progress: Progress = silent) -> AsyncIterator[Moved]:
    """Fill an empty store from another. Raises StoreError where it is not empty or a measure differs."""
    await require_empty(target)
    if source.rows is not None:
        for table in await source.tables():
            with progress(f"{source.slot} {table}", None) as advance:
                yield Moved(source.slot, table, "rows", await _copy_table(source, target, table, advance))
    else:
        for kind in await source.kinds():
            with progress(f"{source.slot} {kind}", None) as advance:
                yield Moved(source.slot, kind, "blobs", await _copy_kind(source, target, kind, advance))
    await finish(target, await source.format())


async def require_empty(target: StoreSlot) -> None:
    if not await target.is_empty():
        raise StoreError(f"{target.slot}: the destination ({target.describe()}) is not empty: choose another")


async def finish(target: StoreSlot, record: FormatRecord | None) -> None:
    """Make what was written durable, and the store one that a node opens."""
    if target.rows is not None:
        await target.rows.commit(WriteBatch(), durable=True)
    if record is not None:
        await target.set_format(evolve(record, store=target.kind_of_store))


async def _copy_table(source: StoreSlot, target: StoreSlot, table: str, advance: Callable[[int], None]) -> Measure:
    assert source.rows is not None and target.rows is not None
    sent = Sum()
    async for items in pages(source.rows, table):
        sent.add_rows(items)
        batch = WriteBatch()
        batch.put_many(table, items)
        await target.rows.commit(batch, durable=False)
        advance(len(items))
    compare(target, table, sent.measure, await measure_table(target.rows, table))
    return sent.measure


async def _copy_kind(source: StoreSlot, target: StoreSlot, kind: str, advance: Callable[[int], None]) -> Measure:
    assert source.bodies is not None and target.bodies is not None
    sent = Sum()
    async for id in ids(source.bodies, kind):
        size = await size_of(source.bodies, kind, id)
        content = hashlib.sha256()

        async def pieces(
            id: bytes = id, size: int = size, update: Callable[[bytes], None] = content.update
        ) -> AsyncIterator[bytes]:
            assert source.bodies is not None
            async for piece in body(source.bodies, kind, id, size):
                update(piece)
                yield piece

        await target.bodies.put(kind, id, pieces())
        sent.add_blob(kind, id, size, content.digest())
        advance(1)
    compare(target, kind, sent.measure, await measure_kind(target.bodies, kind))
    return sent.measure


def compare(target: StoreSlot, part: str, sent: Measure, arrived: Measure) -> None:
    if sent != arrived:
        raise StoreCorrupt(
            f"{target.slot}: {part} did not arrive whole in {target.describe()}: sent {sent.count} of {sent.size} bytes "
            f"({sent.digest[:16]}), arrived {arrived.count} of {arrived.size} bytes ({arrived.digest[:16]}); check the "
            "destination's disk and copy again into an empty folder"
        )


def same_slots(source: StoppedNode, targets: tuple[StoreSlot, ...]) -> list[tuple[StoreSlot, StoreSlot]]:
    """Stores of both by slot. Raises StoreError where the profiles do not have the same ones."""
    by_slot = {store.slot: store for store in targets}
    here = {store.slot for store in source.stores}
    if here != by_slot.keys():
        raise StoreError(
            f"the profiles do not have the same stores: {', '.join(sorted(here))} and {', '.join(sorted(by_slot))}; name a "
            "destination that differs in what the slots use only"
        )
    pairs = [(store, by_slot[store.slot]) for store in source.stores]
    for one, other in pairs:
        pair(one, other)
    return pairs
