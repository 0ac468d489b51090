"""The compiled half of a ledger in arrays (``ledger``): what a block touched, its values' hashes, and its record on disk.

See ``layout`` for the tables. Import through ``nodewright.kernels.warm_up`` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.sha3 import LANES, RATE, absorb, spliced
from nodewright.kernels.compiled.tools import njit, types
from nodewright_aptos.columnar.layout import (
    BALANCE_AT,
    CREATE,
    DEPOSITS_AT,
    R_CREATED,
    R_STATUS,
    REFUSED,
    ROW_BYTES,
    SEQUENCE_AT,
    STORE_AT,
    SUCCESS,
    TOUCH,
    WITHDRAWALS_AT,
    X_KIND,
    X_RECIPIENT,
    X_SENDER,
)
from nodewright_aptos.columnar.memory import copy, peek, poke, prefetch
from nodewright_aptos.resources import ACCOUNT_BYTES, STORE_BYTES

TABLE = types.uint64[:, ::1]
ROWS = types.uint8[:, ::1]
BYTES = types.uint8[::1]
INTS = types.int32[::1]
LONGS = types.int64[::1]

# What of a row a block changed
ACCOUNT_CHANGED = 1
STORE_CHANGED = 2
_LEAF = (1 << 27) - 1
MADE = 4  # more than numbers: a resource that was not there
# What a value's hash begins with: 32 bytes, a tag and the length.
ACCOUNT_HEAD = 33 + 2
STORE_HEAD = 33 + 1


@njit(types.int64(TABLE, TABLE, BYTES, INTS), nogil=True, cache=True)
def touched(transactions: Any, results: Any, changed: Any, out: Any) -> Any:
    """The rows that a block changed, each once and ascending, so that what follows goes through memory in one direction;
    how many. ``changed`` (zeroes, one for each row) says what."""
    for at in range(transactions.shape[0]):
        status = results[at, R_STATUS]
        if status >= np.uint64(REFUSED):
            continue
        changed[transactions[at, X_SENDER]] |= ACCOUNT_CHANGED | STORE_CHANGED
        if status == np.uint64(SUCCESS) and transactions[at, X_KIND] != TOUCH:
            row = transactions[at, X_RECIPIENT]
            changed[row] |= STORE_CHANGED
            if transactions[at, X_KIND] == CREATE or results[at, R_CREATED]:
                changed[row] |= ACCOUNT_CHANGED | MADE
    count = np.int64(0)
    for row in range(changed.shape[0]):
        if changed[row]:
            out[count] = row
            count += 1
    return count


@njit(types.void(INTS, BYTES, types.int64, INTS, LONGS, INTS), nogil=True, cache=True)
def by_shard(ids: Any, changed: Any, wanted: Any, codes: Any, bounds: Any, leaves: Any) -> None:
    """The leaves of those of ``ids`` that changed in ``wanted``, shard by shard (a code's highest four bits); ``bounds``
    (17,) says where each shard's begin."""
    bounds[:] = 0
    for at in range(ids.shape[0]):
        if changed[ids[at]] & wanted:
            bounds[(codes[ids[at]] >> 27) + 1] += 1
    for shard in range(16):
        bounds[shard + 1] += bounds[shard]
    place = bounds[:16].copy()
    for at in range(ids.shape[0]):
        if changed[ids[at]] & wanted:
            code = codes[ids[at]]
            leaves[place[code >> 27]] = code & ((1 << 27) - 1)
            place[code >> 27] += 1


@njit(
    types.void(BYTES, LONGS, ROWS, INTS, BYTES, types.int64, INTS, types.uint64[::1]),
    nogil=True,
    cache=True,
)
def hash_values(head: Any, pieces: Any, rows: Any, ids: Any, changed: Any, wanted: Any, codes: Any, payloads: Any) -> None:
    """The value hash of each of ``ids`` that changed in ``wanted`` (0: of all) into words 4 to 8 of the payload of its
    leaf, which ``codes`` names by row. ``payloads``: the address of each shard's. A value is ``head`` (seed, tag, length)
    and ``pieces`` of its row: offset, length, offset, length …"""
    size = np.int64(head.shape[0])
    for piece in range(0, pieces.shape[0], 2):
        size += pieces[piece + 1]
    blocks = size // RATE + 1
    width = RATE * blocks
    padded = np.zeros((LANES, width), np.uint8)
    for lane in range(LANES):
        padded[lane, : head.shape[0]] = head
        padded[lane, size] = 6
        padded[lane, width - 1] |= 0x80
    state = np.empty((25, LANES), np.uint64)
    sources = np.empty(LANES, np.uint64)
    targets = np.empty(LANES, np.uint64)
    state_at, sources_at = np.uintp(state.ctypes.data), np.uintp(sources.ctypes.data)
    padded_at, base = np.uintp(padded.ctypes.data), np.uintp(rows.ctypes.data)
    count = ids.shape[0]
    at = 0
    while at < count:
        lane = 0
        while lane < LANES and at < count:
            row = ids[at]
            at += 1
            if wanted and not changed[row] & wanted:
                continue
            if at + 3 * LANES < count:
                prefetch(payloads[codes[ids[at + 3 * LANES]] >> 27] + np.uintp(64 * (codes[ids[at + 3 * LANES]] & _LEAF)))
            targets[lane] = payloads[codes[row] >> 27] + np.uintp(64 * np.int64(codes[row] & _LEAF) + 32)
            here = base + np.uintp(ROW_BYTES * np.int64(row))
            into = padded_at + np.uintp(width * lane + head.shape[0])
            for piece in range(0, pieces.shape[0], 2):
                copy(into, here + np.uintp(pieces[piece]), pieces[piece + 1])
                into += np.uintp(pieces[piece + 1])
            lane += 1
        state[:, :] = 0
        for block in range(blocks):
            for other in range(LANES):
                sources[other] = padded_at + np.uintp(width * other + RATE * block)
            absorb(state_at, sources_at)
        for other in range(lane):
            for word in range(4):
                poke(np.uintp(targets[other]) + np.uintp(8 * word), state[word, other])


_AT_ONCE = 512  # rows: they stay in the second-level cache
_AHEAD = 12  # rows
_hash_account = spliced(LANES, ACCOUNT_HEAD, ACCOUNT_BYTES)
_hash_store = spliced(LANES, STORE_HEAD, STORE_BYTES)
WORDS = types.uint64[::1]


@njit(
    types.UniTuple(types.int64, 2)(INTS, BYTES, types.int64, INTS, WORDS, types.uintp, types.int64, WORDS, WORDS),
    nogil=True,
    cache=True,
)
def _gather(
    ids: Any, changed: Any, wanted: Any, codes: Any, payloads: Any, first: Any, at: Any, sources: Any, targets: Any
) -> Any:
    """The next of ``ids`` from ``at`` on that changed in ``wanted``, one a lane: where its value is (in a row, the first of
    which has its own at ``first``), and where its hash goes. (How many lanes; where to go on.) The lanes that are left do
    what lane 0 does."""
    lane = np.int64(0)
    count = ids.shape[0]
    while lane < LANES and at < count:
        row = np.int64(ids[at])
        at += 1
        if at + _AHEAD < count:
            later = np.int64(ids[at + _AHEAD])
            code = codes[later]
            prefetch(payloads[code >> 27] + np.uintp(64 * np.int64(code & _LEAF) + 32))
            next_row = first + np.uintp(ROW_BYTES * later)
            prefetch(next_row)
            prefetch(next_row + np.uintp(64))
            prefetch(next_row + np.uintp(128))
        if changed[row] & wanted:
            sources[lane] = first + np.uintp(ROW_BYTES * row)
            targets[lane] = payloads[codes[row] >> 27] + np.uintp(64 * np.int64(codes[row] & _LEAF) + 32)
            lane += 1
    for spare in range(lane, LANES):
        sources[spare], targets[spare] = sources[0], targets[0]
    return lane, at


@njit(types.void(ROWS, INTS, BYTES, WORDS, WORDS, INTS, INTS, WORDS), nogil=True, cache=True)
def hash_two(
    rows: Any,
    ids: Any,
    changed: Any,
    account_head: Any,
    store_head: Any,
    account_codes: Any,
    store_codes: Any,
    payloads: Any,
) -> None:
    """``hash_values`` of the two values that a row has, straight from where they stand. Heads are filled up to words."""
    sources, targets = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    sources_at, targets_at = np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data)
    base = np.uintp(rows.ctypes.data)
    account_at, store_at = np.uintp(account_head.ctypes.data), np.uintp(store_head.ctypes.data)
    for begin in range(0, ids.shape[0], _AT_ONCE):
        some = ids[begin : begin + _AT_ONCE]
        at = np.int64(0)
        while at < some.shape[0]:
            lanes, at = _gather(some, changed, ACCOUNT_CHANGED, account_codes, payloads, base, at, sources, targets)
            if lanes:
                _hash_account(account_at, sources_at, targets_at)
        at = np.int64(0)
        while at < some.shape[0]:
            own = base + np.uintp(STORE_AT)
            lanes, at = _gather(some, changed, STORE_CHANGED, store_codes, payloads, own, at, sources, targets)
            if lanes:
                _hash_store(store_at, sources_at, targets_at)


