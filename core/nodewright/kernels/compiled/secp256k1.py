"""ECDSA on secp256k1, four signatures side by side: the check that libsecp256k1 makes of one, on vector registers.

For each signature (R, S) of a digest z under the key Q, with u = z / S and v = R / S modulo the group's order: x of
u G + v Q is compared with R, without a division: X = R Z^2. v is split in two halves by the curve's endomorphism (x beta is
x of lambda times the point; Gallant, Lambert, Vanstone 2001) and u at its middle, so that 128 doublings serve all four.

An answer of 1 means that libsecp256k1 says 1. An answer of 0 means nothing: the caller asks libsecp256k1. So it is for
whatever this has no formula for: keys that are not compressed, a sum of equal or opposite points (Z is zero then), and an R
that stands for R + order.

Invariants
- The four lanes share instructions and never values.
- Whatever the bytes are, all numbers keep the bounds of ``lanes256k1``: these do not depend on points being on the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np

from nodewright.kernels.compiled.lanes256k1 import (
    BITS,
    ENTRY,
    LANES,
    LIMBS,
    NUMBER,
    SHARED_ENTRY,
    WORTH_IT,
    P,
    add_entry,
    add_entry_ratio,
    add_scaled_entry,
    copy,
    double_point,
    mul,
    pick_beta,
    pick_own,
    pick_shared,
    square,
    subtract,
)
from nodewright.kernels.compiled.scalars256k1 import LAMBDA, ORDER, ORDER_BYTES, SCALARS, split
from nodewright.kernels.compiled.sha256 import BYTES
from nodewright.kernels.compiled.signatures import lax_der
from nodewright.kernels.compiled.tools import njit, types

BETA: Final = 0x7AE96A2B657C07106E64479EAC3434E99CF0497512F58995C1396C28719501EE
BASE: Final = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_MULTIPLES: Final = 8  # of the key in its table; digits of its halves go from -7 to 8
_WINDOWS: Final = 33  # of four bits
_SHARED: Final = 2048  # multiples of the base point; digits go from -2047 to 2048
_SHARED_WINDOWS: Final = 11  # of twelve bits

ADDRESS = types.uintp
SPACE = types.float64[::1]
DIGITS = types.int64[:, :, ::1]
__all__ = ["LAMBDA", "ORDER", "WORTH_IT", "check_lanes", "verify"]


# --- constants --------------------------------------------------------------------------------------------------------


def limbs_of(value: int) -> list[float]:
    found = []
    for _ in range(LIMBS):
        found.append(float(value & ((1 << BITS) - 1)))
        value >>= BITS
    return found


def _multiples(point: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """1 to ``count`` (a power of two) times the point. Those known are added to the last one: one inversion for all."""
    known = [point]
    while len(known) < count:
        u, v = known[-1]
        divisors = [(x - u) % P for x, _ in known[:-1]] + [2 * v % P]
        before = list(accumulate(divisors, lambda left, right: left * right % P, initial=1))
        inverse = pow(before[-1], -1, P)
        sums = []
        for at in range(len(known) - 1, -1, -1):
            x, y = known[at]
            rise = 3 * x * x if at == len(known) - 1 else y - v
            slope = rise * inverse * before[at] % P
            inverse = inverse * divisors[at] % P
            new_x = (slope * slope - x - u) % P
            sums.append((new_x, (slope * (u - new_x) - v) % P))
        known += sums[::-1]
    return known


def _shared_table() -> Any:
    table = np.empty((2, _SHARED, 2 * LIMBS), np.float64)
    point = BASE
    for half in range(2):
        table[half] = [limbs_of(x) + limbs_of(y) for x, y in _multiples(point, _SHARED)]
        for _ in range(0 if half else 128):
            point = _multiples(point, 2)[1]
    return table


SHARED_TABLE: Final = _shared_table()
# One and beta, with the same value in each lane.
CONSTANTS: Final = np.array([[one] * LANES for value in (1, BETA) for one in limbs_of(value)], np.float64)
P_BYTES: Final = np.frombuffer(P.to_bytes(32, "big"), np.uint8)


# --- one lane ---------------------------------------------------------------------------------------------------------


@njit(types.void(SPACE, types.int64, types.int64, BYTES, types.int64), nogil=True, cache=True)
def put_in(space: Any, place: Any, lane: Any, data: Any, at: Any) -> None:
    """32 bytes, big-endian, as number ``place`` (two units)."""
    value, bits, limb = np.uint64(0), 0, 0
    for byte in range(31, -1, -1):
        value |= np.uint64(data[at + byte]) << np.uint64(bits)
        bits += 8
        if bits >= BITS:
            space[(place * LIMBS + limb) * LANES + lane] = np.float64(value & np.uint64((1 << BITS) - 1))
            value >>= np.uint64(BITS)
            bits -= BITS
            limb += 1
    space[(place * LIMBS + limb) * LANES + lane] = np.float64(value)


@njit(types.void(SPACE, types.int64, types.int64, types.int64[::1]), nogil=True, cache=True)
def take_out(space: Any, place: Any, lane: Any, limbs: Any) -> None:
    """The number's one representative below p. Of at most 20 units."""
    for limb in range(LIMBS):
        limbs[limb] = np.int64(space[(place * LIMBS + limb) * LANES + lane])
    for _ in range(3):
        for limb in range(LIMBS - 1):
            over = limbs[limb] >> BITS
            limbs[limb] -= over << BITS
            limbs[limb + 1] += over
        over = limbs[LIMBS - 1] >> 41
        limbs[LIMBS - 1] -= over << 41
        limbs[0] += over * ((1 << 32) + 977)
    # Below 2^256 now. From p on, what p lacks to 2^256 carries it over.
    carry = np.int64((1 << 32) + 977)
    for limb in range(LIMBS - 1):
        carry = (limbs[limb] + carry) >> BITS
    if (limbs[LIMBS - 1] + carry) >> 41:
        limbs[0] += (1 << 32) + 977
        for limb in range(LIMBS - 1):
            over = limbs[limb] >> BITS
            limbs[limb] -= over << BITS
            limbs[limb + 1] += over
        limbs[LIMBS - 1] -= 1 << 41


