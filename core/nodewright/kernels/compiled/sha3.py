"""SHA3-256 (FIPS 202) of many messages at once: Keccak-f[1600] with one message in each lane of the vector registers.

LLVM's vectoriser does not find this, so that the permutation is emitted as IR: 25 vectors of ``LANES`` 64-bit words, two
rounds in a loop (all 24 unrolled no longer fit the caches of decoded instructions and cost a third).

Shapes: a state is (25, LANES) u64, word i of the sponge in row i. ``data`` is one uint8 buffer; message i is ``prefix`` ‖
``data[starts[i]:ends[i]]``; ``out`` is (n, 32) uint8. Import through ``nodewright.kernels.warm_up`` only.

Words are little-endian, as SHA3 has them and as every processor is that numba compiles for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from nodewright.kernels.compiled.sha256 import FEATURES
from nodewright.kernels.compiled.tools import cgutils, intrinsic, njit, types

# One full register a word with AVX-512, two words in one with SSE2: four lanes are two SSE2 registers or one of AVX2.
LANES = 8 if FEATURES.get("avx512f") else 4
RATE = 136  # bytes absorbed by one permutation
ROUNDS_AT_ONCE = 2

# Rotation of word (x, y), FIPS 202 table 2, [x][y].
ROTATIONS = (
    (0, 36, 3, 41, 18),
    (1, 44, 10, 45, 2),
    (62, 6, 43, 15, 61),
    (28, 55, 25, 21, 56),
    (27, 20, 39, 8, 14),
)


def _round_constants() -> list[int]:
    """FIPS 202, 3.2.5: the bits of a linear feedback shift register at the places 2**j - 1."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << (2**j - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return constants