# --- the record of a block -------------------------------------------------------------------------------------------


@njit(types.int64(types.uintp, types.uint64), nogil=True, cache=True)
def _put(at: Any, value: Any) -> Any:
    """Seven bits a byte, the lowest first; how many bytes."""
    count = np.int64(0)
    word = np.uint64(0)
    if value < np.uint64(1) << np.uint64(56):
        while value >= np.uint64(128):
            word |= ((value & np.uint64(127)) | np.uint64(128)) << np.uint64(8 * count)
            value >>= np.uint64(7)
            count += 1
        poke(at, word | (value << np.uint64(8 * count)))
        return count + 1
    while value >= np.uint64(128):
        poke(at + np.uintp(count), (value & np.uint64(127)) | np.uint64(128))
        value >>= np.uint64(7)
        count += 1
    poke(at + np.uintp(count), value)
    return count + 1


@njit(types.UniTuple(types.uint64, 2)(BYTES, types.uint64), nogil=True, cache=True)
def _get(data: Any, at: Any) -> Any:
    """(value, offset after it)."""
    value, shift = np.uint64(0), np.uint64(0)
    while True:
        byte = np.uint64(data[at])
        at += np.uint64(1)
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return value, at
        shift += np.uint64(7)


# Of one row: a number for its place, four numbers; or the row whole. Beyond it, room for a word that is written too far.
MOST_NUMBERS = 10 + 10 * 4
MOST_BYTES = MOST_NUMBERS + ROW_BYTES


