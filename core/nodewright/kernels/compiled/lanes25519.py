"""Arithmetic modulo 2^255 - 19 on four numbers side by side, as explicit vector operations.

A number has ten limbs of 26 and 25 bits by turns, the lowest first; limb i of four numbers is one row of four uint64, a
number thus ``ROWS`` rows of 32 bytes, aligned to 32. All arguments are addresses of such numbers; results may overwrite
arguments. Nothing here branches on values.

Bounds. A limb of one unit is 2^26 (even places) or 2^25 (odd), and a little. ``mul`` and ``square`` give one unit; they
take operands whose units multiply to at most 30, the second of ``mul`` (and that of ``square``) of at most 3: then 19
times its limbs fit 32 bits, and sums of products 64. Each function says the units of what it gives. Limbs are never
negative: what is subtracted is covered by a multiple of p that is larger limb by limb.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir

from nodewright.kernels.compiled.sha256 import FEATURES
from nodewright.kernels.compiled.tools import intrinsic, njit, types

LANES: Final = 4
LIMBS: Final = 10
NUMBER: Final = LIMBS * LANES * 8  # bytes
BITS: Final = (26, 25) * 5
# Without AVX2 the plain loop over libsodium is as fast.
WORTH_IT: Final = bool(FEATURES.get("avx2"))

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_ROW = ir.VectorType(_I64, LANES)
_LOW = (1 << 32) - 1
_P: Final = [(1 << 26) - 19] + [(1 << BITS[place]) - 1 for place in range(1, LIMBS)]
ADDRESS: Final = types.uintp
_ORDER: Final = (0, 5, 1, 6, 2, 7, 3, 8, 4, 9, 5, 0)

Number = list[Any]


def row(value: int) -> Any:
    return ir.Constant(_ROW, [value] * LANES)


def load(builder: Any, address: Any, count: int = LIMBS) -> Number:
    base = builder.inttoptr(address, _ROW.as_pointer())
    rows = []
    for place in range(count):
        one = builder.load(builder.gep(base, [ir.Constant(_I32, place)]))
        one.align = 32
        rows.append(one)
    return rows


def store(builder: Any, address: Any, number: Number) -> None:
    base = builder.inttoptr(address, _ROW.as_pointer())
    for place, one in enumerate(number):
        builder.store(one, builder.gep(base, [ir.Constant(_I32, place)])).align = 32


def _times(builder: Any, left: Any, right: Any) -> Any:
    """Of the low halves: one instruction. The masks cost nothing: it looks at nothing else."""
    return builder.mul(builder.and_(left, row(_LOW)), builder.and_(right, row(_LOW)))


def _nineteen(builder: Any, one: Any) -> Any:
    return builder.add(builder.add(one, builder.shl(one, row(1))), builder.shl(one, row(4)))


def _carried(builder: Any, limbs: Number) -> Number:
    """One unit, of sums of products."""
    for place in _ORDER:
        over = builder.lshr(limbs[place], row(BITS[place]))
        limbs[place] = builder.and_(limbs[place], row((1 << BITS[place]) - 1))
        if place == LIMBS - 1:
            over = _nineteen(builder, over)
        after = (place + 1) % LIMBS
        limbs[after] = builder.add(limbs[after], over)
    return limbs


def _settled(builder: Any, limbs: Number) -> Number:
    """One unit, of a few units: all carries at once."""
    over = [builder.lshr(one, row(bits)) for one, bits in zip(limbs, BITS, strict=True)]
    over[-1] = _nineteen(builder, over[-1])
    kept = [builder.and_(one, row((1 << bits) - 1)) for one, bits in zip(limbs, BITS, strict=True)]
    return [builder.add(one, over[place - 1]) for place, one in enumerate(kept)]


def _added(builder: Any, left: Number, right: Number) -> Number:
    return [builder.add(one, other) for one, other in zip(left, right, strict=True)]


def _subtracted(builder: Any, left: Number, right: Number, cover: int) -> Number:
    """left - right + cover * p: ``cover`` units more than left. ``right`` has fewer units than ``cover``."""
    return [builder.sub(builder.add(one, row(cover * p)), other) for one, other, p in zip(left, right, _P, strict=True)]


def _doubled(builder: Any, number: Number) -> Number:
    return [builder.shl(one, row(1)) for one in number]


def _multiplied(builder: Any, left: Number, right: Number) -> Number:
    """Limb of ``left`` by limb of ``right``: the sums stay in registers, and one operand of each product in memory."""
    wrapped = [_times(builder, one, row(19)) for one in right]
    sums: Number = [None] * LIMBS
    for at, one in enumerate(left):
        twice = builder.shl(one, row(1)) if at & 1 else one
        for other in range(LIMBS):
            # Two odd places have half a bit each too few: their product counts twice.
            factor = right[other] if at + other < LIMBS else wrapped[other]
            product = _times(builder, twice if other & 1 else one, factor)
            place = (at + other) % LIMBS
            sums[place] = product if sums[place] is None else builder.add(sums[place], product)
    return _carried(builder, sums)


def _squared(builder: Any, number: Number) -> Number:
    """Sum by sum: half as many products, and this order is the faster one."""
    twice = _doubled(builder, number)
    wrapped = [_times(builder, one, row(19)) for one in number]
    twice_wrapped = _doubled(builder, wrapped)
    sums = []
    for place in range(LIMBS):
        total = None
        for at in range(LIMBS):
            other = (place - at) % LIMBS
            if other < at:
                continue
            wraps, odd = at + other != place, at & other & 1
            one = number[at] if at == other else twice[at]
            if odd:
                factor = twice_wrapped[other] if wraps else twice[other]
            else:
                factor = wrapped[other] if wraps else number[other]
            product = _times(builder, one, factor)
            total = product if total is None else builder.add(total, product)
        sums.append(total)
    return _carried(builder, sums)


def _operation(arity: int, emit: Any) -> Any:
    """An intrinsic of ``arity`` addresses that emits its operations in place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit(builder, *arguments)
        return context.get_dummy_value()

    result = types.void(*([ADDRESS] * arity))
    if arity == 2:
        return intrinsic(lambda typing_context, a, b: (result, generate))
    if arity == 3:
        return intrinsic(lambda typing_context, a, b, c: (result, generate))
    return intrinsic(lambda typing_context, a, b, c, d: (result, generate))


