"""The columnar path equals the object path: parsing, and scripts under the interpreter, on valid and damaged batches."""

from __future__ import annotations

import attrs
import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright import kernels
from nodewright.interfaces.common import Refused
from nodewright.interfaces.storage import UtxoOutput
from nodewright.kernels.signatures import NativeVerifier
from nodewright_bitcoin.columns import KERNELS, Parsed, output_at, output_count, parse_batch, parse_one
from nodewright_bitcoin.network import LOCAL, REGTEST
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.rules import Era, check_transaction
from nodewright_bitcoin.script.opcodes import is_push_only, push_data
from nodewright_bitcoin.script.signatures import CURVE_ORDER, compact_signature
from nodewright_bitcoin.scripts import ScriptTask, verify_batch
from nodewright_bitcoin.sighash import signature_hash
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_digest
from nodewright_bitcoin.transaction import Transaction, TxInput

LIMIT = 100_000
KEYS = [derive_key(b"columns", index) for index in range(6)]


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels():
    assert kernels.warm_up(KERNELS) is None
    yield
    kernels.disable()


def fields(item: Parsed | Refused):
    if isinstance(item, Refused):
        return item
    return attrs.evolve(item, row=-1, checked=False, pushes=False, object=None)


def number(value: int) -> bytes:
    """A CompactSize, not always in its shortest form."""
    return bytes((value,)) if value < 0xFD else b"\xfd" + value.to_bytes(2, "little")


SCRIPTS = st.one_of(
    st.binary(max_size=30),
    st.just(b"\xa9\x14" + bytes(20) + b"\x87"),
    st.integers(250, 260).map(bytes),
    st.sampled_from([p2pkh_script(public_key(key)) for key in KEYS]),
)
OUTPOINTS = st.one_of(
    st.binary(min_size=36, max_size=36), st.just(bytes(36)), st.just(bytes(32) + b"\xff" * 4), st.just(b"\xff" * 36)
)
AMOUNTS = st.one_of(
    st.integers(0, 10**6), st.sampled_from([-1, 21 * 10**14, 21 * 10**14 + 1, 2**63 - 1, -(2**63), 20 * 10**14])
)
INPUTS = st.builds(TxInput, OUTPOINTS, SCRIPTS, st.sampled_from([0xFFFFFFFF, 0, 5]), AMOUNTS, SCRIPTS)
LOCKS = st.sampled_from([0, 7, 500_000_000, 0xFFFFFFFF])


@st.composite
def transactions(draw) -> bytes:
    inputs = draw(st.lists(INPUTS, max_size=4))
    if inputs and draw(st.booleans()):
        inputs.append(inputs[0])
    plain = build_transaction((), draw(st.lists(st.tuples(AMOUNTS, SCRIPTS), max_size=4)))
    tx = Transaction(draw(st.sampled_from([1, 2, -1])), tuple(inputs), plain.outputs, draw(LOCKS))
    raw = tx.serialize(extended=draw(st.booleans()) and bool(inputs))
    damage = draw(st.sampled_from(["none", "none", "cut", "grow", "byte"]))
    at = draw(st.integers(0, max(0, len(raw) - 1)))
    if damage == "cut":
        return raw[:at]
    if damage == "grow":
        return raw + draw(st.binary(min_size=1, max_size=5))
    if damage == "byte":
        return raw[:at] + bytes([draw(st.integers(0, 255))]) + raw[at + 1 :]
    return raw


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(transactions(), st.binary(max_size=120)), min_size=4, max_size=12))
def test_parsing_in_columns_equals_parsing_objects(raws):
    batch = parse_batch(raws, LIMIT)
    assert batch.columns is not None
    for raw, item in zip(raws, batch.items, strict=True):
        assert fields(item) == fields(parse_one(raw, LIMIT))
        if isinstance(item, Parsed) and item.checked:
            for era in (Era.GENESIS, Era.CHRONICLE):
                assert check_transaction(Transaction.parse(item.raw), era) is None
        if isinstance(item, Parsed) and item.pushes:
            tx = Transaction.parse(item.raw)
            assert tx.version in (1, 2) and all(is_push_only(i.script) for i in tx.inputs)


