"""Block-STM over arrays: native transfers run by several threads at once, without Python's lock. See ``scheduler`` for the
algorithm; this is the same with atomic words in place of one owner.

The state's unit is an account's row (``columnar.layout``). Transaction i has two *entries*: 2i for its sender's row, 2i + 1
for its recipient's (none where they are one). ``PREVIOUS`` links each entry to the one below it on the same row, so that a
row's versions are a chain; an entry's state says whether the chain has a version there: NOTHING, WRITTEN or ESTIMATE, with
the incarnation that said so. With ``presume`` all entries are estimates at first: writers are declared, and a reader waits
for one that has not run instead of running on what is below it.

Invariants, beside those of ``scheduler``
- A status word holds incarnation and status; only an exchange from READY begins an execution, only one from EXECUTED an
  abort or a commit: one thread has each.
- An entry's row is written by the thread that executes its transaction, while the entry is not WRITTEN. A reader looks at
  the state, copies the row, and looks again: what it copied is the version of that incarnation, whole.
- An incarnation's versions are in place, and all above it are to be validated again where it wrote an entry that was
  NOTHING, before its status says EXECUTED; its estimates are, and all above it, before it says READY again.
- A waiter says that it is suspended before it is put on its writer's list, and looks at the writer's status after; a writer
  says EXECUTED before it takes its list. So each waiter is resumed, by one of the two, once.
- COMMIT goes up by whoever holds LOCK; who lets it go looks once more whether there is something to commit. So what has
  passed is committed without anybody waiting.

Everything a worker does between two phases is kept in its LOCAL words: ``step`` does one phase, ``work`` all of them, and
``follow`` those that a schedule names, so that tests can let any worker go next.

``book`` (BOOK,) u64: sizes and addresses of arrays, B_*. All arrays are those of ``arrays.Arena``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.tools import njit, types
from nodewright_aptos.blockstm.atomics import add, exchange, fence, give_way, load, lower_to, raise_to, store, swap
from nodewright_aptos.columnar.layout import (
    R_FEE,
    R_STATUS,
    REFUSED,
    RESULT,
    ROW_BYTES,
    SUCCESS,
    TOUCH,
    TX,
    X_KIND,
    X_RECIPIENT,
    X_SENDER,
)
from nodewright_aptos.columnar.memory import copy, peek, poke, prefetch
from nodewright_aptos.columnar.runkernels import execute_one

WORDS = types.uint64[::1]
TABLE = types.uint64[:, ::1]
ROWS = types.uint8[:, ::1]
INTS = types.int32[::1]

(
    B_COUNT,
    B_TABLE,  # (n, TX)
    B_ROWS,  # (accounts, ROW_BYTES) before the block
    B_NAMES,  # (accounts, 32)
    B_RESULTS,  # (n, RESULT)
    B_VERSIONS,  # (2n, ROW_BYTES)
    B_PREVIOUS,  # (2n,) entry + 1, 0 for none below, NO_ENTRY where there is no entry
    B_STATES,  # (2n,) incarnation << 2 | NOTHING, WRITTEN, ESTIMATE
    B_READS,  # (2n,) what was read: entry + 1 << 32 | incarnation, 0 for the row before the block
    B_STATUS,  # (n,) incarnation << 3 | READY ...
    B_HEADS,  # (n,) a transaction that waits for this one + 1, or 0
    B_NEXT,  # (n,) the one after it in that list
    B_PASSED,  # (n,) incarnation << 32 | wave + 1
    B_BEGUN,  # (n + 1,) latest wave begun here
    B_CONTROL,
    B_LOCAL,  # (workers, LOCAL)
    B_SCRATCH,  # (workers, 2 ROW_BYTES)
    B_SECONDS,
    B_GRAIN,  # transactions that a worker takes from a counter at once
    B_BURDEN,  # rounds of arithmetic that each execution does besides
) = range(20)
BOOK = 20

# Each on a cache line of its own
C_EXECUTION, C_VALIDATION, C_COMMIT, C_LOCK, C_NEEDED = range(0, 40, 8)
CONTROL = 40

(
    L_PHASE,
    L_PLACE,
    L_INCARNATION,
    L_WAVE,
    L_WRITER,
    L_WIDER,
    L_EXECUTE_FROM,
    L_EXECUTE_TO,
    L_VALIDATE_FROM,
    L_VALIDATE_TO,
    L_VALIDATE_WAVE,
    L_EXECUTIONS,
    L_ABORTS,
    L_SUSPENSIONS,
    L_BURDEN,
) = range(15)
LOCAL = 16

PICK, READ, SUSPEND, WAIT, PUBLISH, PUBLISH_OTHER, WIDEN, FINISH, RESUME, VALIDATE, PASS, ABORT, ESTIMATE_ALL, LOWER = (
    range(14)
)
AGAIN, COMMIT = 14, 15

_READY, _EXECUTING, _SUSPENDED, _EXECUTED, _ABORTING, _COMMITTED = (np.uint64(status) for status in range(6))
_NOTHING, _WRITTEN, _ESTIMATE = np.uint64(0), np.uint64(1), np.uint64(2)
ESTIMATE = 2
NO_ENTRY = 2**64 - 1
_NO_ENTRY = np.uint64(NO_ENTRY)
_LOW = np.uint64(0xFFFFFFFF)
_ZERO, _ONE, _TWO, _THREE, _EIGHT, _HALF = (np.uint64(number) for number in (0, 1, 2, 3, 8, 32))
_WIDTH = np.uint64(ROW_BYTES)
_AHEAD = np.uint64(8)
# What ``step`` answers
BUSY, IDLE, DONE = 0, 1, 2


@njit(types.uint64(types.uintp, types.uint64), nogil=True, cache=True, forceinline=True)
def _at(base: Any, index: Any) -> Any:
    """The address of a word."""
    return base + _EIGHT * index


@njit(types.uint64(types.uintp, types.int64), nogil=True, cache=True, forceinline=True)
def _field(book: Any, number: Any) -> Any:
    return peek(book + np.uint64(8 * number))


@njit(types.uint64(types.uintp, types.uint64), nogil=True, cache=True)
def _below(book: Any, entry: Any) -> Any:
    """The highest entry below this one in its chain that is not NOTHING, + 1; 0 where it is the row before the block."""
    previous, states = _field(book, B_PREVIOUS), _field(book, B_STATES)
    found = peek(_at(previous, entry))
    while found != _ZERO and load(_at(states, found - _ONE)) & _THREE == _NOTHING:
        found = peek(_at(previous, found - _ONE))
    return found


@njit(types.uint64(types.uintp, types.uint64, types.uint64, types.uint64), nogil=True, cache=True)
def _read(book: Any, entry: Any, row: Any, into: Any) -> Any:
    """The row as this entry's transaction should see it, into an address, and what it was into READS. Returns 0, or 1 + the
    transaction to wait for."""
    states, versions = _field(book, B_STATES), _field(book, B_VERSIONS)
    while True:
        found = _below(book, entry)
        if found == _ZERO:
            copy(into, _field(book, B_ROWS) + _WIDTH * row, ROW_BYTES)
            poke(_at(_field(book, B_READS), entry), _ZERO)
            return _ZERO
        below = found - _ONE
        state = load(_at(states, below))
        if state & _THREE == _ESTIMATE:
            return _ONE + (below >> _ONE)
        if state & _THREE == _WRITTEN:
            copy(into, versions + _WIDTH * below, ROW_BYTES)
            fence()
            if load(_at(states, below)) == state:
                poke(_at(_field(book, B_READS), entry), found << _HALF | state >> _TWO)
                return _ZERO


@njit(types.boolean(types.uintp, types.uint64), nogil=True, cache=True)
def _still(book: Any, entry: Any) -> Any:
    """Whether this entry's transaction would read what it read."""
    if peek(_at(_field(book, B_PREVIOUS), entry)) == _NO_ENTRY:
        return True
    read = peek(_at(_field(book, B_READS), entry))
    states = _field(book, B_STATES)
    while True:
        found = _below(book, entry)
        if found == _ZERO:
            return read == _ZERO
        state = load(_at(states, found - _ONE))
        if state & _THREE == _ESTIMATE:
            return False
        if state & _THREE == _WRITTEN:
            return read == (found << _HALF | state >> _TWO)