@njit(types.boolean(types.int64[::1]), nogil=True, cache=True)
def _is_zero(limbs: Any) -> Any:
    rest = np.int64(0)
    for limb in range(LIMBS):
        rest |= limbs[limb]
    return rest == 0


@njit(types.boolean(BYTES, types.int64, BYTES), nogil=True, cache=True)
def _is_below(data: Any, at: Any, bound: Any) -> Any:
    for byte in range(32):
        if data[at + byte] != bound[byte]:
            return data[at + byte] < bound[byte]
    return False


@njit(types.void(BYTES, types.int64, types.int64, types.int64, types.int64, types.int64[::1]), nogil=True, cache=True)
def _digits(data: Any, at: Any, size: Any, width: Any, sign: Any, out: Any) -> None:
    """``size`` little-endian bytes as signed digits of ``width`` bits (four, or twelve), the lowest first."""
    carry, most = np.int64(0), 1 << (width - 1)
    for place in range(out.shape[0]):
        value = carry
        for part in range(width // 4):
            nibble = place * (width // 4) + part
            if nibble < 2 * size:
                value += np.int64(data[at + (nibble >> 1)] >> (4 * (nibble & 1)) & 15) << (4 * part)
        carry = np.int64(0)
        if value > most:
            value -= 2 * most
            carry = np.int64(1)
        out[place] = -value if sign else value


# --- four lanes -------------------------------------------------------------------------------------------------------

# Places in the work space, in numbers: constants, the key and what it is read with, the running point, the key's table.
_ONE: Final = 0
_BETA: Final = 1
_KEY: Final = 2  # two numbers
_POINT: Final = 4  # three numbers
_ENTRY: Final = 7  # two numbers
_SCALE: Final = 9  # what the table's Z is
_R: Final = 10
_READ: Final = 11  # eight numbers
_CHOICE: Final = 19  # four rows of one
_RATIOS: Final = 20
_TABLE: Final = _RATIOS + _MULTIPLES
_SPACE: Final = _TABLE + 3 * _MULTIPLES


@njit(types.void(ADDRESS, ADDRESS, ADDRESS, types.int64), nogil=True, cache=True)
def _raise(out: Any, number: Any, factor: Any, count: Any) -> None:
    """number^(2^count) * factor; ``out`` is not ``factor``."""
    square(out, number)
    for _ in range(count - 1):
        square(out, out)
    mul(out, out, factor)


@njit(types.void(ADDRESS, ADDRESS, ADDRESS), nogil=True, cache=True)
def _root(out: Any, number: Any, spare: Any) -> None:
    """number^((p + 1) / 4): a root where there is one. ``spare``: room for five numbers. Ones of the exponent: 223, a zero,
    22, four zeros, 2, two zeros."""
    n = np.uint64(NUMBER)
    two, three, a, b = spare, spare + n, spare + np.uint64(2) * n, spare + np.uint64(3) * n
    wide = spare + np.uint64(4) * n
    _raise(two, number, number, 1)
    _raise(three, two, number, 1)
    _raise(a, three, three, 3)  # 6
    _raise(b, a, three, 3)  # 9
    _raise(a, b, two, 2)  # 11
    _raise(b, a, a, 11)  # 22
    _raise(wide, b, b, 22)  # 44
    _raise(a, wide, wide, 44)  # 88
    _raise(out, a, a, 88)  # 176
    _raise(a, out, wide, 44)  # 220
    _raise(out, a, three, 3)  # 223
    _raise(out, out, b, 23)
    _raise(out, out, two, 6)
    square(out, out)
    square(out, out)


@njit(types.void(SPACE, ADDRESS, BYTES, types.int64, types.uint8[::1]), nogil=True, cache=True)
def _read_keys(space: Any, base: Any, keys: Any, first: Any, good: Any) -> None:
    """The points of four keys at ``_KEY``. A lane that is not good already holds zeros; one whose key is on no point is not
    good afterwards, and holds what it holds."""
    n = np.uint64(NUMBER)
    x, y = base + np.uint64(_KEY) * n, base + np.uint64(_KEY + 1) * n
    w, check = base + np.uint64(_READ) * n, base + np.uint64(_READ + 1) * n
    limbs = np.empty(LIMBS, np.int64)
    for lane in range(LANES):
        if good[lane]:
            put_in(space, _KEY, lane, keys, 33 * (first + lane) + 1)
        else:
            for limb in range(LIMBS):
                space[(_KEY * LIMBS + limb) * LANES + lane] = 0.0
    square(w, x)
    mul(w, w, x)
    for lane in range(LANES):
        space[_READ * LIMBS * LANES + lane] += 7.0
    _root(y, w, base + np.uint64(_READ + 2) * n)
    square(check, y)
    subtract(check, check, w)
    for lane in range(LANES):
        if not good[lane]:
            continue
        take_out(space, _READ + 1, lane, limbs)
        good[lane] = _is_zero(limbs)
        take_out(space, _KEY + 1, lane, limbs)
        # Zero is no y of this curve, so that there are an odd and an even one.
        if (limbs[0] & 1) != np.int64(keys[33 * (first + lane)] & 1):
            for limb in range(LIMBS):
                at = ((_KEY + 1) * LIMBS + limb) * LANES + lane
                space[at] = -space[at]


@njit(types.void(SPACE, ADDRESS), nogil=True, cache=True)
def _fill_table(space: Any, base: Any) -> None:
    """1 to 8 times the point at ``_KEY``, as points of the curve's image by the last one's Z, which is at ``_SCALE``."""
    n = np.uint64(NUMBER)
    point, key, choice = base + np.uint64(_POINT) * n, base + np.uint64(_KEY) * n, base + np.uint64(_CHOICE) * n
    table, ratios = base + np.uint64(_TABLE) * n, base + np.uint64(_RATIOS) * n
    for at in range(4 * LANES):
        space[_CHOICE * LIMBS * LANES + at] = 0.0
    copy(point, key)
    copy(point + n, key + n)
    copy(point + np.uint64(2) * n, base)
    for multiple in range(_MULTIPLES):
        if multiple == 1:
            double_point(point)
            copy(ratios, point + np.uint64(2) * n)  # of Z that was one
        elif multiple > 1:
            add_entry_ratio(point, key, choice, ratios + np.uint64(multiple - 1) * n)
        entry = table + np.uint64(multiple * ENTRY)
        copy(entry, point)
        copy(entry + np.uint64(2) * n, point + n)
    copy(base + np.uint64(_SCALE) * n, point + np.uint64(2) * n)
    scale, power = base + np.uint64(_READ) * n, base + np.uint64(_READ + 1) * n
    for multiple in range(_MULTIPLES - 1, -1, -1):
        entry = table + np.uint64(multiple * ENTRY)
        if multiple < _MULTIPLES - 1:
            if multiple == _MULTIPLES - 2:
                copy(scale, ratios + np.uint64(multiple) * n)
            else:
                mul(scale, scale, ratios + np.uint64(multiple) * n)
            square(power, scale)
            mul(entry, entry, power)
            mul(power, power, scale)
            mul(entry + np.uint64(2) * n, entry + np.uint64(2) * n, power)
        mul(entry + n, entry, base + np.uint64(_BETA) * n)


@njit(types.boolean(SPACE, DIGITS, types.int64, types.int64, types.int64, types.uint8[::1]), nogil=True, cache=True)
def _choose(space: Any, digits: Any, half: Any, window: Any, size: Any, empty: Any) -> Any:
    """Fill ``_CHOICE`` for one digit of each lane; False where all are zero."""
    at = _CHOICE * LIMBS * LANES
    offsets = space[at : at + LANES].view(np.int64)
    some = False
    for lane in range(LANES):
        digit = digits[half, lane, window]
        offsets[lane] = (abs(digit) - 1) * size if digit else 0
        space[at + LANES + lane] = -1.0 if digit < 0 else 1.0
        space[at + 2 * LANES + lane] = 0.0 if digit else 1.0
        space[at + 3 * LANES + lane] = 1.0 if digit and empty[lane] else 0.0
        if digit:
            some = True
            empty[lane] = 0
    return some


@njit(types.void(SPACE, ADDRESS, DIGITS, DIGITS, ADDRESS), nogil=True, cache=True)
def _combine(space: Any, base: Any, of_key: Any, of_base: Any, shared: Any) -> None:
    """The sum at ``_POINT``, on the curve's image by what is at ``_SCALE``."""
    n = np.uint64(NUMBER)
    point, entry, choice = base + np.uint64(_POINT) * n, base + np.uint64(_ENTRY) * n, base + np.uint64(_CHOICE) * n
    table, scale = base + np.uint64(_TABLE) * n, base + np.uint64(_SCALE) * n
    for at in range(3 * LIMBS * LANES):
        space[_POINT * LIMBS * LANES + at] = 0.0
    empty = np.ones(LANES, np.uint8)
    for window in range(_WINDOWS - 1, -1, -1):
        if window != _WINDOWS - 1:
            for _ in range(4):
                double_point(point)
        if _choose(space, of_key, 0, window, ENTRY, empty):
            pick_own(entry, table, choice)
            add_entry(point, entry, choice)
        if _choose(space, of_key, 1, window, ENTRY, empty):
            pick_beta(entry, table + n, choice)
            add_entry(point, entry, choice)
        if window % 3 == 0:
            for half in range(2):
                if _choose(space, of_base, half, window // 3, SHARED_ENTRY, empty):
                    pick_shared(entry, shared + np.uint64(half * _SHARED * SHARED_ENTRY), choice)
                    add_scaled_entry(point, entry, choice, scale)


# --- a batch ----------------------------------------------------------------------------------------------------------


@njit(
    types.void(
        BYTES,
        BYTES,
        BYTES,
        types.Array(types.float64, 3, "C"),
        types.Array(types.float64, 2, "C"),
        BYTES,
        types.uint8[::1],
    ),
    nogil=True,
    cache=True,
)
def check_lanes(keys: Any, numbers: Any, scalars: Any, shared: Any, constants: Any, p: Any, out: Any) -> None:
    """``keys`` 33 bytes an item, ``numbers`` R ‖ S (64), ``scalars`` as ``split`` gives them. ``out`` says which items to
    look at, and then which of them are good."""
    count = out.shape[0]
    room = np.zeros((_SPACE + 1) * LIMBS * LANES, np.float64)
    gap = (np.uint64(0) - np.uint64(room.ctypes.data)) % np.uint64(32) // np.uint64(8)
    space = room[np.int64(gap) :]
    base = np.uint64(space.ctypes.data)
    for place in range(2 * LIMBS):
        for lane in range(LANES):
            space[place * LANES + lane] = constants[place, lane]
    shared_at = np.uint64(shared.ctypes.data)
    n = np.uint64(NUMBER)
    good = np.zeros(LANES, np.uint8)
    limbs = np.empty(LIMBS, np.int64)
    of_key = np.zeros((2, LANES, _WINDOWS), np.int64)
    of_base = np.zeros((2, LANES, _SHARED_WINDOWS), np.int64)
    z, left = base + np.uint64(_POINT + 2) * n, base + np.uint64(_READ) * n
    for first in range(0, count, LANES):
        for lane in range(LANES):
            item = first + lane
            good[lane] = 0
            if item < count and out[item]:
                at = SCALARS * item
                good[lane] = (keys[33 * item] & 254) == 2 and _is_below(keys, 33 * item + 1, p)
                put_in(space, _R, lane, numbers, 64 * item)
                for half in range(2):
                    _digits(scalars, at + 16 * half, 16, 12, 0, of_base[half, lane])
                    _digits(scalars, at + 32 + 17 * half, 17, 4, scalars[at + 66 + half], of_key[half, lane])
            else:
                of_key[:, lane] = 0
                of_base[:, lane] = 0
        _read_keys(space, base, keys, first, good)
        _fill_table(space, base)
        _combine(space, base, of_key, of_base, shared_at)
        mul(z, z, base + np.uint64(_SCALE) * n)
        square(left, z)
        mul(left, left, base + np.uint64(_R) * n)
        subtract(left, left, base + np.uint64(_POINT) * n)
        for lane in range(LANES):
            if first + lane < count:
                if good[lane]:
                    take_out(space, _READ, lane, limbs)
                    good[lane] = _is_zero(limbs)
                    take_out(space, _POINT + 2, lane, limbs)
                    if _is_zero(limbs):
                        good[lane] = 0
                out[first + lane] = good[lane]
    space[0] = 0.0  # keeps the buffer alive to here: its address does not


@njit(
    types.void(BYTES, types.int64[::1], types.int64[::1], BYTES, types.uint8[:, ::1], types.uint8[::1]),
    nogil=True,
    cache=True,
)
def numbers_of(signatures: Any, starts: Any, ends: Any, order: Any, numbers: Any, out: Any) -> None:
    """R ‖ S of each item that ``out`` says to look at; ``out`` is 0 afterwards where there are none from 1 to the order."""
    zero = np.zeros(32, np.uint8)
    zero[31] = 1
    for item in range(out.shape[0]):
        if not out[item] or not lax_der(signatures, starts[item], ends[item], numbers[item]):
            out[item] = 0
            continue
        for part in range(0, 64, 32):
            if _is_below(numbers[item], part, zero) or not _is_below(numbers[item], part, order):
                out[item] = 0


_ZERO: Final = np.zeros(1, np.int64)


def verify(keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
    """One answer each, 1 or 0; at least one item, digests of 32 bytes. 0 is to be asked of libsecp256k1."""
    lengths = list(map(len, keys))
    whole = lengths.count(33) == len(keys)
    out = bytearray(b"\1") * len(keys) if whole else bytearray(length == 33 for length in lengths)
    answers = np.frombuffer(out, np.uint8)
    ends = np.fromiter(accumulate(map(len, signatures)), np.int64, len(signatures))
    starts = np.concatenate((_ZERO, ends[:-1]))
    numbers = np.empty((len(keys), 64), np.uint8)
    numbers_of(np.frombuffer(b"".join(signatures) or b"\0", np.uint8), starts, ends, ORDER_BYTES, numbers, answers)
    chosen = np.nonzero(answers)[0]
    if not len(chosen):
        return out
    if len(chosen) == len(keys):
        check(b"".join(keys), b"".join(digests), numbers, answers)
        return out
    items = chosen.tolist()
    found = np.ones(len(items), np.uint8)
    check(b"".join([keys[item] for item in items]), b"".join([digests[item] for item in items]), numbers[chosen], found)
    answers[chosen] = found
    return out


def check(keys: bytes, digests: bytes, numbers: Any, found: Any) -> None:
    """Columns of 33, 32 and 64 bytes an item; every R and S is from 1 to the order. ``found`` (ones) gets the answers."""
    scalars = split(np.frombuffer(digests, np.uint8), numbers)
    check_lanes(np.frombuffer(keys, np.uint8), numbers.reshape(-1), scalars, SHARED_TABLE, CONSTANTS, P_BYTES, found)
