"""What the store keeps of blocks and transactions, and how its tables are laid out.

All numbers in keys are big-endian.

- ``aptos_meta``: ``applied`` -> BlockRow of the applied block; ``oldest`` -> height u64 of the oldest state still held.
- ``aptos_state``: state key -> value, of the applied block.
- ``aptos_tree``: node key -> node (``jmtnodes``), of all versions still held.
- ``aptos_stale``: version u64 ‖ part u16 -> node keys, each after its length in a byte: what the update at that version
  made unused. Pruned by it once no block before that version is held.
- ``aptos_undo``: height u64 ‖ part u16 -> state before that block of the keys that it changed.
- ``aptos_blocks``: height u64 -> BlockRow. ``aptos_block_ids``: id -> height u64.
- ``aptos_transactions``: version u64 -> TransactionRow. ``aptos_hashes``: transaction hash -> version u64.
- ``aptos_accumulator``: level u8 ‖ index u64 -> 32 bytes: complete nodes on every eighth level.
- ``aptos_by_account``: address ‖ sequence number u64 -> version u64 (setting ``index_accounts``).
- ``aptos_events``: address ‖ creation number u64 ‖ sequence number u64 -> version u64 ‖ index u16 (``index_events``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from attrs import define, frozen

from nodewright.interfaces.common import BlockRef
from nodewright_aptos import bcs
from nodewright_aptos.accumulator import Accumulator, read_accumulator
from nodewright_aptos.bcs import Reader
from nodewright_aptos.jmt import Root
from nodewright_aptos.ledger import Event, TransactionInfo, read_event, read_info
from nodewright_aptos.statekeys import read_serialised
from nodewright_aptos.transactions import MAX_TRANSACTION_BYTES

META: Final = "aptos_meta"
STATE: Final = "aptos_state"
TREE: Final = "aptos_tree"
STALE: Final = "aptos_stale"
UNDO: Final = "aptos_undo"
BLOCKS: Final = "aptos_blocks"
BLOCK_IDS: Final = "aptos_block_ids"
TRANSACTIONS: Final = "aptos_transactions"
HASHES: Final = "aptos_hashes"
ACCUMULATOR: Final = "aptos_accumulator"
BY_ACCOUNT: Final = "aptos_by_account"
EVENTS: Final = "aptos_events"

APPLIED: Final = b"applied"
OLDEST: Final = b"oldest"
PART_BYTES: Final = 1 << 20
MAX_EVENTS: Final = 65536


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def part_key(first: int, part: int) -> bytes:
    return number(first) + part.to_bytes(2, "big")


@frozen
class BlockRow:
    """A block as the ledger knows it. ``timestamp`` in microseconds; ``first_version`` is that of its metadata, and
    ``version`` that of its last transaction, the state checkpoint."""

    height: int
    id: bytes
    parent: bytes
    epoch: int
    round: int
    proposer: bytes
    timestamp: int
    first_version: int
    version: int
    state: Root
    accumulator: Accumulator

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.height, self.id)

    def encode(self) -> bytes:
        return b"".join(
            (
                bcs.u64(self.height),
                bcs.blob(self.id),
                bcs.blob(self.parent),
                bcs.u64(self.epoch),
                bcs.u64(self.round),
                self.proposer,
                bcs.u64(self.timestamp),
                bcs.u64(self.first_version),
                bcs.u64(self.version),
                bcs.option(None if self.state.version is None else bcs.u64(self.state.version)),
                self.state.hash,
                self.accumulator.encode(),
            )
        )


def read_block(raw: bytes) -> BlockRow:
    reader = Reader(raw)
    row = BlockRow(
        reader.u64(),
        reader.blob(64),
        reader.blob(64),
        reader.u64(),
        reader.u64(),
        reader.take(32),
        reader.u64(),
        reader.u64(),
        reader.u64(),
        Root(reader.option(reader.u64), reader.take(32)),
        read_accumulator(reader),
    )
    reader.finish()
    return row


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define
class TransactionRow:
    """A transaction of the ledger: ``transaction`` with its tag, ``info`` (TransactionInfo), its ``events`` and
    ``changes`` (the write set) as they are hashed, in BCS; ``changes`` is empty where it is not kept. ``reason`` names a
    failure that its status has no room for."""

    version: int
    height: int
    timestamp: int
    transaction: bytes
    info: bytes
    events: bytes
    changes: bytes = b""
    reason: str = ""

    @property
    def hash(self) -> bytes:
        return self.transaction_info().transaction_hash

    def transaction_info(self) -> TransactionInfo:
        return bcs.whole(self.info, read_info)

    def event_list(self) -> tuple[Event, ...]:
        return bcs.whole(self.events, lambda reader: reader.vector(lambda: read_event(reader), MAX_EVENTS))

    def change_list(self) -> list[tuple[bytes, str, bytes]]:
        """(state key, ``create`` | ``modify`` | ``delete``, value) in the order of the write set."""
        return bcs.whole(self.changes, read_changes) if self.changes else []

    def encode(self) -> bytes:
        return b"".join(
            (
                self.height.to_bytes(8, "little"),
                self.timestamp.to_bytes(8, "little"),
                bcs.blob(self.transaction),
                bcs.blob(self.info),
                bcs.blob(self.events),
                bcs.blob(self.changes),
                bcs.text(self.reason),
            )
        )


_OPERATIONS: Final = ("create", "modify", "delete")


def read_changes(reader: Reader) -> list[tuple[bytes, str, bytes]]:
    if reader.u8():
        raise bcs.Malformed("not a write set of version 0")
    found = []
    for _ in range(reader.length(1 << 24, 34)):
        key, kind = read_serialised(reader), reader.uleb()
        if kind > 2:
            raise bcs.Malformed("not a write operation")
        found.append((key, _OPERATIONS[kind], b"" if kind == 2 else reader.blob()))
    return found


def read_transaction(version: int, raw: bytes) -> TransactionRow:
    reader = Reader(raw)
    row = TransactionRow(
        version,
        reader.u64(),
        reader.u64(),
        reader.blob(max(MAX_TRANSACTION_BYTES + 1, bcs.MAX_BLOB)),
        reader.blob(),
        reader.blob(),
        reader.blob(),
        reader.text(),
    )
    reader.finish()
    return row


# --- rows in parts ---------------------------------------------------------------------------------------------------


def parts(items: Iterable[bytes], limit: int = PART_BYTES) -> list[bytes]:
    """Items that are written already, in rows of about ``limit`` bytes; at least one row."""
    rows: list[bytes] = []
    row: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > limit and row:
            rows.append(b"".join(row))
            row, size = [], 0
        row.append(item)
        size += len(item)
    rows.append(b"".join(row))
    return rows


def encode_undo(before: Mapping[bytes, bytes | None]) -> list[bytes]:
    return parts(bcs.blob(key) + (b"\0" if value is None else b"\1" + bcs.blob(value)) for key, value in before.items())


def read_undo(rows: Sequence[bytes]) -> dict[bytes, bytes | None]:
    before: dict[bytes, bytes | None] = {}
    for raw in rows:
        reader = Reader(raw)
        while reader.at < reader.end:
            key = reader.blob()
            before[key] = reader.blob() if reader.flag() else None
    return before


def encode_stale(keys: Iterable[bytes]) -> list[bytes]:
    return parts(bytes([len(key)]) + key for key in keys)


def read_stale(rows: Sequence[bytes]) -> list[bytes]:
    keys = []
    for raw in rows:
        reader = Reader(raw)
        while reader.at < reader.end:
            keys.append(reader.take(reader.u8()))
    return keys


def event_key(event: Event) -> bytes | None:
    """Of its row in ``aptos_events``; None of a module's event, which no handle counts."""
    if event.address is None:
        return None
    return event.address + number(event.creation_number) + number(event.sequence_number)
