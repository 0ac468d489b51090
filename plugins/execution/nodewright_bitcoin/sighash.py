"""The 32 bytes that a signature signs: BIP143's form with the fork id, or the original one.

Hash type (one byte in a signature, 32 bits in the digest): the low five bits choose ALL (1), NONE (2), SINGLE (3);
0x80 signs only the own input; 0x40 is the fork id; 0x20 asks for the original digest again (Chronicle).

The fork id's form is taken where the flag ``SIGHASH_FORKID`` is on and the hash type has 0x40 and not 0x20. Its parts
over the whole transaction are computed once per transaction, so each further input costs a constant. The original form
must hash the whole transaction for each input: linear in its size, and that is what ``script.interpreter`` charges.

SINGLE without an output of the input's index: the original form signs the number one (a bug of the first release that
is consensus); BIP143's form signs a hash of zeros in that place.
"""

from __future__ import annotations

from typing import Final

from nodewright_bitcoin.encoding import INT32, INT64, UINT32, sha256d, write_compact_size
from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script.opcodes import OP_CODESEPARATOR, read_instruction
from nodewright_bitcoin.transaction import Transaction

SIGHASH_ALL: Final = 0x01
SIGHASH_NONE: Final = 0x02
SIGHASH_SINGLE: Final = 0x03
SIGHASH_CHRONICLE: Final = 0x20
SIGHASH_FORKID: Final = 0x40
SIGHASH_ANYONECANPAY: Final = 0x80

_BASE_MASK = 0x1F
_ZERO = bytes(32)
_ONE = b"\x01" + bytes(31)
_NULL_OUTPUT = b"\xff" * 8 + b"\x00"
_BLANK_INPUT_BYTES = 41


def signature_hash(tx: Transaction, index: int, script_code: bytes, satoshis: int, hash_type: int, flags: int) -> bytes:
    """``script_code`` is the script from the last executed OP_CODESEPARATOR on; ``satoshis`` the amount of the output
    spent (only the fork id's form signs it); ``hash_type`` any 32-bit number, signed or not."""
    if flags & f.SIGHASH_FORKID and hash_type & SIGHASH_FORKID and not hash_type & SIGHASH_CHRONICLE:
        return forkid_hash(tx, index, script_code, satoshis, hash_type)
    return original_hash(tx, index, script_code, hash_type)


def forkid_hash(tx: Transaction, index: int, script_code: bytes, satoshis: int, hash_type: int) -> bytes:
    """BIP143's digest as the fork-id rules use it. IndexError where there is no such input."""
    base = hash_type & _BASE_MASK
    alone = hash_type & SIGHASH_ANYONECANPAY
    whole = base not in (SIGHASH_SINGLE, SIGHASH_NONE)
    if whole:
        outputs = tx.outputs_hash()
    elif base == SIGHASH_SINGLE and index < len(tx.outputs):
        outputs = sha256d(tx.outputs[index].serialize())
    else:
        outputs = _ZERO
    own = tx.inputs[index]
    return sha256d(
        b"".join(
            (
                INT32.pack(tx.version),
                _ZERO if alone else tx.prevouts_hash(),
                tx.sequences_hash() if whole and not alone else _ZERO,
                own.outpoint,
                write_compact_size(len(script_code)),
                script_code,
                INT64.pack(satoshis),
                UINT32.pack(own.sequence),
                outputs,
                UINT32.pack(tx.locktime),
                UINT32.pack(hash_type & 0xFFFFFFFF),
            )
        )
    )


def original_hash(tx: Transaction, index: int, script_code: bytes, hash_type: int) -> bytes:
    """The digest of 2009, SINGLE bug included. OP_CODESEPARATORs are left out of the script code."""
    base = hash_type & _BASE_MASK
    if index >= len(tx.inputs) or (base == SIGHASH_SINGLE and index >= len(tx.outputs)):
        return _ONE
    own = tx.inputs[index]
    length, script = _without_code_separators(script_code)
    signed = (own.outpoint, write_compact_size(length), script, UINT32.pack(own.sequence))
    inputs: tuple[bytes, ...]
    if hash_type & SIGHASH_ANYONECANPAY:
        inputs = (b"\x01", *signed)
    else:
        kept, zeroed = tx.blank_inputs()
        others = zeroed if base in (SIGHASH_SINGLE, SIGHASH_NONE) else kept
        at = index * _BLANK_INPUT_BYTES
        inputs = (write_compact_size(len(tx.inputs)), others[:at], *signed, others[at + _BLANK_INPUT_BYTES :])
    if base == SIGHASH_NONE:
        outputs = b"\x00"
    elif base == SIGHASH_SINGLE:
        outputs = write_compact_size(index + 1) + _NULL_OUTPUT * index + tx.outputs[index].serialize()
    else:
        outputs = tx.outputs_vector
    tail = UINT32.pack(tx.locktime) + UINT32.pack(hash_type & 0xFFFFFFFF)
    return sha256d(b"".join((INT32.pack(tx.version), *inputs, outputs, tail)))


def _without_code_separators(script: bytes) -> tuple[int, bytes]:
    """The length written into the digest, and the bytes.

    They disagree for a script that ends inside a push (which a script after Genesis may, behind OP_RETURN): the length
    counts all of it, the bytes stop where its push could not be read. Nodes have always hashed it so."""
    pieces: list[bytes] = []
    offset = begin = separators = 0
    end = len(script)
    while offset < end:
        opcode, _, after, complete = read_instruction(script, offset)
        offset = after
        if not complete:
            break
        if opcode == OP_CODESEPARATOR:
            separators += 1
            pieces.append(script[begin : offset - 1])
            begin = offset
    pieces.append(script[begin:offset])
    return end - separators, b"".join(pieces)
