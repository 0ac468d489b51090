"""Scripts made of opcodes: typed operands for every opcode, conditions, big numbers, and the edges of every limit.

All from one ``random.Random``: a seed gives the scripts. Most are made to get somewhere (operands of the kind that the
opcode wants), because scripts of plain noise end at their first instruction.
"""

from __future__ import annotations

from random import Random

from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.numbers import encode_number
from nodewright_bitcoin.script.opcodes import push_data

EDGES = (0, 1, -1, 2, 16, 17, 75, 76, 127, 128, -127, -128, 255, 256, 519, 520, 521, 32767, 32768, -32768, 65535, 65536)
WIDE_EDGES = (2**31 - 1, -(2**31 - 1), 2**31, -(2**31), 2**32, 2**39, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30)

_NUMERIC_1 = (op.OP_1ADD, op.OP_1SUB, op.OP_NEGATE, op.OP_ABS, op.OP_NOT, op.OP_0NOTEQUAL, op.OP_2MUL, op.OP_2DIV)
_NUMERIC_2 = (
    *(op.OP_ADD, op.OP_SUB, op.OP_MUL, op.OP_DIV, op.OP_MOD, op.OP_BOOLAND, op.OP_BOOLOR, op.OP_NUMEQUAL),
    *(op.OP_NUMEQUALVERIFY, op.OP_NUMNOTEQUAL, op.OP_LESSTHAN, op.OP_GREATERTHAN, op.OP_LESSTHANOREQUAL),
    *(op.OP_GREATERTHANOREQUAL, op.OP_MIN, op.OP_MAX),
)
_BYTES_1 = (
    *(op.OP_SIZE, op.OP_INVERT, op.OP_BIN2NUM, op.OP_RIPEMD160, op.OP_SHA1, op.OP_SHA256, op.OP_HASH160, op.OP_HASH256),
    *(op.OP_DUP, op.OP_IFDUP, op.OP_VERIFY, op.OP_TOALTSTACK, op.OP_DROP),
)
_BYTES_2 = (
    op.OP_CAT,
    op.OP_EQUAL,
    op.OP_EQUALVERIFY,
    op.OP_SWAP,
    op.OP_NIP,
    op.OP_OVER,
    op.OP_TUCK,
    op.OP_2DUP,
    op.OP_2DROP,
)
_STACK = (
    *(op.OP_3DUP, op.OP_2OVER, op.OP_2ROT, op.OP_2SWAP, op.OP_ROT, op.OP_DEPTH, op.OP_FROMALTSTACK, op.OP_NOP),
    *(op.OP_NOP1, op.OP_NOP10, op.OP_SUBSTR, op.OP_RSHIFTNUM),
)


def number(random: Random, wide: bool) -> int:
    edges = EDGES + WIDE_EDGES if wide else EDGES
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(edges)
    if kind == 1:
        return random.choice(edges) + random.choice((-1, 1))
    bits = random.choice((8, 16, 31, 33, 64, 256, 2000) if wide else (3, 8, 16, 30, 31))
    return random.choice((-1, 1)) * random.getrandbits(bits)


def padded(random: Random, data: bytes) -> bytes:
    """The same number in a form that is not the shortest."""
    if not data:
        return random.choice((b"\x00", b"\x80", b"\x00\x00", b"\x00\x80"))
    return data[:-1] + bytes((data[-1] & 0x7F,)) + bytes(random.randrange(3)) + bytes((data[-1] & 0x80,))


def number_push(random: Random, value: int) -> bytes:
    data = encode_number(value)
    return any_push(random, padded(random, data) if random.random() < 0.06 else data)


def any_push(random: Random, data: bytes) -> bytes:
    """Mostly the shortest push of the data, sometimes a longer one of the same."""
    if random.random() > 0.05:
        return push_data(data)
    forms = []
    if len(data) < op.OP_PUSHDATA1:
        forms.append(bytes((len(data),)) + data)
    if len(data) <= 0xFF:
        forms.append(bytes((op.OP_PUSHDATA1, len(data))) + data)
    if len(data) <= 0xFFFF:
        forms.append(bytes((op.OP_PUSHDATA2,)) + len(data).to_bytes(2, "little") + data)
    forms.append(bytes((op.OP_PUSHDATA4,)) + len(data).to_bytes(4, "little") + data)
    return random.choice(forms)


