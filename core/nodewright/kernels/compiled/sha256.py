"""SHA-256 (FIPS 180-4) of many messages at once, as explicit machine operations.

Two ways, chosen once by what the processor has: the x86 SHA extensions (one message after another, the processor
overlaps them), or ``LANES`` messages side by side in vector registers. LLVM's own vectoriser finds neither, so both
compression functions are emitted as IR.

Shapes: ``data`` is one uint8 buffer; message i is ``data[starts[i]:ends[i]]``; ``out`` is (n, 32) uint8.
"""

from __future__ import annotations

import struct
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from nodewright.kernels.compiled.tools import cgutils, config, intrinsic, njit, types

ROUND_CONSTANTS = struct.unpack(
    ">64I",
    bytes.fromhex(
        "428a2f9871374491b5c0fbcfe9b5dba53956c25b59f111f1923f82a4ab1c5ed5d807aa9812835b01243185be550c7dc3"
        "72be5d7480deb1fe9bdc06a7c19bf174e49b69c1efbe47860fc19dc6240ca1cc2de92c6f4a7484aa5cb0a9dc76f988da"
        "983e5152a831c66db00327c8bf597fc7c6e00bf3d5a7914706ca63511429296727b70a852e1b21384d2c6dfc53380d13"
        "650a7354766a0abb81c2c92e92722c85a2bfe8a1a81a664bc24b8b70c76c51a3d192e819d6990624f40e3585106aa070"
        "19a4c1161e376c082748774c34b0bcb5391c0cb34ed8aa4a5b9cca4f682e6ff3748f82ee78a5636f84c878148cc70208"
        "90befffaa4506cebbef9a3f7c67178f2"
    ),
)
START = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)
# The SHA instructions hold the state as two vectors (F E B A, H G D C from the lowest element up).
NI_ORDER = np.array([5, 4, 1, 0, 7, 6, 3, 2], np.int64)
NI_PLACE = np.argsort(NI_ORDER)  # where each of the eight words lies
NI_START = START[NI_ORDER]


def _host_features() -> dict[str, bool]:
    if config.CPU_NAME or config.CPU_FEATURES is not None:
        return {}  # somebody pinned the target: emit only what every target has
    return dict(llvm.get_host_cpu_features())


FEATURES = _host_features()
HAS_SHA_NI = bool(FEATURES.get("sha") and FEATURES.get("ssse3"))
LANES = 16 if FEATURES.get("avx512f") else 8

_I32 = ir.IntType(32)
_I8P = ir.IntType(8).as_pointer()
_QUAD = ir.VectorType(_I32, 4)
_WIDE = ir.VectorType(_I32, LANES)


def _rows(builder: Any, address: Any, kind: Any, count: int) -> list[Any]:
    base = builder.inttoptr(address, kind.as_pointer())
    return [builder.gep(base, [ir.Constant(_I32, row)]) for row in range(count)]


