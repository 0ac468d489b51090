"""Arithmetic modulo the order of secp256k1's group on whole integers of 256 bits, as LLVM has them.

Numbers in memory are 32 bytes, little-endian; arguments are their addresses. The inverses of a batch are one inversion
(Montgomery's trick), of numbers that are not zero modulo a prime.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir

from nodewright.kernels.compiled.sha256 import BYTES
from nodewright.kernels.compiled.tools import cgutils, intrinsic, njit, types

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
LAMBDA: Final = 0x5363AD4CC05C30E0A5261C028812645A122E22EA20816678DF02967C1B23BD72
# Short vectors (a, b) with a + b lambda = 0 modulo the order: (A1, -B1) and (A2, A1).
A1: Final = 0x3086D221A7D46BCDE86C90E49284EB15
B1: Final = 0xE4437ED6010E88286F547FA90ABFE4C3
A2: Final = 0x114CA50F7A8E2F3F657C1108D9D44CFD8
SCALARS: Final = 68  # bytes of one item: u 32, the halves of v 17 each, their signs 1 each

_FIRST: Final = ((A1 << 384) + ORDER // 2) // ORDER
_SECOND: Final = ((B1 << 384) + ORDER // 2) // ORDER
_LACK: Final = 2**256 - ORDER
_NUMBER = ir.IntType(256)
_WIDE = ir.IntType(512)
ADDRESS = types.uintp
ORDER_BYTES: Final = np.frombuffer(ORDER.to_bytes(32, "big"), np.uint8)


def _load(builder: Any, address: Any) -> Any:
    one = builder.load(builder.inttoptr(address, _NUMBER.as_pointer()))
    one.align = 1
    return one


def _store(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def _folded(builder: Any, wide: Any) -> Any:
    """What is above 2^256, times what the order lacks to it, added to what is below."""
    above = builder.lshr(wide, ir.Constant(_WIDE, 256))
    below = builder.zext(builder.trunc(wide, _NUMBER), _WIDE)
    return builder.add(builder.mul(above, ir.Constant(_WIDE, _LACK)), below)


def _below_order(builder: Any, number: Any) -> Any:
    """Of a number below twice the order, or below 2^256."""
    order = ir.Constant(_NUMBER, ORDER)
    return builder.select(builder.icmp_unsigned("<", number, order), number, builder.sub(number, order))


@intrinsic
def _mul(typing_context: Any, out: Any, left: Any, right: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into, one, other = arguments
        wide = builder.mul(*(builder.zext(_load(builder, each), _WIDE) for each in (one, other)))
        # 512 bits, then 386, then 258, then 256 and perhaps one more, whose rest is small.
        for _ in range(4):
            wide = _folded(builder, wide)
        _store(builder, into, _below_order(builder, builder.trunc(wide, _NUMBER)))
        return context.get_dummy_value()

    return types.void(*([ADDRESS] * 3)), generate


@intrinsic
def _read(typing_context: Any, out: Any, big_endian: Any) -> Any:
    """Modulo the order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        swap = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_NUMBER, [_NUMBER]), "llvm.bswap.i256")
        _store(builder, arguments[0], _below_order(builder, builder.call(swap, [_load(builder, arguments[1])])))
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS), generate


@intrinsic
def _halves(typing_context: Any, out: Any, number: Any) -> Any:
    """low + lambda high = number, each of 128 bits and a little: their absolute values, 17 bytes each, and their signs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into, v = arguments[0], _load(builder, arguments[1])
        wide = builder.zext(v, _WIDE)

        def times(factor: int) -> Any:
            product = builder.add(builder.mul(wide, ir.Constant(_WIDE, factor)), ir.Constant(_WIDE, 1 << 383))
            return builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 384)), _NUMBER)

        def part(of: Any, factor: int) -> Any:
            return builder.mul(of, ir.Constant(_NUMBER, factor))

        first, second = times(_FIRST), times(_SECOND)
        low = builder.sub(builder.sub(v, part(first, A1)), part(second, A2))
        high = builder.sub(part(first, B1), part(second, A1))
        zero = ir.Constant(_NUMBER, 0)
        word = zero
        for place, half in enumerate((low, high)):
            negative = builder.icmp_signed("<", half, zero)
            size = builder.select(negative, builder.sub(zero, half), half)
            word = builder.or_(builder.zext(word, _WIDE) if place == 0 else word, _at(builder, size, 136 * place))
            word = builder.or_(word, _at(builder, builder.zext(negative, _NUMBER), 272 + 8 * place))
        _store(builder, into, builder.trunc(word, ir.IntType(288)))
        return context.get_dummy_value()

    def _at(builder: Any, value: Any, bits: int) -> Any:
        return builder.shl(builder.zext(value, _WIDE), ir.Constant(_WIDE, bits))

    return types.void(ADDRESS, ADDRESS), generate


@njit(types.void(ADDRESS, ADDRESS, ADDRESS), nogil=True, cache=True)
def mul(out: Any, left: Any, right: Any) -> None:
    _mul(out, left, right)


@njit(types.void(types.uint8[:, ::1], types.uint8[:, ::1]), nogil=True, cache=True)
def _products(numbers: Any, before: Any) -> None:
    """``before[i]`` gets the product of all S below i; there is one more than items. The first is one already."""
    s = np.empty(32, np.uint8)
    at, into = np.uint64(s.ctypes.data), np.uint64(before.ctypes.data)
    read = np.uint64(numbers.ctypes.data)
    for item in range(numbers.shape[0]):
        _read(at, read + np.uint64(64 * item + 32))
        place = into + np.uint64(32 * item)
        mul(place + np.uint64(32), place, at)
    s[0] = 0


@njit(
    types.void(BYTES, types.uint8[:, ::1], types.uint8[:, ::1], types.uint8[::1], types.uint8[::1]), nogil=True, cache=True
)
def _split(digests: Any, numbers: Any, before: Any, inverse: Any, out: Any) -> None:
    """``inverse`` is that of the last product."""
    room = np.empty(96, np.uint8)
    own = np.uint64(room.ctypes.data)
    other, v = own + np.uint64(32), own + np.uint64(64)
    running, products = np.uint64(inverse.ctypes.data), np.uint64(before.ctypes.data)
    read, hashes, into = np.uint64(numbers.ctypes.data), np.uint64(digests.ctypes.data), np.uint64(out.ctypes.data)
    for item in range(numbers.shape[0] - 1, -1, -1):
        mul(own, running, products + np.uint64(32 * item))  # 1 / S
        _read(other, read + np.uint64(64 * item + 32))
        mul(running, running, other)
        place = into + np.uint64(SCALARS * item)
        _read(other, read + np.uint64(64 * item))
        mul(v, own, other)
        _halves(place + np.uint64(32), v)
        _read(other, hashes + np.uint64(32 * item))
        mul(place, own, other)
    room[0] = 0


def split(digests: Any, numbers: Any) -> Any:
    """Of each item (digest z of 32 bytes; R ‖ S, each from 1 to the order, (n, 64) uint8) ``SCALARS`` bytes: u = z / S, and
    the absolute values of the halves of v = R / S and their signs."""
    count = len(numbers)
    before = np.zeros((count + 1, 32), np.uint8)
    before[0, 0] = 1
    _products(numbers, before)
    inverse = pow(int.from_bytes(before[count].tobytes(), "little"), -1, ORDER)
    out = np.empty(SCALARS * count, np.uint8)
    _split(digests, numbers, before, np.frombuffer(bytearray(inverse.to_bytes(32, "little")), np.uint8), out)
    return out
