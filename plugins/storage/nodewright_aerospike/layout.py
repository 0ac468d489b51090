"""Which record of the server a row is in, and the operations that bring it there.

Every key begins with the 8 bytes of the store's name, so that stores may share sets. Bins::

    n   commit number of the last write to the record
    v   a row's value; an integer (its size) where it is in parts; absent where the row was deleted
    t   a transaction's row, as ``v``
    s   map of output index to spender, 36 bytes each

A table is a set ``<sets>_<table>``, a row one record of it: ``store ‖ key``. Two tables, those of the ``utxo`` adapter with
a row for each transaction and for each spent output, are one set (``utxo_tx``) with a record for each transaction:
``store ‖ txid``, or ``store ‖ txid ‖ page u32`` for the spenders of outputs from 1024·page on. Values over 512 KiB are cut
into parts in the set ``<sets>-parts``: ``store ‖ length u8 ‖ table ‖ key ‖ part u32``.

Invariants:

- a write says which commit it makes true and is refused by a record that is as new (``n``), so that a write that lands
  late, or twice, changes nothing;
- a spender is put only where none is, also by the server's own look (CREATE_ONLY): a refusal is looked into, never ignored;
- no record is ever removed but parts that no row names any more: a removed record may come back after a restart, older
  than it was. A deleted row is a tombstone: a record with ``n`` alone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from nodewright.storage.utxo_records import SPENT, TX
from nodewright_aerospike.driver import Driver
from nodewright_aerospike.entry import Tables

PART_BYTES = 512 * 1024
OUTPUTS_PER_RECORD = 1024
STORE_BYTES = 8

NUMBER = "n"
VALUE = "v"
ROW = "t"
SPENDERS = "s"


def parts_of(size: int) -> int:
    return -(-size // PART_BYTES)


_outpoint = struct.Struct("<32sI").unpack


def spender_place(outpoint: bytes) -> tuple[bytes, int]:
    """(key of the record without the store, output index)"""
    txid, index = _outpoint(outpoint)
    return (txid if index < OUTPUTS_PER_RECORD else txid + (index // OUTPUTS_PER_RECORD).to_bytes(4, "big")), index


def split_spenders(
    rows: dict[bytes, bytes | None], respent: set[bytes]
) -> tuple[dict[bytes, dict[int, bytes]], dict[bytes, list[int]]]:
    """By record: spenders to be put, and indexes whose spenders are taken out first."""
    put: dict[bytes, dict[int, bytes]] = {}
    gone: dict[bytes, list[int]] = {}
    for outpoint, spender in rows.items():
        key, index = spender_place(outpoint)
        if spender is None or (respent and outpoint in respent):
            gone.setdefault(key, []).append(index)
        if spender is not None:
            if key in put:
                put[key][index] = spender
            else:
                put[key] = {index: spender}
    return put, gone


class Layout:
    """Names of records and writes of one store."""

    def __init__(self, driver: Driver, namespace: str, prefix: str, store: str) -> None:
        self._driver = driver
        self.namespace = namespace
        self._prefix = prefix
        self.id = hashlib.sha256(b"nodewright " + store.encode()).digest()[:STORE_BYTES]
        self.transactions = self.set_of(TX)
        self._parts = f"{prefix}-parts"
        self.owner = (namespace, f"{prefix}-owner", bytearray(self.id))
        self._create_only = {
            "map_order": driver.aerospike.MAP_KEY_ORDERED,
            "map_write_flags": driver.aerospike.MAP_WRITE_FLAGS_CREATE_ONLY,
        }
        self._send_key = {"key": driver.aerospike.POLICY_KEY_SEND}
        self._update = {**self._send_key, "exists": driver.aerospike.POLICY_EXISTS_UPDATE}

    def set_of(self, table: str) -> str:
        return f"{self._prefix}_{table}"

    def bin_of(self, table: str) -> str:
        return ROW if table == TX else VALUE

    # --- where rows are ----------------------------------------------------------------------------------------------

    def keys(self, table: str, keys: Iterable[bytes]) -> list[tuple[str, str, bytearray]]:
        """Records of rows; those of ``utxo_spent`` are found by ``spender_place``."""
        namespace, name, store = self.namespace, self.set_of(table), self.id
        return [(namespace, name, bytearray(store + key)) for key in keys]

    def part_keys(self, table: str, key: bytes, first: int, last: int) -> list[tuple[str, str, bytearray]]:
        start = self.id + bytes([len(table)]) + table.encode() + key
        return [(self.namespace, self._parts, bytearray(start + part.to_bytes(4, "big"))) for part in range(first, last)]

    # --- writes ------------------------------------------------------------------------------------------------------

    def writes(self, tables: Tables, respent: set[bytes], number: int, tombstones: bool) -> Iterator[Any]:
        """The driver's write records that bring all rows of ``tables`` to the server, made one by one; each record of the
        server is written once. ``respent`` are outpoints whose former spender is taken out before the new one is put. A row
        that is deleted where none is leaves nothing, unless ``tombstones``: for when a write of an earlier group may still
        be under way."""
        write = self._driver.operations.write
        stamp = write(NUMBER, number)
        nothing = self._driver.aerospike.null()
        make, policy = self._driver.records.Write, self._send_key
        delete = policy if tombstones else self._update
        namespace, store = self.namespace, self.id
        put, gone = split_spenders(tables[SPENT], respent) if SPENT in tables else ({}, {})
        for table, rows in tables.items():
            if table == SPENT:
                continue
            name = self.bin_of(table)
            spent = table == TX
            set_name = self.set_of(table)
            for key, value in rows.items():
                terms = policy
                if value is None:
                    operations = [write(name, nothing), stamp]
                    terms = delete
                elif len(value) <= PART_BYTES:
                    operations = [write(name, value), stamp]
                else:
                    operations = [write(name, len(value)), stamp]
                    for part, part_key in enumerate(self.part_keys(table, key, 0, parts_of(len(value)))):
                        piece = value[part * PART_BYTES : (part + 1) * PART_BYTES]
                        yield make(part_key, [write(VALUE, piece), stamp], None, policy)
                if spent:
                    if gone and key in gone:
                        operations.append(self._take_out(gone.pop(key)))
                    if key in put:
                        operations.append(self._put(put.pop(key)))
                        terms = policy
                yield make((namespace, set_name, bytearray(store + key)), operations, None, terms)
        set_name = self.transactions
        for key, indexes in gone.items():
            operations = [stamp, self._take_out(indexes)]
            terms = delete
            if key in put:
                operations.append(self._put(put.pop(key)))
                terms = policy
            yield make((namespace, set_name, bytearray(store + key)), operations, None, terms)
        for key, spenders in put.items():
            yield make((namespace, set_name, bytearray(store + key)), [stamp, self._put(spenders)], None, policy)

    def _put(self, spenders: dict[int, bytes]) -> Any:
        if len(spenders) == 1:
            ((index, spender),) = spenders.items()
            return self._driver.maps.map_put(SPENDERS, index, spender, self._create_only)
        return self._driver.maps.map_put_items(SPENDERS, spenders, self._create_only)

    def _take_out(self, indexes: list[int]) -> Any:
        return self._driver.maps.map_remove_by_key_list(SPENDERS, indexes, self._driver.aerospike.MAP_RETURN_NONE)

    # --- reading -----------------------------------------------------------------------------------------------------

    def owns(self, key: bytes) -> bool:
        return key.startswith(self.id)