def _load(builder: Any, pointer: Any, align: int) -> Any:
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder: Any, value: Any, pointer: Any, align: int) -> None:
    builder.store(value, pointer).align = align


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def _compress_ni(typing_context: Any, state: Any, block: Any) -> Any:
    """One 64-byte block through the SHA extensions. Both arguments are addresses; the state is in ``NI_ORDER``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        state_rows = _rows(builder, arguments[0], _QUAD, 2)
        abef, cdgh = (_load(builder, row, 4) for row in state_rows)
        start_abef, start_cdgh = abef, cdgh
        words = [
            _call(builder, "llvm.bswap.v4i32", _QUAD, [_load(builder, row, 1)])
            for row in _rows(builder, arguments[1], _QUAD, 4)
        ]
        undefined = ir.Constant(_QUAD, ir.Undefined)
        upper = ir.Constant(_QUAD, [ir.Constant(_I32, index) for index in (2, 3, 0, 0)])
        shifted = ir.Constant(_QUAD, [ir.Constant(_I32, index) for index in (1, 2, 3, 4)])
        for group in range(16):
            if group >= 4:
                partial = _call(builder, "llvm.x86.sha256msg1", _QUAD, [words[group - 4], words[group - 3]])
                middle = builder.shuffle_vector(words[group - 2], words[group - 1], shifted)
                partial = builder.add(partial, middle)
                words.append(_call(builder, "llvm.x86.sha256msg2", _QUAD, [partial, words[group - 1]]))
            constants = ir.Constant(_QUAD, [ir.Constant(_I32, k) for k in ROUND_CONSTANTS[4 * group : 4 * group + 4]])
            keyed = builder.add(words[group], constants)
            cdgh = _call(builder, "llvm.x86.sha256rnds2", _QUAD, [cdgh, abef, keyed])
            keyed = builder.shuffle_vector(keyed, undefined, upper)
            abef = _call(builder, "llvm.x86.sha256rnds2", _QUAD, [abef, cdgh, keyed])
        _store(builder, builder.add(abef, start_abef), state_rows[0], 4)
        _store(builder, builder.add(cdgh, start_cdgh), state_rows[1], 4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def _compress_lanes(typing_context: Any, state: Any, words: Any) -> Any:
    """``LANES`` blocks at once: state (8, LANES) and words (16, LANES) of u32, both given by address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(value: int) -> Any:
            return ir.Constant(_WIDE, [ir.Constant(_I32, value)] * LANES)

        def rotate_right(value: Any, count: int) -> Any:
            return _call(builder, f"llvm.fshr.v{LANES}i32", _WIDE, [value, value, constant(count)])

        def three(value: Any, first: int, second: int, third: Any) -> Any:
            return builder.xor(builder.xor(rotate_right(value, first), rotate_right(value, second)), third)

        state_rows = _rows(builder, arguments[0], _WIDE, 8)
        schedule = [_load(builder, row, 4) for row in _rows(builder, arguments[1], _WIDE, 16)]
        before = [_load(builder, row, 4) for row in state_rows]
        a, b, c, d, e, f, g, h = before
        for index in range(64):
            slot = index % 16
            if index >= 16:
                near, far = schedule[(index - 15) % 16], schedule[(index - 2) % 16]
                low = three(near, 7, 18, builder.lshr(near, constant(3)))
                high = three(far, 17, 19, builder.lshr(far, constant(10)))
                carried = builder.add(schedule[slot], schedule[(index - 7) % 16])
                schedule[slot] = builder.add(carried, builder.add(low, high))
            choice = builder.xor(g, builder.and_(e, builder.xor(f, g)))
            first = builder.add(builder.add(h, three(e, 6, 11, rotate_right(e, 25))), choice)
            first = builder.add(first, builder.add(schedule[slot], constant(ROUND_CONSTANTS[index])))
            majority = builder.or_(builder.and_(a, b), builder.and_(c, builder.or_(a, b)))
            second = builder.add(three(a, 2, 13, rotate_right(a, 22)), majority)
            a, b, c, d, e, f, g, h = builder.add(first, second), a, b, c, builder.add(d, first), e, f, g
        for row, old, new in zip(state_rows, before, (a, b, c, d, e, f, g, h), strict=True):
            _store(builder, builder.add(old, new), row, 4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


BYTES = types.Array(types.uint8, 1, "C", readonly=True)
RANGES = types.void(BYTES, types.int64[::1], types.int64[::1], types.boolean, types.uint8[:, ::1])


def _ranges_ni(data: Any, starts: Any, ends: Any, double: Any, out: Any) -> None:
    state = np.empty(8, np.uint32)
    tail = np.empty(128, np.uint8)
    state_at, tail_at = np.uintp(state.ctypes.data), np.uintp(tail.ctypes.data)
    data_at = np.uintp(data.ctypes.data)
    for item in range(starts.shape[0]):
        start, length = starts[item], ends[item] - starts[item]
        for i in range(8):
            state[i] = NI_START[i]
        whole = length // 64
        for block in range(whole):
            _compress_ni(state_at, data_at + np.uintp(start + 64 * block))
        rest = length - 64 * whole
        used = 64 if rest < 56 else 128
        for i in range(rest):
            tail[i] = data[start + 64 * whole + i]
        tail[rest] = 0x80
        for i in range(rest + 1, used - 8):
            tail[i] = 0
        bits = np.uint64(8 * length)
        for i in range(8):
            tail[used - 1 - i] = (bits >> np.uint64(8 * i)) & np.uint64(255)
        _compress_ni(state_at, tail_at)
        if used == 128:
            _compress_ni(state_at, tail_at + np.uintp(64))
        if double:
            for i in range(8):
                word = state[NI_PLACE[i]]
                at = 4 * i
                tail[at], tail[at + 1] = (word >> 24) & 255, (word >> 16) & 255
                tail[at + 2], tail[at + 3] = (word >> 8) & 255, word & 255
            tail[32] = 0x80
            for i in range(33, 62):
                tail[i] = 0
            tail[62], tail[63] = 1, 0
            for i in range(8):
                state[i] = NI_START[i]
            _compress_ni(state_at, tail_at)
        for i in range(8):
            word = state[NI_PLACE[i]]
            out[item, 4 * i], out[item, 4 * i + 1] = (word >> 24) & 255, (word >> 16) & 255
            out[item, 4 * i + 2], out[item, 4 * i + 3] = (word >> 8) & 255, word & 255


@njit(nogil=True, cache=True)
def _padded_word(data: Any, start: Any, length: Any, blocks: Any, position: Any) -> Any:
    """Big-endian word ``position`` of the padded message."""
    bits = np.uint64(8 * length)
    if position == 16 * blocks - 1:
        return np.uint32(bits & np.uint64(0xFFFFFFFF))
    if position == 16 * blocks - 2:
        return np.uint32(bits >> np.uint64(32))
    word = np.uint32(0)
    for i in range(4):
        at = 4 * position + i
        byte = np.uint32(0)
        if at < length:
            byte = np.uint32(data[start + at])
        elif at == length:
            byte = np.uint32(0x80)
        word = np.uint32(word << 8) | byte
    return word


def _ranges_lanes(data: Any, starts: Any, ends: Any, double: Any, out: Any) -> None:
    count = starts.shape[0]
    blocks = np.empty(count, np.int64)
    for item in range(count):
        blocks[item] = (ends[item] - starts[item] + 9 + 63) // 64
    order = np.argsort(blocks, kind="mergesort")  # lanes advance together: group messages of as many blocks
    state = np.empty((8, LANES), np.uint32)
    words = np.empty((16, LANES), np.uint32)
    state_at, words_at = np.uintp(state.ctypes.data), np.uintp(words.ctypes.data)
    at = 0
    while at < count:
        size = blocks[order[at]]
        width = 1
        while width < LANES and at + width < count and blocks[order[at + width]] == size:
            width += 1
        for i in range(8):
            state[i, :] = START[i]
        for block in range(size):
            for lane in range(LANES):
                item = order[at + min(lane, width - 1)]
                for i in range(16):
                    words[i, lane] = _padded_word(data, starts[item], ends[item] - starts[item], size, 16 * block + i)
            _compress_lanes(state_at, words_at)
        if double:
            words[:8, :] = state
            words[8:, :] = 0
            words[8, :] = 0x80000000
            words[15, :] = 256
            for i in range(8):
                state[i, :] = START[i]
            _compress_lanes(state_at, words_at)
        for lane in range(width):
            item = order[at + lane]
            for i in range(8):
                word = state[i, lane]
                out[item, 4 * i], out[item, 4 * i + 1] = (word >> 24) & 255, (word >> 16) & 255
                out[item, 4 * i + 2], out[item, 4 * i + 3] = (word >> 8) & 255, word & 255
        at += width


def compile_lanes() -> Any:
    """The portable kernel, whatever the processor (what a test compares beside the chosen one)."""
    return njit(RANGES, nogil=True, cache=True)(_ranges_lanes)


sha256_ranges = njit(RANGES, nogil=True, cache=True)(_ranges_ni if HAS_SHA_NI else _ranges_lanes)
