"""Reservations against a model of single steps: whole blocks leave as one by one, whatever comes between."""

from __future__ import annotations

import hashlib
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodewright.interfaces.storage import UtxoTransaction
from nodewright.storage import prefix
from nodewright_bitcoin.relative import RelativeLock
from nodewright_bitcoin.state import LockedReservation, Reservation, Reservations, outpoint

OUTPUTS = b"\x02" + 2 * (bytes(8) + b"\x01\x51")
NUMBERS = st.integers(0, 30)


def txid_of(number: int) -> bytes:
    return hashlib.sha256(b"reservation %d" % number).digest()


class ReservationsMachine(RuleBasedStateMachine):
    """``model`` has what each reserved id spends and by which rules it was judged; None for a bare one."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Reservations()
        self.model: dict[bytes, Reservation | None] = {}
        self.bare_rules: dict[bytes, int] = {}
        self.departed = 0

    def make(self, number: int, rules: int, inputs: int, stored: bool) -> Reservation:
        """Number n spends outpoints that no other number spends, the first of them the output of n - 1. Some are bound to a
        height, a time or an age."""
        spends = [outpoint(txid_of(number - 1), 0), *(outpoint(txid_of(1000 + number), at) for at in range(3))][:inputs]
        effect = UtxoTransaction(txid_of(number), tuple(spends), OUTPUTS)
        if number % 7 == 6:
            return LockedReservation(
                effect, number, 100, 1, 0, 0, stored, rules, (RelativeLock(outpoint(bytes(32), 0), 1, 0),)
            )
        return Reservation(effect, number, 100, 1, int(number % 7 == 4), int(number % 7 == 5), stored, rules)

    def put(self, one: Reservation) -> None:
        self.bare_rules.pop(one.effect.txid, None)
        self.model[one.effect.txid] = one

    @rule(number=NUMBERS, rules=st.integers(1, 2), inputs=st.integers(0, 3), stored=st.booleans())
    def add(self, number: int, rules: int, inputs: int, stored: bool) -> None:
        if self.model.get(txid_of(number)) is None:
            one = self.make(number, rules, inputs, stored)
            self.state.add(one)
            self.put(one)

    @rule(numbers=st.lists(NUMBERS, unique=True), rules=st.integers(1, 2), inputs=st.integers(0, 3), stored=st.booleans())
    def add_fresh(self, numbers: list[int], rules: int, inputs: int, stored: bool) -> None:
        fresh = [
            self.make(number, rules, inputs if number % 3 else 1, stored)
            for number in numbers
            if txid_of(number) not in self.model and number % 7 < 4
        ]
        self.state.add_fresh(fresh)
        for one in fresh:
            self.put(one)

    @rule(numbers=st.lists(NUMBERS, unique=True, max_size=4), rules=st.integers(1, 2))
    def add_bare(self, numbers: list[int], rules: int) -> None:
        self.state.add_bare([txid_of(number) for number in numbers], rules)
        for txid in map(txid_of, numbers):
            if txid not in self.model:
                self.model[txid] = None
                self.bare_rules[txid] = rules

    @rule(number=NUMBERS)
    def now_stored(self, number: int) -> None:
        one = self.state.get(txid_of(number))
        if one is not None:
            self.state.now_stored(one)

    @rule(number=NUMBERS)
    def drop(self, number: int) -> None:
        txid = txid_of(number)
        self.departed += txid in self.model
        assert self.state.drop(txid) is self.model.pop(txid, None)
        self.bare_rules.pop(txid, None)

    @rule(count=st.integers(0, 31), others=st.lists(NUMBERS, unique=True, max_size=3), turned=st.booleans())
    def drop_all(self, count: int, others: list[int], turned: bool) -> None:
        txids = list(dict.fromkeys([*list(self.model)[:count], *map(txid_of, others)]))
        if turned:
            txids.reverse()
        self.state.drop_all(txids)
        self.departed += 1
        for txid in txids:
            self.model.pop(txid, None)
            self.bare_rules.pop(txid, None)

    @invariant()
    def equals_the_model(self) -> None:
        state, held = self.state, [one for one in self.model.values() if one is not None]
        assert list(state.unmined.items()) == list(self.model.items())
        assert state.spenders == {spent: one.effect.txid for one in held for spent in one.effect.spends}
        assert state.timed == {one.effect.txid for one in held if one.min_height or one.min_time or one.locks}
        assert state.staged == {one.effect.txid for one in held if not one.stored}
        assert state.bare == len(self.bare_rules) and state.bare_rules == self.bare_rules
        assert state.judged_by == dict(Counter(one.rules for one in held))
        assert state.departed == self.departed
        assert state.judged_otherwise(1) == [one.effect.txid for one in held if one.rules != 1]
        for number in range(0, 31, 5):
            txid = txid_of(number)
            assert state.is_stored(txid) == (txid in self.model and (self.model[txid] is None or self.model[txid].stored))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are worth it as well, and parts are small."""
    monkeypatch.setattr(prefix, "WORTH_IT", 1)
    monkeypatch.setattr(prefix, "PART", 3)


TestReservations = ReservationsMachine.TestCase
TestReservations.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
