"""Both forms round-trip, and nothing but ParseError comes out of the parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bitcoin.block import Block, BlockHeader, bits_of_target, merkle_root, target_of_bits, work_of_bits
from nodewright_bitcoin.encoding import ParseError, sha256d
from nodewright_bitcoin.transaction import NULL_OUTPOINT, Transaction, TxInput, TxOutput, parse_many

scripts = st.one_of(st.binary(max_size=40), st.integers(0, 600).map(lambda n: b"\x6a" * n))
amounts = st.integers(-(1 << 63), (1 << 63) - 1)
uint32 = st.integers(0, 0xFFFFFFFF)
inputs = st.builds(TxInput, st.binary(min_size=36, max_size=36), scripts, uint32, amounts, scripts)
outputs = st.builds(TxOutput, amounts, scripts)
transactions = st.builds(
    Transaction,
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.lists(inputs, max_size=4).map(tuple),
    st.lists(outputs, max_size=4).map(tuple),
    uint32,
)


def ambiguous(tx: Transaction) -> bool:
    """No inputs, no outputs, and a lock time ending in EF: those ten bytes can also open an extended transaction."""
    return not tx.inputs and not tx.outputs and tx.raw.endswith(b"\0\0\0\xef")


@given(transactions)
def test_both_forms_round_trip(tx: Transaction) -> None:
    standard, extended = tx.serialize(), tx.serialize(extended=True)
    a, b = Transaction.parse(standard), Transaction.parse(extended)
    assert a.serialize() == b.serialize() == standard
    assert b.serialize(extended=True) == extended
    assert b == tx
    assert a.txid == b.txid == tx.txid == sha256d(standard)
    assert a.size == len(standard)
    assert a.outputs_vector == b.outputs_vector == tx.outputs_vector
    assert standard.endswith(tx.outputs_vector + tx.locktime.to_bytes(4, "little"))
    assert b.is_extended
    assert a.is_extended == (not tx.inputs)
    if tx.inputs:
        with pytest.raises(ValueError):
            a.serialize(extended=True)


@given(st.lists(st.tuples(transactions.filter(lambda tx: not ambiguous(tx)), st.booleans()), max_size=5))
def test_concatenated(items: list[tuple[Transaction, bool]]) -> None:
    whole = b"".join(tx.serialize(extended) for tx, extended in items)
    found = parse_many(whole, limit=5)
    assert [tx.txid for tx in found] == [tx.txid for tx, _ in items]
    assert [tx.raw for tx in found] == [tx.raw for tx, _ in items]
    if items:
        with pytest.raises(ParseError, match="more than"):
            parse_many(whole, limit=len(items) - 1)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes(raw: bytes) -> None:
    for parse in (Transaction.parse, Block.parse, lambda data: parse_many(data, 10)):
        try:
            parse(raw)
        except ParseError as error:
            assert 0 <= error.offset <= len(raw)


@given(transactions, st.booleans(), st.data())
@settings(max_examples=200)
def test_damaged_bytes(tx: Transaction, extended: bool, data: st.DataObject) -> None:
    """Cut anywhere it does not parse; changed anywhere it parses or does not, but what parses round-trips."""
    raw = tx.serialize(extended)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ParseError):
        again = Transaction.parse(raw[:cut])
        assert ambiguous(again)  # the one prefix that is whole in itself
        raise ParseError("", 0)
    at = data.draw(st.integers(0, len(raw) - 1))
    damaged = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + 1 :]
    try:
        parsed = Transaction.parse(damaged)
    except ParseError:
        return
    assert damaged in (parsed.serialize(), parsed.serialize(extended=True) if parsed.is_extended else b"")


def test_counts_are_bounded_by_the_bytes() -> None:
    for count in ("feffffffff", "ffffffffffffffff7f", "fdffff"):
        raw = bytes.fromhex("01000000" + count) + bytes(50)
        with pytest.raises(ParseError, match="do not fit"):
            Transaction.parse(raw)
    with pytest.raises(ParseError, match="above the limit"):
        Transaction.parse(bytes(100), max_bytes=99)
    with pytest.raises(ParseError, match="follow"):
        Transaction.parse(Transaction(1, (), ()).raw + b"\0")


def test_the_marker_at_the_end_of_a_standard_form() -> None:
    raw = bytes.fromhex("01000000 00 00 000000ef")
    tx = Transaction.parse(raw)
    assert (tx.inputs, tx.outputs, tx.locktime) == ((), (), 0xEF000000)
    assert tx.serialize() == raw


def test_genesis_coinbase() -> None:
    """The first transaction of all: its txid is known by heart."""
    raw = bytes.fromhex(
        "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d6573"
        "2030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b"
        "73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f355"
        "04e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
    )
    tx = Transaction.parse(raw)
    assert tx.txid[::-1].hex() == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert tx.is_coinbase
    assert tx.inputs[0].outpoint == NULL_OUTPOINT
    assert tx.outputs[0].satoshis == 50 * 100_000_000
    header = BlockHeader(1, bytes(32), merkle_root([tx.txid])[0], 1231006505, 0x1D00FFFF, 2083236893)
    assert header.hash[::-1].hex() == "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
    assert BlockHeader.parse(header.serialize()) == header


def test_merkle_root_tells_doubled_leaves() -> None:
    leaves = [bytes((i,)) * 32 for i in range(6)]
    root, doubled = merkle_root(leaves)
    assert not doubled
    assert merkle_root([*leaves, leaves[4], leaves[5]]) == (root, True)
    assert merkle_root(leaves[:1]) == (leaves[0], False)
    assert merkle_root([]) == (bytes(32), False)


@given(st.integers(1, (1 << 256) - 1))
def test_compact_targets(target: int) -> None:
    bits = bits_of_target(target)
    kept = target_of_bits(bits)
    assert kept is not None
    assert kept <= target < kept + (1 << max(target.bit_length() - 15, 0)) + 1
    assert bits_of_target(kept) == bits


def test_bad_compact_targets() -> None:
    for bits in (0, 0x01000000, 0x01800001, 0x04800001, 0x23000001, 0xFF123456, 0x00FFFFFF):
        assert target_of_bits(bits) is None
        assert work_of_bits(bits) == 0
    assert target_of_bits(0x1D00FFFF) == 0xFFFF << 208
    assert work_of_bits(0x207FFFFF) == 2