@njit(types.void(types.uintp, types.uint64), nogil=True, cache=True)
def _revalidate(book: Any, place: Any) -> None:
    """All from ``place`` on: see ``Scheduler._revalidate``."""
    word = _at(_field(book, B_CONTROL), np.uint64(C_VALIDATION))
    while True:
        seen = load(word)
        if seen & _LOW <= place:
            return
        wave = (seen >> _HALF) + _ONE
        if exchange(word, seen, wave << _HALF | place):
            raise_to(_at(_field(book, B_BEGUN), place), wave)
            return


@njit(types.void(types.uintp, types.uint64), nogil=True, cache=True)
def _resume(book: Any, writer: Any) -> None:
    """All that wait for a transaction."""
    status, links = _field(book, B_STATUS), _field(book, B_NEXT)
    head = swap(_at(_field(book, B_HEADS), writer), _ZERO)
    least = _LOW
    while head != _ZERO:
        place = head - _ONE
        head = peek(_at(links, place))
        incarnation = load(_at(status, place)) >> _THREE
        store(_at(status, place), incarnation + _ONE << _THREE | _READY)
        least = min(least, place)
    if least != _LOW:
        lower_to(_at(_field(book, B_CONTROL), np.uint64(C_EXECUTION)), least)


@njit(types.boolean(types.uintp, types.uint64), nogil=True, cache=True)
def _ripe(book: Any, place: Any) -> Any:
    """Whether it can be committed, those below it being so. By the holder of LOCK, or as a hint."""
    if place >= _field(book, B_COUNT):
        return False
    status = load(_at(_field(book, B_STATUS), place))
    if status & np.uint64(7) != _EXECUTED:
        return False
    needed = max(load(_at(_field(book, B_CONTROL), np.uint64(C_NEEDED))), load(_at(_field(book, B_BEGUN), place)))
    passed = load(_at(_field(book, B_PASSED), place))
    return passed >> _HALF == status >> _THREE and passed & _LOW > needed


