"""Transactions whose scripts take long: put aside by a quick batch, prepared beside it, refused by policy above a bound."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from nodewright.interfaces.common import Admitted, Refused
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.script.limits import POLICY_WORK
from nodewright_bitcoin.scripts import CACHE_ENTRY_BYTES, VerifiedCache
from nodewright_bitcoin.signing import build_transaction, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction

DOUBLING = b"\x76\x7e"  # OP_DUP OP_CAT
BOMB = DOUBLING * 40 + b"\x75\x51"
HEAVY = DOUBLING * 12 + b"\x75\x51"  # to four megabytes: some milliseconds, and true
COUNT = 6


async def fund(world: Any, script: bytes) -> list[tuple[bytes, int, int, bytes]]:
    """Coins that ``script`` locks."""
    txid, index, satoshis, owner = world.genesis_coins()[0]
    tx = build_transaction([(txid, index, satoshis, world.scripts[owner])], [(100_000, script)] * COUNT)
    tx = sign_p2pkh_inputs(tx, [world.owners[owner]])
    assert all(isinstance(answer, Admitted) for answer in await world.admit(tx))
    await world.mine(world.bundle_of([tx]))
    return [(tx.txid, at, 100_000, script) for at in range(COUNT)]


def spend(world: Any, coin: tuple[bytes, int, int, bytes], satoshis: int = 90_000) -> Transaction:
    tx = build_transaction([coin], [(satoshis, world.scripts[1])])
    unlocking = b"\x4d" + (1000).to_bytes(2, "little") + b"\x7f" * 1000
    return Transaction.parse(attrs.evolve(tx, inputs=[attrs.evolve(tx.inputs[0], script=unlocking)]).raw)


async def quick(world: Any, *txs: Transaction) -> list[Any]:
    return await world.engine.admit_quick([tx.raw for tx in txs], world.head, world.now)


async def test_a_quick_batch_puts_aside_what_takes_long_and_takes_it_once_prepared(world: Any) -> None:
    coins = await fund(world, HEAVY)
    heavy = spend(world, coins[0])
    child = build_transaction([(heavy.txid, 0, 90_000, world.scripts[1])], [(80_000, world.scripts[1])])
    child = sign_p2pkh_inputs(child, [world.owners[1]])
    plain = world.pay([world.genesis_coins()[2]], [(900_000, 2)])
    answers = await quick(world, heavy, plain, child)
    assert [type(answer) for answer in answers] == [Refused, Admitted, Refused]
    assert answers[0].kind == "busy" and answers[0].data["slow"] and answers[0].id == heavy.txid
    assert answers[2].kind == "missing"
    assert await world.engine.prepare(heavy.raw, world.head, world.now) is None
    assert heavy.txid not in world.engine.state  # nothing is staged by it
    assert all(isinstance(answer, Admitted) for answer in await quick(world, heavy, child))
    # First seen wins, and is told without a look at scripts.
    refused = await world.engine.prepare(spend(world, coins[0], 80_000).raw, world.head, world.now)
    assert refused is not None and refused.kind == "conflict" and refused.data["winner"] == heavy.txid


async def test_whole_admission_is_as_before(world: Any) -> None:
    coins = await fund(world, HEAVY)
    assert isinstance((await world.admit(spend(world, coins[0])))[0], Admitted)


async def test_beyond_the_bound_it_is_refused_by_policy_and_not_as_invalid(world: Any) -> None:
    coins = await fund(world, BOMB)
    bombs = [spend(world, coin) for coin in coins]
    assert all(answer.data["slow"] for answer in await quick(world, *bombs))
    refused = await world.engine.prepare(bombs[0].raw, world.head, world.now)
    assert refused is not None and refused.kind == "policy"
    world.engine.policy = Policy(max_work=1 << 20)
    (answer,) = await world.admit(bombs[1])
    assert answer.kind == "policy" and "more work" in answer.message


async def test_a_whole_quick_batch_does_a_bounded_work(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that are each just quick enough."""
    coins = await fund(world, DOUBLING * 7 + b"\x75\x51")
    monkeypatch.setattr("nodewright_bitcoin.scripts.QUICK_BATCH_WORK", 700_000)
    answers = await quick(world, *(spend(world, coin) for coin in coins))
    taken = [isinstance(answer, Admitted) for answer in answers]
    assert taken == sorted(taken, reverse=True) and 0 < sum(taken) < COUNT
    assert all(answer.data["slow"] for answer in answers[sum(taken) :])


def test_many_inputs_of_the_ordinary_kind_have_work_enough() -> None:
    """A consolidation of the largest size relayed, checked by the interpreter alone: 148 bytes and 65,000 units each."""
    policy = Policy()
    size = policy.max_transaction_bytes
    assert policy.work(size) > size // 148 * 65_000
    assert POLICY_WORK < 1 << 30  # an empty transaction's: well below a second


def test_what_passed_is_remembered_within_a_bound_the_newest_longest() -> None:
    cache = VerifiedCache(100 * CACHE_ENTRY_BYTES)
    for number in range(1000):
        cache.add(number.to_bytes(32, "big"), 3)
        assert len(cache) <= 100
        kept = min(number + 1, 87)
        assert all((older.to_bytes(32, "big"), 3) in cache for older in range(number + 1 - kept, number + 1))
    assert (bytes(32), 3) not in cache and ((999).to_bytes(32, "big"), 4) not in cache
