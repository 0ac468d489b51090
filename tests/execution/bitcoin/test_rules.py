"""Eras by height, consensus and relay rules with their reject reasons, amounts, locks, addresses and signing."""

from __future__ import annotations

import attrs
import pytest

from nodewright_bitcoin.network import LOCAL, MAINNET, REGTEST, TESTNET, base58check_decode, base58check_encode
from nodewright_bitcoin.policy import (
    OutputKind,
    Policy,
    check_fee,
    check_policy,
    check_policy_scripts,
    check_policy_sigops,
    minimum_fee,
    output_kind,
    policy_flags,
)
from nodewright_bitcoin.rules import (
    COIN,
    MAX_MONEY,
    Era,
    RuleError,
    SpentOutput,
    check_coinbase,
    check_final,
    check_inputs,
    check_scripts,
    check_transaction,
    era_at,
    era_flags,
    input_flags,
    is_final,
    subsidy,
)
from nodewright_bitcoin.script.flags import ScriptFlags as F
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.script.sigops import count_p2sh_sigops, count_sigops
from nodewright_bitcoin.signing import (
    address_of_pubkey,
    address_to_script,
    build_transaction,
    decode_address,
    decode_wif,
    derive_key,
    encode_wif,
    p2pkh_script,
    public_key,
    sign_p2pkh_input,
    sign_p2pkh_inputs,
)
from nodewright_bitcoin.transaction import NULL_OUTPOINT, Transaction, TxInput, TxOutput

KEY = derive_key(b"rules tests", 0)
SCRIPT = p2pkh_script(public_key(KEY))


def code(result: RuleError | int | None) -> str | None:
    return result.code if isinstance(result, RuleError) else None


def transaction(**changes: object) -> Transaction:
    plain = build_transaction([(b"\x11" * 32, 0, 1000, SCRIPT)], [(900, SCRIPT)])
    return attrs.evolve(plain, **changes)


def test_eras_of_the_public_networks() -> None:
    assert era_at(620_537, MAINNET) is Era.BEFORE_GENESIS
    assert era_at(620_538, MAINNET) is Era.GENESIS
    assert era_at(943_815, MAINNET) is Era.GENESIS
    assert era_at(943_816, MAINNET) is Era.CHRONICLE
    assert era_at(0, LOCAL) is Era.CHRONICLE
    assert era_at(10_000, REGTEST) is Era.GENESIS
    assert era_flags(1, MAINNET) == F.NONE
    assert era_flags(173_806, MAINNET) == F.P2SH
    assert era_flags(478_559, MAINNET) & F.SIGHASH_FORKID
    assert not era_flags(478_558, MAINNET) & F.SIGHASH_FORKID
    assert not era_flags(504_031, MAINNET) & F.LOW_S
    assert era_flags(504_032, MAINNET) & F.NULLFAIL
    genesis = era_flags(620_538, MAINNET)
    assert genesis & F.GENESIS
    assert genesis & F.SIGPUSHONLY
    assert not genesis & F.CHRONICLE
    assert era_flags(943_816, MAINNET) & F.CHRONICLE
    assert input_flags(genesis, 620_537, MAINNET) == genesis
    assert input_flags(genesis, 620_538, MAINNET) == genesis | F.UTXO_AFTER_GENESIS
    assert input_flags(genesis, 943_816, MAINNET) & F.UTXO_AFTER_CHRONICLE
    assert policy_flags(943_816, MAINNET) & F.CLEANSTACK


def test_subsidy() -> None:
    assert [subsidy(h, MAINNET) for h in (0, 209_999, 210_000, 840_000)] == [5_000_000_000] * 2 + [
        2_500_000_000,
        312_500_000,
    ]
    assert subsidy(210_000 * 64, MAINNET) == 0


