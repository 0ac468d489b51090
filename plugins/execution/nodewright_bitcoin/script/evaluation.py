"""One script run on a machine: reading instructions, conditions, OP_RETURN, signatures, lock times.

Order matters: which error a broken script ends with is part of the public test data, so each check stands where the
network's nodes have it.

OP_RETURN for outputs after Genesis: outside conditions it ends the script with what the stack holds, and nothing behind
it is read. Inside a condition the rest is read for balanced conditions only, until one is reached outside.
"""

from __future__ import annotations

from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.checker import SEQUENCE_DISABLE_FLAG, SignatureChecker
from nodewright_bitcoin.script.errors import ScriptError, ScriptFailure
from nodewright_bitcoin.script.limits import (
    INSTRUCTION_WORK,
    MAX_ELEMENT_BYTES_BEFORE_GENESIS,
    MAX_STACK_ELEMENTS_BEFORE_GENESIS,
    SIGNATURE_WORK,
)
from nodewright_bitcoin.script.machine import Machine, fail
from nodewright_bitcoin.script.numbers import encode_number, truthy
from nodewright_bitcoin.script.opcodes import find_and_delete, push_data, read_instruction
from nodewright_bitcoin.script.operations import HANDLERS, op_upgradable_nop
from nodewright_bitcoin.script.signatures import is_compressed_pubkey, is_low_s, is_strict_der, is_strict_pubkey
from nodewright_bitcoin.sighash import SIGHASH_ANYONECANPAY, SIGHASH_CHRONICLE, SIGHASH_FORKID, SIGHASH_SINGLE

_SMALL_NUMBERS = {code: encode_number(code - op.OP_1 + 1) for code in (op.OP_1NEGATE, *range(op.OP_1, op.OP_16 + 1))}
_CHECKSIGS = frozenset((op.OP_CHECKSIG, op.OP_CHECKSIGVERIFY))
_CHECKMULTISIGS = frozenset((op.OP_CHECKMULTISIG, op.OP_CHECKMULTISIGVERIFY))
_LOCKS = frozenset((op.OP_CHECKLOCKTIMEVERIFY, op.OP_CHECKSEQUENCEVERIFY))
_MULTISIG_COUNT_BYTES = 4
_LOCK_BYTES = 5


