"""Caches keep their budget, and forget the oldest first."""

from __future__ import annotations

from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.caches import RowCache, Verified

BODY = 1500  # what a transaction counts beside its bytes


@frozen
class Sent:
    id: bytes
    raw: bytes = b""


@settings(max_examples=60)
@given(st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=300)), max_size=60))
def test_rows_keep_the_budget_and_what_is_there_is_the_last_put(puts: list[tuple[bytes, bytes | None]]) -> None:
    cache, last = RowCache(1000), {}
    for key, value in puts:
        cache.update({key: value})
        last[key] = value
        assert sum(len(k) + len(v or b"") + 120 for k, v in cache.rows.items()) <= 1000
        assert all(last[k] == v for k, v in cache.rows.items())


def test_rows_that_fit_stay_however_often_they_change() -> None:
    cache = RowCache(1000)
    for number in range(500):
        cache.update({b"a": bytes(number % 300), b"b": None if number % 2 else b"x"})
    assert cache.rows == {b"a": bytes(499 % 300), b"b": None}


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=30), st.integers(1, 12))
def test_verified_transactions_keep_the_budget_and_the_newest_stay(lots: list[list[int]], room: int) -> None:
    cache: Verified[Sent] = Verified(room * (BODY + 10))
    known = [Sent(bytes([number]), bytes(10)) for number in range(41)]
    for lot in lots:
        cache.add([known[number] for number in lot])
        held = [number for number in range(41) if cache.get(known[number].id) is known[number]]
        assert len(held) <= room
        newest = list(dict.fromkeys(reversed(lot)))
        if len(newest) <= room * 7 // 8:
            assert all(number in held for number in newest) or len(held) >= room * 7 // 8


def test_one_that_is_put_again_counts_once() -> None:
    cache: Verified[Sent] = Verified(10 * BODY)
    one = Sent(b"one")
    for _ in range(100):
        cache.add([one])
    assert cache.get(b"one") is one
    cache.add([Sent(b"one", b"other bytes")])
    assert cache.get(b"one") is one, "the first stays"
    cache.add([Sent(bytes([number])) for number in range(9)])
    assert cache.get(b"one") is one and cache.get(bytes([8])) is not None
    cache.add([Sent(b"too much"), Sent(b"more")])
    assert cache.get(b"one") is None and cache.get(b"more") is not None
