"""Cutting concatenated transactions apart agrees with the parser, and never runs past the data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright import kernels
from nodewright_bitcoin import split
from nodewright_bitcoin.columns import KERNELS
from nodewright_bitcoin.split import SplitError, split_transactions
from nodewright_bitcoin.transaction import Transaction, TxInput, TxOutput

scripts = st.binary(max_size=300)
inputs = st.builds(
    TxInput,
    outpoint=st.binary(min_size=36, max_size=36),
    script=scripts,
    sequence=st.integers(0, 2**32 - 1),
    satoshis=st.integers(0, 2**50),
    locking_script=scripts,
)
outputs = st.builds(TxOutput, satoshis=st.integers(0, 2**50), script=scripts)
transactions = st.builds(
    Transaction,
    version=st.integers(1, 2),
    inputs=st.lists(inputs, min_size=1, max_size=4),
    outputs=st.lists(outputs, min_size=1, max_size=4),
    locktime=st.integers(0, 2**32 - 1),
)


@pytest.fixture(autouse=True, params=["plain", "kernel"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "kernel":
            assert kernels.warm_up(KERNELS) is None
            patch.setattr(split, "WORTH_A_CALL", 0)
        else:
            kernels.disable()
        yield
        kernels.disable()


@given(st.lists(st.one_of(transactions.map(Transaction.serialize), st.binary(max_size=40)), max_size=6), st.integers(0, 7))
def test_both_ways_say_the_same(pieces: list[bytes], limit: int) -> None:
    def said(data: bytes) -> list[bytes] | str:
        try:
            return split_transactions(data, limit)
        except SplitError as error:
            return str(error)

    data = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "_split_plain", lambda data, limit: [])
        plain = said(data)
    assert said(data) == plain


def test_the_kernel_does_cut(way: None, request: pytest.FixtureRequest) -> None:
    raw = Transaction(1, [TxInput(bytes(36))], [TxOutput(1, b"")]).serialize()
    found = split._split_plain(raw * 5, 4)
    assert found == ([raw] * 4 if kernels.ready() else [])


@given(st.lists(st.tuples(transactions, st.booleans()), max_size=6))
def test_what_was_joined_comes_apart(items: list[tuple[Transaction, bool]]) -> None:
    raws = [tx.serialize(extended=extended) for tx, extended in items]
    assert split_transactions(b"".join(raws), 10) == raws


@given(transactions, st.data())
def test_a_cut_end_is_refused(tx: Transaction, data: st.DataObject) -> None:
    raw = tx.serialize()
    cut = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(SplitError, match="transaction #1 at offset"):
        split_transactions(raw + raw[:cut], 10)


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_cut_within_bounds(junk: bytes) -> None:
    try:
        parts = split_transactions(junk, 100)
    except SplitError:
        return
    assert b"".join(parts) == junk


def test_more_than_the_limit_is_refused() -> None:
    raw = Transaction(1, [TxInput(bytes(36))], [TxOutput(1, b"")]).serialize()
    with pytest.raises(SplitError, match="more than 2"):
        split_transactions(raw * 3, 2)


def test_a_count_no_data_can_hold_is_refused_at_once() -> None:
    with pytest.raises(SplitError):
        split_transactions(b"\x01\0\0\0" + b"\xff" + b"\xff" * 8 + bytes(60), 2)