@njit(types.void(types.uintp), nogil=True, cache=True)
def _commit(book: Any) -> None:
    control = _field(book, B_CONTROL)
    commit, lock, needed = (
        _at(control, np.uint64(C_COMMIT)),
        _at(control, np.uint64(C_LOCK)),
        _at(control, np.uint64(C_NEEDED)),
    )
    status = _field(book, B_STATUS)
    while _ripe(book, load(commit)):
        if not exchange(lock, _ZERO, _ONE):
            return
        place = load(commit)
        while _ripe(book, place):
            seen = load(_at(status, place))
            if seen & np.uint64(7) != _EXECUTED or not exchange(
                _at(status, place), seen, seen & ~np.uint64(7) | _COMMITTED
            ):
                break
            raise_to(needed, load(_at(_field(book, B_BEGUN), place)))
            place += _ONE
            store(commit, place)
        store(lock, _ZERO)


@njit(types.boolean(types.uintp, types.uintp), nogil=True, cache=True)
def _begin(book: Any, local: Any) -> Any:
    """Whether the worker has the execution of its PLACE now."""
    place = peek(_at(local, np.uint64(L_PLACE)))
    word = _at(_field(book, B_STATUS), place)
    seen = load(word)
    if seen & np.uint64(7) != _READY or not exchange(word, seen, seen & ~np.uint64(7) | _EXECUTING):
        return False
    poke(_at(local, np.uint64(L_INCARNATION)), seen >> _THREE)
    poke(_at(local, np.uint64(L_PHASE)), np.uint64(READ))
    return True


