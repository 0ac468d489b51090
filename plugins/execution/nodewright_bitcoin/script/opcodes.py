"""Opcodes of every era by number and name, and reading one instruction.

0x7F to 0x81 were SUBSTR, LEFT and RIGHT in the first release; after the restoration of 2018 they are SPLIT, NUM2BIN and
BIN2NUM, and Chronicle gave SUBSTR, LEFT, RIGHT, LSHIFTNUM and RSHIFTNUM the places of NOP4 to NOP8.
"""

from __future__ import annotations

from typing import Final

OP_0: Final = 0x00
OP_PUSHDATA1: Final = 0x4C
OP_PUSHDATA2: Final = 0x4D
OP_PUSHDATA4: Final = 0x4E
OP_1NEGATE: Final = 0x4F
OP_RESERVED: Final = 0x50
OP_1: Final = 0x51
OP_16: Final = 0x60
OP_NOP: Final = 0x61
OP_VER: Final = 0x62
OP_IF: Final = 0x63
OP_NOTIF: Final = 0x64
OP_VERIF: Final = 0x65
OP_VERNOTIF: Final = 0x66
OP_ELSE: Final = 0x67
OP_ENDIF: Final = 0x68
OP_VERIFY: Final = 0x69
OP_RETURN: Final = 0x6A
OP_TOALTSTACK: Final = 0x6B
OP_FROMALTSTACK: Final = 0x6C
OP_2DROP: Final = 0x6D
OP_2DUP: Final = 0x6E
OP_3DUP: Final = 0x6F
OP_2OVER: Final = 0x70
OP_2ROT: Final = 0x71
OP_2SWAP: Final = 0x72
OP_IFDUP: Final = 0x73
OP_DEPTH: Final = 0x74
OP_DROP: Final = 0x75
OP_DUP: Final = 0x76
OP_NIP: Final = 0x77
OP_OVER: Final = 0x78
OP_PICK: Final = 0x79
OP_ROLL: Final = 0x7A
OP_ROT: Final = 0x7B
OP_SWAP: Final = 0x7C
OP_TUCK: Final = 0x7D
OP_CAT: Final = 0x7E
OP_SPLIT: Final = 0x7F
OP_NUM2BIN: Final = 0x80
OP_BIN2NUM: Final = 0x81
OP_SIZE: Final = 0x82
OP_INVERT: Final = 0x83
OP_AND: Final = 0x84
OP_OR: Final = 0x85
OP_XOR: Final = 0x86
OP_EQUAL: Final = 0x87
OP_EQUALVERIFY: Final = 0x88
OP_RESERVED1: Final = 0x89
OP_RESERVED2: Final = 0x8A
OP_1ADD: Final = 0x8B
OP_1SUB: Final = 0x8C
OP_2MUL: Final = 0x8D
OP_2DIV: Final = 0x8E
OP_NEGATE: Final = 0x8F
OP_ABS: Final = 0x90
OP_NOT: Final = 0x91
OP_0NOTEQUAL: Final = 0x92
OP_ADD: Final = 0x93
OP_SUB: Final = 0x94
OP_MUL: Final = 0x95
OP_DIV: Final = 0x96
OP_MOD: Final = 0x97
OP_LSHIFT: Final = 0x98
OP_RSHIFT: Final = 0x99
OP_BOOLAND: Final = 0x9A
OP_BOOLOR: Final = 0x9B
OP_NUMEQUAL: Final = 0x9C
OP_NUMEQUALVERIFY: Final = 0x9D
OP_NUMNOTEQUAL: Final = 0x9E
OP_LESSTHAN: Final = 0x9F
OP_GREATERTHAN: Final = 0xA0
OP_LESSTHANOREQUAL: Final = 0xA1
OP_GREATERTHANOREQUAL: Final = 0xA2
OP_MIN: Final = 0xA3
OP_MAX: Final = 0xA4
OP_WITHIN: Final = 0xA5
OP_RIPEMD160: Final = 0xA6
OP_SHA1: Final = 0xA7
OP_SHA256: Final = 0xA8
OP_HASH160: Final = 0xA9
OP_HASH256: Final = 0xAA
OP_CODESEPARATOR: Final = 0xAB
OP_CHECKSIG: Final = 0xAC
OP_CHECKSIGVERIFY: Final = 0xAD
OP_CHECKMULTISIG: Final = 0xAE
OP_CHECKMULTISIGVERIFY: Final = 0xAF
OP_NOP1: Final = 0xB0
OP_CHECKLOCKTIMEVERIFY: Final = 0xB1
OP_CHECKSEQUENCEVERIFY: Final = 0xB2
OP_SUBSTR: Final = 0xB3
OP_LEFT: Final = 0xB4
OP_RIGHT: Final = 0xB5
OP_LSHIFTNUM: Final = 0xB6
OP_RSHIFTNUM: Final = 0xB7
OP_NOP9: Final = 0xB8
OP_NOP10: Final = 0xB9

