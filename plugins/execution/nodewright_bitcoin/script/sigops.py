"""Counting signature operations, which blocks before Genesis limit."""

from __future__ import annotations

from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.opcodes import is_p2sh, read_instruction

_MULTISIG_KEYS_ASSUMED = 20


def count_sigops(script: bytes, accurate: bool) -> int | None:
    """One for CHECKSIG, twenty for CHECKMULTISIG; ``accurate`` takes the number pushed right before it where that is 1 to
    16, and stops at an OP_RETURN outside conditions. Counts as far as the script can be read. None where ``accurate``
    meets an ENDIF without its IF."""
    count = depth = offset = 0
    last = -1
    while offset < len(script):
        opcode, _, offset, complete = read_instruction(script, offset)
        if not complete or opcode == 0xFF:
            break
        if accurate:
            if opcode == op.OP_RETURN and depth == 0:
                break
            if op.OP_IF <= opcode <= op.OP_VERNOTIF:
                depth += 1
            elif opcode == op.OP_ENDIF:
                depth -= 1
                if depth < 0:
                    return None
        if opcode in (op.OP_CHECKSIG, op.OP_CHECKSIGVERIFY):
            count += 1
        elif opcode in (op.OP_CHECKMULTISIG, op.OP_CHECKMULTISIGVERIFY):
            known = accurate and op.OP_1 <= last <= op.OP_16
            count += last - op.OP_1 + 1 if known else _MULTISIG_KEYS_ASSUMED
        last = opcode
    return count


def count_p2sh_sigops(unlocking: bytes, locking: bytes) -> int | None:
    """Those of the redeem script (BIP16); 0 where the output is not pay-to-script-hash or the unlocking script does more
    than push."""
    if not is_p2sh(locking):
        return 0
    offset, data = 0, b""
    while offset < len(unlocking):
        opcode, data, offset, complete = read_instruction(unlocking, offset)
        if not complete or opcode > op.OP_16:
            return 0
    return count_sigops(data, accurate=True)
