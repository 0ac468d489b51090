"""Candidates come out parents first, whatever the order they are offered in; one in order already is left as it is."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewright.interfaces.execution import Candidate
from nodewright.interfaces.storage import UtxoTransaction
from nodewright.storage import prefix
from nodewright_bitcoin.state import Reservation, Reservations, parents_first


def _id(number: int) -> bytes:
    return number.to_bytes(32, "big")


@given(st.data())
def test_parents_first(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 20))
    state = Reservations()
    above: dict[bytes, set[bytes]] = {}
    for number in range(count):
        parents = data.draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        spends = tuple(_id(parent) + number.to_bytes(4, "little") for parent in sorted(parents))
        above[_id(number)] = {_id(parent) for parent in parents}
        state.add(Reservation(UtxoTransaction(_id(number), spends, b"\x00"), 0, 100, 1))
    offered = [Candidate(_id(number), 100, 0) for number in data.draw(st.permutations(range(count)))]
    ordered = parents_first(state, offered)
    assert sorted(one.id for one in ordered) == sorted(one.id for one in offered)
    seen: set[bytes] = set()
    for one in ordered:
        assert above[one.id] <= seen
        seen.add(one.id)
    assert parents_first(state, ordered) is ordered


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_block_dropped_is_each_of_it_dropped(monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    """Also by columns, and whatever is bare, staged, or not reserved at all."""
    monkeypatch.setattr(prefix, "WORTH_IT", 1)
    both = Reservations(), Reservations()
    count = data.draw(st.integers(0, 12))
    kinds = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), min_size=count, max_size=count)
    )
    for number, (spends, rules, stored) in enumerate(kinds):
        for state in both:
            if not spends:
                state.add_bare([_id(number)], rules)
                continue
            points = tuple(_id(number) + index.to_bytes(4, "little") for index in range(spends))
            state.add(Reservation(UtxoTransaction(_id(number), points, b"\x00"), 0, 100, 1, stored=stored, rules=rules))
    gone = [_id(number) for number in range(data.draw(st.integers(0, count)))]
    gone += data.draw(st.lists(st.integers(0, 20).map(_id), max_size=2).filter(lambda more: not set(more) & set(gone)))
    departed = both[0].departed
    both[0].drop_all(gone)
    for txid in gone:
        both[1].drop(txid)
    assert both[0].departed > departed
    for name in ("unmined", "spenders", "bare", "bare_rules", "judged_by", "staged"):
        assert getattr(both[0], name) == getattr(both[1], name), name
    assert both[0].staged == {txid for txid, one in both[0].unmined.items() if one is not None and not one.stored}


def test_a_chain_of_thousands_offered_backwards() -> None:
    state = Reservations()
    for number in range(5000):
        spends = (_id(number - 1) + bytes(4),) if number else (b"\xff" * 36,)
        state.add(Reservation(UtxoTransaction(_id(number), spends, b"\x00"), 0, 100, 1))
    offered = [Candidate(_id(number), 100, 0) for number in reversed(range(5000))]
    assert [one.id for one in parents_first(state, offered)] == [_id(number) for number in range(5000)]
