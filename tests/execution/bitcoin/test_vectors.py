"""The network's public test data, every row of it.

Script errors must match by name, not only in being errors: no name of the files is left unmatched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright_bitcoin.block import Block, has_proof_of_work, merkle_root
from nodewright_bitcoin.encoding import ParseError
from nodewright_bitcoin.network import MAINNET
from nodewright_bitcoin.rules import Era, check_coinbase, check_transaction
from nodewright_bitcoin.script.checker import TransactionSignatureChecker
from nodewright_bitcoin.script.flags import ScriptFlags, parse_flags
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import WorkBudget
from nodewright_bitcoin.script.signatures import verify_ecdsa
from nodewright_bitcoin.sighash import forkid_hash, original_hash, signature_hash
from nodewright_bitcoin.transaction import NULL_OUTPOINT, Transaction, TxInput, TxOutput, parse_many

Rows = Callable[[str], list[list[Any]]]
Assemble = Callable[[str], bytes]


def report(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n  {line}")


def test_script_tests(rows: Rows, assemble: Assemble, capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[str] = []
    names: set[str] = set()
    checked = 0
    for row in rows("script_tests.json"):
        fields, amount = (row[1:], round(row[0][-1] * 100_000_000)) if isinstance(row[0], list) else (row, 0)
        version, unlocking, locking, flag_names, expected = fields[:5]
        flags = parse_flags(flag_names)
        if flags & ScriptFlags.CLEANSTACK:  # the file means it so: the one flag is not defined without the other
            flags |= ScriptFlags.P2SH
        unlocking, locking = assemble(unlocking), assemble(locking)
        funding = Transaction(1, (TxInput(NULL_OUTPOINT, b"\0\0"),), (TxOutput(amount, locking),))
        spend = Transaction(int(version), (TxInput(funding.txid + bytes(4), unlocking),), (TxOutput(amount, b""),))
        error = verify_script(unlocking, locking, flags, TransactionSignatureChecker(spend, 0, amount))
        got = error.name if error else "OK"
        names.add(expected)
        checked += 1
        if got != expected:
            wrong.append(f"{got} instead of {expected}: {json.dumps(row)[:200]}")
    report(capsys, f"script_tests.json: {checked} rows, {len(names)} results by name, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:20])
    assert checked == 1483


def test_sighash(rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    checked = 0
    for raw, script, index, hash_type, regular, original in rows("sighash.json"):
        tx = Transaction.parse(bytes.fromhex(raw))
        code = bytes.fromhex(script)
        assert tx.serialize().hex() == raw
        with_fork_id = signature_hash(tx, index, code, 0, hash_type, ScriptFlags.SIGHASH_FORKID)
        assert with_fork_id[::-1].hex() == regular
        assert signature_hash(tx, index, code, 0, hash_type, ScriptFlags.NONE)[::-1].hex() == original
        assert original_hash(tx, index, code, hash_type)[::-1].hex() == original
        if hash_type & 0x60 == 0x40:
            assert forkid_hash(tx, index, code, 0, hash_type)[::-1].hex() == regular
        checked += 1
    report(capsys, f"sighash.json: {checked} rows, both columns")
    assert checked == 1000


def verify_transaction(row: list[Any], assemble: Assemble) -> list[tuple[str, str]]:
    """(flags, "OK" or what failed) of one row of tx_valid or tx_invalid, for each of its sets of flags."""
    prevouts, raw, flag_names = row
    spent = {
        bytes.fromhex(txid)[::-1] + (index & 0xFFFFFFFF).to_bytes(4, "little"): (assemble(script), *rest)
        for txid, index, script, *rest in prevouts
    }
    flag_sets = [flag_names] if isinstance(flag_names, str) else flag_names
    try:
        tx = Transaction.parse(bytes.fromhex(raw))
    except ParseError:  # one row of tx_invalid is a transaction without inputs that has bytes behind its end
        return [(names, "ParseError") for names in flag_sets]
    assert tx.serialize().hex() == raw
    check = check_coinbase if tx.is_coinbase else check_transaction
    error = check(tx, Era.BEFORE_GENESIS)
    if error is not None:
        return [(names, error.code) for names in flag_sets]
    results: list[tuple[str, str]] = []
    for names in flag_sets:
        flags = parse_flags(names)
        result = "OK"
        budget = WorkBudget(1 << 32)
        for index, i in enumerate(tx.inputs):
            locking, *rest = spent[i.outpoint]
            amount = rest[0] if rest else 0
            checker = TransactionSignatureChecker(tx, index, amount)
            failure = verify_script(i.script, locking, flags, checker, budget=budget)
            if failure is not None:
                result = failure.name
                break
        results.append((names, result))
    return results


@pytest.mark.parametrize(("name", "valid", "expected"), [("tx_valid.json", True, 93), ("tx_invalid.json", False, 68)])
def test_transactions(
    name: str, valid: bool, expected: int, rows: Rows, assemble: Assemble, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = flag_sets = 0
    wrong: list[str] = []
    for row in rows(name):
        checked += 1
        for names, result in verify_transaction(row, assemble):
            flag_sets += 1
            if (result == "OK") != valid:
                wrong.append(f"{result} under {names}: {json.dumps(row)[:200]}")
    report(capsys, f"{name}: {checked} rows under {flag_sets} sets of flags, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert checked == expected


def test_block_413567(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = (vectors / "bitcoin" / "block413567.raw").read_bytes()
    block = Block.parse(raw)
    assert len(block.transactions) == 1557
    assert block.serialize() == raw
    assert [tx.serialize() for tx in parse_many(raw[83:], limit=1557)] == [tx.raw for tx in block.transactions]
    root, doubled = merkle_root([tx.txid for tx in block.transactions])
    assert root == block.header.merkle_root
    assert not doubled
    assert has_proof_of_work(block.header, MAINNET.pow_limit_bits)
    assert check_coinbase(block.transactions[0], Era.BEFORE_GENESIS) is None
    assert [check_transaction(tx, Era.BEFORE_GENESIS) for tx in block.transactions[1:]] == [None] * 1556
    report(capsys, f"block413567.raw: {len(raw)} bytes, {len(block.transactions)} transactions")


def test_block_spends_within_itself(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The inputs whose outputs the same block creates can be checked without anything else: real signatures."""
    block = Block.parse((vectors / "bitcoin" / "block413567.raw").read_bytes())
    known = {tx.txid: tx for tx in block.transactions}
    flags = ScriptFlags.P2SH | ScriptFlags.DERSIG | ScriptFlags.CHECKLOCKTIMEVERIFY
    checked = 0
    for tx in block.transactions[1:]:
        for index, i in enumerate(tx.inputs):
            parent = known.get(i.previous_txid)
            if parent is None:
                continue
            output = parent.outputs[i.previous_index]
            checker = TransactionSignatureChecker(tx, index, output.satoshis)
            assert verify_script(i.script, output.script, flags, checker) is None
            wrong = TransactionSignatureChecker(tx, index, output.satoshis)
            damaged = i.script[:12] + bytes((i.script[12] ^ 1,)) + i.script[13:]
            assert verify_script(damaged, output.script, flags, wrong) is not None
            checked += 1
    report(capsys, f"block413567.raw: {checked} inputs that spend outputs of the block itself")
    assert checked > 100