@pytest.mark.parametrize(
    ("changes", "era", "expected"),
    [
        ({}, Era.CHRONICLE, None),
        ({"inputs": ()}, Era.CHRONICLE, "bad-txns-vin-empty"),
        ({"outputs": ()}, Era.CHRONICLE, "bad-txns-vout-empty"),
        ({"outputs": (TxOutput(-1, b""),)}, Era.CHRONICLE, "bad-txns-vout-negative"),
        ({"outputs": (TxOutput(MAX_MONEY + 1, b""),)}, Era.CHRONICLE, "bad-txns-vout-toolarge"),
        ({"outputs": (TxOutput(MAX_MONEY, b""), TxOutput(1, b""))}, Era.CHRONICLE, "bad-txns-txouttotal-toolarge"),
        ({"inputs": (TxInput(NULL_OUTPOINT, b"ab"),)}, Era.CHRONICLE, "bad-tx-coinbase"),
        ({"inputs": (TxInput(bytes(36)), TxInput(NULL_OUTPOINT))}, Era.CHRONICLE, "bad-txns-prevout-null"),
        ({"inputs": (TxInput(bytes(36)), TxInput(bytes(36)))}, Era.CHRONICLE, "bad-txns-inputs-duplicate"),
        ({"outputs": (TxOutput(1, b"\xa9\x14" + bytes(20) + b"\x87"),)}, Era.GENESIS, "bad-txns-vout-p2sh"),
        ({"outputs": (TxOutput(1, b"\xa9\x14" + bytes(20) + b"\x87"),)}, Era.BEFORE_GENESIS, None),
        ({"outputs": (TxOutput(1, bytes(1_000_000)),)}, Era.BEFORE_GENESIS, "bad-txns-oversize"),
        ({"outputs": (TxOutput(1, bytes(1_000_000)),)}, Era.GENESIS, None),
        ({"outputs": (TxOutput(1, b"\xac" * 20_001),)}, Era.BEFORE_GENESIS, "bad-txn-sigops"),
        ({"outputs": (TxOutput(1, b"\xae" * 1_001),)}, Era.BEFORE_GENESIS, "bad-txn-sigops"),
        ({"outputs": (TxOutput(1, b"\xac" * 20_001),)}, Era.GENESIS, None),
    ],
)
def test_consensus_rules(changes: dict[str, object], era: Era, expected: str | None) -> None:
    assert code(check_transaction(transaction(**changes), era)) == expected


def test_coinbase_rules() -> None:
    coinbase = transaction(inputs=(TxInput(NULL_OUTPOINT, b"ab"),))
    assert check_coinbase(coinbase, Era.GENESIS) is None
    assert code(check_coinbase(transaction(), Era.GENESIS)) == "bad-cb-missing"
    for size in (0, 1, 101):
        bad = transaction(inputs=(TxInput(NULL_OUTPOINT, bytes(size)),))
        assert code(check_coinbase(bad, Era.GENESIS)) == "bad-cb-length"


def test_amounts_and_maturity() -> None:
    tx = transaction()
    assert check_inputs(tx, [SpentOutput(1000, SCRIPT, 5)], 6, LOCAL) == 100
    assert code(check_inputs(tx, [SpentOutput(899, SCRIPT, 5)], 6, LOCAL)) == "bad-txns-in-belowout"
    assert code(check_inputs(tx, [SpentOutput(MAX_MONEY + 1, SCRIPT, 5)], 6, LOCAL)) == "bad-txns-inputvalues-outofrange"
    young = [SpentOutput(50 * COIN, SCRIPT, 5, coinbase=True)]
    assert code(check_inputs(tx, young, 104, LOCAL)) == "bad-txns-premature-spend-of-coinbase"
    assert check_inputs(tx, young, 105, LOCAL) == 50 * COIN - 900


def test_lock_times() -> None:
    waiting = (TxInput(bytes(36), b"", 0),)
    by_height = transaction(inputs=waiting, locktime=100)
    assert not is_final(by_height, 100, 0)
    assert is_final(by_height, 101, 0)
    by_time = transaction(inputs=waiting, locktime=1_500_000_000)
    assert code(check_final(by_time, 10**6, 1_500_000_000)) == "bad-txns-nonfinal"
    assert check_final(by_time, 0, 1_500_000_001) is None
    assert is_final(transaction(locktime=100), 1, 0)  # every sequence is final


