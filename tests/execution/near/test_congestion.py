"""Full shards: what is held back for them, in what order it leaves, and which transactions are turned away."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from attrs import evolve

from nodewright.interfaces.common import Refused
from nodewright_near.chunks import ShardLoad
from nodewright_near.congestion import NO_LIMIT, ShardCongestion, limits_to
from nodewright_near.headers import CongestionInfo
from nodewright_near.parameters import PETA, TERA, Parameters
from nodewright_near.transactions import Transfer

NEAR = 10**24
TRANSFER_GAS = 223_182_562_500
PEOPLE = {name: 100 * NEAR for name in ("alice.near", "bob.near", "carol.near")}
FULL = CongestionInfo(delayed_receipts_gas=400 * PETA, allowed_shard=7)
World = Callable[..., Any]


def test_the_level_is_the_worst_of_four_and_limits_fall_with_it() -> None:
    limits = Parameters().congestion
    cases = [
        (ShardCongestion(CongestionInfo(200 * PETA)), Fraction(1, 2)),
        (ShardCongestion(CongestionInfo(0, 9 * PETA)), Fraction(9, 10)),
        (ShardCongestion(CongestionInfo(0, 0, 250_000_000)), Fraction(1, 4)),
        (ShardCongestion(CongestionInfo(), 25), Fraction(1, 5)),
        (ShardCongestion(CongestionInfo(), 1), Fraction(0)),
        (ShardCongestion(CongestionInfo(10**30), 125), Fraction(1)),
    ]
    for shard, level in cases:
        assert shard.level(limits) == level
        assert shard.accepts_transactions(limits) is (level < Fraction(4, 5))
    assert ShardCongestion().outgoing_gas_limit(limits, 0) == 300 * PETA
    assert cases[0][0].outgoing_gas_limit(limits, 0) == (300 * PETA + PETA) // 2
    full = ShardCongestion(FULL)
    assert (full.outgoing_gas_limit(limits, 7), full.outgoing_gas_limit(limits, 0)) == (PETA, 0)
    assert full.process_tx_limit(limits) == 20 * TERA
    assert limits_to(Parameters(), {1: full}, 0, range(3)) == {0: NO_LIMIT, 1: 0, 2: 300 * PETA}


async def test_receipts_for_a_full_shard_wait_in_order_and_nothing_overtakes_them(world: World) -> None:
    w = await world(PEOPLE, ["bob.near"]).open()
    before = await w.supply()
    full = (ShardLoad(1, FULL, 0),)
    sent = [w.sign("alice.near", "bob.near", Transfer(n)) for n in range(5)]
    results = await w.block(*sent[:3], witness=True, loads=full)
    info = results[0].detail["extra"].congestion
    assert info.buffered_receipts_gas == 3 * TRANSFER_GAS and info.receipt_bytes > 0
    assert not results[0].outgoing and await w.supply() == before
    assert isinstance(await w.amount("alice.near"), int)
    results = await w.block(sent[3], witness=True, loads=full)
    assert results[0].detail["extra"].congestion.buffered_receipts_gas == 4 * TRANSFER_GAS
    results = await w.block(sent[4], witness=True)
    assert results[0].detail["extra"].congestion == evolve(CongestionInfo(), allowed_shard=info.allowed_shard)
    await w.settle()
    arrived = [w.fate(tx)[1].id for tx in sent]
    assert [id for id in w.outcomes if id in arrived] == arrived
    assert await w.amount("bob.near") == 100 * NEAR + sum(range(5)) and await w.supply() == before


async def test_the_one_shard_that_may_still_send_sends_little(world: World) -> None:
    w = await world(PEOPLE, ["bob.near"], gas_limit=10 * PETA).open()
    allowed = (ShardLoad(1, evolve(FULL, allowed_shard=0), 0),)
    sent = [w.sign("alice.near", "bob.near", Transfer(1)) for _ in range(3)]
    results = await w.block(*sent, loads=allowed)
    assert len(results[0].outgoing) == 1 and not results[0].detail["extra"].congestion.buffered_receipts_gas


async def test_transactions_for_a_full_shard_are_turned_away(world: World) -> None:
    w = await world(PEOPLE, gas_limit=1).open()
    shard = w.engine.shards[0]
    version = shard.versions[shard.applied.id]
    version.extra = evolve(version.extra, congestion=CongestionInfo(delayed_receipts_gas=320 * PETA))
    (answer,) = await w.admit(w.sign("alice.near", "bob.near", Transfer(1)))
    assert isinstance(answer, Refused) and (answer.code, answer.kind) == ("ShardCongested", "busy")
    assert answer.data["error"] == {"ShardCongested": {"shard_id": 0, "congestion_level": 0.8}}