def test_common_transactions_do_take_the_columns():
    spends = [(bytes([n]) * 32, n, 5000, p2pkh_script(public_key(KEYS[0]))) for n in range(4)]
    txs = [build_transaction(spends[: n + 1], [(1000, b"\x51" * n)]) for n in range(4)]
    signed = [Transaction(1, [attrs.evolve(i, script=bytes(107)) for i in tx.inputs], tx.outputs) for tx in txs]
    raws = [tx.serialize(extended=n % 2 == 0) for n, tx in enumerate(signed)]
    assert [item.row for item in parse_batch(raws, LIMIT).items] == [0, 1, 2, 3]
    too_large = parse_batch(raws, 200)
    assert [isinstance(item, Refused) for item in too_large.items] == [len(raw) > 200 for raw in raws]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(AMOUNTS, st.one_of(SCRIPTS, st.integers(65530, 65540).map(bytes))), min_size=1, max_size=260))
def test_outputs_are_read_back_by_index(outputs):
    vector = build_transaction((), outputs).outputs_vector
    assert output_count(vector) == len(outputs)
    for index in {0, len(outputs) - 1, len(outputs) // 2}:
        assert output_at(vector, index) == outputs[index]
    assert output_at(vector, len(outputs)) is None


# --- scripts ----------------------------------------------------------------------------------------------------------

DAMAGE = ["none", "none", "none", "none", "high-s", "hash-type", "other-key", "flip-signature", "flip-key", "flip-script"]
DAMAGE += ["amount", "uncompressed", "hybrid", "pushdata", "extra-push", "wrong-lock", "padded-r", "sequence-after"]
DAMAGE += ["no-key", "op-true"]


def high_s(der: bytes) -> bytes:
    compact = compact_signature(der)
    assert compact is not None
    r, s = compact[:32].lstrip(b"\0"), (CURVE_ORDER - int.from_bytes(compact[32:], "big")).to_bytes(32, "big")
    parts = [b"\0" + part if part[0] & 0x80 else part for part in (r, s)]
    body = b"".join(b"\x02" + bytes([len(part)]) + part for part in parts)
    return b"\x30" + bytes([len(body)]) + body


def flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def unlock(tx: Transaction, index: int, key: bytes, kind: str, lock: bytes, damage: str, at: int) -> bytes:
    hash_type = (0x41, 0x01, 0x42, 0x43, 0xC1, 0x61, 0x40)[at % 7] if damage == "hash-type" else 0x41
    satoshis = 5000 + (damage == "amount")
    digest = signature_hash(tx, index, lock, satoshis, hash_type, 1 << 16 | 1 << 18 | 1 << 20)
    signer = KEYS[5] if damage == "other-key" else key
    signature = sign_digest(signer, digest)
    if damage == "high-s":
        signature = high_s(signature)
    if damage == "padded-r":
        signature = signature[:1] + bytes([signature[1] + 1, 2, signature[3] + 1, 0]) + signature[4:]
    signature += bytes([hash_type])
    if damage == "flip-signature":
        signature = flip(signature, at)
    pubkey = PrivateKey(signer).public_key.format(compressed=damage not in ("uncompressed", "hybrid"))
    if damage == "hybrid":
        pubkey = bytes([6 + (pubkey[-1] & 1)]) + pubkey[1:]
    if damage == "flip-key":
        pubkey = flip(pubkey, at)
    script = b"\x4c" + bytes([len(signature)]) + signature if damage == "pushdata" else push_data(signature)
    if kind == "pkh" and damage != "no-key":
        script += push_data(pubkey)
    if damage == "extra-push":
        script = b"\x51" + script
    return flip(script, at) if damage == "flip-script" else script


CHOICES = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.integers(0, 4), st.sampled_from(["pkh", "pkh", "pk"]), st.sampled_from(DAMAGE), st.integers(0, 600)
            ),
            min_size=1,
            max_size=3,
        ),
        st.sampled_from([0xFFFFFFFF, 3]),
    ),
    min_size=4,
    max_size=7,
)


