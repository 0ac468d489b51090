"""Ed25519 (RFC 8032) on four signatures side by side: the check that libsodium makes of one, on vector registers.

For each signature (R, S) under the key A of a message M, with h = SHA-512(R ‖ A ‖ M) mod L:
S B - h A is computed as it is, without a cofactor and without mixing signatures, and its encoding compared with the bytes
of R. Before that, as libsodium does: S < L, the key's y below p, neither key nor R of small order.

A random combination of signatures would be cheaper still, but cannot be exact: signatures and keys with parts of small
order, which the single check refuses, pass it for a share of the factors. So there is none here.

Invariants
- The four lanes share instructions and never values, but for one inversion over a whole batch of Z (Montgomery's trick). No
  Z is zero, as the formulas are complete on the curve, and a key that is not on it is replaced by the neutral element.
- An answer of 1 means equal bytes. An answer of 0 may be put to libsodium again, and is, by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha512
from typing import Any, Final

import numpy as np

from nodewright.kernels.compiled.edwardswords import (
    BASE_TABLE,
    BELOW_SIGN,
    CONSTANTS,
    ORDER,
    ORDER_WORDS,
    P_WORDS,
    SMALL_ORDER,
    TABLE,
    WORDS,
    digits_of,
    is_acceptable,
    negate,
    put_in,
    take_out,
    words_of,
)
from nodewright.kernels.compiled.lanes25519 import (
    ENTRY,
    LANES,
    LIMBS,
    NUMBER,
    SHARED_ENTRY,
    WORTH_IT,
    add,
    add_affine_entry,
    add_entry,
    copy,
    double_point,
    mul,
    pick_own,
    pick_shared,
    square,
    subtract,
)
from nodewright.kernels.compiled.sha256 import BYTES
from nodewright.kernels.compiled.tools import njit, types

_MULTIPLES: Final = 8  # of the key in its table; digits of h go from -7 to 8
_WINDOWS: Final = 64

ADDRESS = types.uintp
__all__ = ["WORTH_IT", "check_lanes", "verify"]


# --- four lanes -------------------------------------------------------------------------------------------------------


@njit(types.void(ADDRESS, ADDRESS, types.int64), nogil=True, cache=True)
def _squares(out: Any, number: Any, count: Any) -> None:
    square(out, number)
    for _ in range(count - 1):
        square(out, out)


@njit(types.void(ADDRESS, ADDRESS, ADDRESS), nogil=True, cache=True)
def _power(out: Any, number: Any, spare: Any) -> None:
    """number^(2^250 - 1) at ``out``, which is not ``number``; number^11 at ``spare``, where three numbers have room."""
    eleven, a, b = spare, spare + np.uint64(NUMBER), spare + np.uint64(2 * NUMBER)
    square(a, number)
    _squares(b, a, 2)
    mul(b, b, number)  # 9
    mul(eleven, a, b)
    square(a, eleven)
    mul(a, a, b)  # 2^5 - 1
    _squares(b, a, 5)
    mul(a, b, a)  # 2^10 - 1
    _squares(b, a, 10)
    mul(b, b, a)  # 2^20 - 1
    _squares(out, b, 20)
    mul(b, out, b)  # 2^40 - 1
    _squares(b, b, 10)
    mul(a, b, a)  # 2^50 - 1
    _squares(b, a, 50)
    mul(b, b, a)  # 2^100 - 1
    _squares(out, b, 100)
    mul(b, out, b)  # 2^200 - 1
    _squares(b, b, 50)
    mul(out, b, a)  # 2^250 - 1


@njit(types.void(ADDRESS, ADDRESS, ADDRESS), nogil=True, cache=True)
def _invert(out: Any, number: Any, spare: Any) -> None:
    """number^(p - 2)."""
    _power(out, number, spare)
    _squares(out, out, 5)
    mul(out, out, spare)


# Places in the work space, in numbers: constants, the key's point and what it is read with, the running point, the table.
_ONE: Final = 0
_D: Final = 1
_TWICE_D: Final = 2
_ROOT: Final = 3
_KEY: Final = 4  # five numbers
_READ: Final = 9  # eight numbers
_POINT: Final = 17  # five numbers
_SPARE: Final = 22  # four numbers
_ENTRY: Final = 26  # four numbers
_CHOICE: Final = 30  # less than one
_TABLE: Final = 31
_SPACE: Final = _TABLE + 4 * (_MULTIPLES + 1)


@njit(types.void(WORDS, ADDRESS, TABLE, WORDS, types.uint8[::1]), nogil=True, cache=True)
def _read_keys(space: Any, base: Any, keys: Any, p: Any, good: Any) -> None:
    """The points -A of four keys (as words, their first bit the sign of x) at ``_KEY``. A lane whose key is on no point, or
    that is not good already, is not good, and holds the neutral element."""
    n = np.uint64(NUMBER)
    x, y = base + np.uint64(_KEY) * n, base + np.uint64(_KEY + 1) * n
    u, v = base + np.uint64(_READ) * n, base + np.uint64(_READ + 1) * n
    v3, t = base + np.uint64(_READ + 2) * n, base + np.uint64(_READ + 3) * n
    spare = base + np.uint64(_READ + 4) * n
    one = base
    value, other = np.empty(4, np.uint64), np.empty(4, np.uint64)
    for lane in range(LANES):
        for word in range(4):
            value[word] = keys[lane, word] if good[lane] else np.uint64(word == 0)
        value[3] &= BELOW_SIGN
        put_in(space, _KEY + 1, lane, value)
    square(t, y)
    subtract(u, t, one)
    mul(v, t, base + np.uint64(_D) * n)
    add(v, v, one)
    square(v3, v)
    mul(v3, v3, v)
    square(t, v3)
    mul(t, t, v)
    mul(t, t, u)  # u v^7
    _power(x, t, spare)
    _squares(x, x, 2)
    mul(x, x, t)  # to the power of (p - 5) / 8
    mul(x, x, v3)
    mul(x, x, u)
    square(t, x)
    mul(t, t, v)  # v x^2: u, or -u
    add(v3, t, u)
    subtract(u, t, u)
    mul(t, x, base + np.uint64(_ROOT) * n)
    for lane in range(LANES):
        take_out(space, _READ, lane, value)
        take_out(space, _READ + 2, lane, other)
        from_root = (value[0] | value[1] | value[2] | value[3]) != 0
        if from_root and (other[0] | other[1] | other[2] | other[3]) != 0:
            good[lane] = 0
        take_out(space, _READ + 3 if from_root else _KEY, lane, value)
        if not good[lane]:
            for word in range(4):
                value[word] = np.uint64(word == 0)
            put_in(space, _KEY + 1, lane, value)
            value[0] = 0
        elif (value[0] & np.uint64(1)) == keys[lane, 3] >> np.uint64(63):
            negate(value, p)
        put_in(space, _KEY, lane, value)
    mul(base + np.uint64(_KEY + 4) * n, x, y)
    copy(base + np.uint64(_KEY + 2) * n, one)


@njit(types.void(ADDRESS, ADDRESS, types.int64), nogil=True, cache=True)
def _enter(base: Any, point: Any, number: Any) -> None:
    """The point into the table of its lanes' keys."""
    n = np.uint64(NUMBER)
    entry = base + np.uint64(_TABLE) * n + np.uint64(number) * np.uint64(ENTRY)
    add(entry, point + n, point)
    subtract(entry + n, point + n, point)
    copy(entry + np.uint64(2) * n, point + np.uint64(2) * n)
    mul(entry + np.uint64(3) * n, point + np.uint64(4) * n, base + np.uint64(_TWICE_D) * n)


