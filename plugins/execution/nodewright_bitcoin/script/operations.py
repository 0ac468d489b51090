"""Arithmetic, byte strings, bit logic and hashes; and the table of every opcode that needs only the stacks.

Opcodes that Chronicle put in the places of NOP4 to NOP8 are NOPs for outputs created before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import isqrt
from typing import Final

from nodewright_bitcoin.encoding import hash160, ripemd160, sha256d
from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script import machine as stack_ops
from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.limits import MAX_ELEMENT_BYTES_BEFORE_GENESIS
from nodewright_bitcoin.script.machine import Machine, fail
from nodewright_bitcoin.script.numbers import encoded_size, is_minimal, minimal, truthy

Handler = Callable[[Machine], None]

_INT32_MAX = 0x7FFFFFFF
_RIPEMD160_WORK = 4 if ripemd160.__module__ == "nodewright_bitcoin.encoding" else 3_000


# numbers


def _unary(compute: Callable[[int], int]) -> Handler:
    def handler(m: Machine) -> None:
        m.need(1)
        value = m.number(m.stack[-1])
        m.pop()
        m.push_number(compute(value))

    return handler


def _binary(compute: Callable[[int, int], int]) -> Handler:
    def handler(m: Machine) -> None:
        m.need(2)
        a, b = m.number(m.stack[-2]), m.number(m.stack[-1])
        m.drop(2)
        m.push_number(compute(a, b))

    return handler


def _halve(value: int) -> int:
    return -(-value >> 1) if value < 0 else value >> 1


def op_mul(m: Machine) -> None:
    m.need(2)
    a, b = m.number(m.stack[-2]), m.number(m.stack[-1])
    shorter, longer = sorted((len(m.stack[-2]), len(m.stack[-1])))
    m.budget.charge(4 * longer * isqrt(shorter))  # Karatsuba
    m.drop(2)
    m.push_number(a * b)


def _operands_of_division(m: Machine, by_zero: ScriptError) -> tuple[int, int]:
    m.need(2)
    a, b = m.number(m.stack[-2]), m.number(m.stack[-1])
    if b == 0:
        fail(by_zero)
    length, divisor = len(m.stack[-2]), len(m.stack[-1])
    m.budget.charge(max(length - divisor + 1, 1) * divisor // 8)  # schoolbook
    m.drop(2)
    return a, b


def op_div(m: Machine) -> None:
    """Rounds toward zero."""
    a, b = _operands_of_division(m, ScriptError.DIV_BY_ZERO)
    quotient = abs(a) // abs(b)
    m.push_number(quotient if (a < 0) == (b < 0) else -quotient)


def op_mod(m: Machine) -> None:
    """The sign follows the dividend."""
    a, b = _operands_of_division(m, ScriptError.MOD_BY_ZERO)
    rest = abs(a) % abs(b)
    m.push_number(-rest if a < 0 else rest)


def op_numequalverify(m: Machine) -> None:
    m.need(2)
    a, b = m.number(m.stack[-2]), m.number(m.stack[-1])
    if a != b:
        fail(ScriptError.NUMEQUALVERIFY)
    m.drop(2)


def op_within(m: Machine) -> None:
    m.need(3)
    value, low, high = (m.number(item) for item in m.stack[-3:])
    m.drop(3)
    m.push_bool(low <= value < high)


def _shift_operands(m: Machine) -> tuple[int, int, int]:
    """(value, bits, encoded size of the value), both taken off the stack."""
    m.need(2)
    bits = m.number(m.stack[-1])
    if bits < 0:
        fail(ScriptError.INVALID_NUMBER_RANGE)
    m.pop()
    value = m.number(m.stack[-1])
    m.pop()
    return value, bits, encoded_size(value)


def op_lshiftnum(m: Machine) -> None:
    value, bits, size = _shift_operands(m)
    if size + bits // 8 > m.limits.max_number_bytes:
        fail(ScriptError.SCRIPTNUM_OVERFLOW)
    m.budget.charge(size + bits // 8)
    m.push_number(value << bits)


def op_rshiftnum(m: Machine) -> None:
    """Shifts the magnitude: rounds toward zero."""
    value, bits, size = _shift_operands(m)
    if bits > _INT32_MAX:
        fail(ScriptError.BIG_INT)
    m.budget.charge(size)
    m.push_number(-(-value >> bits) if value < 0 else value >> bits)


# byte strings


def op_cat(m: Machine) -> None:
    m.need(2)
    size = len(m.stack[-2]) + len(m.stack[-1])
    if not m.big_numbers and size > MAX_ELEMENT_BYTES_BEFORE_GENESIS:
        fail(ScriptError.PUSH_SIZE)
    m.budget.charge(size)
    second, first = m.pop(), m.pop()
    m.push(first + second)


def op_split(m: Machine) -> None:
    m.need(2)
    data = m.stack[-2]
    position = m.number(m.stack[-1])
    if not 0 <= position <= len(data):
        fail(ScriptError.SPLIT_RANGE)
    m.budget.charge(len(data))
    m.drop(2)
    m.push(data[:position])
    m.push(data[position:])


def op_num2bin(m: Machine) -> None:
    m.need(2)
    size = m.number(m.stack[-1])
    if not 0 <= size <= _INT32_MAX or (not m.big_numbers and size > MAX_ELEMENT_BYTES_BEFORE_GENESIS):
        fail(ScriptError.PUSH_SIZE)
    m.budget.charge(len(m.stack[-2]))
    m.pop()
    value = minimal(m.pop())
    if len(value) > size:
        fail(ScriptError.IMPOSSIBLE_ENCODING)
    m.room(size)
    m.budget.charge(size)
    padding = size - len(value)
    if padding and value:
        sign = value[-1] & 0x80
        value = value[:-1] + bytes((value[-1] & 0x7F,)) + bytes(padding - 1) + bytes((sign,))
    elif padding:
        value = bytes(padding)
    m.push(value)


def op_bin2num(m: Machine) -> None:
    m.need(1)
    m.budget.charge(len(m.stack[-1]))
    value = minimal(m.pop())
    m.push(value)
    if len(value) > m.limits.max_number_bytes or not is_minimal(value):
        fail(ScriptError.INVALID_NUMBER_RANGE)


def op_substr(m: Machine) -> None:
    """(data begin length - part): ``begin`` must point at a byte."""
    m.need(3)
    length, begin = m.number(m.stack[-1]), m.number(m.stack[-2])
    data = m.stack[-3]
    if not 0 <= begin < len(data) or not 0 <= length <= len(data) - begin:
        fail(ScriptError.INVALID_NUMBER_RANGE)
    m.budget.charge(length)
    m.drop(3)
    m.push(data[begin : begin + length])


def _part(m: Machine) -> tuple[bytes, int]:
    m.need(2)
    length, data = m.number(m.stack[-1]), m.stack[-2]
    if not 0 <= length <= len(data):
        fail(ScriptError.INVALID_NUMBER_RANGE)
    m.budget.charge(length)
    m.drop(2)
    return data, length


def op_left(m: Machine) -> None:
    data, length = _part(m)
    m.push(data[:length])


def op_right(m: Machine) -> None:
    data, length = _part(m)
    m.push(data[len(data) - length :])


# bits


def _bitwise(compute: Callable[[int, int], int]) -> Handler:
    def handler(m: Machine) -> None:
        m.need(2)
        size = len(m.stack[-1])
        if len(m.stack[-2]) != size:
            fail(ScriptError.OPERAND_SIZE)
        m.budget.charge(size)
        b, a = int.from_bytes(m.pop(), "little"), int.from_bytes(m.pop(), "little")
        m.push(compute(a, b).to_bytes(size, "little"))

    return handler


def op_invert(m: Machine) -> None:
    m.need(1)
    m.budget.charge(len(m.stack[-1]))
    item = m.pop()
    m.push((int.from_bytes(item, "little") ^ ((1 << 8 * len(item)) - 1)).to_bytes(len(item), "little"))


def _shift(compute: Callable[[int, int, int], int]) -> Handler:
    """Shifts a byte string as one big-endian field of bits, keeping its length."""

    def handler(m: Machine) -> None:
        m.need(2)
        bits = m.number(m.stack[-1])
        if bits < 0:
            fail(ScriptError.INVALID_NUMBER_RANGE)
        size = len(m.stack[-2])
        m.budget.charge(size)
        m.pop()
        item = m.pop()
        if bits >= 8 * size:
            m.push(bytes(size))
        else:
            m.push(compute(int.from_bytes(item, "big"), bits, 8 * size).to_bytes(size, "big"))

    return handler


# comparison and hashes


def op_equal(m: Machine) -> None:
    m.need(2)
    m.budget.charge(len(m.stack[-1]))
    a, b = m.pop(), m.pop()
    m.push_bool(a == b)


def op_equalverify(m: Machine) -> None:
    m.need(2)
    m.budget.charge(len(m.stack[-1]))
    if m.stack[-1] != m.stack[-2]:
        fail(ScriptError.EQUALVERIFY)
    m.drop(2)


def op_ifdup(m: Machine) -> None:
    m.need(1)
    m.budget.charge(len(m.stack[-1]))
    if truthy(m.stack[-1]):
        m.push(m.stack[-1])


def op_verify(m: Machine) -> None:
    m.need(1)
    m.budget.charge(len(m.stack[-1]))
    if not truthy(m.stack[-1]):
        fail(ScriptError.VERIFY)
    m.pop()


def _hash(compute: Callable[[bytes], bytes], work_per_byte: int) -> Handler:
    def handler(m: Machine) -> None:
        m.need(1)
        m.budget.charge(work_per_byte * len(m.stack[-1]))
        m.push(compute(m.pop()))

    return handler


def op_ver(m: Machine) -> None:
    if not m.chronicle:
        fail(ScriptError.BAD_OPCODE)
    m.push((m.version & 0xFFFFFFFF).to_bytes(4, "little"))


def op_nop(m: Machine) -> None:
    pass


def op_upgradable_nop(m: Machine) -> None:
    if m.flags & f.DISCOURAGE_UPGRADABLE_NOPS:
        fail(ScriptError.DISCOURAGE_UPGRADABLE_NOPS)


def _since_chronicle(handler: Handler) -> Handler:
    def chosen(m: Machine) -> None:
        if m.chronicle:
            handler(m)
        else:
            op_upgradable_nop(m)

    return chosen


def op_bad(m: Machine) -> None:
    fail(ScriptError.BAD_OPCODE)


def _table() -> list[Handler]:
    handlers: dict[int, Handler] = {
        op.OP_NOP: op_nop,
        op.OP_VER: op_ver,
        op.OP_VERIFY: op_verify,
        op.OP_TOALTSTACK: stack_ops.op_to_alt_stack,
        op.OP_FROMALTSTACK: stack_ops.op_from_alt_stack,
        op.OP_2DROP: stack_ops.op_2drop,
        op.OP_2DUP: stack_ops.op_2dup,
        op.OP_3DUP: stack_ops.op_3dup,
        op.OP_2OVER: stack_ops.op_2over,
        op.OP_2ROT: stack_ops.op_2rot,
        op.OP_2SWAP: stack_ops.op_2swap,
        op.OP_IFDUP: op_ifdup,
        op.OP_DEPTH: stack_ops.op_depth,
        op.OP_DROP: stack_ops.op_drop,
        op.OP_DUP: stack_ops.op_dup,
        op.OP_NIP: stack_ops.op_nip,
        op.OP_OVER: stack_ops.op_over,
        op.OP_PICK: stack_ops.op_pick,
        op.OP_ROLL: stack_ops.op_roll,
        op.OP_ROT: stack_ops.op_rot,
        op.OP_SWAP: stack_ops.op_swap,
        op.OP_TUCK: stack_ops.op_tuck,
        op.OP_SIZE: stack_ops.op_size,
        op.OP_CAT: op_cat,
        op.OP_SPLIT: op_split,
        op.OP_NUM2BIN: op_num2bin,
        op.OP_BIN2NUM: op_bin2num,
        op.OP_INVERT: op_invert,
        op.OP_AND: _bitwise(lambda a, b: a & b),
        op.OP_OR: _bitwise(lambda a, b: a | b),
        op.OP_XOR: _bitwise(lambda a, b: a ^ b),
        op.OP_EQUAL: op_equal,
        op.OP_EQUALVERIFY: op_equalverify,
        op.OP_1ADD: _unary(lambda a: a + 1),
        op.OP_1SUB: _unary(lambda a: a - 1),
        op.OP_2MUL: _unary(lambda a: a + a),
        op.OP_2DIV: _unary(_halve),
        op.OP_NEGATE: _unary(lambda a: -a),
        op.OP_ABS: _unary(abs),
        op.OP_NOT: _unary(lambda a: int(a == 0)),
        op.OP_0NOTEQUAL: _unary(lambda a: int(a != 0)),
        op.OP_ADD: _binary(lambda a, b: a + b),
        op.OP_SUB: _binary(lambda a, b: a - b),
        op.OP_MUL: op_mul,
        op.OP_DIV: op_div,
        op.OP_MOD: op_mod,
        op.OP_LSHIFT: _shift(lambda value, bits, width: (value << bits) & ((1 << width) - 1)),
        op.OP_RSHIFT: _shift(lambda value, bits, width: value >> bits),
        op.OP_BOOLAND: _binary(lambda a, b: int(a != 0 and b != 0)),
        op.OP_BOOLOR: _binary(lambda a, b: int(a != 0 or b != 0)),
        op.OP_NUMEQUAL: _binary(lambda a, b: int(a == b)),
        op.OP_NUMEQUALVERIFY: op_numequalverify,
        op.OP_NUMNOTEQUAL: _binary(lambda a, b: int(a != b)),
        op.OP_LESSTHAN: _binary(lambda a, b: int(a < b)),
        op.OP_GREATERTHAN: _binary(lambda a, b: int(a > b)),
        op.OP_LESSTHANOREQUAL: _binary(lambda a, b: int(a <= b)),
        op.OP_GREATERTHANOREQUAL: _binary(lambda a, b: int(a >= b)),
        op.OP_MIN: _binary(min),
        op.OP_MAX: _binary(max),
        op.OP_WITHIN: op_within,
        # Units per byte as measured for hashlib, and for the RIPEMD-160 of our own where OpenSSL has none.
        op.OP_RIPEMD160: _hash(ripemd160, _RIPEMD160_WORK),
        op.OP_SHA1: _hash(lambda data: hashlib.sha1(data, usedforsecurity=False).digest(), 2),
        op.OP_SHA256: _hash(lambda data: hashlib.sha256(data).digest(), 3),
        op.OP_HASH160: _hash(hash160, 3),
        op.OP_HASH256: _hash(sha256d, 3),
        op.OP_SUBSTR: _since_chronicle(op_substr),
        op.OP_LEFT: _since_chronicle(op_left),
        op.OP_RIGHT: _since_chronicle(op_right),
        op.OP_LSHIFTNUM: _since_chronicle(op_lshiftnum),
        op.OP_RSHIFTNUM: _since_chronicle(op_rshiftnum),
        op.OP_NOP1: op_upgradable_nop,
        op.OP_NOP9: op_upgradable_nop,
        op.OP_NOP10: op_upgradable_nop,
    }
    return [handlers.get(code, op_bad) for code in range(256)]


HANDLERS: Final[list[Handler]] = _table()
"""By opcode. Pushes, control flow, signatures and lock times are not in it: ``evaluation`` has them."""
