"""The engine behind its contract: blocks, forks, undoing, crashes, reservations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

APT = 10**8
PEOPLE = {"alice": 10 * APT, "bob": 10 * APT, "carol": 10 * APT, "root": APT}
World = Callable[..., Any]


async def test_a_transfer_moves_coins_burns_gas_and_creates_accounts(world: World) -> None:
    w = await world(PEOPLE).open()
    start, _ = w.supply()
    one, two = w.pay("alice", "bob", 5), w.pay("alice", "dave", 7)
    outcome = await w.block(one, two)
    assert not outcome.discarded and not outcome.retry
    assert [await w.fate(one), await w.fate(two)] == ["Executed successfully"] * 2
    assert await w.balance("bob") == 10 * APT + 5 and await w.balance("dave") == 7
    assert await w.balance("alice") == 10 * APT - 12 - outcome.fees
    supply, coins = w.supply()
    assert supply == coins == start - outcome.fees
    assert outcome.gas_used * 100 == outcome.fees