class Evaluation:
    """``appended`` is the locking script while the unlocking script runs: since Chronicle a signature check in there
    signs both."""

    def __init__(self, machine: Machine, script: bytes, checker: SignatureChecker, appended: bytes = b"") -> None:
        self.machine = machine
        self.script = script
        self.checker = checker
        self.appended = appended if machine.flags & f.CHRONICLE else b""
        self.conditions: list[bool] = []
        self.elses: list[bool] = []
        self.inactive = 0
        self.operations = 0
        self.code_begin = 0

    def run(self) -> None:
        """Leaves the result on the machine's stack. Raises ScriptFailure."""
        m, script = self.machine, self.script
        if len(script) > m.limits.max_script_bytes:
            fail(ScriptError.SCRIPT_SIZE)
        after_genesis = m.big_numbers
        check_minimal_push = m.minimal_numbers
        budget, end, offset = m.budget, len(script), 0
        returned = False
        while offset < end:
            opcode, data, offset, complete = read_instruction(script, offset)
            if not complete:
                fail(ScriptError.BAD_OPCODE)
            if not after_genesis and len(data) > MAX_ELEMENT_BYTES_BEFORE_GENESIS:
                fail(ScriptError.PUSH_SIZE)
            executed = not self.inactive and (not returned or opcode == op.OP_RETURN)
            budget.charge(INSTRUCTION_WORK + len(data))
            if opcode > op.OP_16:
                self._count_operations(1)
            if opcode in (op.OP_2MUL, op.OP_2DIV) and not m.chronicle and (not after_genesis or executed):
                fail(ScriptError.DISABLED_OPCODE)
            if op.OP_IF <= opcode <= op.OP_ENDIF:
                self._condition(opcode, executed)
            elif not executed:
                pass
            elif opcode <= op.OP_PUSHDATA4:
                if check_minimal_push and not _is_minimal_push(opcode, data):
                    fail(ScriptError.MINIMALDATA)
                m.push(data)
            elif opcode in _SMALL_NUMBERS:
                m.push(_SMALL_NUMBERS[opcode])
            elif opcode in _CHECKSIGS:
                self._check_signature(opcode)
            elif opcode in _CHECKMULTISIGS:
                self._check_multisig(opcode)
            elif opcode == op.OP_CODESEPARATOR:
                self.code_begin = offset
            elif opcode == op.OP_RETURN:
                if not after_genesis:
                    fail(ScriptError.OP_RETURN)
                if not self.conditions:
                    return
                returned = True
            elif opcode in _LOCKS:
                self._check_lock(opcode)
            else:
                HANDLERS[opcode](m)
            if not after_genesis and len(m.stack) + len(m.altstack) > MAX_STACK_ELEMENTS_BEFORE_GENESIS:
                fail(ScriptError.STACK_SIZE)
        if self.conditions:
            fail(ScriptError.UNBALANCED_CONDITIONAL)

    def _count_operations(self, count: int) -> None:
        self.operations += count
        if self.operations > self.machine.limits.max_operations:
            fail(ScriptError.OP_COUNT)

    # conditions

    def _condition(self, opcode: int, executed: bool) -> None:
        """IF, NOTIF, VERIF, VERNOTIF, ELSE, ENDIF: seen whether executed or not."""
        m = self.machine
        if opcode == op.OP_ELSE:
            if not self.conditions or (self.elses[-1] and m.big_numbers):
                fail(ScriptError.UNBALANCED_CONDITIONAL)
            self.inactive += 1 if self.conditions[-1] else -1
            self.conditions[-1] = not self.conditions[-1]
            self.elses[-1] = True
            return
        if opcode == op.OP_ENDIF:
            if not self.conditions:
                fail(ScriptError.UNBALANCED_CONDITIONAL)
            self.elses.pop()
            if not self.conditions.pop():
                self.inactive -= 1
            return
        by_version = opcode in (op.OP_VERIF, op.OP_VERNOTIF)
        if by_version and not m.chronicle:
            if m.big_numbers and not executed:
                return
            fail(ScriptError.BAD_OPCODE)
        value = False
        if executed:
            value = self._take_condition(by_version) != (opcode in (op.OP_NOTIF, op.OP_VERNOTIF))
        self.conditions.append(value)
        self.elses.append(False)
        if not value:
            self.inactive += 1

    def _take_condition(self, by_version: bool) -> bool:
        m = self.machine
        if not m.stack:
            fail(ScriptError.UNBALANCED_CONDITIONAL)
        item = m.pop()
        if by_version:
            return item == (m.version & 0xFFFFFFFF).to_bytes(4, "little")
        if m.flags & f.MINIMALIF and m.strict and item not in (b"", b"\x01"):
            fail(ScriptError.MINIMALIF)
        m.budget.charge(len(item))
        return truthy(item)

    # lock times

    def _check_lock(self, opcode: int) -> None:
        """BIP65 and BIP112, for outputs before Genesis; NOPs since."""
        m = self.machine
        by_time = opcode == op.OP_CHECKLOCKTIMEVERIFY
        if not m.flags & (f.CHECKLOCKTIMEVERIFY if by_time else f.CHECKSEQUENCEVERIFY) or m.big_numbers:
            op_upgradable_nop(m)
            return
        m.need(1)
        lock = m.number(m.stack[-1], _LOCK_BYTES)
        if lock < 0:
            fail(ScriptError.NEGATIVE_LOCKTIME)
        if by_time:
            met = self.checker.check_locktime(lock)
        else:
            met = lock & SEQUENCE_DISABLE_FLAG != 0 or self.checker.check_sequence(lock)
        if not met:
            fail(ScriptError.UNSATISFIED_LOCKTIME)

    # signatures

    def _script_code(self, signatures: list[bytes]) -> bytes:
        """What the signatures sign: from the last separator on, without those signatures that sign the original way."""
        flags, budget = self.machine.flags, self.machine.budget
        code = self.script[self.code_begin :] + self.appended
        budget.charge(len(code))
        for signature in signatures:
            if not (flags & f.SIGHASH_FORKID and signature and signature[-1] & SIGHASH_FORKID):
                budget.charge(len(code))
                code = find_and_delete(code, _as_pushed(signature))
        return code

    def _verify(self, signature: bytes, pubkey: bytes, code: bytes) -> bool:
        m = self.machine
        _check_signature_encoding(signature, m)
        if m.flags & f.STRICTENC and not is_strict_pubkey(pubkey):
            fail(ScriptError.PUBKEYTYPE)
        if m.flags & f.COMPRESSED_PUBKEYTYPE and not is_compressed_pubkey(pubkey):
            fail(ScriptError.NONCOMPRESSED_PUBKEY)
        if not signature:
            return False
        hash_type = signature[-1]
        original = not (m.flags & f.SIGHASH_FORKID and hash_type & SIGHASH_FORKID) or hash_type & SIGHASH_CHRONICLE
        m.budget.charge(SIGNATURE_WORK + len(code) + (3 * self.checker.transaction_bytes if original else 0))
        return self.checker.check_signature(signature, pubkey, code, m.flags)

    def _check_signature(self, opcode: int) -> None:
        m = self.machine
        m.need(2)
        signature, pubkey = m.stack[-2], m.stack[-1]
        valid = self._verify(signature, pubkey, self._script_code([signature]))
        if not valid and signature and m.flags & f.NULLFAIL and m.strict:
            fail(ScriptError.NULLFAIL)
        m.drop(2)
        self._finish(valid, opcode == op.OP_CHECKSIGVERIFY, ScriptError.CHECKSIGVERIFY)

    def _check_multisig(self, opcode: int) -> None:
        """``dummy sig… m key… n``: keys and signatures are matched from the top, each signature against the keys left."""
        m = self.machine
        stack = m.stack
        m.need(1)
        key_count = m.number(stack[-1], _MULTISIG_COUNT_BYTES)
        if not 0 <= key_count <= m.limits.max_pubkeys:
            fail(ScriptError.PUBKEY_COUNT)
        self._count_operations(key_count)
        m.need(key_count + 2)
        signature_count = m.number(stack[-key_count - 2], _MULTISIG_COUNT_BYTES)
        if not 0 <= signature_count <= key_count:
            fail(ScriptError.SIG_COUNT)
        used = key_count + signature_count + 2
        m.need(used + 1)  # the dummy below the signatures
        m.budget.charge(used)
        keys = stack[-key_count - 1 : -1][::-1]
        signatures = stack[-used : -key_count - 2][::-1]
        code = self._script_code(signatures)
        key_at = signature_at = 0
        while signature_count - signature_at > 0 and signature_count - signature_at <= key_count - key_at:
            if self._verify(signatures[signature_at], keys[key_at], code):
                signature_at += 1
            key_at += 1
        valid = signature_at == signature_count
        if not valid and m.flags & f.NULLFAIL and m.strict and any(signatures):
            fail(ScriptError.NULLFAIL)
        m.drop(used)
        if m.flags & f.NULLDUMMY and m.strict and stack[-1]:
            fail(ScriptError.SIG_NULLDUMMY)
        m.pop()
        self._finish(valid, opcode == op.OP_CHECKMULTISIGVERIFY, ScriptError.CHECKMULTISIGVERIFY)

    def _finish(self, valid: bool, verify: bool, error: ScriptError) -> None:
        if not verify:
            self.machine.push_bool(valid)
        elif not valid:
            raise ScriptFailure(error)


