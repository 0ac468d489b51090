"""Arithmetic modulo p = 2^256 - 2^32 - 977 on four numbers side by side, in double precision.

A number has six limbs of 43 bits, the lowest first, each a whole number held exactly by a float64; limb i of four numbers
is one row of four, a number thus ``LIMBS`` rows of 32 bytes, aligned to 32. Limbs have signs, and the value may be any of
its class modulo p. All arguments are addresses of such numbers; results may overwrite arguments. Nothing here branches on
values.

A product of limbs is taken apart without error: rounding ``x * y + HIGH`` leaves a multiple of 2^43, and a second fused
multiplication gives what was rounded off, of at most 2^42. The roundings of one column are one chain, so that its sum has
to stay below half of ``HIGH``'s own last binade: 2^94.

Bounds. A limb of one unit is at most 2^42 and a little, the lowest one 1.6 times that; ``mul`` and ``square`` give one
unit. Products of units (added, where a reduction takes several products) may reach 140: the six terms of a column, of which
two have a lowest limb, are then below 7.2 * 140 * 2^84 < 2^94, and what is folded is a thousandth of it. Sums and
differences of numbers are not reduced: their units add up.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir

from nodewright.kernels.compiled.sha256 import FEATURES
from nodewright.kernels.compiled.tools import cgutils, intrinsic, njit, types

LANES: Final = 4
LIMBS: Final = 6
BITS: Final = 43
NUMBER: Final = LIMBS * LANES * 8  # bytes
P: Final = 2**256 - 2**32 - 977
# Without fused multiplication in vectors the plain loop over libsecp256k1 is as fast.
WORTH_IT: Final = bool(FEATURES.get("avx2") and FEATURES.get("fma"))

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F64 = ir.DoubleType()
_ROW = ir.VectorType(_F64, LANES)
_HIGH: Final = 1.5 * 2.0**95
_DOWN: Final = 2.0**-BITS
_FOLD: Final = float(4 * (2**32 + 977))  # 2^258 modulo p
ADDRESS: Final = types.uintp

Number = list[Any]
Pair = tuple[Any, Any]
Columns = list[list[Pair]]


def row(value: float) -> Any:
    return ir.Constant(_ROW, [value] * LANES)


def _pointer(builder: Any, address: Any, place: int) -> Any:
    return builder.gep(builder.inttoptr(address, _ROW.as_pointer()), [ir.Constant(_I32, place)])


def load(builder: Any, address: Any, count: int = LIMBS, first: int = 0) -> Number:
    rows = []
    for place in range(first, first + count):
        one = builder.load(_pointer(builder, address, place))
        one.align = 32
        rows.append(one)
    return rows


def store(builder: Any, address: Any, number: Number) -> None:
    for place, one in enumerate(number):
        builder.store(one, _pointer(builder, address, place)).align = 32


def _fma(builder: Any, x: Any, y: Any, plus: Any) -> Any:
    kind = ir.FunctionType(_ROW, [_ROW] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f64"), [x, y, plus])


def _scaled(builder: Any, number: Number, factor: float) -> Number:
    return [builder.fmul(one, row(factor)) for one in number]


def _difference(builder: Any, left: Number, right: Number) -> Number:
    return [builder.fsub(one, other) for one, other in zip(left, right, strict=True)]


# --- products ---------------------------------------------------------------------------------------------------------


def _products(left: Number, right: Number) -> Columns:
    columns: Columns = [[] for _ in range(2 * LIMBS - 1)]
    for at, one in enumerate(left):
        for other, factor in enumerate(right):
            columns[at + other].append((one, factor))
    return columns


def _squares(builder: Any, number: Number, factor: float = 1.0) -> Columns:
    """Of ``factor`` times the square."""
    columns: Columns = [[] for _ in range(2 * LIMBS - 1)]
    twice = _scaled(builder, number, 2 * factor)
    own = number if factor == 1.0 else _scaled(builder, number, factor)
    for at in range(LIMBS):
        columns[2 * at].append((number[at], own[at]))
        for other in range(at + 1, LIMBS):
            columns[at + other].append((twice[at], number[other]))
    return columns


def _column(builder: Any, pairs: list[Pair]) -> tuple[Any, Any]:
    """(what is below 2^43, what is above with HIGH on it) of the sum of these products."""
    above, low = row(_HIGH), None
    for x, y in pairs:
        after = _fma(builder, x, y, above)
        rest = _fma(builder, x, y, builder.fsub(above, after))
        low = rest if low is None else builder.fadd(low, rest)
        above = after
    return low, above


def _carry(builder: Any, above: Any, into: Any) -> Any:
    over = builder.fsub(above, row(_HIGH))
    return builder.fmul(over, row(_DOWN)) if into is None else _fma(builder, over, row(_DOWN), into)


def _reduced(builder: Any, columns: Columns) -> Number:
    """One unit. What stands above 2^258 is folded; then every limb gives its carry to the next, all at once."""
    fold = row(_FOLD)
    high: Number = []
    above = None
    for pairs in columns[LIMBS:]:
        low, after = _column(builder, pairs)
        high.append(low if above is None else _carry(builder, above, low))
        above = after
    high.append(_carry(builder, above, None))
    lows: Number = [None] * LIMBS
    aboves: Number = [None] * LIMBS
    for place in (LIMBS - 1, *range(LIMBS - 1)):
        lows[place], aboves[place] = _column(builder, [*columns[place], (high[place], fold)])
        if place == LIMBS - 1:
            high[0] = _carry(builder, aboves[place], high[0])
    limbs = [lows[0], *[_carry(builder, aboves[place - 1], lows[place]) for place in range(1, LIMBS)]]
    over = [builder.fsub(builder.fadd(one, row(_HIGH)), row(_HIGH)) for one in limbs]
    kept = [builder.fsub(one, part) for one, part in zip(limbs, over, strict=True)]
    wrapped = _fma(builder, over[-1], row(_DOWN * _FOLD), kept[0])
    return [wrapped, *[_fma(builder, over[place - 1], row(_DOWN), kept[place]) for place in range(1, LIMBS)]]


def _multiplied(builder: Any, left: Number, right: Number) -> Number:
    return _reduced(builder, _products(left, right))


def _squared(builder: Any, number: Number) -> Number:
    return _reduced(builder, _squares(builder, number))


def operation(arity: int, emit: Any) -> Any:
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


def _emit_square(builder: Any, out: Any, number: Any) -> None:
    store(builder, out, _squared(builder, load(builder, number)))


def _emit_subtract(builder: Any, out: Any, left: Any, right: Any) -> None:
    store(builder, out, _difference(builder, load(builder, left), load(builder, right)))


def _emit_copy(builder: Any, out: Any, number: Any) -> None:
    store(builder, out, load(builder, number))


_mul, _square = operation(3, _emit_mul), operation(2, _emit_square)
_copy, _subtract = operation(2, _emit_copy), operation(3, _emit_subtract)
_two, _three, _four = (types.void(*([ADDRESS] * count)) for count in (2, 3, 4))


@njit(_two, nogil=True, cache=True)
def copy(out: Any, number: Any) -> None:
    _copy(out, number)


@njit(_three, nogil=True, cache=True)
def subtract(out: Any, left: Any, right: Any) -> None:
    """As many units as both have."""
    _subtract(out, left, right)


@njit(_three, nogil=True, cache=True)
def mul(out: Any, left: Any, right: Any) -> None:
    _mul(out, left, right)


@njit(_two, nogil=True, cache=True)
def square(out: Any, number: Any) -> None:
    _square(out, number)


# --- points on the curve ----------------------------------------------------------------------------------------------
# Jacobian coordinates of y^2 = x^3 + 7 and of its images (x u^2, y u^3): no formula here has the 7. A point is three
# numbers: X and Y of at most nine units, Z of two. Z is zero for good once a sum was asked for that these formulas do not
# have (of a point with itself or its opposite): who uses the result has to look.


def _at(builder: Any, address: Any, number: int) -> Any:
    return builder.add(address, ir.Constant(_I64, number * NUMBER))


def _joined(left: Columns, right: Columns) -> Columns:
    return [one + other for one, other in zip(left, right, strict=True)]


def _emit_double(builder: Any, point: Any, ignored: Any) -> None:
    x, y, z = (load(builder, _at(builder, point, number)) for number in range(3))
    store(builder, _at(builder, point, 2), _multiplied(builder, _scaled(builder, z, 2.0), y))  # 2 * 9
    s = _squared(builder, y)  # 81
    m = _scaled(builder, _squared(builder, x), 3.0)  # 81; three units
    product = _multiplied(builder, x, s)  # 9
    new_x = _difference(builder, _squared(builder, m), _scaled(builder, product, 8.0))  # 9; nine units
    store(builder, point, new_x)
    rest = _difference(builder, _scaled(builder, product, 4.0), new_x)  # thirteen units
    new_y = _reduced(builder, _joined(_products(m, rest), _squares(builder, s, -8.0)))  # 3 * 13 + 8
    store(builder, _at(builder, point, 1), new_y)


def _select(builder: Any, mask: Any, yes: Number, no: Number) -> Number:
    return [builder.select(mask, one, other) for one, other in zip(yes, no, strict=True)]


def _added(builder: Any, point: Any, entry: Any, choice: Any, scale: Any | None = None, ratio: Any | None = None) -> None:
    """Point + entry (x, y: of at most four units). Where the third row of ``choice`` is 1 the point stays as it is, where
    the fourth is 1 it is none yet, and becomes the entry. ``scale``: the entry is on the curve itself, the point on its
    image by that number. ``ratio`` gets by what Z was multiplied (ten units)."""
    x, y, z = (load(builder, _at(builder, point, number)) for number in range(3))
    other_x, other_y = (load(builder, _at(builder, entry, number)) for number in range(2))
    keeps, empty = load(builder, choice, 2, 2)
    zero = row(0.0)
    keeps, empty = (builder.fcmp_unordered("!=", one, zero) for one in (keeps, empty))
    one = [row(1.0), *[zero] * (LIMBS - 1)]
    z = _select(builder, empty, one, z)
    whole = z if scale is None else _multiplied(builder, z, load(builder, scale))
    zz = _squared(builder, whole)  # 4
    zzz = _multiplied(builder, zz, whole)
    u = _multiplied(builder, zz, other_x)
    s = _multiplied(builder, zzz, other_y)
    h = _difference(builder, u, x)  # ten units, as is r
    if ratio is not None:
        store(builder, ratio, h)
    r = _difference(builder, s, y)
    hh = _squared(builder, h)  # 100
    hhh = _multiplied(builder, hh, h)
    v = _multiplied(builder, hh, x)
    new_z = _multiplied(builder, z, h)
    new_x = _difference(builder, _difference(builder, _squared(builder, r), hhh), _scaled(builder, v, 2.0))  # four units
    rest = _difference(builder, v, new_x)  # five units
    minus = _scaled(builder, hhh, -1.0)
    new_y = _reduced(builder, _joined(_products(r, rest), _products(y, minus)))  # 10 * 5 + 9
    for number, (new, old, first) in enumerate(((new_x, x, u), (new_y, y, s), (new_z, z, one))):
        chosen = _select(builder, keeps, old, _select(builder, empty, first, new))
        store(builder, _at(builder, point, number), chosen)


def _emit_add(builder: Any, point: Any, entry: Any, choice: Any) -> None:
    _added(builder, point, entry, choice)


def _emit_add_scaled(builder: Any, point: Any, entry: Any, choice: Any, scale: Any) -> None:
    _added(builder, point, entry, choice, scale)


def _emit_add_ratio(builder: Any, point: Any, entry: Any, choice: Any, ratio: Any) -> None:
    _added(builder, point, entry, choice, None, ratio)


def _picked(builder: Any, table: Any, offsets: list[Any], place: int, stride: int, apart: int) -> Any:
    """One row: the limb of each lane's entry."""
    found = ir.Constant(_ROW, ir.Undefined)
    for lane, offset in enumerate(offsets):
        at = builder.add(builder.add(table, offset), ir.Constant(_I64, place * stride + lane * apart))
        limb = builder.load(builder.inttoptr(at, _F64.as_pointer()))
        limb.align = 8
        found = builder.insert_element(found, limb, ir.Constant(_I32, lane))
    return found