@njit(types.int64(ROWS, INTS, BYTES, BYTES), nogil=True, cache=True)
def encode(rows: Any, ids: Any, changed: Any, out: Any) -> Any:
    """Rows (ascending) as they are now. Each: (distance from the one before << 1 | whole), then its sequence number,
    balance and event counters, or all its bytes. Returns how many bytes; ``out`` has MOST_BYTES for each row and 8."""
    base, begin = np.uintp(rows.ctypes.data), np.uintp(out.ctypes.data)
    at = begin
    last = np.int64(-1)
    for place in range(ids.shape[0]):
        row = np.int64(ids[place])
        whole = np.uint64(1) if changed[row] & MADE else np.uint64(0)
        here = base + np.uintp(ROW_BYTES * row)
        at += np.uintp(_put(at, (np.uint64(row - last) << np.uint64(1)) | whole))
        last = row
        if whole:
            copy(at, here, ROW_BYTES)
            at += np.uintp(ROW_BYTES)
        else:
            at += np.uintp(_put(at, peek(here + np.uintp(SEQUENCE_AT))))
            at += np.uintp(_put(at, peek(here + np.uintp(BALANCE_AT))))
            at += np.uintp(_put(at, peek(here + np.uintp(DEPOSITS_AT))))
            at += np.uintp(_put(at, peek(here + np.uintp(WITHDRAWALS_AT))))
    return np.int64(at - begin)


@njit(types.int64(ROWS, BYTES, LONGS, types.int64), nogil=True, cache=True)
def decode(rows: Any, data: Any, stamps: Any, height: Any) -> Any:
    """Put a record (trusted: its checksum is the store's) of block ``height`` over rows whose stamp is lower, which
    then have this one: records may come in any order. Returns how many rows it has."""
    base, source = np.uintp(rows.ctypes.data), np.uintp(data.ctypes.data)
    at, end = np.uint64(0), np.uint64(data.shape[0])
    row = np.int64(-1)
    count = np.int64(0)
    fields = np.empty(4, np.uint64)
    while at < end:
        head, at = _get(data, at)
        row += np.int64(head >> np.uint64(1))
        here = base + np.uintp(ROW_BYTES * row)
        count += 1
        if head & np.uint64(1):
            if stamps[row] < height:
                copy(here, source + at, ROW_BYTES)
                stamps[row] = height
            at += np.uint64(ROW_BYTES)
            continue
        for field in range(4):
            fields[field], at = _get(data, at)
        if stamps[row] < height:
            poke(here + np.uintp(SEQUENCE_AT), fields[0])
            poke(here + np.uintp(BALANCE_AT), fields[1])
            poke(here + np.uintp(DEPOSITS_AT), fields[2])
            poke(here + np.uintp(WITHDRAWALS_AT), fields[3])
            stamps[row] = height
    return count
