"""What a coordinator and a shard say to one another: version u8 | kind u8 | body in BCS.

From the coordinator: ``Hello``, ``Begin`` (a sub-block: a *part*), ``Batch`` (a micro-batch with the state it needs),
``Values`` (what transactions of other parts left), ``State`` (what was asked for), ``End``, ``Ping``. From the shard:
``Ready``, ``Values`` (what others need of its transactions), ``Results``, ``Ask``, ``Failed``, ``Pong``.

Invariants: ``decode(encode(message)) == message``; anything else than what ``encode`` writes raises ``Malformed``; no
message is longer than MAX_MESSAGE_BYTES, and nothing is allocated for a count before the bytes that are left have been
compared with it.

A *position* is a transaction's place among those that run together; a *version* of a key is named by the position of the
transaction after which it has that value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen

from nodewright_aptos import bcs
from nodewright_aptos.bcs import MAX_BLOB, Malformed, Reader
from nodewright_aptos.shards.outputs import (
    MAX_KEY_BYTES,
    blob,
    encode_output,
    optional,
    read_blob,
    read_optional,
    read_output,
)
from nodewright_aptos.state import BlockEnvironment, Output
from nodewright_aptos.transactions import MAX_TRANSACTION_BYTES

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
SPLIT_BYTES: Final = 4 * 1024 * 1024  # a message is ended when it has as much; what is added last may be as much again
MAX_BATCH: Final = 4096  # transactions of a micro-batch
MAX_KEYS: Final = 1 << 16  # of a micro-batch
MAX_ROWS: Final = 1 << 20
MAX_TEXT: Final = 4096

# Of a key that a micro-batch names: its value comes with it, or is known, or to be asked for when it is read.
UNSENT: Final = 0
ABSENT: Final = 1
PRESENT: Final = 2

Version = tuple[bytes, int, bytes | None]  # key, position it is the value after, value


@frozen
class Hello:
    """``fingerprint`` is that of the transaction functions (``fingerprint_of``)."""

    fingerprint: bytes
    executor: str


@frozen
class Ready:
    fingerprint: bytes
    executor: str


@frozen
class Begin:
    part: int
    block: BlockEnvironment


@frozen
class Item:
    """One transaction. ``keys`` are places in the batch's keys: the first ``written`` it may write, the others it may only
    read. ``needs`` (place, position): of this key it reads the version of another part. ``sends``: keys whose value after
    it another part needs."""

    position: int
    raw: bytes
    keys: tuple[int, ...]
    written: int
    needs: tuple[tuple[int, int], ...] = ()
    sends: tuple[int, ...] = ()


@frozen
class Batch:
    """``values`` beside ``keys``: (PRESENT, value), (ABSENT, None), (UNSENT, None)."""

    part: int
    number: int
    keys: tuple[bytes, ...]
    values: tuple[tuple[int, bytes | None], ...]
    items: tuple[Item, ...]


@frozen
class Values:
    part: int
    versions: tuple[Version, ...]


@frozen
class State:
    part: int
    values: tuple[tuple[bytes, bytes | None], ...]


@frozen
class End:
    part: int


@frozen
class Ask:
    part: int
    keys: tuple[bytes, ...]


@frozen
class Results:
    """``undeclared``: keys that were read by transactions that do not declare them. ``micros``: what the shard spent since
    it said so last, waiting for what it needs, executing, sending to dependents, returning results."""

    part: int
    outputs: tuple[tuple[int, Output], ...]
    undeclared: tuple[bytes, ...] = ()
    micros: tuple[int, int, int, int] = (0, 0, 0, 0)


@frozen
class Failed:
    part: int
    reason: str


@frozen
class Ping:
    number: int


@frozen
class Pong:
    number: int


Message = Hello | Ready | Begin | Batch | Values | State | End | Ask | Results | Failed | Ping | Pong


def encode(message: Message) -> bytes:
    """Raises Malformed where it would be too long or a number has no place."""
    kind, write = _WRITERS[type(message)]
    body: bytes = bytes((VERSION, kind)) + write(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise Malformed(f"a message of {len(body)} bytes, where {MAX_MESSAGE_BYTES} are allowed")
    return body


def decode(data: bytes) -> Message:
    """Raises Malformed."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise Malformed(f"a message of {len(data)} bytes, where {MAX_MESSAGE_BYTES} are allowed")
    reader = Reader(data)
    if (version := reader.u8()) != VERSION:
        raise Malformed(f"messages of version {version}: this is version {VERSION}, run the same release on both sides")
    read = _READERS.get(reader.u8())
    if read is None:
        raise Malformed("a message of no known kind")
    message: Message = read(reader)
    reader.finish()
    return message


