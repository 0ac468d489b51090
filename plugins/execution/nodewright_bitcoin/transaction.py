"""Transactions in standard and extended form (BRC-30), byte-exact both ways.

Invariants:
- ``parse(raw).serialize(extended=<the form raw had>) == raw``, whatever the fields mean: nothing is judged here but the
  shape (``rules`` judges).
- The txid is double SHA-256 of the *standard* form, also where the extended form came in.
- Parsing raises nothing but ``ParseError``, and allocates no more than a constant times the bytes it was given: every
  count is compared with the bytes left before a list is grown.

Extended form: ``version4 00 00 00 00 00 EF``, then the standard layout in which each input is followed by the satoshis
(8 bytes) and the locking script (CompactSize length) of the output it spends. Ten bytes ending in ``EF`` are read as
the standard form of a transaction without inputs and outputs, whose lock time happens to end so.

Objects are plain (not frozen) attrs classes because a frozen one costs three times as much to build; nothing assigns to
them after construction, and the cached fields rely on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, field

from nodewright_bitcoin.encoding import INT32, INT64, UINT32, ParseError, read_compact_size, sha256d, write_compact_size

MAX_TRANSACTION_BYTES: Final = 1_000_000_000
"""Largest transaction that consensus knows (after Genesis)."""

EXTENDED_MARKER: Final = b"\x00\x00\x00\x00\x00\xef"
NULL_OUTPOINT: Final = bytes(32) + b"\xff\xff\xff\xff"
SEQUENCE_FINAL: Final = 0xFFFFFFFF

_SMALLEST_INPUT = 36 + 1 + 4
_SMALLEST_EXTENDED_INPUT = _SMALLEST_INPUT + 8 + 1
_SMALLEST_OUTPUT = 8 + 1
_SMALLEST_TRANSACTION = 4 + 1 + 1 + 4


@define
class TxInput:
    """``outpoint`` is txid (32 bytes, wire order) and output index (4, little-endian). ``satoshis`` and
    ``locking_script`` of the output spent are known where the extended form brought them or a store filled them in."""

    outpoint: bytes
    script: bytes = b""
    sequence: int = SEQUENCE_FINAL
    satoshis: int | None = None
    locking_script: bytes | None = None

    @property
    def previous_txid(self) -> bytes:
        return self.outpoint[:32]

    @property
    def previous_index(self) -> int:
        return int.from_bytes(self.outpoint[32:], "little")


@define
class TxOutput:
    """``satoshis`` is signed, as on the wire: a negative amount parses and is refused by the rules."""

    satoshis: int
    script: bytes

    def serialize(self) -> bytes:
        return b"".join((INT64.pack(self.satoshis), write_compact_size(len(self.script)), self.script))


@define
class Transaction:
    """``version`` is signed 32 bits, ``locktime`` and sequences unsigned."""

    version: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int = 0
    _raw: bytes | None = field(default=None, eq=False, repr=False)
    _outputs_at: int = field(default=-1, eq=False, repr=False)
    _txid: bytes | None = field(default=None, eq=False, repr=False)
    _prevouts_hash: bytes | None = field(default=None, eq=False, repr=False)
    _sequences_hash: bytes | None = field(default=None, eq=False, repr=False)
    _outputs_hash: bytes | None = field(default=None, eq=False, repr=False)
    _blank_inputs: tuple[bytes, bytes] | None = field(default=None, eq=False, repr=False)

    @classmethod
    def parse(cls, raw: bytes, max_bytes: int = MAX_TRANSACTION_BYTES) -> Transaction:
        """One transaction and nothing after it. ParseError otherwise, with the offset where it went wrong."""
        if len(raw) > max_bytes:
            raise ParseError(f"a transaction of {len(raw)} bytes is above the limit of {max_bytes}", 0)
        tx, after = _parse_at(bytes(raw), 0)
        if after != len(raw):
            raise ParseError(f"{len(raw) - after} bytes follow the transaction", after)
        return tx

    @property
    def raw(self) -> bytes:
        """The standard form."""
        if self._raw is None:
            head = b"".join((INT32.pack(self.version), *self._serialized_inputs(extended=False)))
            self._outputs_at = len(head)
            self._raw = head + self._serialized_outputs() + UINT32.pack(self.locktime)
        return self._raw

    @property
    def size(self) -> int:
        """Bytes of the standard form: what fees and limits count."""
        return len(self.raw)

    @property
    def txid(self) -> bytes:
        """32 bytes in wire order (explorers show them reversed)."""
        if self._txid is None:
            self._txid = sha256d(self.raw)
        return self._txid

    @property
    def outputs_vector(self) -> bytes:
        """The outputs as on the wire: count, then each output."""
        raw = self.raw
        return raw[self._outputs_at : -4]

    @property
    def is_coinbase(self) -> bool:
        return len(self.inputs) == 1 and self.inputs[0].outpoint == NULL_OUTPOINT

    @property
    def is_extended(self) -> bool:
        """Every input knows the output that it spends."""
        return all(i.satoshis is not None and i.locking_script is not None for i in self.inputs)

    def serialize(self, extended: bool = False) -> bytes:
        """ValueError where the extended form is asked for and an input does not know the output it spends."""
        if not extended:
            return self.raw
        pieces = (INT32.pack(self.version), EXTENDED_MARKER, *self._serialized_inputs(extended=True))
        return b"".join((*pieces, self._serialized_outputs(), UINT32.pack(self.locktime)))

    def prevouts_hash(self) -> bytes:
        """BIP143's hash of all outpoints, computed once per transaction (so is the next, and the one after)."""
        if self._prevouts_hash is None:
            self._prevouts_hash = sha256d(b"".join([i.outpoint for i in self.inputs]))
        return self._prevouts_hash

    def sequences_hash(self) -> bytes:
        if self._sequences_hash is None:
            self._sequences_hash = sha256d(b"".join([UINT32.pack(i.sequence) for i in self.inputs]))
        return self._sequences_hash

    def outputs_hash(self) -> bytes:
        if self._outputs_hash is None:
            vector = self.outputs_vector
            self._outputs_hash = sha256d(vector[len(write_compact_size(len(self.outputs))) :])
        return self._outputs_hash

    def blank_inputs(self) -> tuple[bytes, bytes]:
        """All inputs with empty scripts, 41 bytes each, with their sequences and with sequence 0: what the original
        digest is cut from."""
        if self._blank_inputs is None:
            kept = b"".join([b"".join((i.outpoint, b"\x00", UINT32.pack(i.sequence))) for i in self.inputs])
            zeroed = b"".join([i.outpoint + b"\x00\x00\x00\x00\x00" for i in self.inputs])
            self._blank_inputs = (kept, zeroed)
        return self._blank_inputs

    def _serialized_inputs(self, extended: bool) -> list[bytes]:
        pieces = [write_compact_size(len(self.inputs))]
        for i in self.inputs:
            pieces += (i.outpoint, write_compact_size(len(i.script)), i.script, UINT32.pack(i.sequence))
            if extended:
                if i.satoshis is None or i.locking_script is None:
                    raise ValueError("the extended form needs the amount and script of every output spent")
                pieces += (INT64.pack(i.satoshis), write_compact_size(len(i.locking_script)), i.locking_script)
        return pieces

    def _serialized_outputs(self) -> bytes:
        return b"".join((write_compact_size(len(self.outputs)), *[o.serialize() for o in self.outputs]))


