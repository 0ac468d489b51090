"""A batch of raw transactions, parsed once: in columns where kernels are ready, object by object where not.

Invariant: for any bytes, both ways give the same ``Parsed`` fields and the same refusals (a property test holds them to
it), so a node that compiles its kernels in the middle of a batch stream is indistinguishable from one that never does.

Also here: reading single outputs back out of a serialised output vector. Not here: any rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any

from attrs import define

from nodewright.interfaces.common import Refused
from nodewright.kernels.switch import compiled
from nodewright_bitcoin.encoding import INT64, ParseError, read_compact_size
from nodewright_bitcoin.transaction import SEQUENCE_FINAL, Transaction

KERNELS = "nodewright_bitcoin.compiled"
MOST_SPLIT_BYTES = 1 << 30
WORTH_COLUMNS = 4


@define
class Columns:
    """The compiled view of a batch; see ``compiled`` for the tables."""

    data: Any
    txs: Any
    inputs: Any


@define
class Parsed:
    """One transaction. ``spends`` are 36-byte outpoints in input order, ``outputs`` the serialised vector.

    ``lock`` is the lock time, or 0 where every sequence is final (then it binds nothing). ``claims`` are the (satoshis,
    locking script) that the extended form asserts, one per input, or None. ``row`` is its row in the batch's columns, -1
    where it took the object path; ``checked`` says that the kernel found nothing that ``rules.check_transaction`` could
    object to, ``pushes`` that besides its version is 1 or 2 and its unlocking scripts are direct pushes."""

    txid: bytes
    raw: bytes
    spends: tuple[bytes, ...]
    outputs: bytes
    value_out: int
    lock: int
    claims: list[tuple[int, bytes]] | None = None
    row: int = -1
    checked: bool = False
    pushes: bool = False
    object: Transaction | None = None

    def transaction(self) -> Transaction:
        """The object form, made on first use."""
        if self.object is None:
            self.object = Transaction.parse(self.raw)
        return self.object


@define
class Batch:
    """``items`` in the order given: parsed or refused as malformed."""

    items: list[Parsed | Refused]
    columns: Columns | None = None


def parse_batch(raws: Sequence[bytes], max_bytes: int) -> Batch:
    """Never raises for bytes from outside. ``max_bytes`` bounds each transaction as it came (both forms)."""
    kernels = compiled(KERNELS)
    total = sum(map(len, raws))
    if kernels is None or len(raws) < WORTH_COLUMNS or total > MOST_SPLIT_BYTES:
        return Batch([parse_one(raw, max_bytes) for raw in raws])
    return _parse_columns(kernels, raws, max_bytes, total)


def parse_one(raw: bytes, max_bytes: int) -> Parsed | Refused:
    if len(raw) > max_bytes:
        return Refused("tx-size", f"the transaction has {len(raw)} bytes, more than the {max_bytes} taken here", "policy")
    try:
        tx = Transaction.parse(bytes(raw))
    except ParseError as error:
        return Refused("tx-decode-failed", f"the transaction cannot be read: {error}", "malformed")
    return parsed_of(tx)


def parsed_of(tx: Transaction) -> Parsed:
    claims = None
    if tx.inputs and tx.is_extended:
        claims = [(i.satoshis or 0, i.locking_script or b"") for i in tx.inputs]
    final = all(i.sequence == SEQUENCE_FINAL for i in tx.inputs)
    return Parsed(
        txid=tx.txid,
        raw=tx.raw,
        spends=tuple([i.outpoint for i in tx.inputs]),
        outputs=tx.outputs_vector,
        value_out=sum(o.satoshis for o in tx.outputs),
        lock=0 if final else tx.locktime,
        claims=claims,
        object=tx,
    )


def _parse_columns(kernels: ModuleType, raws: Sequence[bytes], max_bytes: int, total: int) -> Batch:
    import numpy as np

    count = len(raws)
    source_bytes = b"".join(raws)
    source = np.frombuffer(source_bytes or b"\0", np.uint8)
    ends = np.fromiter(accumulate(map(len, raws)), np.int64, count)
    starts = np.zeros(count, np.int64)
    starts[1:] = ends[:-1]
    data = np.empty(total + 1, np.uint8)
    txs = np.empty((count, kernels.TX), np.int64)
    inputs = np.empty((total // 41 + 1, kernels.IN), np.int64)
    used = kernels.parse(source, starts, ends, data, txs, inputs, kernels.MAX_FAST_INPUTS)
    inputs = inputs[:used]
    begin, end = (np.ascontiguousarray(txs[:, column]) for column in (kernels.T_BEGIN, kernels.T_END))
    digests = np.empty((count, 32), np.uint8)
    kernels.sha256_ranges(data, begin, end, True, digests)
    txids = kernels.rows(digests)
    standard = data[: int(end[-1])].tobytes()
    outpoints = inputs[:, kernels.I_OUTPOINT].tolist()
    items: list[Parsed | Refused] = []
    for row, (fields, raw, txid) in enumerate(zip(txs.tolist(), raws, txids, strict=True)):
        tx_begin, tx_end, first, many, vector, _, outputs_end, value, lock, fast, extended, pushes = fields
        if not fast or len(raw) > max_bytes:
            items.append(parse_one(raw, max_bytes))
            continue
        if many == 1:
            at = outpoints[first]
            spends: tuple[bytes, ...] = (standard[at : at + 36],)
        else:
            spends = tuple([standard[at : at + 36] for at in outpoints[first : first + many]])
        items.append(
            Parsed(
                txid,
                standard[tx_begin:tx_end] if extended else raw,
                spends,
                standard[vector:outputs_end],
                value,
                lock,
                _claims(source_bytes, inputs[first : first + many].tolist()) if extended else None,
                row,
                True,
                pushes == 1,
            )
        )
    return Batch(items, Columns(data, txs, inputs))


def _claims(source: bytes, rows: list[list[int]]) -> list[tuple[int, bytes]]:
    return [(INT64.unpack_from(source, at)[0], source[begin:end]) for *_, at, begin, end in rows]


def output_spans(outputs: bytes) -> list[tuple[int, int, int]]:
    """(offset of the satoshis, script begin, script end) of every output of a vector that was parsed before."""
    count, at = read_compact_size(outputs, 0)
    spans = []
    for _ in range(count):
        length, script = read_compact_size(outputs, at + 8)
        spans.append((at, script, script + length))
        at = script + length
    return spans


def output_at(outputs: bytes, index: int) -> tuple[int, bytes] | None:
    """(satoshis, script) of output ``index``; None where there is none."""
    count = outputs[0]
    at = 1
    if count >= 0xFD:
        count, at = read_compact_size(outputs, 0)
    if index >= count:
        return None
    for _ in range(index):
        length = outputs[at + 8]
        at += 9
        if length >= 0xFD:
            length, at = read_compact_size(outputs, at - 1)
        at += length
    length, script = read_compact_size(outputs, at + 8)
    return INT64.unpack_from(outputs, at)[0], outputs[script : script + length]


def output_count(outputs: bytes) -> int:
    return read_compact_size(outputs, 0)[0]
