"""Switches of the execution: they change what is kept and when it is synced, never what a chunk comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.storage import WriteBatch
from nodewright_near.accounts import access_key_key, account_key
from nodewright_near.shardstore import SyncPace
from nodewright_near.transactions import Transfer

PEOPLE = {"alice.near": 10**26, "bob.near": 10**26, "zoe.near": 10**26}


async def run(world: Callable[..., Any], **options: Any) -> Any:
    one = await world(PEOPLE, ("m",)).open(**options)
    for amount in range(1, 4):
        await one.settle(
            one.sign("alice.near", "bob.near", Transfer(amount)), one.sign("zoe.near", "alice.near", Transfer(amount))
        )
    return one


@pytest.mark.parametrize(
    "options",
    [{"save_outcomes": False}, {"save_changes": True}, {"sync_bytes": 1 << 20}, {"sync_bytes": 300}],
    ids=["no outcomes", "changes", "synced each MiB", "synced each 300 bytes"],
)
async def test_no_switch_changes_what_comes_out(world: Callable[..., Any], options: dict[str, Any]) -> None:
    plain, switched = await run(world), await run(world, **options)
    assert switched.commitments == plain.commitments
    for table in ("near_state", "near_nodes", "near_meta"):
        assert switched.disk.live[table].rows == plain.disk.live[table].rows
    assert ("near_outcomes" in switched.disk.live) == options.get("save_outcomes", True)
    assert ("near_changes" in switched.disk.live) == options.get("save_changes", False)


async def test_changes_are_the_rows_that_a_chunk_changed(world: Callable[..., Any]) -> None:
    one = await world(PEOPLE, ("m",)).open(save_changes=True)
    signed = one.sign("alice.near", "zoe.near", Transfer(5))
    await one.block(signed)
    key = signed.transaction.public_key
    changed = await one.engine.query(HEAD, "changes", block=one.head.id, shard=0)
    assert set(changed) == {account_key("alice.near"), access_key_key("alice.near", key)}
    assert await one.engine.query(HEAD, "changes", block=one.head.id, shard=1) == {}
    await one.block()
    assert set(await one.engine.query(HEAD, "changes", block=one.head.id, shard=1)) == {account_key("zoe.near")}
    assert await one.engine.query(HEAD, "changes", block=BlockRef(1, bytes(32)).id, shard=0) is None


async def test_a_power_cut_takes_whole_blocks_back(world: Callable[..., Any]) -> None:
    """What was not synced is gone in one piece: state, trie and marker stand on the same block, from which the chain is run
    again."""
    one = await world(PEOPLE).open(sync_bytes=1 << 30)
    blocks = [one.head]
    roots = dict([(one.head.id, one.commitments[0])])
    for amount in range(1, 6):
        await one.block(one.sign("alice.near", "bob.near", Transfer(amount)))
        blocks.append(one.head)
        roots[one.head.id] = one.commitments[0]
    assert one.disk.unsynced
    one.disk.crash(len(one.disk.unsynced) - 2)
    await one.open(sync_bytes=1 << 30)
    applied = await one.engine.applied(0)
    assert applied == blocks[-3]
    extra = await one.engine.query(HEAD, "extra", shard=0)
    assert extra.commitment() == roots[applied.id]


def test_the_pace_counts_what_was_written() -> None:
    batch = WriteBatch()
    batch.put("t", b"k" * 10, b"v" * 90)
    assert [SyncPace(0).due(batch) for _ in range(2)] == [True, True]
    pace = SyncPace(250)
    assert [pace.due(batch) for _ in range(7)] == [False, False, True, False, False, True, False]