def _pick(y_at: int, stride: int, apart: int) -> Any:
    """For each lane x and y of its own entry, y with the sign that it is given. ``choice``: one row of offsets in bytes (as
    int64), one of signs, and the two of ``_added``."""

    def emit(builder: Any, out: Any, table: Any, choice: Any) -> None:
        base = builder.inttoptr(choice, _I64.as_pointer())
        offsets = [builder.load(builder.gep(base, [ir.Constant(_I32, lane)])) for lane in range(LANES)]
        (signs,) = load(builder, choice, 1, 1)
        x = [_picked(builder, table, offsets, place, stride, apart) for place in range(LIMBS)]
        y = [_picked(builder, table, offsets, y_at + place, stride, apart) for place in range(LIMBS)]
        store(builder, out, [*x, *[builder.fmul(one, signs) for one in y]])

    return operation(3, emit)


ENTRY: Final = 3 * NUMBER  # of a table that each lane has of its own: x, x beta, y
SHARED_ENTRY: Final = 2 * LIMBS * 8  # of a table that all lanes share: x, y
_double, _add = operation(2, _emit_double), operation(3, _emit_add)
_add_scaled, _add_ratio = operation(4, _emit_add_scaled), operation(4, _emit_add_ratio)
_pick_own, _pick_beta, _pick_shared = _pick(2 * LIMBS, 8 * LANES, 8), _pick(LIMBS, 8 * LANES, 8), _pick(LIMBS, 8, 0)


@njit(types.void(ADDRESS), nogil=True, cache=True)
def double_point(point: Any) -> None:
    _double(point, point)


@njit(_three, nogil=True, cache=True)
def add_entry(point: Any, entry: Any, choice: Any) -> None:
    """See ``_added``."""
    _add(point, entry, choice)


@njit(_four, nogil=True, cache=True)
def add_scaled_entry(point: Any, entry: Any, choice: Any, scale: Any) -> None:
    _add_scaled(point, entry, choice, scale)


@njit(_four, nogil=True, cache=True)
def add_entry_ratio(point: Any, entry: Any, choice: Any, ratio: Any) -> None:
    _add_ratio(point, entry, choice, ratio)


@njit(_three, nogil=True, cache=True)
def pick_own(out: Any, table: Any, choice: Any) -> None:
    _pick_own(out, table, choice)


@njit(_three, nogil=True, cache=True)
def pick_beta(out: Any, table: Any, choice: Any) -> None:
    """The same with beta times x: ``table`` is where the first entry's second number is."""
    _pick_beta(out, table, choice)


@njit(_three, nogil=True, cache=True)
def pick_shared(out: Any, table: Any, choice: Any) -> None:
    _pick_shared(out, table, choice)
