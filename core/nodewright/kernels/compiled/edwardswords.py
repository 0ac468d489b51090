"""Of Ed25519 on lanes: the constants, and what is done for one lane at a time: bytes, words of 64 bits, limbs, digits."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from nodewright.kernels.compiled.lanes25519 import BITS, LANES, LIMBS
from nodewright.kernels.compiled.sha256 import BYTES
from nodewright.kernels.compiled.tools import njit, types

P: Final = 2**255 - 19
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, -1, P) % P
ROOT: Final = pow(2, (P - 1) // 4, P)  # of -1
_SHARED: Final = 128  # multiples of the base point
BELOW_SIGN: Final = np.uint64((1 << 63) - 1)  # of the highest word

WORDS = types.uint64[::1]
TABLE = types.uint64[:, ::1]


# --- constants, made by the field's definition ------------------------------------------------------------------------


def _limbs(value: int) -> list[int]:
    found = []
    for bits in BITS:
        found.append(value & ((1 << bits) - 1))
        value >>= bits
    return found


def _affine_add(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    (x, y), (u, v) = left, right
    product = D * x * u * y * v % P
    return (x * v + y * u) * pow(1 + product, -1, P) % P, (y * v + x * u) * pow(1 - product, -1, P) % P


def _root_of(value: int) -> int | None:
    found = pow(value, (P + 3) // 8, P)
    if found * found % P != value:
        found = found * ROOT % P
    return found if found * found % P == value else None


def _base() -> tuple[int, int]:
    y = 4 * pow(5, -1, P) % P
    square_x = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = _root_of(square_x)
    assert x is not None
    return (x if not x & 1 else P - x), y


def _multiples_of_base() -> Any:
    table = np.zeros((_SHARED + 1, 3 * LIMBS), np.uint64)
    point, base = (0, 1), _base()
    for number in range(_SHARED + 1):
        x, y = point
        table[number] = _limbs((y + x) % P) + _limbs((y - x) % P) + _limbs(2 * D * x * y % P)
        point = _affine_add(point, base)
    return table


BASE_TABLE: Final = _multiples_of_base()
# One, d, 2d, root of -1, as numbers with the same value in each lane.
CONSTANTS: Final = np.array([[one] * LANES for value in (1, D, 2 * D % P, ROOT) for one in _limbs(value)], np.uint64)
ORDER_WORDS: Final = np.array([ORDER >> 64 * at & (1 << 64) - 1 for at in range(4)], np.uint64)
P_WORDS: Final = np.array([P >> 64 * at & (1 << 64) - 1 for at in range(4)], np.uint64)


def _small_order() -> list[int]:
    """y of the points whose order divides 8: 1 and -1; 0, where twice the point is (0, -1); and where twice the point is
    (a root of -1, 0), which asks for x^2 = -y^2, so that 2 y^2 = 1 - d y^4."""
    found = {0, 1, P - 1}
    for sign in (1, -1):
        inner = _root_of((1 + D) % P)
        assert inner is not None
        y = _root_of((sign * inner - 1) * pow(D, -1, P) % P)
        if y is not None:
            found |= {y, P - y}
    return sorted(found)


SMALL_ORDER: Final = np.array(
    [[value >> 64 * at & (1 << 64) - 1 for at in range(4)] for value in _small_order()], np.uint64
)


# --- one lane ---------------------------------------------------------------------------------------------------------


@njit(types.void(BYTES, types.int64, WORDS), nogil=True, cache=True)
def words_of(data: Any, at: Any, out: Any) -> None:
    """32 bytes, little-endian, as four words."""
    for word in range(4):
        value = np.uint64(0)
        for byte in range(8):
            value |= np.uint64(data[at + 8 * word + byte]) << np.uint64(8 * byte)
        out[word] = value


@njit(types.boolean(WORDS, WORDS), nogil=True, cache=True)
def is_below(left: Any, right: Any) -> Any:
    for place in range(3, -1, -1):
        if left[place] != right[place]:
            return left[place] < right[place]
    return False


@njit(types.boolean(WORDS, TABLE), nogil=True, cache=True)
def is_among(value: Any, table: Any) -> Any:
    for entry in range(table.shape[0]):
        if (
            value[0] == table[entry, 0]
            and value[1] == table[entry, 1]
            and value[2] == table[entry, 2]
            and value[3] == table[entry, 3]
        ):
            return True
    return False


@njit(types.void(WORDS, types.int64, types.int64, WORDS), nogil=True, cache=True)
def take_out(rows: Any, number: Any, lane: Any, out: Any) -> None:
    """One lane of a number, below p, as four words. ``number``: its place in ``rows``, in numbers."""
    limbs = np.empty(LIMBS, np.uint64)
    start = number * LIMBS * LANES + lane
    for place in range(LIMBS):
        limbs[place] = rows[start + place * LANES]
    for _ in range(3):
        over = np.uint64(0)
        for place in range(LIMBS):
            bits = np.uint64(26 - (place & 1))
            limbs[place] += over
            over = limbs[place] >> bits
            limbs[place] &= (np.uint64(1) << bits) - np.uint64(1)
        limbs[0] += np.uint64(19) * over
    # How often p is still in it: 0 or 1.
    over = np.uint64(19)
    for place in range(LIMBS):
        over = (limbs[place] + over) >> np.uint64(26 - (place & 1))
    over *= np.uint64(19)
    for place in range(LIMBS):
        bits = np.uint64(26 - (place & 1))
        limbs[place] += over
        over = limbs[place] >> bits
        limbs[place] &= (np.uint64(1) << bits) - np.uint64(1)
    u = np.uint64
    out[0] = limbs[0] | limbs[1] << u(26) | limbs[2] << u(51)
    out[1] = limbs[2] >> u(13) | limbs[3] << u(13) | limbs[4] << u(38)
    out[2] = limbs[5] | limbs[6] << u(25) | limbs[7] << u(51)
    out[3] = limbs[7] >> u(13) | limbs[8] << u(12) | limbs[9] << u(38)


@njit(types.void(WORDS, types.int64, types.int64, WORDS), nogil=True, cache=True)
def put_in(rows: Any, number: Any, lane: Any, value: Any) -> None:
    """Four words of a value below 2^255 into one lane of a number."""
    start = number * LIMBS * LANES + lane
    at = 0
    for place in range(LIMBS):
        bits = 26 - (place & 1)
        word, shift = at >> 6, at & 63
        part = value[word] >> np.uint64(shift)
        if shift + bits > 64:
            part |= value[word + 1] << np.uint64(64 - shift)
        rows[start + place * LANES] = part & ((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
        at += bits


@njit(types.void(WORDS, WORDS), nogil=True, cache=True)
def negate(value: Any, p: Any) -> None:
    """p - value, of a value from 1 to p - 1."""
    borrow = np.uint64(0)
    for place in range(4):
        taken = value[place] + borrow
        borrow = np.uint64(1) if taken < borrow or p[place] < taken else np.uint64(0)
        value[place] = p[place] - taken


@njit(types.void(BYTES, types.int64, types.int64, types.int64[::1]), nogil=True, cache=True)
def digits_of(data: Any, at: Any, bits: Any, out: Any) -> None:
    """A number below 2^253 in signed digits of ``bits`` (4 or 8), the lowest first: each from -2^(bits-1) to 2^(bits-1)."""
    carry = 0
    half, per_byte = 1 << (bits - 1), 8 // bits
    for place in range(out.shape[0]):
        byte = np.int64(data[at + place // per_byte])
        digit = (byte >> (bits * (place % per_byte)) & (2 * half - 1)) + carry
        carry = 0
        if digit > half:
            digit -= 2 * half
            carry = 1
        out[place] = digit


@njit(
    types.boolean(WORDS, WORDS, WORDS, WORDS, WORDS, TABLE),
    nogil=True,
    cache=True,
)
def is_acceptable(key: Any, r: Any, s: Any, order: Any, p: Any, small: Any) -> Any:
    """What is asked before anything is computed; all as words."""
    value = np.empty(4, np.uint64)
    for word in range(4):
        value[word] = key[word]
    value[3] &= BELOW_SIGN
    if not is_below(s, order) or not is_below(value, p) or is_among(value, small):
        return False
    for word in range(4):
        value[word] = r[word]
    value[3] &= BELOW_SIGN
    return not is_among(value, small)