def parse_many(concatenated: bytes, limit: int, max_bytes: int = MAX_TRANSACTION_BYTES) -> list[Transaction]:
    """Transactions laid one after the other, each in either form; at most ``limit`` of them. ParseError carries the
    offset within the whole."""
    data = bytes(concatenated)
    found: list[Transaction] = []
    offset = 0
    while offset < len(data):
        if len(found) >= limit:
            raise ParseError(f"more than {limit} transactions", offset)
        start = offset
        tx, offset = _parse_at(data, offset)
        if offset - start > max_bytes:
            raise ParseError(f"a transaction of {offset - start} bytes is above the limit of {max_bytes}", start)
        found.append(tx)
    return found


def _parse_at(data: bytes, start: int) -> tuple[Transaction, int]:
    """The transaction that begins at ``start`` and the offset after it."""
    end = len(data)
    if end - start < _SMALLEST_TRANSACTION:
        raise ParseError("a transaction is cut short", end)
    (version,) = INT32.unpack_from(data, start)
    offset = start + 4
    extended = data[offset : offset + 6] == EXTENDED_MARKER and end - start > _SMALLEST_TRANSACTION
    if extended:
        offset += 6
    inputs, offset = _parse_inputs(data, offset, extended)
    outputs_at = offset
    outputs, offset = _parse_outputs(data, offset)
    if end - offset < 4:
        raise ParseError("the lock time is cut short", offset)
    (locktime,) = UINT32.unpack_from(data, offset)
    offset += 4
    if extended:
        tx = Transaction(version, inputs, outputs, locktime)
        head = b"".join((data[start : start + 4], *tx._serialized_inputs(extended=False)))
        tx._raw, tx._outputs_at = head + data[outputs_at:offset], len(head)
        return tx, offset
    raw = data if start == 0 and offset == end else data[start:offset]
    return Transaction(version, inputs, outputs, locktime, raw, outputs_at - start), offset


