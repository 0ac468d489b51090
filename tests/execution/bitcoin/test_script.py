"""What the public test data leaves open: elements below those used, Chronicle's rules, limits, hostile scripts."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bitcoin.script.checker import TransactionSignatureChecker
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.flags import ScriptFlags as F
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import ELEMENT_OVERHEAD, WorkBudget, consensus_limits, policy_limits
from nodewright_bitcoin.script.machine import Machine
from nodewright_bitcoin.script.numbers import encode_number
from nodewright_bitcoin.script.opcodes import find_and_delete, is_push_only, push_data
from nodewright_bitcoin.script.operations import HANDLERS
from nodewright_bitcoin.sighash import original_hash, signature_hash
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_digest
from nodewright_bitcoin.transaction import Transaction

Assemble = Callable[[str], bytes]

GENESIS = F.GENESIS | F.UTXO_AFTER_GENESIS
CHRONICLE = GENESIS | F.CHRONICLE | F.UTXO_AFTER_CHRONICLE
KEY = derive_key(b"script tests", 0)


def spending(version: int = 1, satoshis: int = 5000) -> Transaction:
    return build_transaction([(bytes(32), 7, satoshis, b"")], [(satoshis - 1, p2pkh_script(public_key(KEY)))], version)


def run(unlocking: bytes, locking: bytes, flags: int, version: int = 1) -> str:
    error = verify_script(unlocking, locking, flags, TransactionSignatureChecker(spending(version), 0, 5000))
    return error.name if error else "OK"


@pytest.mark.parametrize(
    ("opcode", "before", "after"),
    [
        ("2DROP", "9 1 2", "9"),
        ("2DUP", "9 1 2", "9 1 2 1 2"),
        ("3DUP", "9 1 2 3", "9 1 2 3 1 2 3"),
        ("2OVER", "9 1 2 3 4", "9 1 2 3 4 1 2"),
        ("2ROT", "9 1 2 3 4 5 6", "9 3 4 5 6 1 2"),
        ("2SWAP", "9 1 2 3 4", "9 3 4 1 2"),
        ("IFDUP", "9 0", "9 0"),
        ("IFDUP", "9 7", "9 7 7"),
        ("DEPTH", "9 9", "9 9 2"),
        ("DROP", "9 1", "9"),
        ("DUP", "9 1", "9 1 1"),
        ("NIP", "9 1 2", "9 2"),
        ("OVER", "9 1 2", "9 1 2 1"),
        ("PICK", "9 1 2 3 2", "9 1 2 3 1"),
        ("ROLL", "9 1 2 3 2", "9 2 3 1"),
        ("ROLL", "9 1 2 3 0", "9 1 2 3"),
        ("ROT", "9 1 2 3", "9 2 3 1"),
        ("SWAP", "9 1 2", "9 2 1"),
        ("TUCK", "9 8 1 2", "9 8 2 1 2"),
        ("SIZE", "9 'abc'", "9 'abc' 3"),
        ("CAT", "9 'ab' 'c'", "9 'abc'"),
        ("SPLIT", "9 'abc' 1", "9 'a' 'bc'"),
        ("NUM2BIN", "9 -2 4", "9 0x04 0x02000080"),
        ("NUM2BIN", "9 0 2", "9 0x02 0x0000"),
        ("BIN2NUM", "9 0x04 0x02000080", "9 -2"),
        ("INVERT", "9 0x02 0x00f0", "9 0x02 0xff0f"),
        ("AND", "9 0x02 0x0ff0 0x02 0x3333", "9 0x02 0x0330"),
        ("OR", "9 0x02 0x0ff0 0x02 0x3333", "9 0x02 0x3ff3"),
        ("XOR", "9 0x02 0x0ff0 0x02 0x3333", "9 0x02 0x3cc3"),
        ("LSHIFT", "9 0x02 0x0102 4", "9 0x02 0x1020"),
        ("LSHIFT", "9 0x02 0x0102 99", "9 0x02 0x0000"),
        ("RSHIFT", "9 0x02 0x0102 4", "9 0x02 0x0010"),
        ("MUL", "9 -7 3", "9 -21"),
        ("DIV", "9 -7 3", "9 -2"),
        ("MOD", "9 -7 3", "9 -1"),
        ("MOD", "9 7 -3", "9 1"),
        ("2MUL", "9 -7", "9 -14"),
        ("2DIV", "9 -7", "9 -3"),
        ("WITHIN", "9 2 2 3", "9 1"),
        ("WITHIN", "9 3 2 3", "9 0"),
        ("NUMEQUALVERIFY", "9 3 0x02 0x0300", "9"),
        ("EQUALVERIFY", "9 3 3", "9"),
        ("SUBSTR", "9 'abcde' 1 3", "9 'bcd'"),
        ("LEFT", "9 'abcde' 2", "9 'ab'"),
        ("RIGHT", "9 'abcde' 2", "9 'de'"),
        ("RIGHT", "9 'abcde' 0", "9 0"),
        ("LSHIFTNUM", "9 -3 10", "9 -3072"),
        ("RSHIFTNUM", "9 -3 1", "9 -1"),
        ("RSHIFTNUM", "9 1000 3", "9 125"),
        ("VER", "9", "9 0x04 0x02000000"),
    ],
)
def test_stack_effects(opcode: str, before: str, after: str, assemble: Assemble) -> None:
    """With something lying below what the opcode uses, which the opcode must leave there."""

    def stack_of(words: str) -> list[bytes]:
        machine = Machine(CHRONICLE, 2, consensus_limits(CHRONICLE), WorkBudget(1 << 40))
        script = assemble(words)
        from nodewright_bitcoin.script.evaluation import Evaluation

        Evaluation(machine, script, TransactionSignatureChecker(spending(2), 0, 0)).run()
        assert machine.memory == sum(len(item) + ELEMENT_OVERHEAD for item in machine.stack + machine.altstack)
        return machine.stack

    assert stack_of(f"{before} {opcode}") == stack_of(after)


@given(st.integers(0, 255), st.lists(st.binary(max_size=6), max_size=7), st.lists(st.binary(max_size=3), max_size=2))
@settings(max_examples=300)
def test_memory_is_what_lies_on_the_stacks(opcode: int, stack: list[bytes], altstack: list[bytes]) -> None:
    """Whatever an opcode does, or refuses to do halfway."""
    from nodewright_bitcoin.script.errors import ScriptFailure

    machine = Machine(CHRONICLE, 2, consensus_limits(CHRONICLE), WorkBudget(1 << 40))
    for item in altstack:
        machine.push(item)
        HANDLERS[0x6B](machine)
    for item in stack:
        machine.push(item)
    try:
        HANDLERS[opcode](machine)
    except ScriptFailure:
        pass
    assert machine.memory == sum(len(item) + ELEMENT_OVERHEAD for item in machine.stack + machine.altstack)


@given(
    st.binary(max_size=60), st.binary(max_size=60), st.integers(0, (1 << 22) - 1), st.integers(-(1 << 31), (1 << 31) - 1)
)
@settings(max_examples=300)
def test_any_script_gets_an_answer(unlocking: bytes, locking: bytes, flags: int, version: int) -> None:
    checker = TransactionSignatureChecker(spending(version), 0, 5000)
    result = verify_script(unlocking, locking, flags, checker, policy_limits(flags), WorkBudget(1_000_000))
    assert result is None or isinstance(result, ScriptError)


def test_numbers_beyond_the_limit(assemble: Assemble) -> None:
    big = push_data(b"\xff" * 749_999 + b"\x7f")
    assert run(b"", big + assemble("DUP SUB 0 NUMEQUAL"), GENESIS) == "OK"
    # Operands alone are bounded before Chronicle, as an SV Node says (tests/oracle).
    assert run(b"", big + assemble("1ADD"), GENESIS) == "OK"
    assert run(b"", big + assemble("1ADD 1ADD"), GENESIS) == "SCRIPTNUM_OVERFLOW"
    assert run(b"", big + assemble("1ADD DROP 1"), CHRONICLE) == "OK"
    assert run(b"", push_data(b"\x01" * 750_001) + assemble("1ADD"), GENESIS) == "SCRIPTNUM_OVERFLOW"
    assert run(b"", assemble("0x05 0x0000000001 1ADD"), F.NONE) == "SCRIPTNUM_OVERFLOW"
    assert run(b"", assemble("2147483647 DUP ADD SIZE 5 EQUAL"), F.NONE) == "OK"
    assert run(b"", assemble("1 0x04 0xffffff7f LSHIFTNUM"), CHRONICLE) == "SCRIPTNUM_OVERFLOW"
    assert run(b"", assemble("1 0x05 0xffffffff00 RSHIFTNUM"), CHRONICLE) == "BIG_INT"


def test_memory_is_bounded(assemble: Assemble) -> None:
    limits = attrs.evolve(consensus_limits(GENESIS), max_stack_bytes=10_000)
    checker = TransactionSignatureChecker(spending(), 0, 0)
    grow = assemble("0x04 0x01020304 " + "DUP CAT " * 40)
    assert verify_script(b"", grow, GENESIS, checker, limits) is ScriptError.STACK_SIZE
    assert verify_script(b"", assemble("1 0x04 0xffffff7f NUM2BIN"), GENESIS, checker, limits) is ScriptError.STACK_SIZE
    assert verify_script(b"", assemble("1 " + "DUP " * 400), GENESIS, checker, limits) is ScriptError.STACK_SIZE
    assert verify_script(b"", assemble("1 " + "DUP TOALTSTACK " * 400), GENESIS, checker, limits) is ScriptError.STACK_SIZE
    assert verify_script(b"", assemble("1 " + "DUP " * 1000), F.NONE, checker) is ScriptError.OP_COUNT
    assert verify_script(b"", assemble("1 " * 1001), F.NONE, checker) is ScriptError.STACK_SIZE
    assert verify_script(b"", b"\x61" * 10_001, F.NONE, checker) is ScriptError.SCRIPT_SIZE
    assert verify_script(b"", b"\x4d\x09\x02" + bytes(521), F.NONE, checker) is ScriptError.PUSH_SIZE
    assert (
        verify_script(b"", push_data(bytes(500_001)), GENESIS, checker, policy_limits(GENESIS)) is ScriptError.SCRIPT_SIZE
    )


@pytest.mark.parametrize(
    "words",
    [
        "0x04 0x01020304 " + "DUP CAT " * 20 + "DUP HASH256 DROP " * 4000,
        "0x04 0x01020304 " + "DUP CAT " * 17 + "0x01 0x7f CAT " + "DUP DUP MUL DROP " * 2000,
        "0x04 0x01020304 " + "DUP CAT " * 17 + "0x01 0x7f CAT DUP 1000 SPLIT NIP 0x01 0x7f CAT " + "2DUP MOD DROP " * 2000,
        "0 " + "1 0 " * 100 + "0 " + "1 " * 100 + "100 CHECKMULTISIG",
    ],
)
def test_work_is_bounded(words: str, assemble: Assemble) -> None:
    """Each of these would run for minutes: what stops them is counted, so it stops them at the same place everywhere."""
    budget = WorkBudget(50_000_000)
    checker = TransactionSignatureChecker(spending(), 0, 0)
    script = assemble(words)
    result = verify_script(b"", script, GENESIS, checker, budget=budget)
    if "CHECKMULTISIG" in words:  # empty signatures cost nothing: this one may end, but spends next to nothing
        assert budget.left > 0
    else:
        assert result is ScriptError.WORK_LIMIT


def test_inputs_share_a_budget(assemble: Assemble) -> None:
    budget = WorkBudget(100_000)
    checker = TransactionSignatureChecker(spending(), 0, 0)
    results = [verify_script(b"", assemble("1 " + "NOP " * 50), GENESIS, checker, budget=budget) for _ in range(5)]
    assert results[:3] == [None] * 3
    assert results[-1] is ScriptError.WORK_LIMIT


def signed(tx: Transaction, script_code: bytes, hash_type: int, flags: int, key: bytes = KEY) -> bytes:
    digest = signature_hash(tx, 0, script_code, 5000, hash_type, flags)
    return sign_digest(key, digest) + bytes((hash_type,))


def test_chronicle_digest_bit(assemble: Assemble) -> None:
    """0x20 beside the fork id asks for the original digest; before Chronicle it is refused."""
    flags = CHRONICLE | F.SIGHASH_FORKID
    locking = push_data(public_key(KEY)) + assemble("CHECKSIG")
    tx = spending()
    digest = original_hash(tx, 0, locking, 0x61)
    unlocking = push_data(sign_digest(KEY, digest) + b"\x61")
    assert run(unlocking, locking, flags) == "OK"
    assert run(unlocking, locking, GENESIS | F.SIGHASH_FORKID) == "ILLEGAL_CHRONICLE"
    assert run(push_data(signed(tx, locking, 0x41, flags)), locking, flags) == "OK"
    assert run(push_data(signed(tx, locking, 0x01, flags)), locking, flags) == "MISSING_FORKID"
    # The original digest does not sign the amount, the other one does.
    other = TransactionSignatureChecker(tx, 0, 4999)
    assert verify_script(unlocking, locking, flags, other) is None
    assert verify_script(push_data(signed(tx, locking, 0x41, flags)), locking, flags, other) is ScriptError.EVAL_FALSE


def test_original_digest_is_not_fooled_by_its_own_signature(assemble: Assemble) -> None:
    """Before the fork a script code is signed without the signature that may stand in it."""
    tx = spending()
    key = push_data(public_key(KEY))
    signature = signed(tx, key + assemble("CHECKSIG"), 0x01, F.NONE)
    assert run(b"", push_data(signature) + key + assemble("CHECKSIG"), F.NONE) == "OK"
    assert run(b"", push_data(signature) + key + assemble("CHECKSIG"), F.SIGHASH_FORKID) == "MISSING_FORKID"


def test_chronicle_unlocking_script_may_check_signatures(assemble: Assemble) -> None:
    """A check in the unlocking script signs the rest of it and the locking script; only a version 2 transaction may have
    one (others push only)."""
    flags = CHRONICLE | F.SIGHASH_FORKID | F.SIGPUSHONLY
    tail = push_data(public_key(KEY)) + assemble("CHECKSIGVERIFY")
    locking = assemble("1")
    tx = spending(2)
    code = tail + locking
    unlocking = push_data(signed(tx, code, 0x41, flags)) + assemble("CODESEPARATOR") + tail
    assert run(unlocking, locking, flags, version=2) == "OK"
    assert run(unlocking, assemble("2"), flags, version=2) == "CHECKSIGVERIFY"
    assert run(unlocking, locking, flags, version=1) == "SIG_PUSHONLY"
    before = GENESIS | F.SIGHASH_FORKID
    alone = push_data(signed(tx, tail, 0x41, before)) + assemble("CODESEPARATOR") + tail
    assert run(alone, locking, before, version=2) == "OK"


@pytest.mark.parametrize(
    ("unlocking", "locking", "flag", "error"),
    [
        ("0x02 0x0100", "1ADD DROP 1", F.MINIMALDATA, "SCRIPTNUM_MINENCODE"),
        ("0x01 0x01", "DROP 1", F.MINIMALDATA, "MINIMALDATA"),
        ("2", "IF 1 ENDIF", F.MINIMALIF, "MINIMALIF"),
        ("1 1", "", F.CLEANSTACK | F.P2SH, "CLEANSTACK"),
        ("1 0", "0 CHECKMULTISIG", F.NULLDUMMY, "SIG_NULLDUMMY"),
    ],
)
def test_chronicle_allows_malleable_transactions(
    unlocking: str, locking: str, flag: F, error: str, assemble: Assemble
) -> None:
    """The rules against malleability hold for version 1, and before Chronicle for all."""
    u, lock = assemble(unlocking), assemble(locking)
    assert run(u, lock, CHRONICLE | flag, version=1) == error
    assert run(u, lock, GENESIS | flag, version=2) == error
    assert run(u, lock, CHRONICLE | flag, version=2) == "OK"


def test_chronicle_malleable_signatures(assemble: Assemble) -> None:
    from nodewright_bitcoin.script.signatures import CURVE_ORDER, parse_lax_der

    flags = CHRONICLE | F.SIGHASH_FORKID | F.LOW_S | F.NULLFAIL
    locking = push_data(public_key(KEY)) + assemble("CHECKSIG")
    for version, expected in ((1, "SIG_HIGH_S"), (2, "OK")):
        tx = spending(version)
        low = signed(tx, locking, 0x41, flags)
        r, s = parse_lax_der(low[:-1]) or (0, 0)
        parts = [(1 + n.bit_length() // 8, n) for n in (r, CURVE_ORDER - s)]
        body = b"".join(bytes((2, size)) + n.to_bytes(size, "big") for size, n in parts)
        high = bytes((0x30, len(body))) + body + b"\x41"
        assert run(push_data(low), locking, flags, version) == "OK"
        assert run(push_data(high), locking, flags, version) == expected
    wrong = signed(spending(2), b"", 0x41, flags)
    assert run(push_data(wrong), locking + assemble("NOT"), flags, version=2) == "OK"
    assert run(push_data(signed(spending(1), b"", 0x41, flags)), locking + assemble("NOT"), flags, version=1) == "NULLFAIL"


def test_old_outputs_keep_their_rules(assemble: Assemble) -> None:
    """By the age of the output, not of the block: here both are spent under Chronicle."""
    block = F.GENESIS | F.CHRONICLE
    new = block | F.UTXO_AFTER_GENESIS | F.UTXO_AFTER_CHRONICLE
    middle = block | F.UTXO_AFTER_GENESIS
    assert run(assemble("'abc' 1"), assemble("LEFT 'a' EQUAL"), new) == "OK"
    assert run(assemble("'abc' 1"), assemble("LEFT 1 EQUAL"), middle) == "OK"  # still a NOP
    assert run(assemble("2"), assemble("2MUL"), middle) == "DISABLED_OPCODE"
    assert run(assemble("1"), assemble("RETURN"), block) == "OP_RETURN"
    assert run(b"", assemble("1"), F.UTXO_AFTER_CHRONICLE) == "INVALID_FLAGS"


def test_a_cut_script_behind_op_return_is_hashed_as_it_always_was() -> None:
    """The length says all of the script, the bytes stop inside its last push."""
    tx = spending()
    assert original_hash(tx, 0, b"\xac\x6a\x4c", 1) != original_hash(tx, 0, b"\xac\x6a", 1)
    assert original_hash(tx, 0, b"\xac\x6a\x05aa", 1) == original_hash(tx, 0, b"\xac\x6a\x05bb", 1)


def test_reading_instructions() -> None:
    assert find_and_delete(bytes.fromhex("0302ff03"), bytes.fromhex("0302ff03")) == b""
    assert find_and_delete(bytes.fromhex("0302ff030302ff03"), bytes.fromhex("02ff03")) == bytes.fromhex("0302ff030302ff03")
    assert find_and_delete(bytes.fromhex("0302ff030302ff0369"), bytes.fromhex("0302ff03")) == bytes.fromhex("69")
    assert find_and_delete(bytes.fromhex("5151ac51"), b"\x51") == b"\xac"
    assert is_push_only(push_data(bytes(300)) + b"\x50\x60")
    assert not is_push_only(b"\x02\x01")
    assert not is_push_only(b"\x61")
    for size in (0, 1, 75, 76, 255, 256, 65_535, 65_536):
        assert is_push_only(push_data(bytes(size)))
    assert push_data(encode_number(16)) == b"\x60"