def test_scripts_and_their_reject_reasons() -> None:
    unsigned = transaction()
    spent = [SpentOutput(1000, SCRIPT, 0)]
    good = sign_p2pkh_inputs(unsigned, [KEY])
    flags = era_flags(5, LOCAL)
    assert check_scripts(good, spent, flags, LOCAL) is None
    failure = check_scripts(unsigned, spent, flags, LOCAL)
    assert failure is not None
    assert failure.code == ("mandatory-script-verify-flag-failed (Operation not valid with the current stack size)")
    wrong_amount = check_scripts(good, [SpentOutput(999, SCRIPT, 0)], flags, LOCAL)
    assert wrong_amount is not None
    assert wrong_amount.code.startswith("mandatory-script-verify-flag-failed (Signature must be zero")
    padded = attrs.evolve(good, inputs=(attrs.evolve(good.inputs[0], script=b"\x51" + good.inputs[0].script),))
    assert check_scripts(padded, spent, flags, LOCAL) is None
    relay = check_policy_scripts(padded, spent, 5, LOCAL, Policy())
    assert relay is not None
    assert relay.code == "non-mandatory-script-verify-flag (Script did not clean its stack)"
    assert check_policy_scripts(padded, spent, 5, LOCAL, Policy(standard_scripts=False)) is None
    assert check_policy_scripts(good, spent, 5, LOCAL, Policy()) is None
    assert (code(check_policy_scripts(unsigned, spent, 5, LOCAL, Policy())) or "").startswith("mandatory-")
    assert (code(check_scripts(good, spent, flags, LOCAL, max_work=10)) or "").startswith("mandatory-")


def test_relay_policy() -> None:
    assert [minimum_fee(size, Policy(fee_per_kilobyte=50)) for size in (1, 20, 226, 1000)] == [1, 1, 11, 50]
    assert minimum_fee(10_000, Policy(fee_per_kilobyte=0)) == 0
    assert check_fee(226, 11, Policy(fee_per_kilobyte=50)) is None
    assert code(check_fee(226, 10, Policy(fee_per_kilobyte=50))) == "mempool min fee not met"
    policy = Policy()
    assert check_policy(transaction(), Era.CHRONICLE, policy) is None
    assert code(check_policy(transaction(outputs=(TxOutput(1, bytes(10_000_001)),)), Era.CHRONICLE, policy)) == "tx-size"
    assert code(check_policy(transaction(outputs=(TxOutput(1, bytes(100_000)),)), Era.BEFORE_GENESIS, policy)) == "tx-size"
    assert code(check_policy(transaction(version=3), Era.GENESIS, policy)) == "version"
    assert check_policy(transaction(version=3), Era.CHRONICLE, policy) is None
    busy = transaction(inputs=(TxInput(bytes(36), b"\x61"),))
    assert code(check_policy(busy, Era.GENESIS, policy)) == "scriptsig-not-pushonly"
    assert check_policy(busy, Era.CHRONICLE, policy) is None
    long = transaction(inputs=(TxInput(bytes(36), push_data(bytes(1_700))),))
    assert code(check_policy(long, Era.BEFORE_GENESIS, policy)) == "scriptsig-size"
    odd = transaction(outputs=(TxOutput(1, b"\x51"),))
    assert code(check_policy(odd, Era.BEFORE_GENESIS, policy)) == "scriptpubkey"
    assert check_policy(odd, Era.GENESIS, policy) is None
    data = transaction(outputs=(TxOutput(0, b"\x6a" + push_data(bytes(230))),))
    assert code(check_policy(data, Era.BEFORE_GENESIS, policy)) == "datacarrier-size-exceeded"
    assert check_policy(data, Era.BEFORE_GENESIS, Policy(standard_scripts=False)) is None


def test_kinds_of_output() -> None:
    key = public_key(KEY)
    two = b"\x51" + push_data(key) * 2 + b"\x52\xae"
    for script, before, since in [
        (SCRIPT, OutputKind.PUBKEY_HASH, OutputKind.PUBKEY_HASH),
        (push_data(key) + b"\xac", OutputKind.PUBKEY, OutputKind.PUBKEY),
        (push_data(public_key(KEY, False)) + b"\xac", OutputKind.PUBKEY, OutputKind.PUBKEY),
        (b"\xa9\x14" + bytes(20) + b"\x87", OutputKind.SCRIPT_HASH, OutputKind.OTHER),
        (two, OutputKind.MULTISIG, OutputKind.MULTISIG),
        (b"\x53" + two[1:], OutputKind.OTHER, OutputKind.OTHER),
        (b"\x6a" + push_data(b"hello"), OutputKind.DATA, OutputKind.OTHER),
        (b"\x00\x6a" + push_data(b"hello"), OutputKind.DATA, OutputKind.DATA),
        (b"", OutputKind.OTHER, OutputKind.OTHER),
    ]:
        assert output_kind(script, Era.BEFORE_GENESIS) is before
        assert output_kind(script, Era.GENESIS) is since


