"""The compiled half of the columnar executor: transfers on rows of accounts, one after the other; and the table that finds
rows by address. The rules are those of ``runtime``, ``prologue`` and ``framework``, which a property test holds them to.

See ``layout`` for the tables. Import through ``nodewright.kernels.warm_up`` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.tools import njit, types
from nodewright_aptos import gas
from nodewright_aptos.columnar.layout import (
    BALANCE_AT,
    CANNOT_PAY,
    CANNOT_PAY_MOST,
    CREATE,
    CREATION_AT,
    DEPOSITS_AT,
    EXISTS,
    EXPIRED,
    FLAGS_AT,
    FROZEN,
    FROZEN_AT,
    GAS_ABOVE_BOUND,
    GAS_BELOW_LEAST,
    GOOD_KEY,
    HAS_ACCOUNT,
    HAS_STORE,
    INSUFFICIENT,
    MOVE,
    NO_ACCOUNT,
    NO_STORE,
    OTHER_CHAIN,
    OTHER_KEY,
    OUT_OF_GAS,
    OVERFLOW,
    PAY,
    PRICE_ABOVE_BOUND,
    PRICE_BELOW_BOUND,
    R_CREATED,
    R_DEPOSIT,
    R_DETAIL,
    R_EXECUTION,
    R_FEE,
    R_GAS,
    R_STATUS,
    R_WITHDRAWAL,
    R_WRITES,
    REFUSED,
    RESERVED,
    RESERVED_ADDRESS,
    RESULT,
    ROW_BYTES,
    SEQUENCE_AT,
    SEQUENCE_NEW,
    SEQUENCE_OLD,
    SEQUENCE_TOO_BIG,
    STORE_AT,
    SUCCESS,
    TOUCH,
    TX,
    WITHDRAWALS_AT,
    WRONG_CHAIN,
    X_AMOUNT,
    X_EXPIRES,
    X_GAS,
    X_KEY,
    X_KIND,
    X_LEAST,
    X_MAX_GAS,
    X_PRICE,
    X_RECIPIENT,
    X_SENDER,
    X_SEQUENCE,
)
from nodewright_aptos.columnar.memory import copy, peek, poke, prefetch

TABLE = types.uint64[:, ::1]
ROWS = types.uint8[:, ::1]
MAX_U64 = np.uint64(2**64 - 1)
MAX_SEQUENCE = np.uint64(1 << 63)
AHEAD = 12  # transactions whose rows are asked for before they are run
_LAST_WORD = ROW_BYTES - 8  # of a row; the flags are in it
_FLAGS_SHIFT = 8 * (FLAGS_AT - _LAST_WORD)
_STORAGE = gas.STORAGE
_WRITE = gas.WRITE
_MAX_GAS, _MIN_PRICE, _MAX_PRICE = gas.MAX_GAS, gas.MIN_GAS_PRICE, gas.MAX_GAS_PRICE


@njit(types.void(types.uintp, types.uintp, types.uint64), nogil=True, cache=True)
def _new_store(row: Any, address: Any, first: Any) -> None:
    """The BCS of ``resources.new_store`` into a row."""
    poke(row + np.uintp(BALANCE_AT), np.uint64(0))
    poke(row + np.uintp(FROZEN_AT), np.uint64(0))  # and the counter after it, but for its last byte
    for handle in range(2):
        at = row + np.uintp(DEPOSITS_AT + 48 * handle)
        poke(at, np.uint64(0))
        poke(at + np.uintp(8), first + np.uint64(handle))
        copy(at + np.uintp(16), address, 32)


@njit(types.void(types.uintp, types.uintp), nogil=True, cache=True)
def _new_account(row: Any, address: Any) -> None:
    """The BCS of ``resources.new_account`` into a row."""
    poke(row, np.uint64(0x20))
    copy(row + np.uintp(1), address, 32)
    poke(row + np.uintp(SEQUENCE_AT), np.uint64(0))
    poke(row + np.uintp(CREATION_AT), np.uint64(4))
    for handle in range(2):
        at = row + np.uintp(49 + 48 * handle)
        poke(at, np.uint64(0))
        poke(at + np.uintp(8), np.uint64(handle))
        copy(at + np.uintp(16), address, 32)
    # The two options after them: the row's next byte is the store's, which is written after this.
    poke(row + np.uintp(STORE_AT - 2), np.uint64(0))


@njit(types.uint64(types.uintp, types.int64), nogil=True, cache=True)
def _raise(row: Any, at: Any) -> Any:
    """One more in a counter; what it was."""
    counter = peek(row + np.uintp(at))
    poke(row + np.uintp(at), counter + np.uint64(1))
    return counter


@njit(types.uint64(types.uintp, types.int64), nogil=True, cache=True)
def _byte(row: Any, at: Any) -> Any:
    """Of a row, below its last word."""
    return peek(row + np.uintp(at)) & np.uint64(0xFF)


@njit(types.uint64(types.uintp), nogil=True, cache=True)
def _flags(row: Any) -> Any:
    return peek(row + np.uintp(_LAST_WORD)) >> np.uint64(_FLAGS_SHIFT) & np.uint64(0xFF)


@njit(
    types.uint64(types.uintp, types.uintp, types.uintp, types.uintp, types.uint64, types.uintp),
    nogil=True,
    cache=True,
    forceinline=True,
)
def execute_one(transaction: Any, own: Any, other: Any, name: Any, seconds: Any, result: Any) -> Any:
    """Run one on the rows at ``own`` and ``other``, of its sender and its recipient (the same address where they are one);
    ``name`` is where the recipient's address stands. ``result``: zeroes. Returns its fee; where it is refused, 0, and the
    rows are as they were."""
    kind = peek(transaction + np.uintp(8 * X_KIND))
    same = peek(transaction + np.uintp(8 * X_SENDER)) == peek(transaction + np.uintp(8 * X_RECIPIENT))
    most, price = peek(transaction + np.uintp(8 * X_MAX_GAS)), peek(transaction + np.uintp(8 * X_PRICE))
    least, number = peek(transaction + np.uintp(8 * X_LEAST)), peek(transaction + np.uintp(8 * X_SEQUENCE))
    amount, key = peek(transaction + np.uintp(8 * X_AMOUNT)), peek(transaction + np.uintp(8 * X_KEY))
    detail = np.uint64(0)
    status = SUCCESS
    # What ``prologue.check_form`` and ``check_prologue`` look at, in their order.
    if most > np.uint64(_MAX_GAS):
        status = GAS_ABOVE_BOUND
    elif most < least:
        status = GAS_BELOW_LEAST
    elif price < np.uint64(_MIN_PRICE):
        status = PRICE_BELOW_BOUND
    elif price > np.uint64(_MAX_PRICE):
        status = PRICE_ABOVE_BOUND
    elif peek(transaction + np.uintp(8 * X_EXPIRES)) <= seconds:
        status = EXPIRED
    elif key == np.uint64(WRONG_CHAIN):
        status = OTHER_CHAIN
    else:
        flags = _flags(own)
        if not flags & np.uint64(HAS_ACCOUNT):
            status = NO_ACCOUNT
        elif key != np.uint64(GOOD_KEY):
            status = OTHER_KEY
        elif number >= MAX_SEQUENCE:
            status = SEQUENCE_TOO_BIG
        else:
            wanted = peek(own + np.uintp(SEQUENCE_AT))
            if number != wanted:
                detail = wanted
                status = SEQUENCE_OLD if number < wanted else SEQUENCE_NEW
            else:
                has_store = flags & np.uint64(HAS_STORE)
                detail = peek(own + np.uintp(BALANCE_AT)) if has_store else np.uint64(0)
                if not has_store or detail < most * price:
                    status = CANNOT_PAY_MOST
    poke(result + np.uintp(8 * R_STATUS), np.uint64(status))
    poke(result + np.uintp(8 * R_DETAIL), detail)
    if status != SUCCESS:
        return np.uint64(0)

    # The function, without changing anything yet.
    held = detail
    charged = peek(transaction + np.uintp(8 * X_GAS))
    created = 0
    written = 2  # the sender's account and coins
    rest = held
    pays = kind == np.uint64(PAY) or kind == np.uint64(MOVE)
    if charged > most - least:
        status = OUT_OF_GAS
    elif pays:
        there = _flags(other)
        if not same:
            written = 3
        if kind == np.uint64(PAY):
            if not there & np.uint64(HAS_ACCOUNT):
                created, written = 2, 4
            elif not there & np.uint64(HAS_STORE):
                created, written = 1, 4
        if created == 2 and there & np.uint64(RESERVED):
            status = RESERVED_ADDRESS
        elif _byte(own, FROZEN_AT) == np.uint64(1):
            status = FROZEN
        elif amount > held:
            status = INSUFFICIENT
        elif not same:
            rest = held - amount
            if created == 0:
                if not there & np.uint64(HAS_STORE):
                    status = NO_STORE
                elif _byte(other, FROZEN_AT) == np.uint64(1):
                    status = FROZEN
                elif peek(other + np.uintp(BALANCE_AT)) > MAX_U64 - amount:
                    status = OVERFLOW
    elif kind == np.uint64(CREATE):
        there = _flags(other)
        created, written = 2, 4
        if there & np.uint64(RESERVED):
            status = RESERVED_ADDRESS
        elif there & np.uint64(HAS_ACCOUNT):
            status = EXISTS
    used = least + charged + np.uint64(_WRITE * written + _STORAGE * created)
    if status == SUCCESS and used > most:
        status = OUT_OF_GAS
    fee = used * price
    if status == SUCCESS and rest < fee:
        status = CANNOT_PAY

    if status == SUCCESS:
        if created:
            if created == 2:
                _new_account(other, name)
                _new_store(other, name, np.uint64(2))
            else:
                first = peek(other + np.uintp(CREATION_AT))
                poke(other + np.uintp(CREATION_AT), first + np.uint64(2))
                _new_store(other, name, first)
            there = np.uint64(HAS_ACCOUNT | HAS_STORE) << np.uint64(_FLAGS_SHIFT)
            poke(other + np.uintp(_LAST_WORD), peek(other + np.uintp(_LAST_WORD)) | there)
        if pays:
            poke(own + np.uintp(BALANCE_AT), held - amount)
            poke(result + np.uintp(8 * R_WITHDRAWAL), _raise(own, WITHDRAWALS_AT))
            poke(other + np.uintp(BALANCE_AT), peek(other + np.uintp(BALANCE_AT)) + amount)
            poke(result + np.uintp(8 * R_DEPOSIT), _raise(other, DEPOSITS_AT))
        poke(result + np.uintp(8 * R_EXECUTION), least + charged)
        poke(result + np.uintp(8 * R_CREATED), np.uint64(created))
        poke(result + np.uintp(8 * R_WRITES), np.uint64(written))
    else:
        used = most if status == OUT_OF_GAS else min(least + charged + np.uint64(2 * _WRITE), most)
        fee = used * price
        poke(result + np.uintp(8 * R_STATUS), np.uint64(status))
        poke(result + np.uintp(8 * R_EXECUTION), used - np.uint64(2 * _WRITE))
        poke(result + np.uintp(8 * R_WRITES), np.uint64(2))
    poke(own + np.uintp(BALANCE_AT), peek(own + np.uintp(BALANCE_AT)) - fee)
    poke(own + np.uintp(SEQUENCE_AT), number + np.uint64(1))
    poke(result + np.uintp(8 * R_GAS), used)
    poke(result + np.uintp(8 * R_FEE), fee)
    return fee


@njit(
    types.int64(TABLE, ROWS, types.uint64, ROWS, TABLE, ROWS),
    nogil=True,
    cache=True,
)
def execute(transactions: Any, rows: Any, seconds: Any, addresses: Any, results: Any, snapshots: Any) -> Any:
    """Run all, in order. ``seconds``: the block's time. ``addresses`` (accounts, 32). ``results``: zeroes. ``snapshots``:
    as many rows as there are transactions, or none where nobody wants them. Returns the sum of all fees."""
    count = transactions.shape[0]
    base = np.uintp(rows.ctypes.data)
    names = np.uintp(addresses.ctypes.data)
    kept = np.uintp(snapshots.ctypes.data)
    told, into = np.uintp(transactions.ctypes.data), np.uintp(results.ctypes.data)
    width = np.uint64(ROW_BYTES)
    total = np.uint64(0)
    for at in range(count):
        if at + AHEAD < count:
            later = base + width * transactions[at + AHEAD, X_SENDER]
            prefetch(later)
            prefetch(later + np.uintp(128))
            prefetch(later + np.uintp(192))
            if transactions[at + AHEAD, X_KIND] != TOUCH:
                later = base + width * transactions[at + AHEAD, X_RECIPIENT]
                prefetch(later + np.uintp(128))
                prefetch(later + np.uintp(192))
        recipient = transactions[at, X_RECIPIENT]
        own, other = base + width * transactions[at, X_SENDER], base + width * recipient
        place = np.uint64(at)
        fee = execute_one(
            told + np.uintp(8 * TX) * place,
            own,
            other,
            names + np.uintp(32) * recipient,
            seconds,
            into + np.uintp(8 * RESULT) * place,
        )
        total += fee
        if snapshots.shape[0] and results[at, R_STATUS] < np.uint64(REFUSED):
            at_snapshot = kept + np.uintp(2) * width * place
            copy(at_snapshot, own, ROW_BYTES)
            copy(at_snapshot + width, other, ROW_BYTES)
    return np.int64(total)


# --- rows by address -------------------------------------------------------------------------------------------------

SLOTS = types.int32[::1]
VACANT = -1


@njit(types.uint64(types.uintp, types.uint64), nogil=True, cache=True)
def _hash(address: Any, secret: Any) -> Any:
    """Of the 32 bytes at an address, under a secret: whoever makes addresses cannot aim at one chain of the table."""
    value = secret
    for word in range(4):
        value = (value ^ peek(address + np.uintp(8 * word))) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return value * (secret | np.uint64(1)) >> np.uint64(20)


@njit(types.boolean(types.uintp, types.uintp), nogil=True, cache=True)
def _same(one: Any, other: Any) -> Any:
    for word in range(4):  # noqa: SIM110 (numba has no all)
        if peek(one + np.uintp(8 * word)) != peek(other + np.uintp(8 * word)):
            return False
    return True


@njit(types.void(SLOTS, types.uint64, ROWS, types.int64, types.int64), nogil=True, cache=True)
def enter(slots: Any, secret: Any, addresses: Any, first: Any, end: Any) -> None:
    """Rows ``first`` to ``end``, whose addresses are not in the table yet. ``slots``: a power of two of them, more than
    there are rows."""
    base = np.uintp(addresses.ctypes.data)
    last = np.uint64(slots.shape[0] - 1)
    for row in range(first, end):
        slot = _hash(base + np.uintp(32 * row), secret) & last
        while slots[slot] != VACANT:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = row


@njit(types.int64(SLOTS, types.uint64, ROWS, ROWS, SLOTS), nogil=True, cache=True)
def look_up(slots: Any, secret: Any, addresses: Any, wanted: Any, found: Any) -> Any:
    """The row of each of ``wanted`` (n, 32) into ``found``, VACANT where there is none; returns how many there are not."""
    base, asked = np.uintp(addresses.ctypes.data), np.uintp(wanted.ctypes.data)
    table = np.uintp(slots.ctypes.data)
    last = np.uint64(slots.shape[0] - 1)
    size = 32
    places = np.empty(size, np.uint64)
    missing = 0
    count = wanted.shape[0]
    for begin in range(0, count, size):
        width = min(size, count - begin)
        for i in range(width):
            places[i] = _hash(asked + np.uintp(32 * (begin + i)), secret) & last
            prefetch(table + np.uintp(4) * places[i])
        for i in range(width):
            row = slots[places[i]]
            if row != VACANT:
                prefetch(base + np.uintp(32 * np.int64(row)))
        for i in range(width):
            slot = places[i]
            row = slots[slot]
            while row != VACANT and not _same(base + np.uintp(32 * np.int64(row)), asked + np.uintp(32 * (begin + i))):
                slot = (slot + np.uint64(1)) & last
                row = slots[slot]
            found[begin + i] = row
            missing += row == VACANT
    return missing