def _parse_inputs(data: bytes, offset: int, extended: bool) -> tuple[tuple[TxInput, ...], int]:
    count_at = offset
    count, offset = read_compact_size(data, offset)
    smallest = _SMALLEST_EXTENDED_INPUT if extended else _SMALLEST_INPUT
    if count * smallest > len(data) - offset:
        raise ParseError(f"{count} inputs do not fit the bytes left", count_at)
    found: list[TxInput] = []
    for _ in range(count):
        outpoint = data[offset : offset + 36]
        script, offset = _parse_script(data, offset + 36)
        if len(data) - offset < 4:
            raise ParseError("an input is cut short", offset)
        (sequence,) = UINT32.unpack_from(data, offset)
        offset += 4
        if not extended:
            found.append(TxInput(outpoint, script, sequence))
            continue
        if len(data) - offset < 8:
            raise ParseError("the amount of a spent output is cut short", offset)
        (satoshis,) = INT64.unpack_from(data, offset)
        locking_script, offset = _parse_script(data, offset + 8)
        found.append(TxInput(outpoint, script, sequence, satoshis, locking_script))
    return tuple(found), offset


def _parse_outputs(data: bytes, offset: int) -> tuple[tuple[TxOutput, ...], int]:
    count_at = offset
    count, offset = read_compact_size(data, offset)
    if count * _SMALLEST_OUTPUT > len(data) - offset:
        raise ParseError(f"{count} outputs do not fit the bytes left", count_at)
    found: list[TxOutput] = []
    for _ in range(count):
        if len(data) - offset < 8:
            raise ParseError("an output is cut short", offset)
        (satoshis,) = INT64.unpack_from(data, offset)
        script, offset = _parse_script(data, offset + 8)
        found.append(TxOutput(satoshis, script))
    return tuple(found), offset


def _parse_script(data: bytes, offset: int) -> tuple[bytes, int]:
    # The first comparison is read_compact_size for one-byte lengths, inlined: four calls out of five.
    if offset < len(data) and data[offset] < 0xFD:
        begin = offset + 1
        after = begin + data[offset]
    else:
        length, begin = read_compact_size(data, offset)
        after = begin + length
    if after > len(data):
        raise ParseError("a script is cut short", offset)
    return data[begin:after], after