@njit(types.void(WORDS, ADDRESS), nogil=True, cache=True)
def _neutral(space: Any, base: Any) -> None:
    """At ``_POINT``."""
    n = np.uint64(NUMBER)
    for at in range(5 * LIMBS * LANES):
        space[_POINT * LIMBS * LANES + at] = 0
    copy(base + np.uint64(_POINT + 1) * n, base)
    copy(base + np.uint64(_POINT + 2) * n, base)


@njit(types.void(WORDS, ADDRESS), nogil=True, cache=True)
def _fill_table(space: Any, base: Any) -> None:
    """0 to 8 times the point at ``_KEY``."""
    n = np.uint64(NUMBER)
    point, spare = base + np.uint64(_POINT) * n, base + np.uint64(_SPARE) * n
    _neutral(space, base)
    _enter(base, point, 0)
    for part in range(5):
        copy(point + np.uint64(part) * n, base + np.uint64(_KEY + part) * n)
    _enter(base, point, 1)
    first = base + np.uint64(_TABLE) * n + np.uint64(ENTRY)
    for number in range(2, _MULTIPLES + 1):
        add_entry(point, first, spare, True)
        _enter(base, point, number)


@njit(types.void(WORDS, ADDRESS, types.int64[:, ::1], types.int64[:, ::1], ADDRESS), nogil=True, cache=True)
def _combine(space: Any, base: Any, of_key: Any, of_base: Any, shared: Any) -> None:
    """h (-A) + S B of each lane at ``_POINT``, from the digits of h and of S."""
    n = np.uint64(NUMBER)
    point, spare, entry = base + np.uint64(_POINT) * n, base + np.uint64(_SPARE) * n, base + np.uint64(_ENTRY) * n
    table, choice = base + np.uint64(_TABLE) * n, base + np.uint64(_CHOICE) * n
    at = _CHOICE * LIMBS * LANES
    _neutral(space, base)
    for window in range(_WINDOWS - 1, -1, -1):
        if window != _WINDOWS - 1:
            for step in range(4):
                double_point(point, spare, step == 3)
        for lane in range(LANES):
            digit = of_key[lane, window]
            space[at + lane] = np.uint64(abs(digit) * ENTRY)
            space[at + LANES + lane] = np.uint64(1 if digit < 0 else 0)
        pick_own(entry, table, choice)
        even = window & 1 == 0
        add_entry(point, entry, spare, even)
        if even:
            for lane in range(LANES):
                digit = of_base[lane, window >> 1]
                space[at + lane] = np.uint64(abs(digit) * SHARED_ENTRY)
                space[at + LANES + lane] = np.uint64(1 if digit < 0 else 0)
            pick_shared(entry, shared, choice)
            add_affine_entry(point, entry, spare, False)