ROUND_CONSTANTS = _round_constants()

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def _wide(lanes: int) -> Any:
    return ir.VectorType(_I64, lanes)


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 1
    return value


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(_wide(lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _pick(builder: Any, first: Any, second: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """n vectors of n words; n a power of two. Swaps blocks of half the size in each step."""
    lanes = len(rows)
    step = lanes // 2
    while step:
        for row in range(lanes):
            if not row & step:
                first, second = rows[row], rows[row + step]
                low = [i if not i & step else i - step + lanes for i in range(lanes)]
                high = [i + step if not i & step else i + lanes for i in range(lanes)]
                rows[row], rows[row + step] = _pick(builder, first, second, low), _pick(builder, first, second, high)
        step //= 2
    return rows


# Word (x, y) before the permutation of places (pi) that stands at (X, Y) after it.
SOURCES = {(y, (2 * x + 3 * y) % 5): (x, y) for x in range(5) for y in range(5)}


def _parity(builder: Any, words: list[Any]) -> list[Any]:
    """The exclusive or of each column."""
    columns = words[:5]
    for y in range(1, 5):
        columns = [builder.xor(column, word) for column, word in zip(columns, words[5 * y : 5 * y + 5], strict=True)]
    return columns


def _round(builder: Any, words: list[Any], columns: list[Any], constant: Any, lanes: int) -> tuple[list[Any], list[Any]]:
    """One round on 25 vectors; word (x, y) is ``words[x + 5 * y]``. Takes and answers the columns' parities too: plane
    after plane is finished and added to them, so that few words are wanted at a time (and a fifth less is spilled)."""
    kind = ir.FunctionType(_wide(lanes), [_wide(lanes)] * 3)
    rotate = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshl.v{lanes}i64")

    def rotated(value: Any, count: int) -> Any:
        return builder.call(rotate, [value, value, ir.Constant(_wide(lanes), [count] * lanes)]) if count else value

    mixed = [builder.xor(columns[x - 1], rotated(columns[(x + 1) % 5], 1)) for x in range(5)]
    after: list[Any] = []
    parity: list[Any] = []
    for plane in range(5):
        moved = []
        for place in range(5):
            x, y = SOURCES[place, plane]
            moved.append(rotated(builder.xor(words[x + 5 * y], mixed[x]), ROTATIONS[x][y]))
        for place in range(5):
            taken = builder.and_(builder.not_(moved[(place + 1) % 5]), moved[(place + 2) % 5])
            word = builder.xor(moved[place], taken)
            if not after:
                word = builder.xor(word, constant)
            after.append(word)
            if plane:
                parity[place] = builder.xor(parity[place], word)
            else:
                parity.append(word)
    return after, parity


def _keccak(builder: Any, words: list[Any], lanes: int) -> list[Any]:
    """Keccak-f[1600] on 25 vectors; leaves the builder in a new block."""
    # 25 words are more than there are registers. What is spilled must not straddle cache lines: a quarter slower.
    builder.function.attributes.add("nounwind")  # true of all code here; llvmlite prints no alignment alone
    builder.function.attributes.alignstack = 64
    kind = ir.ArrayType(_I64, 24)
    table = cgutils.global_constant(builder.module, "keccak_round_constants", ir.Constant(kind, ROUND_CONSTANTS))
    carried = [*words, *_parity(builder, words)]
    entry, rounds, done = builder.block, builder.append_basic_block("rounds"), builder.append_basic_block("done")
    builder.branch(rounds)
    builder.position_at_end(rounds)
    index = builder.phi(_I64)
    index.add_incoming(ir.Constant(_I64, 0), entry)
    phis = []
    for word in carried:
        phi = builder.phi(_wide(lanes))
        phi.add_incoming(word, entry)
        phis.append(phi)
    words, columns = phis[:25], phis[25:]
    for step in range(ROUNDS_AT_ONCE):
        at = builder.gep(table, [ir.Constant(_I64, 0), builder.add(index, ir.Constant(_I64, step))])
        words, columns = _round(builder, words, columns, _splat(builder, builder.load(at), lanes), lanes)
    following = builder.add(index, ir.Constant(_I64, ROUNDS_AT_ONCE))
    index.add_incoming(following, rounds)
    for phi, word in zip(phis, [*words, *columns], strict=True):
        phi.add_incoming(word, rounds)
    builder.cbranch(builder.icmp_unsigned("<", following, ir.Constant(_I64, 24)), rounds, done)
    builder.position_at_end(done)
    return words


def _addresses(builder: Any, list_at: Any, lanes: int) -> list[Any]:
    """The ``lanes`` addresses that lie at an address."""
    base = builder.inttoptr(list_at, _I64.as_pointer())
    return [builder.load(builder.gep(base, [ir.Constant(_I64, lane)])) for lane in range(lanes)]


def _columns(builder: Any, sources: list[Any], words: int) -> list[Any]:
    """Words 0 to ``words`` of each lane's message as vectors over the lanes; none read beyond them."""
    lanes = len(sources)
    rows = []
    whole = words - words % lanes
    for first in range(0, whole, lanes):
        place = ir.Constant(_I64, 8 * first)
        pieces = [
            _load(builder, builder.inttoptr(builder.add(source, place), _wide(lanes).as_pointer())) for source in sources
        ]
        rows += _transpose(builder, pieces)
    for word in range(whole, words):
        row = ir.Constant(_wide(lanes), ir.Undefined)
        for lane, source in enumerate(sources):
            place = builder.add(source, ir.Constant(_I64, 8 * word))
            one = _load(builder, builder.inttoptr(place, _I64.as_pointer()))
            row = builder.insert_element(row, one, ir.Constant(_I32, lane))
        rows.append(row)
    return rows


def _emit(builder: Any, words: list[Any], targets: list[Any]) -> None:
    """The digests (words 0 to 3) of all lanes to their addresses."""
    lanes = len(targets)
    undefined = ir.Constant(_wide(lanes), ir.Undefined)
    digests = _transpose(builder, words[:4] + [undefined] * (lanes - 4))
    for digest, target in zip(digests, targets, strict=True):
        kept = digest if lanes == 4 else _pick(builder, digest, undefined, [0, 1, 2, 3])
        builder.store(kept, builder.inttoptr(target, _wide(4).as_pointer())).align = 1


def spliced(lanes: int, head_bytes: int, size: int) -> Any:
    """An intrinsic ``hash(head, sources, targets)``: SHA3-256 of ``head_bytes`` bytes at ``head`` (whole words, the last
    filled up with zeroes) followed by ``size`` at each source, 32 bytes to each target. Both lengths are known here, so
    that nothing is copied to be joined or padded: words are loaded from where they stand, and the two that are not whole
    are shifted into place."""
    if size < 8:
        raise ValueError("a message of fewer than 8 bytes is not read so")
    total = head_bytes + size
    first, bits, end = head_bytes // 8, head_bytes % 8 * 8, total // 8

    def splat(value: int) -> Any:
        return ir.Constant(_wide(lanes), [value] * lanes)

    def single(builder: Any, sources: list[Any], offset: int) -> Any:
        """The word at an offset of each source."""
        return _columns(builder, [builder.add(source, ir.Constant(_I64, offset)) for source in sources], 1)[0]

    def message(builder: Any, head: Any, sources: list[Any]) -> list[Any]:
        """All whole words, and the one where the padding begins."""
        begin = builder.inttoptr(head, _I64.as_pointer())
        words = [
            _splat(builder, _load(builder, builder.gep(begin, [ir.Constant(_I64, word)])), lanes)
            for word in range(first + bool(bits))
        ]
        if bits:
            words[first] = builder.or_(words[first], builder.shl(single(builder, sources, 0), splat(bits)))
        moved = [builder.add(source, ir.Constant(_I64, 8 * len(words) - head_bytes)) for source in sources]
        words += _columns(builder, moved, end - len(words))
        rest = total % 8
        if not rest:
            return [*words, splat(6)]
        last = builder.lshr(single(builder, sources, size - 8), splat(8 * (8 - rest)))
        return [*words, builder.or_(last, splat(6 << 8 * rest))]

    @intrinsic
    def hash_spliced(typing_context: Any, head: Any, sources: Any, targets: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rate = RATE // 8
            words = message(builder, arguments[0], _addresses(builder, arguments[1], lanes))
            words += [splat(0)] * (-len(words) % rate)
            words[-1] = builder.xor(words[-1], splat(1 << 63))
            state = _keccak(builder, [*words[:rate], *[splat(0)] * (25 - rate)], lanes)
            for at in range(rate, len(words), rate):
                taken = [builder.xor(word, new) for word, new in zip(state, words[at : at + rate], strict=False)]
                state = _keccak(builder, [*taken, *state[rate:]], lanes)
            _emit(builder, state, _addresses(builder, arguments[2], lanes))
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), codegen

    return hash_spliced


def intrinsics(lanes: int) -> tuple[Any, Any]:
    """(hash_pairs, absorb) for 4 or 8 lanes. Both take addresses of ``lanes`` addresses.

    ``hash_pairs(prefix, sources, targets)``: SHA3-256 of 32 bytes at ``prefix`` followed by 64 at each source, 32 bytes
    to each target: one permutation. ``absorb(state, sources)``: 136 bytes of each source into the state, permuted."""

    @intrinsic
    def hash_pairs(typing_context: Any, prefix: Any, sources: Any, targets: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            head = builder.inttoptr(arguments[0], _I64.as_pointer())
            words = [
                _splat(builder, _load(builder, builder.gep(head, [ir.Constant(_I64, word)])), lanes) for word in range(4)
            ]
            words += _columns(builder, _addresses(builder, arguments[1], lanes), 8)
            # 96 bytes: the padding begins in word 12 and ends with the rate, in word 16.
            words += [ir.Constant(_wide(lanes), [{12: 6, 16: 1 << 63}.get(word, 0)] * lanes) for word in range(12, 25)]
            words = _keccak(builder, words, lanes)
            _emit(builder, words, _addresses(builder, arguments[2], lanes))
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), codegen

    @intrinsic
    def absorb(typing_context: Any, state: Any, sources: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base = builder.inttoptr(arguments[0], _wide(lanes).as_pointer())
            rows = [builder.gep(base, [ir.Constant(_I64, row)]) for row in range(25)]
            words = [_load(builder, row) for row in rows]
            taken = _columns(builder, _addresses(builder, arguments[1], lanes), RATE // 8)
            words = [builder.xor(word, new) for word, new in zip(words, taken, strict=False)] + words[RATE // 8 :]
            for row, word in zip(rows, _keccak(builder, words, lanes), strict=True):
                builder.store(word, row).align = 8
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), codegen

    return hash_pairs, absorb


BYTES = types.Array(types.uint8, 1, "C", readonly=True)
PAIRS = types.void(BYTES, BYTES, types.uint8[:, ::1])
RANGES = types.void(BYTES, types.int64[::1], types.int64[::1], BYTES, types.uint8[:, ::1])
hash_pairs, absorb = intrinsics(LANES)


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """``count`` bytes from one address to another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [builder.inttoptr(address, _I8.as_pointer()) for address in arguments[:2]]
        cgutils.raw_memcpy(builder, *pointers, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.int64), codegen


def _ranges(data: Any, starts: Any, ends: Any, prefix: Any, out: Any) -> None:
    """Messages of any lengths; the prefix is shorter than RATE. Those of as many blocks run side by side."""
    count = starts.shape[0]
    head = prefix.shape[0]
    blocks = np.empty(count, np.int64)
    alike = True
    for item in range(count):
        blocks[item] = (head + ends[item] - starts[item]) // RATE + 1
        alike = alike and blocks[item] == blocks[0]
    order = np.arange(count) if alike else np.argsort(blocks, kind="mergesort")  # lanes advance together
    state = np.empty((25, LANES), np.uint64)
    padded = np.zeros((LANES, RATE), np.uint8)
    sources = np.empty(LANES, np.uint64)
    base, padded_at = np.uintp(data.ctypes.data), np.uintp(padded.ctypes.data)
    state_at, sources_at = np.uintp(state.ctypes.data), np.uintp(sources.ctypes.data)
    prefix_at = np.uintp(prefix.ctypes.data)
    digest = np.empty(4, np.uint64)
    digest_bytes = digest.view(np.uint8)
    at = 0
    while at < count:
        size = blocks[order[at]]
        width = 1
        while width < LANES and at + width < count and blocks[order[at + width]] == size:
            width += 1
        state[:, :] = 0
        for block in range(size):
            for lane in range(LANES):
                item = order[at + min(lane, width - 1)]
                begin = starts[item] + (RATE * block - head if block else 0)
                used = 0 if block else head
                if block > 0 and block < size - 1:
                    sources[lane] = base + np.uintp(begin)
                    continue
                own = padded_at + np.uintp(RATE * lane)
                sources[lane] = own
                if block == 0:
                    _copy(own, prefix_at, head)
                taken = min(RATE - used, ends[item] - begin)
                _copy(own + np.uintp(used), base + np.uintp(begin), taken)
                if block == size - 1:
                    padded[lane, used + taken :] = 0
                    padded[lane, used + taken] = 6
                    padded[lane, RATE - 1] |= 0x80
            absorb(state_at, sources_at)
        for lane in range(width):
            for i in range(4):
                digest[i] = state[i, lane]
            out[order[at + lane]] = digest_bytes
        at += width


def _pairs(prefix: Any, data: Any, out: Any) -> None:
    """``data``: n · 64 bytes; ``prefix``: 32 bytes."""
    count = out.shape[0]
    sources, targets = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    spare = np.empty(4, np.uint64)
    sources_at, targets_at = np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data)
    base, into, prefix_at = np.uintp(data.ctypes.data), np.uintp(out.ctypes.data), np.uintp(prefix.ctypes.data)
    for first in range(0, count, LANES):
        for lane in range(LANES):
            item = min(first + lane, count - 1)
            sources[lane] = base + np.uintp(64 * item)
            targets[lane] = into + np.uintp(32 * item) if first + lane < count else np.uintp(spare.ctypes.data)
        hash_pairs(prefix_at, sources_at, targets_at)


sha3_ranges = njit(RANGES, nogil=True, cache=True)(_ranges)
sha3_pairs = njit(PAIRS, nogil=True, cache=True)(_pairs)


def compile_for(lanes: int) -> tuple[Any, Any]:
    """(ranges, pairs) with 4 or 8 lanes, whatever the processor (what a test compares beside the chosen ones)."""
    wide_pairs, wide_absorb = intrinsics(lanes)
    names = {**globals(), "LANES": lanes, "hash_pairs": wide_pairs, "absorb": wide_absorb}
    ranges, pairs = (FunctionType(function.__code__, names) for function in (_ranges, _pairs))
    return njit(RANGES, nogil=True)(ranges), njit(PAIRS, nogil=True)(pairs)


def sha3_list(messages: Sequence[bytes], prefix: bytes) -> list[bytes]:
    """n messages -> n digests."""
    count = len(messages)
    data = np.frombuffer(b"".join(messages), np.uint8)
    ends = np.fromiter(accumulate(map(len, messages)), np.int64, count)
    starts = np.zeros(count, np.int64)
    starts[1:] = ends[:-1]
    out = np.empty((count, 32), np.uint8)
    sha3_ranges(data, starts, ends, np.frombuffer(prefix, np.uint8), out)
    joined = out.tobytes()
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


def pairs(data: bytes | bytearray | memoryview, prefix: bytes) -> bytes:
    """n messages of 64 bytes side by side -> n digests side by side."""
    messages = np.frombuffer(data, np.uint8)
    out = np.empty((messages.shape[0] // 64, 32), np.uint8)
    if len(prefix) == 32:
        sha3_pairs(np.frombuffer(prefix, np.uint8), messages, out)
    else:
        starts = np.arange(out.shape[0], dtype=np.int64) * 64
        sha3_ranges(messages, starts, starts + 64, np.frombuffer(prefix, np.uint8), out)
    digests: bytes = out.tobytes()
    return digests
