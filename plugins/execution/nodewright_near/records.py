"""Outcomes kept for those who ask, by transaction or receipt id, with the proof that ties each to its chunk; and what a
chunk changed of the state (``near_changes``, where ``save_state_changes`` is on).

``near_outcomes``: id -> ``StoredOutcome``. ``near_receipts``: id -> the receipt. ``near_outcome_leaves``: block and shard
-> 32 bytes for each outcome of the chunk, in order. Written in the commit of the chunk, where ``save_tx_outcomes`` is on;
nothing that a chunk depends on is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import WriteBatch
from nodewright_near.borsh import U8, U32, U64, Blob, Option, String, Vector, encode, struct
from nodewright_near.merkle import MerklePath, merklize
from nodewright_near.outcomes import ChunkOutcomes, Outcome, PartialOutcome
from nodewright_near.primitives import Hash
from nodewright_near.receipts import Receipt
from nodewright_near.state import NO_CAUSE, Cause

CHANGES: Final = "near_changes"
OUTCOMES: Final = "near_outcomes"
RECEIPTS: Final = "near_receipts"
LEAVES: Final = "near_outcome_leaves"
MAX_CHANGES: Final = 1 << 24
MAX_LOGS: Final = 1024
LOGS: Final = Vector(String, MAX_LOGS)
NOTHING_TOLD: Final = bytes(5)  # no logs, no error


@struct
@frozen
class StoredOutcome:
    """``error`` in JSON. ``index`` is its place among the leaves of the chunk's outcome root (``outcome_path``)."""

    height: U64
    block: Hash
    shard: U32
    partial: PartialOutcome
    logs: Annotated[tuple[str, ...], LOGS]
    error: Annotated[str | None, Option(String)]
    index: U32

    def outcome(self, id: bytes) -> Outcome:
        part = self.partial
        return Outcome(
            id,
            part.receipt_ids,
            part.gas_burnt,
            part.tokens_burnt,
            part.executor_id,
            part.status,
            self.logs,
            None if self.error is None else json.loads(self.error),
        )


@struct
@frozen
class Change:
    """A row of the state, and who changed it last (``state.Cause``). ``value`` None: it is gone."""

    key: Annotated[bytes, Blob()]
    value: Annotated[bytes | None, Option(Blob())]
    cause: U8
    id: Hash


CHANGED: Final = Vector(Change, MAX_CHANGES)


def leaves_key(block: bytes, shard: int) -> bytes:
    return block + shard.to_bytes(2, "big")


def rows(block: BlockRef, shard: int, outcomes: ChunkOutcomes, leaves: bytes, receipts: Sequence[Receipt]) -> WriteBatch:
    """``leaves``: of all outcomes, 32 bytes each."""
    batch = WriteBatch()
    if leaves:
        batch.put(LEAVES, leaves_key(block.id, shard), leaves)
    place = encode(block.height, U64) + block.id + encode(shard, U32)
    told_of = batch.tables.setdefault(OUTCOMES, {})
    # The fields of ``StoredOutcome``, of which most are written already, or empty.
    for index, (id, partial) in enumerate(zip(outcomes.ids, outcomes.partials, strict=True)):
        told_of[id] = b"%b%b%b%b" % (place, partial, NOTHING_TOLD, index.to_bytes(4, "little"))
    for index, outcome in outcomes.whole.items():
        if outcome.logs or outcome.error is not None:
            error = None if outcome.error is None else json.dumps(outcome.error)
            told = encode(outcome.logs, LOGS) + encode(error, Option(String))
            told_of[outcome.id] = b"%b%b%b%b" % (place, outcome.partial(), told, index.to_bytes(4, "little"))
    batch.put_many(RECEIPTS, [(receipt.receipt_id, receipt.raw or encode(receipt)) for receipt in receipts])
    return batch


def put_changes(
    batch: WriteBatch,
    block: BlockRef,
    shard: int,
    values: Mapping[bytes, bytes | None],
    causes: Mapping[bytes, Cause],
) -> None:
    """``near_changes``: block and shard -> the rows of the state that its chunk changed, as they are now."""
    changed = tuple(Change(key, value, *causes.get(key, NO_CAUSE)) for key, value in sorted(values.items()))
    batch.put(CHANGES, leaves_key(block.id, shard), encode(changed, CHANGED))


def path_of(leaves: bytes, index: int) -> tuple[bytes, MerklePath]:
    """From the row of leaves: the outcome root of the chunk, and the path that leads to it from that outcome's leaf."""
    root, paths = merklize([leaves[at : at + 32] for at in range(0, len(leaves), 32)])
    return root, paths[index]
