"""Outputs of transactions in BCS, between a shard and its coordinator. Nothing else stores or hashes this form.

``position`` u32 | kind u8 | gas u64 | fee u128 | status | writes | deltas | events | created | code | message. ``created``
are places in ``writes``. Invariant: what is read is equal to what was written, field by field; a reader accepts nothing
that no writer writes, and allocates nothing that the bytes do not hold.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from nodewright_aptos import bcs
from nodewright_aptos.bcs import MAX_BLOB, Malformed, Reader
from nodewright_aptos.ledger import EXECUTED, MISCELLANEOUS, Event, ExecutionStatus
from nodewright_aptos.state import RETRY, Output
from nodewright_aptos.statekeys import MAX_STATE_KEY_BYTES

MAX_KEY_BYTES: Final = 2 * MAX_STATE_KEY_BYTES  # of what a function asks for; longer ones are not stored
MAX_ITEMS: Final = 1 << 16
MAX_TEXT: Final = 1 << 16
_HEAD: Final = Struct("<IBQ")
_HANDLE: Final = Struct("<32sQQ")
_SMALL: Final = 0x80


def blob(value: bytes) -> bytes:
    size = len(value)
    return bytes((size,)) + value if size < _SMALL else bcs.uleb(size) + value


def read_blob(reader: Reader, limit: int) -> bytes:
    """As ``reader.blob``, in one call where it is short: most of what is read here is."""
    data, at = reader.data, reader.at
    if at < reader.end and (size := data[at]) < _SMALL and size <= limit:
        start = at + 1
        stop = start + size
        if stop <= reader.end:
            reader.at = stop
            return data[start:stop]
    elif at + 1 < reader.end and (low := data[at]) > _SMALL and 0 < (high := data[at + 1]) < _SMALL:
        start = at + 2
        stop = start + (low & 0x7F | high << 7)
        if stop <= reader.end and stop - start <= limit:
            reader.at = stop
            return data[start:stop]
    return reader.blob(limit)


def optional(value: bytes | None) -> bytes:
    return b"\0" if value is None else b"\1" + blob(value)


def read_optional(reader: Reader) -> bytes | None:
    return read_blob(reader, MAX_BLOB) if reader.flag() else None


def encode_output(position: int, output: Output) -> bytes:
    """Raises Malformed where a number has no place."""
    writes, created = output.writes, output.created
    parts = [
        _HEAD.pack(position, output.kind, output.gas_used),
        bcs.u128(output.fee),
        b"\0" if output.status is EXECUTED else _status(output.status),
        bcs.uleb(len(writes)),
    ]
    for key, value in writes.items():
        parts.append(blob(key))
        parts.append(optional(value))
    parts.append(bcs.uleb(len(output.deltas)))
    for key, delta in output.deltas.items():
        parts.append(blob(key))
        parts.append(b"\1" if delta < 0 else b"\0")
        parts.append(bcs.u128(abs(delta)))
    parts.append(bcs.uleb(len(output.events)))
    for event in output.events:
        parts.append(blob(event.type))
        parts.append(blob(event.data))
        if event.address is None:
            parts.append(b"\0")
        else:
            parts.append(b"\1" + _HANDLE.pack(event.address, event.creation_number, event.sequence_number))
    parts.append(bcs.uleb(len(created)))
    if created:
        places = {key: place for place, key in enumerate(writes)}
        parts.append(b"".join([bcs.uleb(places[key]) for key in created]))
    parts.append(b"\0\0" if not output.code and not output.message else bcs.text(output.code) + bcs.text(output.message))
    return b"".join(parts)


def read_output(reader: Reader) -> tuple[int, Output]:
    """Position and output. Raises Malformed."""
    position, kind, gas = _HEAD.unpack(reader.take(_HEAD.size))
    if kind > RETRY:
        raise Malformed(f"outputs of kind {kind} are not known")
    fee = reader.u128()
    status = EXECUTED if not reader.flag() else _read_status(reader)
    writes: dict[bytes, bytes | None] = {}
    for _ in range(count := reader.length(MAX_ITEMS, 2)):
        key = read_blob(reader, MAX_KEY_BYTES)
        writes[key] = read_blob(reader, MAX_BLOB) if reader.flag() else None
    if len(writes) != count:
        raise Malformed("a key is written twice")
    deltas: dict[bytes, int] = {}
    for _ in range(count := reader.length(MAX_ITEMS, 18)):
        key = read_blob(reader, MAX_KEY_BYTES)
        negative, delta = reader.flag(), reader.u128()
        if negative and not delta:
            raise Malformed("a zero has no sign")
        deltas[key] = -delta if negative else delta
    if len(deltas) != count:
        raise Malformed("a key has two deltas")
    events = tuple([_read_event(reader) for _ in range(reader.length(MAX_ITEMS, 3))])
    created: tuple[bytes, ...] = ()
    count = reader.length(MAX_ITEMS)
    if count:
        keys = list(writes)
        try:
            created = tuple([keys[reader.uleb()] for _ in range(count)])
        except IndexError as error:
            raise Malformed("what is created is not written") from error
    code = message = ""
    if reader.data[reader.at : reader.at + 2] == b"\0\0":
        reader.at += 2
    else:
        code, message = reader.text(MAX_TEXT), reader.text(MAX_TEXT)
    return position, Output(kind, gas, status, writes, deltas, events, created, code, message, fee)


def _status(status: ExecutionStatus) -> bytes:
    if status == EXECUTED:
        return b"\0"
    module = None if status.module is None else status.module[0] + bcs.text(status.module[1])
    told = bcs.text(status.reason) + bcs.text(status.description)
    return b"\1" + bcs.u8(status.kind) + bcs.option(module) + bcs.u64(status.code) + told


def _read_status(reader: Reader) -> ExecutionStatus:
    kind = reader.u8()
    if kind > MISCELLANEOUS:
        raise Malformed(f"statuses of kind {kind} are not known")
    module = (reader.take(32), reader.text(MAX_TEXT)) if reader.flag() else None
    status = ExecutionStatus(kind, module, reader.u64(), reader.text(MAX_TEXT), reader.text(MAX_TEXT))
    if status == EXECUTED:
        raise Malformed("a success is said in one byte")
    return status


def _read_event(reader: Reader) -> Event:
    type, data = read_blob(reader, MAX_TEXT), read_blob(reader, MAX_BLOB)
    if not reader.flag():
        return Event(type, data)
    address, creation, sequence = _HANDLE.unpack(reader.take(_HANDLE.size))
    return Event(type, data, address, creation, sequence)