# --- kinds -----------------------------------------------------------------------------------------------------------


def _greeting(message: Hello | Ready) -> bytes:
    return message.fingerprint + bcs.text(message.executor)


def _read_greeting(kind: type[Any]) -> Callable[[Reader], Any]:
    return lambda reader: kind(reader.take(32), reader.text(64))


def _begin(message: Begin) -> bytes:
    block = message.block
    numbers = (block.height, block.timestamp, block.epoch)
    return bcs.u64(message.part) + b"".join(map(bcs.u64, numbers)) + bcs.u8(block.chain_id) + block.proposer


def _read_begin(reader: Reader) -> Begin:
    part = reader.u64()
    block = BlockEnvironment(reader.u64(), reader.u64(), reader.u64(), reader.u8(), reader.take(32))
    return Begin(part, block)


def _batch(message: Batch) -> bytes:
    parts = [bcs.u64(message.part), bcs.u32(message.number), bcs.uleb(len(message.keys))]
    for key, (told, value) in zip(message.keys, message.values, strict=True):
        parts.append(blob(key))
        parts.append(b"\2" + blob(value) if told == PRESENT and value is not None else bytes((told,)))
    parts.append(bcs.uleb(len(message.items)))
    for item in message.items:
        parts.append(bcs.u32(item.position))
        parts.append(blob(item.raw))
        parts.append(_places(item.keys))
        parts.append(bcs.uleb(item.written))
        parts.append(bcs.uleb(len(item.needs)))
        parts.extend([bcs.uleb(place) + bcs.u32(position) for place, position in item.needs])
        parts.append(_places(item.sends))
    return b"".join(parts)


def _read_batch(reader: Reader) -> Batch:
    part, number = reader.u64(), reader.u32()
    keys: list[bytes] = []
    values: list[tuple[int, bytes | None]] = []
    for _ in range(reader.length(MAX_KEYS, 2)):
        keys.append(read_blob(reader, MAX_KEY_BYTES))
        told = reader.u8()
        if told > PRESENT:
            raise Malformed("a value is sent, absent or not sent")
        values.append((told, read_blob(reader, MAX_BLOB) if told == PRESENT else None))
    items = [_read_item(reader, len(keys)) for _ in range(reader.length(MAX_BATCH, 9))]
    return Batch(part, number, tuple(keys), tuple(values), tuple(items))


def _read_item(reader: Reader, count: int) -> Item:
    position, raw = reader.u32(), read_blob(reader, MAX_TRANSACTION_BYTES)
    keys = _read_places(reader, count)
    written = reader.uleb()
    needs = tuple([(reader.uleb(), reader.u32()) for _ in range(reader.length(MAX_KEYS, 5))])
    sends = _read_places(reader, count)
    if written > len(keys) or any(place >= count for place, _ in needs):
        raise Malformed("a transaction names a key that the micro-batch does not have")
    return Item(position, raw, keys, written, needs, sends)


def _places(places: Sequence[int]) -> bytes:
    return bcs.uleb(len(places)) + b"".join([bcs.uleb(place) for place in places])


