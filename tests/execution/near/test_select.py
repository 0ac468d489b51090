"""Candidates for a chunk are looked at part by part: what is refused in one part makes room for the next. What has run is
not owed any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import Candidate, Limits, Outcome
from nodewright_near import admission
from nodewright_near.primitives import base58, unbase58
from nodewright_near.transactions import Transfer

NEAR = 10**24
World = Callable[..., Any]
TRANSFER_GAS = 223_182_562_500


async def admitted(w: Any, count: int) -> list[Candidate]:
    sent = [w.sign("alice.near", "bob.near", Transfer(1)) for _ in range(count)]
    answers = await w.engine.admit([one.raw for one in sent], w.head, 0)
    assert all(isinstance(one, Admitted) for one in answers)
    return [Candidate(one.id, len(one.raw), answer.fee) for one, answer in zip(sent, answers, strict=True)]


async def test_what_is_refused_makes_room_in_the_next_part(world: World, monkeypatch) -> None:
    monkeypatch.setattr(admission, "IN_PLACE", 0)
    w = await world({"alice.near": 100 * NEAR, "bob.near": NEAR}).open()
    good = await admitted(w, 12)
    unknown = [Candidate(bytes([number]) * 32, 100, 1) for number in range(1, 10)]
    found = await w.engine.select(w.head, [*unknown, *good], Limits(5, 1 << 20))
    assert list(found.chosen) == good[:5] and list(found.deferred) == good[5:]
    assert set(found.rejected) == {one.id for one in unknown}
    # Gas and bytes are what is left after the parts before.
    found = await w.engine.select(w.head, [*unknown[:2], *good], Limits(100, 1 << 20, 4 * TRANSFER_GAS))
    assert list(found.chosen) == good[:4] and list(found.deferred) == good[4:]
    found = await w.engine.select(w.head, good, Limits(100, 3 * good[0].size, 10**15))
    assert len(found.chosen) == 3 and len(found.deferred) == 9


async def test_one_signers_nonces_go_on_from_part_to_part(world: World, monkeypatch) -> None:
    monkeypatch.setattr(admission, "IN_PLACE", 0)
    w = await world({"alice.near": 100 * NEAR, "bob.near": NEAR}).open()
    good = await admitted(w, 6)
    order = [good[1], good[0], *good[2:]]
    w.engine.reservations.in_order = False
    found = await w.engine.select(w.head, [*order, *order[:1]], Limits(3, 1 << 20))
    assert list(found.chosen) == good[:3]


async def test_what_has_run_is_not_owed_again(world: World) -> None:
    """Blocks run before they are committed: what the head's state has paid for is not taken off the balance once more."""
    w = await world({"alice.near": 10 * NEAR, "bob.near": NEAR}).open()
    first = w.sign("alice.near", "bob.near", Transfer(6 * NEAR))
    await w.admitted(first)
    together = w.sign("alice.near", "bob.near", Transfer(5 * NEAR))
    (answer,) = await w.admit(together)
    assert isinstance(answer, Refused) and answer.code == "NotEnoughBalance"
    (request,) = w.requests([first])
    ran = await w.engine.execute(request)
    assert isinstance(ran, Outcome)
    second = w.sign("alice.near", "bob.near", Transfer(3 * NEAR))
    third = w.sign("alice.near", "bob.near", Transfer(NEAR))
    answers = list(await w.engine.admit([second.raw, third.raw], request.block, 0))
    assert isinstance(answers[0], Admitted), answers[0]
    assert isinstance(answers[1], Refused) and answers[1].code == "NotEnoughBalance", "3 of the 4 that are left are owed"
    await w.engine.commit(request.block)
    assert w.engine.reservations.by_id.keys() == {second.id}


def test_base58_keeps_what_it_is_given() -> None:
    for size in (0, 1, 7, 8, 31, 32, 33, 64):
        for lead in range(min(size, 3) + 1):
            data = bytes(lead) + bytes((size * 37 + at * 11 + 1) % 256 for at in range(size - lead))
            assert unbase58(base58(data)) == data