OPCODE_NAMES: Final[dict[int, str]] = {
    value: name.removeprefix("OP_") for name, value in list(globals().items()) if name.startswith("OP_")
} | {OP_1 + i: str(i + 1) for i in range(16)}
"""Without the prefix ``OP_``."""


def read_instruction(script: bytes, offset: int) -> tuple[int, bytes, int, bool]:
    """``(opcode, pushed bytes, offset after it, complete)`` of the instruction at ``offset``, which must be inside.

    An instruction cut short by the end of the script has ``complete`` False, no pushed bytes, and the offset up to which
    its head could be read (opcode, and length where that was whole)."""
    opcode = script[offset]
    offset += 1
    if opcode > OP_PUSHDATA4:
        return opcode, b"", offset, True
    if opcode < OP_PUSHDATA1:
        after = offset + opcode
    else:
        width = 1 << (opcode - OP_PUSHDATA1)
        if offset + width > len(script):
            return opcode, b"", offset, False
        length = int.from_bytes(script[offset : offset + width], "little")
        offset += width
        after = offset + length
    if after > len(script):
        return opcode, b"", offset, False
    return opcode, script[offset:after], after, True


def push_data(data: bytes) -> bytes:
    """The shortest instruction that pushes ``data``."""
    length = len(data)
    if length == 0:
        return b"\x00"
    if length == 1:
        if 1 <= data[0] <= 16:
            return bytes((OP_1 + data[0] - 1,))
        if data[0] == 0x81:
            return bytes((OP_1NEGATE,))
    if length < OP_PUSHDATA1:
        return bytes((length,)) + data
    if length <= 0xFF:
        return bytes((OP_PUSHDATA1, length)) + data
    if length <= 0xFFFF:
        return bytes((OP_PUSHDATA2,)) + length.to_bytes(2, "little") + data
    return bytes((OP_PUSHDATA4,)) + length.to_bytes(4, "little") + data


def is_push_only(script: bytes) -> bool:
    """Only pushes (OP_RESERVED counts as one, as it always has), all of them complete."""
    offset = 0
    while offset < len(script):
        opcode, _, offset, complete = read_instruction(script, offset)
        if not complete or opcode > OP_16:
            return False
    return True


def is_p2sh(script: bytes) -> bool:
    return len(script) == 23 and script[0] == OP_HASH160 and script[1] == 20 and script[22] == OP_EQUAL


def find_and_delete(script: bytes, needle: bytes) -> bytes:
    """``script`` without the occurrences of ``needle`` that begin at an instruction. Where an instruction cannot be read,
    the rest is kept as it is."""
    if not needle or needle not in script:
        return script
    pieces: list[bytes] = []
    offset = begin = 0
    end = len(script)
    while True:
        pieces.append(script[begin:offset])
        while script.startswith(needle, offset):
            offset += len(needle)
        begin = offset
        if offset >= end:
            break
        _, _, after, complete = read_instruction(script, offset)
        if not complete:
            break
        offset = after
    pieces.append(script[begin:])
    return b"".join(pieces)