def _read_places(reader: Reader, count: int) -> tuple[int, ...]:
    length = reader.length(MAX_KEYS)
    short = reader.data[reader.at : reader.at + length].isascii()  # each is one byte, which is its number
    places = tuple(reader.take(length)) if short else tuple([reader.uleb() for _ in range(length)])
    if places and max(places) >= count:
        raise Malformed("a transaction names a key that the micro-batch does not have")
    return places


def _values(message: Values) -> bytes:
    rows = [blob(key) + bcs.u32(position) + optional(value) for key, position, value in message.versions]
    return bcs.u64(message.part) + bcs.vector(rows)


def _read_values(reader: Reader) -> Values:
    part = reader.u64()
    return Values(
        part,
        reader.vector(lambda: (reader.blob(MAX_KEY_BYTES), reader.u32(), read_optional(reader)), MAX_ROWS, 6),
    )


def _state(message: State) -> bytes:
    return bcs.u64(message.part) + bcs.vector([blob(key) + optional(value) for key, value in message.values])


def _read_state(reader: Reader) -> State:
    part = reader.u64()
    return State(part, reader.vector(lambda: (reader.blob(MAX_KEY_BYTES), read_optional(reader)), MAX_ROWS, 2))


def _keys(keys: Sequence[bytes]) -> bytes:
    return bcs.vector(map(blob, keys))


def _read_keys(reader: Reader) -> tuple[bytes, ...]:
    return reader.vector(lambda: reader.blob(MAX_KEY_BYTES), MAX_ROWS)


def _results(message: Results) -> bytes:
    outputs = [encode_output(position, output) for position, output in message.outputs]
    told = b"".join(map(bcs.u64, message.micros))
    return bcs.u64(message.part) + bcs.vector(outputs) + _keys(message.undeclared) + told


def _read_results(reader: Reader) -> Results:
    part = reader.u64()
    outputs = reader.vector(lambda: read_output(reader), MAX_BATCH, 30)
    undeclared = _read_keys(reader)
    return Results(part, outputs, undeclared, (reader.u64(), reader.u64(), reader.u64(), reader.u64()))


_KINDS: Final[tuple[tuple[type[Any], Callable[[Any], bytes], Callable[[Reader], Any]], ...]] = (
    (Hello, _greeting, _read_greeting(Hello)),
    (Ready, _greeting, _read_greeting(Ready)),
    (Begin, _begin, _read_begin),
    (Batch, _batch, _read_batch),
    (Values, _values, _read_values),
    (State, _state, _read_state),
    (End, lambda message: bcs.u64(message.part), lambda reader: End(reader.u64())),
    (
        Ask,
        lambda message: bcs.u64(message.part) + _keys(message.keys),
        lambda reader: Ask(reader.u64(), _read_keys(reader)),
    ),
    (Results, _results, _read_results),
    (
        Failed,
        lambda message: bcs.u64(message.part) + bcs.text(message.reason),
        lambda reader: Failed(reader.u64(), reader.text(MAX_TEXT)),
    ),
    (Ping, lambda message: bcs.u64(message.number), lambda reader: Ping(reader.u64())),
    (Pong, lambda message: bcs.u64(message.number), lambda reader: Pong(reader.u64())),
)
_WRITERS: Final = {kind: (number, write) for number, (kind, write, _) in enumerate(_KINDS)}
_READERS: Final = {number: read for number, (_, _, read) in enumerate(_KINDS)}


def pieces(rows: Sequence[Any], size: Callable[[Any], int]) -> list[Sequence[Any]]:
    """``rows`` cut so that no message has more than SPLIT_BYTES and its last row, nor more than MAX_BATCH rows."""
    cut: list[Sequence[Any]] = []
    start = held = 0
    for place, row in enumerate(rows):
        held += size(row)
        if held >= SPLIT_BYTES or place - start + 1 >= MAX_BATCH:
            cut.append(rows[start : place + 1])
            start, held = place + 1, 0
    if start < len(rows):
        cut.append(rows[start:])
    return cut