@njit(types.int64(types.uintp, types.uintp), nogil=True, cache=True)
def _pick(book: Any, local: Any) -> Any:
    control, count, grain = _field(book, B_CONTROL), _field(book, B_COUNT), _field(book, B_GRAIN)
    place = peek(_at(local, np.uint64(L_EXECUTE_FROM)))
    if place < peek(_at(local, np.uint64(L_EXECUTE_TO))):
        poke(_at(local, np.uint64(L_EXECUTE_FROM)), place + _ONE)
        poke(_at(local, np.uint64(L_PLACE)), place)
        later = place + _AHEAD
        if later < count:
            table = _field(book, B_TABLE) + np.uint64(8 * TX) * later
            rows = _field(book, B_ROWS)
            for number in (X_SENDER, X_RECIPIENT):
                row = rows + _WIDTH * peek(table + np.uint64(8 * number))
                prefetch(row)
                prefetch(row + np.uint64(128))
                prefetch(row + np.uint64(192))
        _begin(book, local)
        return BUSY
    place = peek(_at(local, np.uint64(L_VALIDATE_FROM)))
    if place < peek(_at(local, np.uint64(L_VALIDATE_TO))):
        poke(_at(local, np.uint64(L_VALIDATE_FROM)), place + _ONE)
        status = load(_at(_field(book, B_STATUS), place))
        if status & np.uint64(7) == _EXECUTED:
            poke(_at(local, np.uint64(L_PLACE)), place)
            poke(_at(local, np.uint64(L_INCARNATION)), status >> _THREE)
            poke(_at(local, np.uint64(L_WAVE)), peek(_at(local, np.uint64(L_VALIDATE_WAVE))))
            poke(_at(local, np.uint64(L_PHASE)), np.uint64(VALIDATE))
        return BUSY
    if load(_at(control, np.uint64(C_COMMIT))) >= count:
        return DONE
    validation = load(_at(control, np.uint64(C_VALIDATION)))
    execution = load(_at(control, np.uint64(C_EXECUTION)))
    first = validation & _LOW
    if first < min(execution, count):
        # One that takes more than there is to validate would pass by what is not executed yet: it is no loss.
        width = min(grain, min(execution, count) - first)
        if exchange(_at(control, np.uint64(C_VALIDATION)), validation, validation + width):
            poke(_at(local, np.uint64(L_VALIDATE_FROM)), first)
            poke(_at(local, np.uint64(L_VALIDATE_TO)), first + width)
            poke(_at(local, np.uint64(L_VALIDATE_WAVE)), validation >> _HALF)
        return BUSY
    if execution < count:
        first = add(_at(control, np.uint64(C_EXECUTION)), grain)
        poke(_at(local, np.uint64(L_EXECUTE_FROM)), min(first, count))
        poke(_at(local, np.uint64(L_EXECUTE_TO)), min(first + grain, count))
        return BUSY
    return IDLE


@njit(types.uint64(types.uint64, types.uint64), nogil=True, cache=True)
def _burden(value: Any, rounds: Any) -> Any:
    for _ in range(rounds):
        value = (value ^ value >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15)
    return value


@njit(types.uint64(types.int64, types.uint64), nogil=True, cache=True)
def burdens(count: Any, rounds: Any) -> Any:
    """The burden of ``count`` executions and nothing else."""
    value = _ZERO
    for place in range(count):
        value = _burden(value + np.uint64(place), rounds)
    return value


@njit(types.void(types.uintp, types.uintp, types.uint64), nogil=True, cache=True)
def _execute(book: Any, local: Any, scratch: Any) -> None:
    """READ: both rows, and the transaction on the copies."""
    place = peek(_at(local, np.uint64(L_PLACE)))
    transaction = _field(book, B_TABLE) + np.uint64(8 * TX) * place
    sender, recipient = peek(transaction + np.uint64(8 * X_SENDER)), peek(transaction + np.uint64(8 * X_RECIPIENT))
    other = scratch
    waits = _read(book, _TWO * place, sender, scratch)
    if waits == _ZERO and sender != recipient:
        other = scratch + _WIDTH
        waits = _read(book, _TWO * place + _ONE, recipient, other)
    if waits != _ZERO:
        poke(_at(local, np.uint64(L_WRITER)), waits - _ONE)
        poke(_at(local, np.uint64(L_PHASE)), np.uint64(SUSPEND))
        return
    result = _field(book, B_RESULTS) + np.uint64(8 * RESULT) * place
    for number in range(RESULT):
        poke(result + np.uint64(8 * number), _ZERO)
    name = _field(book, B_NAMES) + np.uint64(32) * recipient
    rounds = _field(book, B_BURDEN)
    if rounds:
        poke(_at(local, np.uint64(L_BURDEN)), _burden(peek(_at(local, np.uint64(L_BURDEN))) + place, rounds))
    execute_one(transaction, scratch, other, name, _field(book, B_SECONDS), result)
    poke(_at(local, np.uint64(L_WIDER)), _ZERO)
    poke(_at(local, np.uint64(L_EXECUTIONS)), peek(_at(local, np.uint64(L_EXECUTIONS))) + _ONE)
    poke(_at(local, np.uint64(L_PHASE)), np.uint64(PUBLISH))