def _as_pushed(signature: bytes) -> bytes:
    """As a plain push of its length, not the shortest form: what a script code could contain it as."""
    if len(signature) < op.OP_PUSHDATA1 and signature:
        return bytes((len(signature),)) + signature
    return push_data(signature)


def _is_minimal_push(opcode: int, data: bytes) -> bool:
    if opcode == op.OP_0:
        return True
    return push_data(data)[0] == opcode


def _check_signature_encoding(signature: bytes, m: Machine) -> None:
    """The empty signature is always well-formed: the short way to fail a check."""
    if not signature:
        return
    flags = m.flags
    if flags & (f.DERSIG | f.LOW_S | f.STRICTENC) and not is_strict_der(signature):
        fail(ScriptError.SIG_DER)
    if flags & f.LOW_S and m.strict and not is_low_s(signature[:-1]):
        fail(ScriptError.SIG_HIGH_S)
    if not flags & f.STRICTENC:
        return
    hash_type = signature[-1]
    base = hash_type & ~(SIGHASH_CHRONICLE | SIGHASH_FORKID | SIGHASH_ANYONECANPAY)
    if not 1 <= base <= SIGHASH_SINGLE:
        fail(ScriptError.SIG_HASHTYPE)
    if hash_type & SIGHASH_FORKID and not flags & f.SIGHASH_FORKID:
        fail(ScriptError.ILLEGAL_FORKID)
    if hash_type & SIGHASH_CHRONICLE and not flags & f.CHRONICLE:
        fail(ScriptError.ILLEGAL_CHRONICLE)
    if flags & f.SIGHASH_FORKID and not hash_type & SIGHASH_FORKID:
        fail(ScriptError.MISSING_FORKID)