def _emit_mul(builder: Any, out: Any, left: Any, right: Any) -> None:
    store(builder, out, _multiplied(builder, load(builder, left), load(builder, right)))


def _emit_mul_sum(builder: Any, out: Any, left: Any, plus: Any, right: Any) -> None:
    total = _added(builder, load(builder, left), load(builder, plus))
    store(builder, out, _multiplied(builder, total, load(builder, right)))


def _emit_mul_difference(builder: Any, out: Any, left: Any, minus: Any, right: Any) -> None:
    total = _subtracted(builder, load(builder, left), load(builder, minus), 2)
    store(builder, out, _multiplied(builder, total, load(builder, right)))


def _emit_square(builder: Any, out: Any, number: Any) -> None:
    store(builder, out, _squared(builder, load(builder, number)))


def _emit_square_sum(builder: Any, out: Any, left: Any, right: Any) -> None:
    store(builder, out, _squared(builder, _added(builder, load(builder, left), load(builder, right))))


def _emit_add(builder: Any, out: Any, left: Any, right: Any) -> None:
    store(builder, out, _settled(builder, _added(builder, load(builder, left), load(builder, right))))


def _emit_subtract(builder: Any, out: Any, left: Any, right: Any) -> None:
    store(builder, out, _settled(builder, _subtracted(builder, load(builder, left), load(builder, right), 2)))


def _emit_copy(builder: Any, out: Any, number: Any) -> None:
    store(builder, out, load(builder, number))


_copy = _operation(2, _emit_copy)
_mul = _operation(3, _emit_mul)
_mul_sum = _operation(4, _emit_mul_sum)
_mul_difference = _operation(4, _emit_mul_difference)
_square = _operation(2, _emit_square)
_square_sum = _operation(3, _emit_square_sum)
_add = _operation(3, _emit_add)
_subtract = _operation(3, _emit_subtract)
_two, _three, _four = (types.void(*([ADDRESS] * count)) for count in (2, 3, 4))


@njit(_two, nogil=True, cache=True)
def copy(out: Any, number: Any) -> None:
    _copy(out, number)


@njit(_three, nogil=True, cache=True)
def mul(out: Any, left: Any, right: Any) -> None:
    _mul(out, left, right)


@njit(_two, nogil=True, cache=True)
def square(out: Any, number: Any) -> None:
    _square(out, number)


@njit(_three, nogil=True, cache=True)
def add(out: Any, left: Any, right: Any) -> None:
    """One unit; of at most three in all."""
    _add(out, left, right)


