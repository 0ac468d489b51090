"""The columnar half of admission, compiled: parse a batch, find standard inputs, make their digests.

Everything here is a *shortcut to yes*. A transaction or input that is not plainly of the common shape is marked for the
object parser and the interpreter, which alone say no and why. Import through ``nodewright.kernels.warm_up`` only.

Columns. ``data`` is the batch in standard form, one transaction after the other. Per transaction (int64, (n, TX)):
``T_*``. Per input (int64, (m, IN)): ``I_*``. All offsets are into ``data`` unless they say ``claim`` (into the batch as it
came, for the amounts and scripts that the extended form claims).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.batches import hash160_ranges, rows
from nodewright.kernels.compiled.sha256 import BYTES, sha256_ranges
from nodewright.kernels.compiled.tools import njit, types

(
    T_BEGIN,
    T_END,
    T_FIRST,
    T_INPUTS,
    T_VECTOR,
    T_OUTPUTS_BEGIN,
    T_OUTPUTS_END,
    T_OUT,
    T_LOCK,
    T_FAST,
    T_EXTENDED,
    T_PUSHES,
) = range(12)
TX = 12
I_TX, I_OUTPOINT, I_SCRIPT, I_SCRIPT_END, I_SEQUENCE, I_CLAIM, I_CLAIM_SCRIPT, I_CLAIM_END = range(8)
IN = 8

MAX_MONEY = 2_100_000_000_000_000
MAX_FAST_INPUTS = 1000
P2PKH, P2PK = 1, 2
HASH_TYPE = 0x41
HALF_ORDER = np.frombuffer(bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0"), np.uint8)

TABLE = types.int64[:, ::1]
OFFSETS = types.int64[::1]
BUFFER = types.uint8[::1]
DIGESTS = types.uint8[:, ::1]
PLACE = types.UniTuple(types.int64, 2)


@njit(PLACE(BYTES, types.int64, types.int64), nogil=True, cache=True)
def _compact(data: Any, at: Any, end: Any) -> Any:
    """(value, offset after it); (-1, at) where it is cut short, not minimal, or over 2**31 (no batch is that large)."""
    if at >= end:
        return -1, at
    first = np.int64(data[at])
    if first < 0xFD:
        return first, at + 1
    width = 2 if first == 0xFD else 4 if first == 0xFE else 8
    if at + 1 + width > end or width == 8:
        return -1, at
    value = np.int64(0)
    for i in range(width):
        value |= np.int64(data[at + 1 + i]) << (8 * i)
    least = 0xFD if width == 2 else 0x10000
    if value < least or value > 0x7FFFFFFF:
        return -1, at
    return value, at + 1 + width


@njit(types.int64(BYTES, types.int64, types.int64), nogil=True, cache=True)
def _number(data: Any, at: Any, width: Any) -> Any:
    value = np.int64(0)
    for i in range(width):
        value |= np.int64(data[at + i]) << np.int64(8 * i)
    return value


@njit(types.int64(BUFFER, types.int64, BYTES, types.int64, types.int64), nogil=True, cache=True)
def _copy(into: Any, at: Any, data: Any, begin: Any, end: Any) -> Any:
    for i in range(end - begin):
        into[at + i] = data[begin + i]
    return at + end - begin


@njit(types.boolean(BYTES, types.int64, types.int64), nogil=True, cache=True)
def _direct_pushes(data: Any, begin: Any, end: Any) -> Any:
    """The script is a row of pushes of 1 to 75 bytes each, whole ones."""
    at = begin
    while at < end:
        length = np.int64(data[at])
        if length == 0 or length > 75:
            return False
        at += 1 + length
    return at == end


@njit(types.boolean(BUFFER, TABLE, types.int64, types.int64), nogil=True, cache=True)
def _inputs_differ(data: Any, inputs: Any, first: Any, count: Any) -> Any:
    """No outpoint twice and none null. Quadratic: for few inputs only."""
    for i in range(first, first + count):
        null = True
        for k in range(36):
            if data[inputs[i, I_OUTPOINT] + k] != (0 if k < 32 else 255):
                null = False
                break
        if null:
            return False
        for j in range(first, i):
            same = True
            for k in range(36):
                if data[inputs[i, I_OUTPOINT] + k] != data[inputs[j, I_OUTPOINT] + k]:
                    same = False
                    break
            if same:
                return False
    return True


@njit(types.int64(BYTES, OFFSETS, OFFSETS, BUFFER, TABLE, TABLE, types.int64), nogil=True, cache=True)
def parse(source: Any, starts: Any, ends: Any, data: Any, txs: Any, inputs: Any, most_inputs: Any) -> Any:
    """Fill ``data``, ``txs`` and ``inputs``; returns how many inputs. ``data`` has room for ``source``, ``inputs`` for
    source/41 + 1 rows. T_FAST is 1 for what surely passes every check that needs no other transaction."""
    into = np.int64(0)
    used = np.int64(0)
    for tx in range(starts.shape[0]):
        at, end = starts[tx], ends[tx]
        begin, first = into, used
        txs[tx, T_FAST], txs[tx, T_PUSHES] = 0, 0
        txs[tx, T_BEGIN], txs[tx, T_END], txs[tx, T_FIRST], txs[tx, T_INPUTS] = into, into, used, 0
        if end - at < 60:
            continue
        extended = end - at > 10 and source[at + 9] == 0xEF
        for k in range(5):
            if source[at + 4 + k] != 0:
                extended = False
        into = _copy(data, into, source, at, at + 4)
        at += 10 if extended else 4
        count, after = _compact(source, at, end)
        good = 0 < count <= most_inputs and count * 41 <= end - after
        if good:
            into = _copy(data, into, source, at, after)
            at = after
            final = True
            version = _number(source, starts[tx], 4)
            pushes = version == 1 or version == 2
            for _ in range(count):
                length, script = _compact(source, at + 36, end)
                if length < 0 or script + length + 4 > end:
                    good = False
                    break
                after = script + length + 4
                shift = into - at
                inputs[used, I_TX], inputs[used, I_OUTPOINT] = tx, into
                inputs[used, I_SCRIPT], inputs[used, I_SCRIPT_END] = script + shift, script + length + shift
                pushes = pushes and _direct_pushes(source, script, script + length)
                inputs[used, I_SEQUENCE] = _number(source, script + length, 4)
                inputs[used, I_CLAIM] = -1
                if inputs[used, I_SEQUENCE] != 0xFFFFFFFF:
                    final = False
                into = _copy(data, into, source, at, after)
                at = after
                if extended:
                    if at + 9 > end:
                        good = False
                        break
                    length, script = _compact(source, at + 8, end)
                    if length < 0 or script + length > end:
                        good = False
                        break
                    inputs[used, I_CLAIM], inputs[used, I_CLAIM_SCRIPT] = at, script
                    inputs[used, I_CLAIM_END] = script + length
                    at = script + length
                used += 1
        if good:
            vector = into
            shift = into - at
            count, after = _compact(source, at, end)
            good = count > 0 and count * 9 <= end - after
            body = after + shift
            total = np.int64(0)
            for _ in range(count if good else 0):
                if after + 9 > end:
                    good = False
                    break
                value = _number(source, after, 8)
                length, script = _compact(source, after + 8, end)
                if length < 0 or script + length > end or value < 0 or value > MAX_MONEY:
                    good = False
                    break
                if length == 23 and source[script] == 0xA9 and source[script + 1] == 20 and source[script + 22] == 0x87:
                    good = False  # pay to script hash: only some eras create these
                    break
                total += value
                if total > MAX_MONEY:
                    good = False
                    break
                after = script + length
            good = good and after + 4 == end
            if good:
                into = _copy(data, into, source, at, end)
                txs[tx, T_VECTOR], txs[tx, T_OUTPUTS_BEGIN], txs[tx, T_OUTPUTS_END] = vector, body, into - 4
                txs[tx, T_OUT] = total
                txs[tx, T_LOCK] = 0 if final else _number(source, end - 4, 4)
                txs[tx, T_END], txs[tx, T_INPUTS], txs[tx, T_EXTENDED] = into, used - first, extended
                txs[tx, T_PUSHES] = pushes
                good = _inputs_differ(data, inputs, first, used - first)
        if good:
            txs[tx, T_FAST] = 1
        else:
            into, used = begin, first
            txs[tx, T_END], txs[tx, T_INPUTS] = begin, 0
    return used


@njit(types.int64(BYTES, OFFSETS), nogil=True, cache=True)
def split(data: Any, ends: Any) -> Any:
    """Where each of the concatenated transactions ends, as many as ``ends`` has room for; how many that are. It stops
    before one that is not plainly whole."""
    size = data.shape[0]
    at = np.int64(0)
    for number in range(ends.shape[0]):
        if at + 10 > size:
            return number
        extended = data[at + 9] == 0xEF
        for k in range(5):
            if data[at + 4 + k] != 0:
                extended = False
        at += 10 if extended else 4
        for part in range(2):
            count, at = _compact(data, at, size)
            least = 9 if part else 41
            if count < 0 or count * least > size - at:
                return number
            skipped = 8 if part else 36
            for _ in range(count):
                length, at = _compact(data, at + skipped, size)
                if length < 0 or length > size - at:
                    return number
                at += length
                if part == 0:
                    at += 4
                    if extended:
                        length, at = _compact(data, at + 8, size)
                        if length < 0 or length > size - at:
                            return number
                        at += length
        at += 4
        if at > size:
            return number
        ends[number] = at
    return ends.shape[0]


@njit(types.boolean(BUFFER, types.int64, types.int64), nogil=True, cache=True)
def strict_low_s(data: Any, begin: Any, end: Any) -> Any:
    """BIP66 encoding with the hash type byte, S in the lower half of the order, both numbers of at most 32 digits."""
    size = end - begin
    if size < 9 or size > 73 or data[begin] != 0x30 or data[begin + 1] != size - 3:
        return False
    at = begin + 2
    for part in range(2):
        if at + 2 >= end or data[at] != 0x02:
            return False
        length = np.int64(data[at + 1])
        at += 2
        if length == 0 or length > 33 or at + length > end - 1 or data[at] & 0x80:
            return False
        if length > 1 and data[at] == 0 and not data[at + 1] & 0x80:
            return False
        if part == 1:
            if length == 33:
                return False
            if length == 32:
                for k in range(32):
                    if data[at + k] != HALF_ORDER[k]:
                        if data[at + k] > HALF_ORDER[k]:
                            return False
                        break
        at += length
    return at == end - 1


@njit(types.boolean(BUFFER, types.int64, types.int64), nogil=True, cache=True)
def _plain_key(data: Any, begin: Any, end: Any) -> Any:
    if end - begin == 33:
        return data[begin] == 2 or data[begin] == 3
    return end - begin == 65 and data[begin] == 4


@njit(
    types.void(BUFFER, TABLE, OFFSETS, BUFFER, OFFSETS, OFFSETS, TABLE, types.int64[::1]),
    nogil=True,
    cache=True,
)
def match(
    data: Any,
    inputs: Any,
    chosen: Any,
    locking: Any,
    locking_starts: Any,
    locking_ends: Any,
    places: Any,
    kinds: Any,
) -> None:
    """For each chosen input: ``kinds`` P2PKH, P2PK or 0 (the interpreter's), ``places`` (key begin, key end, signature
    begin, signature end with its hash type, script code begin and end in ``locking``). A P2PK key is in ``locking``."""
    for row in range(chosen.shape[0]):
        item = chosen[row]
        kinds[row] = 0
        at, end = inputs[item, I_SCRIPT], inputs[item, I_SCRIPT_END]
        lock, lock_end = locking_starts[row], locking_ends[row]
        size = lock_end - lock
        places[row, 4], places[row, 5] = lock, lock_end
        if at >= end:
            continue
        length = np.int64(data[at])
        if length < 9 or length > 73 or at + 1 + length > end:
            continue
        signature, after = at + 1, at + 1 + length
        if data[after - 1] != HASH_TYPE or not strict_low_s(data, signature, after):
            continue
        places[row, 2], places[row, 3] = signature, after
        if size == 25:
            if after >= end or after + 1 + np.int64(data[after]) != end or not _plain_key(data, after + 1, end):
                continue
            if locking[lock] != 0x76 or locking[lock + 1] != 0xA9 or locking[lock + 2] != 20:
                continue
            if locking[lock + 23] != 0x88 or locking[lock + 24] != 0xAC:
                continue
            places[row, 0], places[row, 1] = after + 1, end
            kinds[row] = P2PKH
        elif size == 35 or size == 67:
            if after != end or locking[lock] != size - 2 or locking[lock_end - 1] != 0xAC:
                continue
            if not _plain_key(locking, lock + 1, lock_end - 1):
                continue
            places[row, 0], places[row, 1] = lock + 1, lock_end - 1
            kinds[row] = P2PK


@njit(types.void(BUFFER, TABLE, TABLE, BUFFER, OFFSETS, OFFSETS, OFFSETS, OFFSETS), nogil=True, cache=True)
def _gather(
    data: Any, txs: Any, inputs: Any, scratch: Any, prevouts: Any, prevouts_end: Any, sequences: Any, sequences_end: Any
) -> None:
    """All outpoints, then all sequences, of each transaction, side by side: what BIP143 hashes once for all inputs."""
    at = np.int64(0)
    for tx in range(txs.shape[0]):
        first, count = txs[tx, T_FIRST], txs[tx, T_INPUTS]
        prevouts[tx] = at
        for item in range(first, first + count):
            at = _copy(scratch, at, data, inputs[item, I_OUTPOINT], inputs[item, I_OUTPOINT] + 36)
        prevouts_end[tx] = at
        sequences[tx] = at
        for item in range(first, first + count):
            at = _copy(scratch, at, data, inputs[item, I_SCRIPT_END], inputs[item, I_SCRIPT_END] + 4)
        sequences_end[tx] = at


@njit(
    types.void(BUFFER, TABLE, TABLE, OFFSETS, BUFFER, TABLE, OFFSETS, DIGESTS, DIGESTS, DIGESTS, BUFFER, OFFSETS, OFFSETS),
    nogil=True,
    cache=True,
)
def _preimages(
    data: Any,
    txs: Any,
    inputs: Any,
    chosen: Any,
    locking: Any,
    places: Any,
    satoshis: Any,
    prevouts: Any,
    sequences: Any,
    outputs: Any,
    into: Any,
    starts: Any,
    ends: Any,
) -> None:
    """BIP143's message for ALL with the fork id, one for each chosen input."""
    at = np.int64(0)
    for row in range(chosen.shape[0]):
        item = chosen[row]
        tx = inputs[item, I_TX]
        starts[row] = at
        at = _copy(into, at, data, txs[tx, T_BEGIN], txs[tx, T_BEGIN] + 4)
        at = _copy(into, at, prevouts[tx], 0, 32)
        at = _copy(into, at, sequences[tx], 0, 32)
        at = _copy(into, at, data, inputs[item, I_OUTPOINT], inputs[item, I_OUTPOINT] + 36)
        into[at] = places[row, 5] - places[row, 4]
        at = _copy(into, at + 1, locking, places[row, 4], places[row, 5])
        for i in range(8):
            into[at + i] = (satoshis[row] >> np.int64(8 * i)) & 255
        at = _copy(into, at + 8, data, inputs[item, I_SCRIPT_END], inputs[item, I_SCRIPT_END] + 4)
        at = _copy(into, at, outputs[tx], 0, 32)
        at = _copy(into, at, data, txs[tx, T_END] - 4, txs[tx, T_END])
        into[at], into[at + 1], into[at + 2], into[at + 3] = HASH_TYPE, 0, 0, 0
        at += 4
        ends[row] = at