def build(number_of: int, choices, sequence: int) -> tuple[bytes, list[UtxoOutput]]:
    spends, locks = [], []
    for position, (key, kind, damage, _) in enumerate(choices):
        pubkey = PrivateKey(KEYS[key]).public_key.format(compressed=damage not in ("uncompressed", "hybrid"))
        if damage == "hybrid":
            pubkey = bytes([6 + (pubkey[-1] & 1)]) + pubkey[1:]
        lock = p2pkh_script(pubkey) if kind == "pkh" else push_data(pubkey) + b"\xac"
        lock = b"\x51" if damage == "op-true" else lock
        locks.append(lock)
        spends.append((bytes([number_of, position]) * 16, position, 5000, lock))
    tx = build_transaction(spends, [(1000, b"\x51"), (2000, locks[0])], sequence=sequence)
    inputs = [
        attrs.evolve(own, script=unlock(tx, index, KEYS[key], kind, locks[index], damage, at))
        for index, (own, (key, kind, damage, at)) in enumerate(zip(tx.inputs, choices, strict=True))
    ]
    if any(damage == "sequence-after" for _, _, damage, _ in choices):
        inputs = [attrs.evolve(own, sequence=own.sequence ^ 1) for own in inputs]
    outputs = [
        UtxoOutput(5000, flip(lock, at) if damage == "wrong-lock" else lock, 1)
        for lock, (_, _, damage, at) in zip(locks, choices, strict=True)
    ]
    return Transaction(tx.version, inputs, tx.outputs, tx.locktime).raw, outputs


@settings(max_examples=120, deadline=None)
@given(CHOICES, st.booleans(), st.sampled_from(["local", "genesis", "before", "no-fork-id"]))
def test_scripts_in_columns_equal_the_interpreter(choices, relay, era):
    built = [build(index, inputs, sequence) for index, (inputs, sequence) in enumerate(choices)]
    raws = [raw for raw, _ in built]
    batch = parse_batch(raws, LIMIT)
    chain, height = {
        "local": (LOCAL, 10),
        "genesis": (REGTEST, 12_000),
        "before": (REGTEST, 5000),
        "no-fork-id": (attrs.evolve(REGTEST, uahf_height=6000, daa_height=7000), 5000),
    }[era]
    policy = Policy() if relay else None
    tasks = [ScriptTask(item, outputs) for item, (_, outputs) in zip(batch.items, built, strict=True)]
    plain = [ScriptTask(parse_one(raw, LIMIT), outputs) for raw, outputs in built]
    verifier = NativeVerifier()
    assert verify_batch(tasks, batch.columns, height, chain, verifier, policy) == verify_batch(
        plain, None, height, chain, verifier, policy
    )


def test_valid_inputs_never_reach_the_interpreter(monkeypatch):
    built = [build(n, [(n, "pkh", "none", 0), (n, "pk", "none", 0), (n, "pkh", "uncompressed", 0)], 3) for n in range(4)]
    batch = parse_batch([raw for raw, _ in built], LIMIT)
    tasks = [ScriptTask(item, outputs) for item, (_, outputs) in zip(batch.items, built, strict=True)]

    def reached(*_):
        raise AssertionError("the interpreter was asked")

    monkeypatch.setattr("nodewright_bitcoin.scripts.check_scripts", reached)
    monkeypatch.setattr("nodewright_bitcoin.scripts.check_policy_scripts", reached)
    assert verify_batch(tasks, batch.columns, 10, LOCAL, NativeVerifier(), Policy()) == [None] * 4