@njit(_three, nogil=True, cache=True)
def subtract(out: Any, left: Any, right: Any) -> None:
    """One unit, of one each."""
    _subtract(out, left, right)


# --- points on the curve ----------------------------------------------------------------------------------------------
# Extended coordinates (Hisil, Wong, Carter, Dawson 2008). The sum or double of points is first four numbers E, H, G, F,
# whose products are the coordinates: X = E F, Y = H G, Z = G F, T = E H. A point is five numbers: X, Y, Z, one spare, T.


def _limb(builder: Any, address: Any, number: int, place: int) -> Any:
    pointer = builder.inttoptr(address, _ROW.as_pointer())
    one = builder.load(builder.gep(pointer, [ir.Constant(_I32, number * LIMBS + place)]))
    one.align = 32
    return one


def _put(builder: Any, address: Any, number: int, place: int, one: Any) -> None:
    pointer = builder.inttoptr(address, _ROW.as_pointer())
    builder.store(one, builder.gep(pointer, [ir.Constant(_I32, number * LIMBS + place)])).align = 32


def _cover(builder: Any, one: Any, other: Any, place: int, cover: int) -> Any:
    return builder.sub(builder.add(one, row(cover * _P[place])), other)


def _finish(builder: Any, out: Any, limbs: Any) -> None:
    """E, H, G, F limb by limb, so that few are alive at once; F settled."""
    over, first = None, None
    for place in range(LIMBS):
        e, h, g, f = limbs(place)
        _put(builder, out, 0, place, e)
        _put(builder, out, 1, place, h)
        _put(builder, out, 2, place, g)
        kept = builder.and_(f, row((1 << BITS[place]) - 1))
        if over is None:
            first = kept
        else:
            _put(builder, out, 3, place, builder.add(kept, over))
        over = builder.lshr(f, row(BITS[place]))
    _put(builder, out, 3, 0, builder.add(first, _nineteen(builder, over)))


def _emit_doubled(builder: Any, out: Any, squares: Any) -> None:
    """``squares``: X^2, Y^2, Z^2, (X + Y)^2 in a row. E of five units, H two, G three, F one."""

    def limbs(place: int) -> tuple[Any, Any, Any, Any]:
        x, y, z, both = (_limb(builder, squares, number, place) for number in range(4))
        h = builder.add(y, x)
        g = _cover(builder, y, x, place, 2)
        return _cover(builder, both, h, place, 4), h, g, _cover(builder, builder.shl(z, row(1)), g, place, 4)

    _finish(builder, out, limbs)


def _emit_summed(builder: Any, out: Any, products: Any) -> None:
    """``products``: (Y+X)(Y'+X'), (Y-X)(Y'-X'), Z Z', 2d T T' in a row. E of three units, H two, G three, F one."""

    def limbs(place: int) -> tuple[Any, Any, Any, Any]:
        plus, minus, z, t = (_limb(builder, products, number, place) for number in range(4))
        twice = builder.shl(z, row(1))
        e = _cover(builder, plus, minus, place, 2)
        return e, builder.add(plus, minus), builder.add(twice, t), _cover(builder, twice, t, place, 2)

    _finish(builder, out, limbs)


def _picked(builder: Any, table: Any, offsets: list[Any], place: int, stride: int, apart: int) -> Any:
    """One row: the entry of each lane at its own offset."""
    found = ir.Constant(_ROW, ir.Undefined)
    for lane, offset in enumerate(offsets):
        at = builder.add(builder.add(table, offset), ir.Constant(_I64, place * stride + lane * apart))
        word = builder.load(builder.inttoptr(at, _I64.as_pointer()))
        word.align = 8
        found = builder.insert_element(found, word, ir.Constant(_I32, lane))
    return found