# --- a batch ----------------------------------------------------------------------------------------------------------


@njit(
    types.void(
        BYTES,
        BYTES,
        types.int64[::1],
        BYTES,
        TABLE,
        TABLE,
        WORDS,
        WORDS,
        TABLE,
        types.uint8[::1],
    ),
    nogil=True,
    cache=True,
)
def check_lanes(
    keys: Any,
    signed: Any,
    starts: Any,
    hashes: Any,
    shared: Any,
    constants: Any,
    order: Any,
    p: Any,
    small: Any,
    out: Any,
) -> None:
    """``keys`` and ``hashes`` (h below L, little-endian) 32 bytes an item; its R ‖ S at ``starts[i]`` of ``signed``."""
    count = out.shape[0]
    groups = (count + LANES - 1) // LANES
    number = LIMBS * LANES
    room = np.zeros((_SPACE + 1) * number, np.uint64)
    gap = (np.uint64(0) - np.uint64(room.ctypes.data)) % np.uint64(32) // np.uint64(8)
    space = room[np.int64(gap) :]
    base = np.uint64(space.ctypes.data)
    for place in range(4 * LIMBS):
        for lane in range(LANES):
            space[place * LANES + lane] = constants[place, lane]
    shared_at = np.uint64(shared.ctypes.data)
    points = np.zeros((4 * groups + 1) * number, np.uint64)
    gap = (np.uint64(0) - np.uint64(points.ctypes.data)) % np.uint64(32) // np.uint64(8)
    points = points[np.int64(gap) :]
    points_at = np.uint64(points.ctypes.data)
    n = np.uint64(NUMBER)
    words = np.zeros((LANES, 4), np.uint64)
    r, s = np.empty(4, np.uint64), np.empty(4, np.uint64)
    good = np.zeros(LANES, np.uint8)
    of_key, of_base = np.zeros((LANES, _WINDOWS), np.int64), np.zeros((LANES, _WINDOWS // 2), np.int64)
    for group in range(groups):
        for lane in range(LANES):
            item = group * LANES + lane
            good[lane] = 0
            for window in range(_WINDOWS):
                of_key[lane, window] = 0
                of_base[lane, window >> 1] = 0
            if item < count:
                words_of(keys, 32 * item, words[lane])
                words_of(signed, starts[item], r)
                words_of(signed, starts[item] + 32, s)
                if is_acceptable(words[lane], r, s, order, p, small):
                    good[lane] = 1
                    digits_of(hashes, 32 * item, 4, of_key[lane])
                    digits_of(signed, starts[item] + 32, 8, of_base[lane])
        _read_keys(space, base, words, p, good)
        _fill_table(space, base)
        _combine(space, base, of_key, of_base, shared_at)
        for part in range(3):
            copy(points_at + np.uint64(4 * group + part) * n, base + np.uint64(_POINT + part) * n)
        for lane in range(LANES):
            if group * LANES + lane < count:
                out[group * LANES + lane] = good[lane]
    # One inversion: products of all Z up to each, then back.
    copy(points_at + np.uint64(3) * n, points_at + np.uint64(2) * n)
    for group in range(1, groups):
        z = points_at + np.uint64(4 * group + 2) * n
        mul(z + n, z - np.uint64(3) * n, z)
    spare, inverse = base + np.uint64(_READ) * n, base + np.uint64(_ENTRY) * n
    _invert(inverse, points_at + np.uint64(4 * groups - 1) * n, spare)
    x, y, own = base + np.uint64(_POINT) * n, base + np.uint64(_POINT + 1) * n, base + np.uint64(_POINT + 2) * n
    for group in range(groups - 1, -1, -1):
        at = points_at + np.uint64(4 * group) * n
        if group:
            mul(own, inverse, at - n)
            mul(inverse, inverse, at + np.uint64(2) * n)
        else:
            copy(own, inverse)
        mul(x, at, own)
        mul(y, at + n, own)
        for lane in range(LANES):
            item = group * LANES + lane
            if item < count and out[item]:
                take_out(space, _POINT, lane, s)
                take_out(space, _POINT + 1, lane, r)
                r[3] |= s[0] << np.uint64(63)
                words_of(signed, starts[item], s)
                out[item] = r[0] == s[0] and r[1] == s[1] and r[2] == s[2] and r[3] == s[3]
    points[0] = 0  # keeps the buffer alive to here: its address does not
    space[0] = 0


def verify(keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
    """One answer each, 1 or 0; at least one item, keys of 32 bytes and signatures of 64."""
    hashes = b"".join(
        [
            (int.from_bytes(sha512(b"%b%b%b" % (signature[:32], key, message)).digest(), "little") % ORDER).to_bytes(
                32, "little"
            )
            for key, message, signature in zip(keys, messages, signatures, strict=True)
        ]
    )
    out = bytearray(len(keys))
    check_lanes(
        np.frombuffer(b"".join(keys), np.uint8),
        np.frombuffer(b"".join(signatures), np.uint8),
        np.arange(0, 64 * len(keys), 64),
        np.frombuffer(hashes, np.uint8),
        BASE_TABLE,
        CONSTANTS,
        ORDER_WORDS,
        P_WORDS,
        SMALL_ORDER,
        np.frombuffer(out, np.uint8),
    )
    return out