def test_large_transaction_in_both_forms(vectors: Path) -> None:
    standard_file = next((vectors / "teranode").glob("*.bin"))
    standard = standard_file.read_bytes()
    extended = standard_file.with_suffix(".bin.extended").read_bytes()
    a, b = Transaction.parse(standard), Transaction.parse(extended)
    assert a.txid[::-1].hex() == b.txid[::-1].hex() == standard_file.stem
    assert a.serialize() == b.serialize() == standard
    assert b.serialize(extended=True) == extended
    assert b.is_extended
    assert not a.is_extended
    assert a.outputs_vector == b.outputs_vector
    flags = ScriptFlags.SIGHASH_FORKID | ScriptFlags.GENESIS | ScriptFlags.UTXO_AFTER_GENESIS | ScriptFlags.LOW_S
    # Contracts of thousands of opcodes that build and check a signature of their own transaction.
    for index, i in enumerate(b.inputs):
        assert i.satoshis is not None
        assert i.locking_script is not None
        checker = TransactionSignatureChecker(b, index, i.satoshis)
        assert verify_script(i.script, i.locking_script, flags, checker) is None


def test_subtree_data_of_block_171(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = 0
    for path in sorted((vectors / "teranode" / "block171").glob("*.subtree_data")):
        raw = path.read_bytes()
        txs = parse_many(raw, limit=32)
        assert b"".join(tx.serialize(extended=tx.is_extended) for tx in txs) == raw
        checked += len(txs)
    report(capsys, f"block 171: {checked} transactions round-trip")
    assert checked >= 32 * 32 - 1


def test_wycheproof_bitcoin(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """These vectors want S in the lower half and strict DER. ``verify_ecdsa`` takes more, as consensus did and does; so a
    valid one must verify, and an invalid one must be refused by the encoding rules or by the check."""
    from nodewright_bitcoin.script.signatures import is_low_s, is_strict_der

    document = json.loads((vectors / "wycheproof" / "ecdsa_secp256k1_sha256_bitcoin_test.json").read_text())
    checked = 0
    for group in document["testGroups"]:
        key = bytes.fromhex(group["publicKey"]["uncompressed"])
        for case in group["tests"]:
            der = bytes.fromhex(case["sig"])
            digest = hashlib.sha256(bytes.fromhex(case["msg"])).digest()
            accepted = is_strict_der(der + b"\x41") and is_low_s(der) and verify_ecdsa(key, digest, der)
            assert accepted == (case["result"] == "valid"), case
            checked += 1
    report(capsys, f"wycheproof: {checked} signatures")
    assert checked == document["numberOfTests"]