def _pick(numbers: int, stride: int, apart: int) -> Any:
    """For each lane an entry of a table (Y+X, Y-X, [Z,] 2dT), negated where its mask is set; of one unit, 2dT of two.
    ``choice``: four offsets in bytes, four masks."""

    def emit(builder: Any, out: Any, table: Any, choice: Any) -> None:
        base = builder.inttoptr(choice, _I64.as_pointer())
        offsets = [builder.load(builder.gep(base, [ir.Constant(_I32, lane)])) for lane in range(LANES)]
        (masks,) = load(builder, builder.add(choice, ir.Constant(_I64, 8 * LANES)), 1)
        negative = builder.icmp_unsigned("!=", masks, row(0))
        rows = [_picked(builder, table, offsets, place, stride, apart) for place in range(numbers * LIMBS)]
        plus, minus, t = rows[:LIMBS], rows[LIMBS : 2 * LIMBS], rows[-LIMBS:]
        other = [builder.sub(row(2 * p), one) for one, p in zip(t, _P, strict=True)]
        chosen = [builder.select(negative, two, one) for one, two in zip(plus, minus, strict=True)]
        chosen += [builder.select(negative, one, two) for one, two in zip(plus, minus, strict=True)]
        chosen += rows[2 * LIMBS : -LIMBS]
        chosen += [builder.select(negative, two, one) for one, two in zip(t, other, strict=True)]
        store(builder, out, chosen)

    return _operation(3, emit)


ENTRY: Final = 4 * NUMBER  # a point's entry in a table that each lane has of its own
SHARED_ENTRY: Final = 3 * LIMBS * 8  # an entry of the table that all lanes share: Z is 1
_doubled_point = _operation(2, _emit_doubled)
_summed_point = _operation(2, _emit_summed)
_pick_own = _pick(4, 8 * LANES, 8)
_pick_shared = _pick(3, 8, 0)


@njit(types.void(ADDRESS, types.boolean), nogil=True, cache=True)
def _multiply_out(point: Any, with_t: Any) -> None:
    """E, H, G, F at ``point`` -> X, Y, Z and, if asked for, T."""
    h, g, f = point + np.uint64(NUMBER), point + np.uint64(2 * NUMBER), point + np.uint64(3 * NUMBER)
    if with_t:
        _mul(point + np.uint64(4 * NUMBER), point, h)
    _mul(point, point, f)
    _mul(h, h, g)
    _mul(g, g, f)


@njit(types.void(ADDRESS, ADDRESS, types.boolean), nogil=True, cache=True)
def double_point(point: Any, spare: Any, with_t: Any) -> None:
    """``spare``: room for four numbers, here and below."""
    y, z = point + np.uint64(NUMBER), point + np.uint64(2 * NUMBER)
    _square(spare, point)
    _square(spare + np.uint64(NUMBER), y)
    _square(spare + np.uint64(2 * NUMBER), z)
    _square_sum(spare + np.uint64(3 * NUMBER), point, y)
    _doubled_point(point, spare)
    _multiply_out(point, with_t)


@njit(types.void(ADDRESS, ADDRESS, ADDRESS, types.boolean), nogil=True, cache=True)
def add_entry(point: Any, entry: Any, spare: Any, with_t: Any) -> None:
    """``entry``: Y+X, Y-X, Z, 2dT."""
    y, z, t = point + np.uint64(NUMBER), point + np.uint64(2 * NUMBER), point + np.uint64(4 * NUMBER)
    _mul_sum(spare, y, point, entry)
    _mul_difference(spare + np.uint64(NUMBER), y, point, entry + np.uint64(NUMBER))
    _mul(spare + np.uint64(2 * NUMBER), z, entry + np.uint64(2 * NUMBER))
    _mul(spare + np.uint64(3 * NUMBER), t, entry + np.uint64(3 * NUMBER))
    _summed_point(point, spare)
    _multiply_out(point, with_t)


@njit(types.void(ADDRESS, ADDRESS, ADDRESS, types.boolean), nogil=True, cache=True)
def add_affine_entry(point: Any, entry: Any, spare: Any, with_t: Any) -> None:
    """``entry``: Y+X, Y-X, 2dT of a point whose Z is 1."""
    y, z, t = point + np.uint64(NUMBER), point + np.uint64(2 * NUMBER), point + np.uint64(4 * NUMBER)
    _mul_sum(spare, y, point, entry)
    _mul_difference(spare + np.uint64(NUMBER), y, point, entry + np.uint64(NUMBER))
    _mul(spare + np.uint64(3 * NUMBER), t, entry + np.uint64(2 * NUMBER))
    copy(spare + np.uint64(2 * NUMBER), z)
    _summed_point(point, spare)
    _multiply_out(point, with_t)


@njit(_three, nogil=True, cache=True)
def pick_own(out: Any, table: Any, choice: Any) -> None:
    _pick_own(out, table, choice)


@njit(_three, nogil=True, cache=True)
def pick_shared(out: Any, table: Any, choice: Any) -> None:
    _pick_shared(out, table, choice)
