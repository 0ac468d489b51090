"""One commit as a record of the journal. Pure.

Layout (integers little-endian): a format byte, then for every table ``length u8 ‖ name ‖ rows u32 ‖ length of each key
u16 ‖ length of each value u32 (ffffffff: deleted) ‖ all keys ‖ all values``. By columns, because a commit of some thousand
rows is then a few calls instead of a few for every row.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping

from nodewright.errors import StoreCorrupt

FORMAT = 1
_DELETED = 0xFFFFFFFF

Tables = dict[str, dict[bytes, bytes | None]]


def encode(tables: Mapping[str, Mapping[bytes, bytes | None]]) -> bytes:
    pieces = [bytes([FORMAT])]
    for name, rows in tables.items():
        keys = array("H", map(len, rows))
        values = array("I", [_DELETED if value is None else len(value) for value in rows.values()])
        pieces += [bytes([len(name)]), name.encode(), len(rows).to_bytes(4, "little"), _little(keys), _little(values)]
        pieces += rows
        pieces += filter(None, rows.values())
    return b"".join(pieces)


def decode(payload: bytes) -> Tables:
    """Raises StoreCorrupt where the payload is not one that ``encode`` made."""
    if payload[:1] != bytes([FORMAT]):
        raise StoreCorrupt(
            f"an entry of the journal has format {payload[:1].hex() or 'none'}, this node reads {FORMAT}: start the "
            "version of nodewright that wrote it, and stop that one cleanly"
        )
    tables: Tables = {}
    at = 1
    while at < len(payload):
        start = at + 1 + payload[at]
        name = payload[at + 1 : start].decode("ascii", "replace")
        count = int.from_bytes(payload[start : start + 4], "little")
        columns = start + 4
        at = columns + 6 * count
        if at > len(payload):
            raise _cut()
        keys = _column("H", payload[columns : columns + 2 * count])
        values = _column("I", payload[columns + 2 * count : at])
        names: list[bytes] = []
        for length in keys:
            names.append(payload[at : at + length])
            at += length
        rows = tables[name] = {}
        for key, length in zip(names, values, strict=True):
            if length == _DELETED:
                rows[key] = None
                continue
            rows[key] = payload[at : at + length]
            at += length
        if at > len(payload) or len(rows) != count:
            raise _cut()
    return tables


def _cut() -> StoreCorrupt:
    return StoreCorrupt("an entry of the journal ends early; restore the data directory from a copy")


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _column(code: str, data: bytes) -> array[int]:
    column: array[int] = array(code)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
