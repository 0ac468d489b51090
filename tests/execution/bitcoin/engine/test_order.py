"""Candidates come out parents first, whatever the order they are offered in; one in order already is left as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodewright.interfaces.execution import Candidate
from nodewright.interfaces.storage import UtxoTransaction
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


def test_a_chain_of_thousands_offered_backwards() -> None:
    state = Reservations()
    for number in range(5000):
        spends = (_id(number - 1) + bytes(4),) if number else (b"\xff" * 36,)
        state.add(Reservation(UtxoTransaction(_id(number), spends, b"\x00"), 0, 100, 1))
    offered = [Candidate(_id(number), 100, 0) for number in reversed(range(5000))]
    assert [one.id for one in parents_first(state, offered)] == [_id(number) for number in range(5000)]
