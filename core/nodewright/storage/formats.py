"""Format records: what a store was written by and for, kept in the store and compared when it is opened.

A key-value store keeps the record in the reserved table ``meta`` under ``format``; a blob store keeps it as the blob
``format`` of the kind ``meta``. Nobody else writes to either. The first open writes the record durably; a later one
compares. ``extra`` holds the format numbers of owners that share a store: those named on both sides must agree, new
ones are added. Profiles that differ in nothing recorded here share data.
"""

from __future__ import annotations

import json
from typing import Any

from nodewright.errors import FormatMismatch, StoreCorrupt
from nodewright.interfaces.storage import BlobStore, FormatRecord, KeyValueStore, WriteBatch

META_TABLE = "meta"
META_KIND = "meta"
FORMAT_KEY = b"format"
_MAX_RECORD_BYTES = 64 * 1024
_TEXTS = ("store", "consensus", "execution", "network", "genesis")


async def read_format(store: KeyValueStore, slot: str = "the store") -> FormatRecord | None:
    """Raises StoreCorrupt; ``slot`` names the store in its sentence."""
    (row,) = await store.get_many(META_TABLE, [FORMAT_KEY])
    return None if row is None else decode_format(row, slot)


async def write_format(store: KeyValueStore, record: FormatRecord) -> None:
    """Replace the record: what a migration does last."""
    batch = WriteBatch()
    batch.put(META_TABLE, FORMAT_KEY, encode_format(record))
    await store.commit(batch, durable=True)


async def check_format(store: KeyValueStore, record: FormatRecord, slot: str) -> FormatRecord:
    """Write the record if the store has none, else compare. Returns the record now in the store. Raises FormatMismatch
    naming each difference and what to run; ``slot`` names the store in that sentence."""
    held = await read_format(store, slot)
    merged = merge(held, record, slot)
    if merged != held:
        await write_format(store, merged)
    return merged


async def check_blob_format(store: BlobStore, record: FormatRecord, slot: str) -> FormatRecord:
    """As ``check_format``, for a blob store."""
    raw = await store.get(META_KIND, FORMAT_KEY)
    held = None if raw is None else decode_format(raw, slot)
    merged = merge(held, record, slot)
    if merged != held:
        if held is not None:
            await store.delete(META_KIND, [FORMAT_KEY])
        await store.put(META_KIND, FORMAT_KEY, encode_format(merged))
    return merged


def merge(held: FormatRecord | None, wanted: FormatRecord, slot: str) -> FormatRecord:
    """What the store shall hold; raises FormatMismatch. Pure."""
    if held is None:
        return wanted
    foreign = [
        f"{name} {have} (this node: {want})"
        for name, have, want in (
            ("network", repr(held.network), repr(wanted.network)),
            ("genesis", held.genesis.hex() or "none", wanted.genesis.hex() or "none"),
        )
        if have != want
    ]
    if foreign:
        raise FormatMismatch(
            f"{slot} belongs to another network: {', '.join(foreign)}; run the profile and genesis file it was made "
            "with, or choose another --data-dir"
        )
    pairs = [(name, getattr(held, name), getattr(wanted, name)) for name in ("store", "consensus", "execution")]
    pairs += [(name, held.extra[name], wanted.extra[name]) for name in sorted(held.extra.keys() & wanted.extra.keys())]
    older = [f"{name} format {have!r} (this node: {want!r})" for name, have, want in pairs if have != want]
    if older:
        raise FormatMismatch(
            f"{slot} was written in another format: {', '.join(older)}; see what an upgrade would do with  "
            "nodewright db upgrade --dry-run  , or choose another --data-dir"
        )
    return FormatRecord(
        held.store, held.consensus, held.execution, held.network, held.genesis, {**held.extra, **wanted.extra}
    )


def encode_format(record: FormatRecord) -> bytes:
    """JSON with sorted names: readable with any tool when nothing else opens the store."""
    document = {
        "store": record.store,
        "consensus": record.consensus,
        "execution": record.execution,
        "network": record.network,
        "genesis": record.genesis.hex(),
        "extra": dict(record.extra),
    }
    return json.dumps(document, sort_keys=True).encode()


def decode_format(raw: bytes, slot: str = "the store") -> FormatRecord:
    """Raises StoreCorrupt, whose sentence begins with ``slot``."""
    try:
        if len(raw) > _MAX_RECORD_BYTES:
            raise ValueError(f"it has {len(raw)} bytes")
        return _record(_document(raw))
    except ValueError as error:
        raise StoreCorrupt(
            f"{slot}: its format record is damaged ({error}): stop the node and restore the store from a copy, or begin "
            "anew in another --data-dir"
        ) from error


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is no table")
    return document


def _record(document: dict[str, Any]) -> FormatRecord:
    for name in _TEXTS:
        if not isinstance(document.get(name), str):
            raise ValueError(f"it has no text under {name}")
    store, consensus, execution, network, genesis = (document[name] for name in _TEXTS)
    extra = document.get("extra")
    if not isinstance(extra, dict):
        raise ValueError("it has no table under extra")
    try:
        hash = bytes.fromhex(genesis)
    except ValueError:
        raise ValueError("genesis is not written in hexadecimal digits") from None
    return FormatRecord(
        store, consensus, execution, network, hash, {str(name): str(value) for name, value in extra.items()}
    )