def some_bytes(random: Random, most: int = 40) -> bytes:
    kind = random.randrange(8)
    if kind == 0:
        return b""
    if kind == 1:
        return bytes((random.choice((0x00, 0x01, 0x80, 0x81, 0xFF)),)) * random.randint(1, 5)
    if kind == 2:
        return random.randbytes(random.choice((519, 520, 521, 255, 256, 75, 76)))
    return random.randbytes(random.randint(1, most))


def step(random: Random, wide: bool) -> bytes:
    """One opcode behind operands that it can use."""
    kind = random.randrange(11)
    if kind == 0:
        return number_push(random, number(random, wide)) + bytes((random.choice(_NUMERIC_1),))
    if kind <= 3:
        first, second = number(random, wide), number(random, wide)
        if random.random() < 0.2:
            second = first
        pushes = number_push(random, first) + number_push(random, second)
        return pushes + bytes((random.choice(_NUMERIC_2),))
    if kind == 4:
        low, high = sorted((number(random, wide), number(random, wide)))
        value = random.choice((low, high, low - 1, (low + high) // 2))
        return b"".join(number_push(random, one) for one in (value, low, high)) + bytes((op.OP_WITHIN,))
    if kind == 5:
        return any_push(random, some_bytes(random)) + bytes((random.choice(_BYTES_1),))
    if kind == 6:
        return any_push(random, some_bytes(random)) * 2 + bytes((random.choice(_BYTES_2),))
    if kind == 7:
        return _splice(random)
    if kind == 8:
        data = some_bytes(random)
        other = random.randbytes(len(data)) if random.random() < 0.9 else some_bytes(random)
        opcode = random.choice((op.OP_AND, op.OP_OR, op.OP_XOR))
        return any_push(random, data) + any_push(random, other) + bytes((opcode,))
    if kind == 9:
        count = random.randint(1, 6)
        pushes = b"".join(any_push(random, some_bytes(random, 4)) for _ in range(count))
        deep = number_push(random, random.choice((0, 1, count - 1, count, -1)))
        return pushes + random.choice(
            (deep + bytes((op.OP_PICK,)), deep + bytes((op.OP_ROLL,)), bytes((random.choice(_STACK),)))
        )
    return bytes((random.randrange(op.OP_1NEGATE, 256),))


def _splice(random: Random) -> bytes:
    data = some_bytes(random)
    kind = random.randrange(4)
    if kind == 0:
        at = random.choice((0, 1, len(data), len(data) + 1, -1, random.randrange(len(data) + 1)))
        return any_push(random, data) + number_push(random, at) + bytes((op.OP_SPLIT,))
    if kind == 1:
        size = random.choice((0, 1, 2, 4, 8, 520, 521, -1, 2**31 - 1, 2**31, len(data), len(data) + 3))
        value = padded(random, encode_number(number(random, True))) if random.random() < 0.5 else data
        return any_push(random, value) + number_push(random, size) + bytes((op.OP_NUM2BIN,))
    if kind == 2:
        value = padded(random, encode_number(number(random, True))) + random.choice((b"", b"", b"\x00", b"\x80"))
        return any_push(random, value) + bytes((op.OP_BIN2NUM,))
    bits = random.choice((0, 1, 7, 8, 9, 8 * len(data), 8 * len(data) + 1, -1, 2**31 - 1, 2**31, 2**40))
    return any_push(random, data) + number_push(random, bits) + bytes((random.choice((op.OP_LSHIFT, op.OP_RSHIFT)),))


def conditions(random: Random, depth: int = 0) -> bytes:
    """Nested conditions, now and then unbalanced, with returns, reserved words and other branches."""
    parts: list[bytes] = []
    for _ in range(random.randint(1, 3)):
        kind = random.randrange(8)
        if kind < 3 and depth < 4:
            test = random.choice((b"\x00", b"\x51", b"\x01\x80", b"\x02\x00\x00", b"\x52", b""))
            parts += [test, bytes((random.choice((op.OP_IF, op.OP_NOTIF)),)), conditions(random, depth + 1)]
            for _ in range(random.choice((0, 1, 1, 1, 2))):
                parts += [bytes((op.OP_ELSE,)), conditions(random, depth + 1)]
            parts.append(bytes((op.OP_ENDIF,)) if random.random() < 0.96 else b"")
        elif kind == 3:
            odd = (
                op.OP_RETURN,
                op.OP_RETURN,
                op.OP_VERIF,
                op.OP_VERNOTIF,
                op.OP_VER,
                op.OP_RESERVED,
                op.OP_2MUL,
                0xBA,
                0xFF,
            )
            parts.append(bytes((random.choice(odd),)))
        elif kind == 4:
            parts.append(random.choice((b"\x4c", b"\x05\x01", bytes((op.OP_ELSE,)), bytes((op.OP_ENDIF,)))))
        else:
            parts.append(random.choice((b"\x51", b"\x00", b"\x52\x75", step(random, True))))
    return b"".join(parts)


def big_numbers(random: Random) -> bytes:
    """Arithmetic on numbers about as long as relay's limit, and its results across it."""
    size = random.choice((4, 5, 32, 520, 521, 4_999, 5_000, 5_001, 9_999, 10_000, 10_001))
    other = random.choice((1, 4, 5, size, size, 5_000))

    def long(length: int) -> bytes:
        top = random.choice((0x7F, 0x80, 0xFF, 0x01, 0x81, random.randrange(1, 256)))
        return random.randbytes(length - 1) + bytes((top,))

    opcode = random.choice((*_NUMERIC_1, *_NUMERIC_2, op.OP_BIN2NUM, op.OP_NUM2BIN))
    operands = push_data(long(size)) + (push_data(long(other)) if opcode not in _NUMERIC_1 else b"")
    again = random.choice((b"", bytes((op.OP_DUP, op.OP_MUL)), bytes((op.OP_1ADD,)), bytes((op.OP_SIZE, op.OP_NIP))))
    return operands + bytes((opcode,)) + again


def edges(random: Random) -> bytes:
    """Just within or just beyond a limit."""
    around = random.choice((-1, 0, 0, 1, 1))
    kind = random.randrange(9)
    if kind == 0:  # script bytes before Genesis
        fill = b"".join(push_data(bytes(520)) + b"\x75" for _ in range(18))
        return fill + b"\x61" * 60 + bytes((op.OP_1,)) * (10_000 + around - len(fill) - 60)
    if kind == 1:  # operations before Genesis
        return b"\x61" * (500 + around) + b"\x51"
    if kind == 2:  # stack elements before Genesis
        return b"\x51" * (1000 + around)
    if kind == 3:  # stack elements, in two stacks
        return b"\x51" * 600 + b"\x6b" * 300 + b"\x51" * (400 + around)
    if kind == 4:  # element bytes before Genesis
        return push_data(random.randbytes(520 + around))
    if kind == 5:  # an element made too long
        return push_data(random.randbytes(260)) + push_data(random.randbytes(260 + around)) + bytes((op.OP_CAT,))
    if kind == 6:  # numbers of four and five bytes
        return push_data(encode_number(2 ** random.choice((31, 39)) - 1 + around)) + bytes((op.OP_1ADD,))
    if kind == 7:  # memory of the stack: 2**27 bytes pass relay's 100 million
        return push_data(bytes(128)) + b"\x76\x7e" * (19 + around) + b"\x75\x51"
    return b"\x51" * random.choice((20, 21)) + push_data(encode_number(20 + around)) + bytes((op.OP_CHECKMULTISIG,))


def program(random: Random) -> bytes:
    """A script of any of these kinds; about half are meant to leave a true element."""
    kind = random.randrange(10)
    wide = random.random() < 0.6
    if kind < 5:
        body = b"".join(step(random, wide) for _ in range(random.randint(1, 6)))
    elif kind < 7:
        body = conditions(random)
    elif kind == 7:
        body = big_numbers(random)
    elif kind == 8:
        body = edges(random)
    else:
        body = random.randbytes(random.randint(0, 40))
    ending = random.choice((b"", b"\x51", b"\x51", b"\x75\x51", b"\x69\x51", b"\x6a", b"\x6a" + random.randbytes(5)))
    return body + ending


def damaged(random: Random, script: bytes) -> bytes:
    """One change: a byte flipped, taken out or put in, or an end cut off."""
    if not script:
        return random.randbytes(1)
    at = random.randrange(len(script))
    kind = random.randrange(4)
    if kind == 0:
        return script[:at] + bytes((script[at] ^ (1 << random.randrange(8)),)) + script[at + 1 :]
    if kind == 1:
        return script[:at] + script[at + 1 :]
    if kind == 2:
        return script[:at] + random.randbytes(1) + script[at:]
    return script[:at]
