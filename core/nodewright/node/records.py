"""What the pool writes to its journal: one record a batch, never one a transaction.

Layout (integers little-endian; ids are 32 bytes)::

    admitted, restored   kind u8 ‖ time f64 ‖ n u32 ‖ n ids ‖ n lengths u32 ‖ n raw transactions
    final                kind u8 ‖ time f64 ‖ n u32 ‖ status u8 ‖ height u64 ‖ id length u8 ‖ block id ‖ n ids
                         ‖ (rejected, replaced) n lengths u32 ‖ n details in UTF-8

Invariant: ``decode(encode_…(x))`` is x, and bytes that no encoder made raise StoreCorrupt, never anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from attrs import field, frozen

from nodewright.errors import NodewrightError, StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.pool import StatusName

ADMITTED, RESTORED, FINAL = 1, 2, 3
HEAD = struct.Struct("<BdI")
STATUS = struct.Struct("<BQB")
STATUSES: tuple[StatusName, ...] = ("committed", "expired", "rejected", "replaced")
DETAILED = ("rejected", "replaced")
ID = 32
MAX_DETAIL_BYTES = 1024
NO_BLOCK = 255


@frozen
class AdmittedRecord:
    """``restored``: these stand before everything that is pending already."""

    time: float
    ids: Sequence[bytes]
    raws: Sequence[bytes]
    restored: bool = False


@frozen
class FinalRecord:
    """``details`` has one text per id for rejected and replaced, and is empty otherwise. ``column``: the ids joined, where
    whoever makes the record has them so."""

    time: float
    status: StatusName
    ids: Sequence[bytes]
    block: BlockRef | None = None
    details: Sequence[str] = ()
    column: bytes | None = field(default=None, eq=False, repr=False)


def _joined(ids: Sequence[bytes]) -> bytes:
    joined = b"".join(ids)
    if len(joined) != ID * len(ids):
        raise NodewrightError("an execution gave a transaction an id that is not 32 bytes long")
    return joined


def encode_admitted(record: AdmittedRecord) -> bytes:
    count = len(record.raws)
    return b"".join(
        (
            HEAD.pack(RESTORED if record.restored else ADMITTED, record.time, count),
            _joined(record.ids),
            struct.pack(f"<{count}I", *map(len, record.raws)),
            *record.raws,
        )
    )


def encode_final(record: FinalRecord) -> bytes:
    block = record.block
    pieces = [
        HEAD.pack(FINAL, record.time, len(record.ids)),
        STATUS.pack(
            STATUSES.index(record.status),
            0 if block is None else block.height,
            NO_BLOCK if block is None else len(block.id),
        ),
        b"" if block is None else block.id,
        record.column if record.column is not None else _joined(record.ids),
    ]
    if record.status in DETAILED:
        details = [detail.encode(errors="replace")[:MAX_DETAIL_BYTES] for detail in record.details]
        pieces.append(struct.pack(f"<{len(details)}I", *map(len, details)))
        pieces += details
    return b"".join(pieces)


def decode(payload: bytes) -> AdmittedRecord | FinalRecord:
    try:
        kind, time, count = HEAD.unpack_from(payload)
        offset = HEAD.size
        if kind in (ADMITTED, RESTORED):
            ids, offset = _ids(payload, offset, count)
            raws, offset = _texts(payload, offset, count)
            _at_end(payload, offset)
            return AdmittedRecord(time, ids, raws, kind == RESTORED)
        if kind != FINAL:
            raise ValueError(f"unknown kind {kind}")
        status_at, height, length = STATUS.unpack_from(payload, offset)
        offset += STATUS.size
        status = STATUSES[status_at]
        block = None
        if length != NO_BLOCK:
            block = BlockRef(height, payload[offset : offset + length])
            offset += length
        ids, offset = _ids(payload, offset, count)
        details: list[str] = []
        if status in DETAILED:
            encoded, offset = _texts(payload, offset, count)
            details = [detail.decode(errors="replace") for detail in encoded]
        _at_end(payload, offset)
        return FinalRecord(time, status, ids, block, details)
    except (struct.error, ValueError, IndexError, MemoryError) as error:
        raise StoreCorrupt(f"the pool's journal holds a record that no version wrote: {error}") from error


def _ids(payload: bytes, offset: int, count: int) -> tuple[list[bytes], int]:
    end = offset + ID * count
    if end > len(payload):
        raise ValueError("cut short")
    return [payload[at : at + ID] for at in range(offset, end, ID)], end


def _texts(payload: bytes, offset: int, count: int) -> tuple[list[bytes], int]:
    if offset + 4 * count > len(payload):
        raise ValueError("cut short")
    lengths = struct.unpack_from(f"<{count}I", payload, offset)
    offset += 4 * count
    texts = []
    for length in lengths:
        texts.append(payload[offset : offset + length])
        offset += length
    return texts, offset


def _at_end(payload: bytes, offset: int) -> None:
    if offset != len(payload):
        raise ValueError(f"{len(payload)} bytes where {offset} were announced")
