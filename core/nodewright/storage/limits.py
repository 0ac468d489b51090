"""The checks of the storage contract that every store makes before it touches anything: names, key and value sizes,
page limits, blob kinds and ids. Each raises ValueError with one sentence. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nodewright.interfaces.storage import MAX_KEY_BYTES, MAX_PAGE, MAX_VALUE_BYTES, WriteBatch

MAX_BLOB_ID_BYTES = 64
MAX_PAGE_BYTES = 16 * 1024 * 1024  # a scan page ends early once it holds this much, so that one page fits in memory

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,47}\Z")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


def check_table(table: str) -> None:
    if not _TABLE.match(table):
        raise ValueError(f"the table name {table!r} does not match [a-z][a-z0-9_]{{0,47}}")


def check_keys(keys: Sequence[bytes]) -> None:
    if keys and max(map(len, keys)) > MAX_KEY_BYTES:
        raise ValueError(f"a key of {max(map(len, keys))} bytes is over the limit of {MAX_KEY_BYTES}")


def check_batch(batch: WriteBatch) -> int:
    """Raises ValueError where the batch is over a limit; returns the bytes of its keys and values."""
    total = 0
    for table, rows in batch.tables.items():
        check_table(table)
        if not rows:
            continue
        keys = list(map(len, rows))
        if max(keys) > MAX_KEY_BYTES:
            raise ValueError(f"table {table!r}: a key of {max(keys)} bytes is over the limit of {MAX_KEY_BYTES}")
        try:
            sizes = list(map(len, rows.values()))  # type: ignore[arg-type]
        except TypeError:  # deletes are among them
            sizes = [len(value) for value in rows.values() if value is not None]
        if sizes and max(sizes) > MAX_VALUE_BYTES:
            raise ValueError(f"table {table!r}: a value of {max(sizes)} bytes is over the limit of {MAX_VALUE_BYTES}")
        total += sum(keys) + sum(sizes)
    return total


def check_scan(table: str, prefix: bytes, after: bytes | None, limit: int) -> None:
    check_table(table)
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page of {limit} rows is outside 1 to {MAX_PAGE}")
    check_keys([prefix] if after is None else [prefix, after])


def check_kind(kind: str) -> None:
    if not _KIND.match(kind):
        raise ValueError(f"the blob kind {kind!r} does not match [a-z][a-z0-9_]{{0,31}}")


def check_ids(kind: str, ids: Sequence[bytes]) -> None:
    check_kind(kind)
    for id in ids:
        if not 1 <= len(id) <= MAX_BLOB_ID_BYTES:
            raise ValueError(f"a blob id of {len(id)} bytes is outside 1 to {MAX_BLOB_ID_BYTES}")


def check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0:
        raise ValueError("offset and length of a read are at least 0")