@njit(types.void(types.uintp, types.uintp, types.uint64), nogil=True, cache=True)
def _publish(book: Any, local: Any, scratch: Any) -> None:
    """PUBLISH and PUBLISH_OTHER: one entry."""
    place, incarnation = peek(_at(local, np.uint64(L_PLACE))), peek(_at(local, np.uint64(L_INCARNATION)))
    other = peek(_at(local, np.uint64(L_PHASE))) == np.uint64(PUBLISH_OTHER)
    entry = _TWO * place + (_ONE if other else _ZERO)
    status = peek(_field(book, B_RESULTS) + np.uint64(8 * RESULT) * place + np.uint64(8 * R_STATUS))
    if other:
        kind = peek(_field(book, B_TABLE) + np.uint64(8 * TX) * place + np.uint64(8 * X_KIND))
        written = status == np.uint64(SUCCESS) and kind != np.uint64(TOUCH)
        poke(_at(local, np.uint64(L_PHASE)), np.uint64(WIDEN))
    else:
        written = status < np.uint64(REFUSED)
        poke(_at(local, np.uint64(L_PHASE)), np.uint64(PUBLISH_OTHER))
    if peek(_at(_field(book, B_PREVIOUS), entry)) == _NO_ENTRY:
        return
    word = _at(_field(book, B_STATES), entry)
    if not written:
        store(word, incarnation << _TWO | _NOTHING)
        return
    if load(word) & _THREE == _NOTHING:
        poke(_at(local, np.uint64(L_WIDER)), _ONE)
    copy(_field(book, B_VERSIONS) + _WIDTH * entry, scratch + (_WIDTH if other else _ZERO), ROW_BYTES)
    store(word, incarnation << _TWO | _WRITTEN)


@njit(types.int64(types.uintp, types.uint64), nogil=True, cache=True)
def _step(book: Any, worker: Any) -> Any:
    local = _field(book, B_LOCAL) + np.uint64(8 * LOCAL) * worker
    scratch = _field(book, B_SCRATCH) + _TWO * _WIDTH * worker
    status = _field(book, B_STATUS)
    phase = peek(_at(local, np.uint64(L_PHASE)))
    if phase == np.uint64(PICK):
        return _pick(book, local)
    place, incarnation = peek(_at(local, np.uint64(L_PLACE))), peek(_at(local, np.uint64(L_INCARNATION)))
    own = _at(status, place)
    after = np.uint64(PICK)
    if phase == np.uint64(READ):
        _execute(book, local, scratch)
        return BUSY
    if phase == np.uint64(PUBLISH) or phase == np.uint64(PUBLISH_OTHER):
        _publish(book, local, scratch)
        return BUSY
    if phase == np.uint64(WIDEN):
        if peek(_at(local, np.uint64(L_WIDER))) != _ZERO:
            _revalidate(book, place + _ONE)
        after = np.uint64(FINISH)
    elif phase == np.uint64(FINISH):
        store(own, incarnation << _THREE | _EXECUTED)
        after = np.uint64(RESUME)
    elif phase == np.uint64(RESUME):
        _resume(book, place)
        validation = load(_at(_field(book, B_CONTROL), np.uint64(C_VALIDATION)))
        if validation & _LOW > place:
            poke(_at(local, np.uint64(L_WAVE)), validation >> _HALF)
            after = np.uint64(VALIDATE)
    elif phase == np.uint64(VALIDATE):
        good = _still(book, _TWO * place) and _still(book, _TWO * place + _ONE)
        after = np.uint64(PASS) if good else np.uint64(ABORT)
    elif phase == np.uint64(PASS):
        wave = peek(_at(local, np.uint64(L_WAVE)))
        raise_to(_at(_field(book, B_PASSED), place), incarnation << _HALF | wave + _ONE)
        after = np.uint64(COMMIT)
    elif phase == np.uint64(COMMIT):
        _commit(book)
    elif phase == np.uint64(ABORT):
        if exchange(own, incarnation << _THREE | _EXECUTED, incarnation << _THREE | _ABORTING):
            poke(_at(local, np.uint64(L_ABORTS)), peek(_at(local, np.uint64(L_ABORTS))) + _ONE)
            after = np.uint64(ESTIMATE_ALL)
    elif phase == np.uint64(ESTIMATE_ALL):
        for entry in (_TWO * place, _TWO * place + _ONE):
            word = _at(_field(book, B_STATES), entry)
            if load(word) & _THREE == _WRITTEN:
                store(word, incarnation << _TWO | _ESTIMATE)
        after = np.uint64(LOWER)
    elif phase == np.uint64(LOWER):
        _revalidate(book, place + _ONE)
        after = np.uint64(AGAIN)
    elif phase == np.uint64(AGAIN):
        store(own, incarnation + _ONE << _THREE | _READY)
        poke(_at(local, np.uint64(L_PHASE)), np.uint64(PICK))
        if load(_at(_field(book, B_CONTROL), np.uint64(C_EXECUTION))) > place:
            _begin(book, local)
        return BUSY
    elif phase == np.uint64(SUSPEND):
        poke(_at(local, np.uint64(L_SUSPENSIONS)), peek(_at(local, np.uint64(L_SUSPENSIONS))) + _ONE)
        store(own, incarnation << _THREE | _SUSPENDED)
        head = _at(_field(book, B_HEADS), peek(_at(local, np.uint64(L_WRITER))))
        while True:
            seen = load(head)
            poke(_at(_field(book, B_NEXT), place), seen)
            if exchange(head, seen, place + _ONE):
                break
        after = np.uint64(WAIT)
    elif phase == np.uint64(WAIT):
        writer = peek(_at(local, np.uint64(L_WRITER)))
        seen = load(_at(status, writer)) & np.uint64(7)
        if seen == _EXECUTED or seen == _COMMITTED:  # noqa: SIM109 (numba)
            _resume(book, writer)
    poke(_at(local, np.uint64(L_PHASE)), after)
    return BUSY