MESSAGE_BYTES = 4 + 32 + 32 + 36 + 1 + 67 + 8 + 4 + 32 + 4 + 4


def digests(data: Any, txs: Any, inputs: Any, chosen: Any, locking: Any, places: Any, satoshis: Any) -> Any:
    """(len(chosen), 32) uint8: what each chosen standard input's signature signs."""
    count, rows_chosen = len(txs), len(chosen)
    scratch = np.empty(40 * max(1, len(inputs)), np.uint8)
    places_of = [np.empty(count, np.int64) for _ in range(4)]
    _gather(data, txs, inputs, scratch, *places_of)
    whole = [np.empty((count, 32), np.uint8) for _ in range(3)]
    sha256_ranges(scratch, places_of[0], places_of[1], True, whole[0])
    sha256_ranges(scratch, places_of[2], places_of[3], True, whole[1])
    begin, end = (np.ascontiguousarray(txs[:, column]) for column in (T_OUTPUTS_BEGIN, T_OUTPUTS_END))
    sha256_ranges(data, begin, end, True, whole[2])
    messages = np.empty(MESSAGE_BYTES * max(1, rows_chosen), np.uint8)
    starts, ends = np.empty(rows_chosen, np.int64), np.empty(rows_chosen, np.int64)
    _preimages(data, txs, inputs, chosen, locking, places, satoshis, *whole, messages, starts, ends)
    out = np.empty((rows_chosen, 32), np.uint8)
    sha256_ranges(messages, starts, ends, True, out)
    return out


__all__ = ["digests", "hash160_ranges", "match", "parse", "rows", "sha256_ranges", "split"]