def test_signature_operations() -> None:
    redeem = b"\x51" + push_data(public_key(KEY)) * 2 + b"\x52\xae"
    assert count_sigops(redeem, accurate=False) == 20
    assert count_sigops(redeem, accurate=True) == 2
    assert count_sigops(b"\xac\xad\x6a\xac", accurate=True) == 2
    assert count_sigops(b"\xac\x05", accurate=False) == 1
    assert count_sigops(b"\x68", accurate=True) is None
    p2sh = b"\xa9\x14" + bytes(20) + b"\x87"
    assert count_p2sh_sigops(b"\x00" + push_data(redeem), p2sh) == 2
    assert count_p2sh_sigops(b"\x61" + push_data(redeem), p2sh) == 0
    assert count_p2sh_sigops(push_data(redeem), SCRIPT) == 0
    many = transaction(inputs=(TxInput(bytes(36), push_data(b"\xac" * 4_001)),))
    spent = [SpentOutput(1, p2sh, 0)]
    assert code(check_policy_sigops(many, spent, Era.BEFORE_GENESIS)) == "bad-txns-too-many-sigops"
    assert check_policy_sigops(many, spent, Era.GENESIS) is None
    assert check_policy_sigops(transaction(), [SpentOutput(1, SCRIPT, 0)], Era.BEFORE_GENESIS) is None


def test_addresses_and_keys() -> None:
    one = (1).to_bytes(32, "big")
    assert address_of_pubkey(public_key(one), MAINNET) == "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH"
    assert address_of_pubkey(public_key(one, False), MAINNET) == "1EHNa6Q4Jz2uvNExL497mE43ikXhwF6kZm"
    assert encode_wif(one, MAINNET) == "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn"
    assert encode_wif(one, MAINNET, compressed=False) == "5HpHagT65TZzG1PH3CSu63k8DbpvD8s5ip4nEB3kEsreAnchuDf"
    for chain in (MAINNET, TESTNET, REGTEST, LOCAL):
        for compressed in (True, False):
            assert decode_wif(encode_wif(KEY, chain, compressed), chain) == (KEY, compressed)
        address = address_of_pubkey(public_key(KEY), chain)
        assert address_to_script(address, chain) == SCRIPT
        assert decode_address(address, chain) == SCRIPT[3:23]
    for text, message in [
        ("1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMJ", "checksum"),
        ("1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAM0", "Base58"),
        ("1" * 200, "too long"),
        (address_of_pubkey(public_key(KEY), TESTNET), "not an address of chain 'main'"),
        (base58check_encode(b"\x05" + bytes(20)), "since Genesis"),
        (base58check_encode(b"\x00" + bytes(19)), "length"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode_address(text, MAINNET)
    for text in (
        encode_wif(KEY, TESTNET),
        base58check_encode(b"\x80" + bytes(32)),
        base58check_encode(b"\x80" + bytes(33)),
    ):
        with pytest.raises(ValueError):
            decode_wif(text, MAINNET)
    assert base58check_decode(base58check_encode(b"\0\0\x01")) == b"\0\0\x01"


def test_signing_is_deterministic() -> None:
    tx = transaction()
    a, b = (sign_p2pkh_input(tx, 0, KEY, 1000, SCRIPT) for _ in range(2))
    assert a == b
    assert derive_key(b"seed", 1) == derive_key(b"seed", 1) != derive_key(b"seed", 2)
    with pytest.raises(ValueError, match="does not know"):
        sign_p2pkh_inputs(transaction(inputs=(TxInput(bytes(36)),)), [KEY])
    for hash_type in (0x41, 0x42, 0x43, 0xC1, 0xC2, 0xC3, 0x61, 0xE3):
        signed = sign_p2pkh_inputs(tx, [KEY], hash_type)
        assert check_scripts(signed, [SpentOutput(1000, SCRIPT, 0)], era_flags(5, LOCAL), LOCAL) is None