@njit(types.void(WORDS, types.int64), nogil=True, cache=True)
def work(book: Any, worker: Any) -> None:
    """Until all are committed, beside others that do the same."""
    base, own = np.uint64(book.ctypes.data), np.uint64(worker)
    idle = 0
    while True:
        did = _step(base, own)
        if did == DONE:
            return
        if did == BUSY:
            idle = 0
            continue
        idle += 1
        if idle > 64:
            give_way()


@njit(types.int64(WORDS, types.uint8[::1]), nogil=True, cache=True)
def follow(book: Any, schedule: Any) -> Any:
    """One phase of each worker that is named, in order. Returns how many are committed."""
    base = np.uint64(book.ctypes.data)
    for at in range(schedule.shape[0]):
        _step(base, np.uint64(schedule[at]))
    return np.int64(load(_at(_field(base, B_CONTROL), np.uint64(C_COMMIT))))


@njit(types.void(TABLE, INTS, WORDS), nogil=True, cache=True)
def link(table: Any, last: Any, previous: Any) -> None:
    """PREVIOUS of all entries. ``last``: of each row, 0; and 0 again when it returns."""
    for at in range(table.shape[0]):
        sender, recipient = table[at, X_SENDER], table[at, X_RECIPIENT]
        previous[2 * at] = np.uint64(last[sender])
        last[sender] = 2 * at + 1
        if recipient == sender:
            previous[2 * at + 1] = _NO_ENTRY
        else:
            previous[2 * at + 1] = np.uint64(last[recipient])
            last[recipient] = 2 * at + 2
    for at in range(table.shape[0]):
        last[table[at, X_SENDER]] = last[table[at, X_RECIPIENT]] = 0


@njit(types.int64(TABLE, ROWS, ROWS, WORDS, TABLE, ROWS), nogil=True, cache=True)
def settle(table: Any, rows: Any, versions: Any, states: Any, results: Any, snapshots: Any) -> Any:
    """What the block leaves, into ``rows``; with ``snapshots`` what each transaction left (``runkernels.execute``). Returns
    the sum of all fees: what they take from the aggregator, which nobody reads meanwhile."""
    total = np.uint64(0)
    base, into, kept = np.uint64(rows.ctypes.data), np.uint64(versions.ctypes.data), np.uint64(snapshots.ctypes.data)
    for at in range(table.shape[0]):
        place = np.uint64(at)
        own, other = base + _WIDTH * table[at, X_SENDER], base + _WIDTH * table[at, X_RECIPIENT]
        if states[2 * at] & _THREE == _WRITTEN:
            copy(own, into + _WIDTH * _TWO * place, ROW_BYTES)
        if states[2 * at + 1] & _THREE == _WRITTEN:
            copy(other, into + _WIDTH * (_TWO * place + _ONE), ROW_BYTES)
        total += results[at, R_FEE]
        if snapshots.shape[0] and results[at, R_STATUS] < np.uint64(REFUSED):
            copy(kept + _TWO * _WIDTH * place, own, ROW_BYTES)
            copy(kept + _TWO * _WIDTH * place + _WIDTH, other, ROW_BYTES)
    return np.int64(total)
