"""Which columns a table of the store has: rows of bytes, or, where the core's adapters keep unspent outputs and blobs, what
these bytes say. Pure.

Invariants:

- a row comes back from its columns byte by byte, whatever it holds: a value that has another shape than the adapters give
  it is kept whole beside columns that are NULL;
- the key is one column of bytea under every layout, the primary key, so that keys, their order and what is checked of
  them are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from attrs import frozen

from nodewright.storage.blob_adapter import DATA, INDEX
from nodewright.storage.utxo_records import COINBASE, PAGED, SPENT, TX

TABLE_PREFIX = "kv_"
_HEAD = struct.Struct("<BIH")
_HEIGHT = struct.Struct("<I")
_PAGED_HEAD = struct.Struct("<BI")
_SIGNED = 1 << 63
_NO_BYTES = b""

Columns = tuple[Any, ...]


@frozen
class Layout:
    """``columns`` are name and type of what ``split`` makes of a value and ``join`` puts together again; ``records`` are
    keys and columns of many rows."""

    relation: str
    key: str
    columns: tuple[tuple[str, str], ...]
    split: Callable[[bytes], Columns]
    join: Callable[..., bytes]
    records: Callable[[Iterable[tuple[bytes, bytes]]], list[Columns]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def selected(self) -> str:
        return ", ".join((self.key, *self.names))

    @property
    def octets(self) -> str:
        """SQL for how long a value is, but for what all have."""
        return " + ".join(f"coalesce(octet_length({name}), 0)" for name, type in self.columns if type == "bytea")

    def create(self, schema: str) -> tuple[str, ...]:
        table = f'{schema}."{self.relation}"'
        null = " NOT NULL" if len(self.columns) == 1 else ""
        columns = ", ".join(f"{name} {type}{null}" for name, type in self.columns)
        # Values are ids, scripts and compressed bodies: the server is not asked to compress them again.
        external = ", ".join(f"ALTER COLUMN {name} SET STORAGE EXTERNAL" for name, type in self.columns if type == "bytea")
        return (
            f"CREATE TABLE IF NOT EXISTS {table} ({self.key} bytea PRIMARY KEY, {columns})",
            f"ALTER TABLE {table} {external}",
        )


def _split_transaction(value: bytes) -> Columns:
    size = len(value)
    if size >= 7:
        flags, height, spends = _HEAD.unpack_from(value)
        if flags & PAGED:
            if flags <= COINBASE | PAGED:
                return height, flags, _NO_BYTES, value[5:]
        elif flags <= COINBASE:
            outputs = 7 + 36 * spends
            if outputs <= size:
                return height, flags, value[7:outputs], value[outputs:]
    return None, None, None, value


def _join_transaction(height: int | None, flags: int, spends: bytes, outputs: bytes) -> bytes:
    if height is None:
        return outputs
    if flags & PAGED:
        return _PAGED_HEAD.pack(flags, height) + outputs
    return _HEAD.pack(flags, height, len(spends) // 36) + spends + outputs


def _transactions(rows: Iterable[tuple[bytes, bytes]]) -> list[Columns]:
    """Those with up to 255 spends and no flag by a shorter way: its flags, and the upper byte of the spends, are zero."""
    height_of, split = _HEIGHT.unpack_from, _split_transaction
    return [
        (key, *height_of(value, 1), 0, value[7:outputs], value[outputs:])
        if len(value) > 7 and not value[0] and not value[6] and (outputs := 7 + 36 * value[5]) <= len(value)
        else (key, *split(value))
        for key, value in rows
    ]


def _split_blob(value: bytes) -> Columns:
    if len(value) == 16:
        size, generation = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
        if size < _SIGNED and generation < _SIGNED:
            return size, generation, None
    return None, None, value


def _join_blob(size: int, generation: int, other: bytes | None) -> bytes:
    return size.to_bytes(8, "big") + generation.to_bytes(8, "big") if other is None else other


def _each(split: Callable[[bytes], Columns]) -> Callable[[Iterable[tuple[bytes, bytes]]], list[Columns]]:
    def records(rows: Iterable[tuple[bytes, bytes]]) -> list[Columns]:
        return [(key, *split(value)) for key, value in rows]

    return records


def _whole(value: bytes) -> Columns:
    return (value,)


def _same(value: bytes) -> bytes:
    return value


LAYOUTS = {
    TX: Layout(
        "utxo_transaction",
        "txid",
        (("height", "bigint"), ("flags", "smallint"), ("spends", "bytea"), ("outputs", "bytea")),
        _split_transaction,
        _join_transaction,
        _transactions,
    ),
    SPENT: Layout("utxo_spend", "outpoint", (("spender", "bytea"),), _whole, _same, list),
    INDEX: Layout(
        "blob",
        "key",
        (("size", "bigint"), ("generation", "bigint"), ("other", "bytea")),
        _split_blob,
        _join_blob,
        _each(_split_blob),
    ),
    DATA: Layout("blob_page", "key", (("data", "bytea"),), _whole, _same, list),
}


@cache
def plain(name: str) -> Layout:
    """Rows of bytes."""
    return Layout(TABLE_PREFIX + name, "key", (("value", "bytea"),), _whole, _same, list)


def layout_of(name: str) -> Layout:
    return LAYOUTS.get(name) or plain(name)
