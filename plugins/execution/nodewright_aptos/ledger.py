"""What a ledger says of its transactions: events, write sets, TransactionInfo, BlockInfo and LedgerInfo.

All are written in BCS as Aptos does: a HashValue is 32 bytes with its length before it, an address without. A
TransactionInfo (V0) commits to the transaction, its status, events and writes and, on the last transaction of a block, to
the root of the state. ``state_cemetery_hash`` is always none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from nodewright_aptos import bcs, hashing
from nodewright_aptos.addresses import short_text
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.statekeys import serialised
from nodewright_aptos.typetags import StructTag, encode_type, read_type

# --- status ----------------------------------------------------------------------------------------------------------

SUCCESS: Final = 0
OUT_OF_GAS: Final = 1
MOVE_ABORT: Final = 2
EXECUTION_FAILURE: Final = 3
MISCELLANEOUS: Final = 4


@frozen
class ExecutionStatus:
    """``module`` (address, name) is where a Move abort happened; ``reason`` and ``description`` explain its ``code``. Of a
    miscellaneous failure ``reason`` is kept beside the ledger only (``detail``): the status itself does not hold it."""

    kind: int = SUCCESS
    module: tuple[bytes, str] | None = None
    code: int = 0
    reason: str = ""
    description: str = ""

    def encode(self) -> bytes:
        if self.kind == MOVE_ABORT:
            location = b"\1" if self.module is None else b"\0" + self.module[0] + bcs.text(self.module[1])
            told = bcs.text(self.reason) + bcs.text(self.description) if self.reason else None
            return bytes([MOVE_ABORT]) + location + bcs.u64(self.code) + bcs.option(told)
        if self.kind == MISCELLANEOUS:
            return bytes([MISCELLANEOUS, 0])
        return bytes([self.kind])

    @property
    def success(self) -> bool:
        return self.kind == SUCCESS

    def text(self) -> str:
        """``vm_status`` as the REST API writes it."""
        if self.kind == SUCCESS:
            return "Executed successfully"
        if self.kind == OUT_OF_GAS:
            return "Out of gas"
        if self.kind == MOVE_ABORT and self.module is not None:
            where = f"{short_text(self.module[0])}::{self.module[1]}"
            if self.reason:
                return f"Move abort in {where}: {self.reason}({self.code:#x}): {self.description}"
            return f"Move abort in {where}: {self.code:#x}"
        return f"Execution failed: {self.reason or 'MISCELLANEOUS_ERROR'}"


EXECUTED: Final = ExecutionStatus()


def read_status(reader: Reader) -> ExecutionStatus:
    kind = reader.uleb()
    if kind in (SUCCESS, OUT_OF_GAS):
        return ExecutionStatus(kind)
    if kind == MOVE_ABORT:
        module = None if reader.uleb() else (reader.take(32), reader.text(255))
        code = reader.u64()
        if not reader.flag():
            return ExecutionStatus(kind, module, code)
        return ExecutionStatus(kind, module, code, reader.text(), reader.text())
    if kind == MISCELLANEOUS and reader.uleb() == 0:
        return ExecutionStatus(kind)
    raise Malformed("not an execution status")


# --- events ----------------------------------------------------------------------------------------------------------


# Made several times per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define(unsafe_hash=True)
class Event:
    """Of a handle (V1: ``creation_number`` and ``address`` name it, ``sequence_number`` counts) or of a module (V2: no
    handle). ``type`` is the type tag in BCS."""

    type: bytes
    data: bytes
    address: bytes | None = None
    creation_number: int = 0
    sequence_number: int = 0

    def encode(self) -> bytes:
        body = self.type + bcs.blob(self.data)
        if self.address is None:
            return b"\1" + body
        return b"".join(
            (
                b"\0",
                self.creation_number.to_bytes(8, "little"),
                self.address,
                self.sequence_number.to_bytes(8, "little"),
                body,
            )
        )

    def hash(self) -> bytes:
        return hashing.digest(hashing.CONTRACT_EVENT, self.encode())


def event_type(tag: StructTag) -> bytes:
    return encode_type(tag)


def read_event(reader: Reader) -> Event:
    address: bytes | None = None
    creation = sequence = 0
    if reader.uleb() == 0:
        creation, address, sequence = reader.u64(), reader.take(32), reader.u64()
    start = reader.at
    read_type(reader)
    return Event(reader.data[start : reader.at], reader.blob(), address, creation, sequence)


# --- write sets ------------------------------------------------------------------------------------------------------


def encode_write_set(writes: Mapping[bytes, bytes | None], created: frozenset[bytes] | set[bytes]) -> bytes:
    """WriteSet::V0 over state keys in the order of their serialised form. A write of a key in ``created`` is a creation, of
    another one a modification, None a deletion."""
    rows = []
    for key, value in writes.items():
        operation = b"\2" if value is None else (b"\0" if key in created else b"\1") + bcs.blob(value)
        rows.append((serialised(key), operation))
    rows.sort()
    return b"\0" + bcs.uleb(len(rows)) + b"".join([key + operation for key, operation in rows])


NO_WRITES: Final = hashing.digest(hashing.WRITE_SET, b"\0\0")


# --- infos -----------------------------------------------------------------------------------------------------------


@define
class TransactionInfo:
    gas_used: int
    status: ExecutionStatus
    transaction_hash: bytes
    event_root: bytes
    state_change_hash: bytes
    state_checkpoint: bytes | None = None

    def encode(self) -> bytes:
        checkpoint = b"\0" if self.state_checkpoint is None else b"\1\x20" + self.state_checkpoint
        return b"".join(
            (
                b"\0",
                self.gas_used.to_bytes(8, "little"),
                b"\0" if self.status.kind == SUCCESS else self.status.encode(),
                b"\x20",
                self.transaction_hash,
                b"\x20",
                self.event_root,
                b"\x20",
                self.state_change_hash,
                checkpoint,
                b"\0",
            )
        )

    def hash(self) -> bytes:
        return hashing.digest(hashing.TRANSACTION_INFO, self.encode())


def read_info(reader: Reader) -> TransactionInfo:
    if reader.uleb() != 0:
        raise Malformed("not a TransactionInfo of version 0")
    gas_used, status = reader.u64(), read_status(reader)
    transaction, events, changes = reader.exactly(32), reader.exactly(32), reader.exactly(32)
    checkpoint = reader.option(lambda: reader.exactly(32))
    if reader.flag():
        raise Malformed("a TransactionInfo with a state cemetery")
    return TransactionInfo(gas_used, status, transaction, events, changes, checkpoint)


@frozen
class BlockInfo:
    """``executed_state`` is the root of the transaction accumulator at ``version``; ``timestamp`` in microseconds.
    ``next_validators`` (address, key, power) is there where the block ends its epoch."""

    epoch: int
    round: int
    id: bytes
    executed_state: bytes
    version: int
    timestamp: int
    next_epoch: bytes | None = field(default=None)

    def encode(self) -> bytes:
        return b"".join(
            (
                bcs.u64(self.epoch),
                bcs.u64(self.round),
                bcs.blob(self.id),
                bcs.blob(self.executed_state),
                bcs.u64(self.version),
                bcs.u64(self.timestamp),
                bcs.option(self.next_epoch),
            )
        )


@frozen
class LedgerInfo:
    """What a quorum signs: a block's outcome and the digest of the consensus data around it."""

    commit: BlockInfo
    consensus_data: bytes = bytes(32)

    def encode(self) -> bytes:
        return self.commit.encode() + bcs.blob(self.consensus_data)

    def hash(self) -> bytes:
        return hashing.digest(hashing.LEDGER_INFO, self.encode())
