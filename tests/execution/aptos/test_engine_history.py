"""The engine going back: undone blocks, crashes at any write, damaged rows, and the past that it still reads and proves."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import Pruned, StoreCorrupt, UnknownQuery
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import (
    HEAD,
)
from nodewright_aptos import hashing, jmt
from nodewright_aptos.accumulator import verify
from nodewright_aptos.queries import UnknownVersion
from nodewright_aptos.resources import ACCOUNT, account_key, apt_store_key
from nodewright_aptos.statekeys import key_hash, value_hash

APT = 10**8
TIME = 1_700_000_000
PEOPLE = {"alice": 10 * APT, "bob": 10 * APT, "carol": 10 * APT, "root": APT}
World = Callable[..., Any]


def apt_address(w: Any, name: str) -> bytes:
    transaction = w.call(name, "aptos_account::transfer", sequence_number=0)
    sender: bytes = transaction.sender
    return sender


# --- going back -------------------------------------------------------------------------------------------------------


async def test_undoing_gives_back_the_store_byte_for_byte(world: World) -> None:
    w = await world(PEOPLE).open()
    heads, stores = [w.head], [w.rows()]
    sent = []
    for number in range(4):
        block = [w.pay("alice", f"new {number}", 5), w.pay("bob", "alice", 10**12), w.pay("carol", "bob", number)]
        await w.block(*block)
        sent.append(block)
        heads.append(w.head)
        stores.append(w.rows())
    for number in reversed(range(4)):
        reverted = await w.engine.revert(heads[number + 1])
        assert [id for id, _ in reverted.transactions] == [one.id for one in sent[number]]
        assert [raw for _, raw in reverted.transactions] == [one.raw for one in sent[number]]
        assert w.rows() == stores[number] and await w.engine.applied() == heads[number]
        again = await w.engine.revert(heads[number + 1])
        assert not again.transactions, "undone once"
    with pytest.raises(Pruned):
        await w.engine.revert(heads[0])
    w.disk.crash()
    await w.open()
    assert w.head == heads[0] and await w.balance("bob") == 10 * APT


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8)
async def test_reorganised_and_straight_chains_end_in_the_same_store(world: World, seed: int) -> None:
    picks = random.Random(seed)
    w = await world(PEOPLE).open()
    plans: list[list[tuple[str, str, int]]] = []
    heads = [w.head]
    for _ in range(10):
        if len(heads) > 1 and picks.random() < 0.4:
            reverted = await w.engine.revert(heads.pop())
            w.head, plan = heads[-1], plans.pop()
            for name in {sender for sender, _, _ in plan}:
                w.numbers[name] -= sum(sender == name for sender, _, _ in plan)
            assert len(reverted.transactions) == len(plan)
        plan = [
            (picks.choice(["alice", "bob", "carol"]), f"new {picks.randrange(4)}", picks.randrange(9)) for _ in range(4)
        ]
        await w.block(*[w.pay(*one) for one in plan], name=str(picks.random()))
        plans.append(plan)
        heads.append(w.head)
    straight = await world(PEOPLE).open()
    for plan, head in zip(plans, heads[1:], strict=True):
        request = evolve(straight.request([straight.pay(*one) for one in plan]), block=head)
        await straight.engine.execute(request)
        await straight.engine.commit(head)
        straight.head = head
    assert w.rows() == straight.rows()


@pytest.mark.parametrize("keep", ["nothing", "everything"])
async def test_a_crash_loses_nothing_committed_and_the_rest_is_executed_again(world: World, keep: str) -> None:
    w = await world(PEOPLE).open()
    await w.block(w.pay("alice", "bob", 5))
    request = w.request([w.pay("alice", "new", 9)])
    outcome = await w.engine.execute(request)
    if keep == "everything":
        await w.engine.commit(request.block)
    w.disk.crash()
    await w.open()
    assert await w.engine.applied() == (request.block if keep == "everything" else request.parent)
    if keep == "nothing":
        assert await w.engine.execute(request) == outcome
        await w.engine.commit(request.block)
    assert await w.balance("new") == 9
    assert await w.engine.genesis(w.document, BlockRef(0, b"other" * 6)) is not None
    assert await w.engine.applied() == request.block, "genesis happens once"


@pytest.mark.parametrize("damage", ["cut", "gone"])
async def test_a_damaged_row_is_told_of_as_such(world: World, damage: str) -> None:
    w = await world(PEOPLE).open()
    await w.block(w.pay("alice", "bob", 5))
    rows = w.disk.live

    def spoil(table: str, key: bytes | None = None) -> None:
        for one in [key] if key is not None else list(rows[table].rows):
            if damage == "gone":
                del rows[table].rows[one]
            else:
                rows[table].rows[one] = rows[table].rows[one][:-1]

    request = w.request([w.pay("alice", "bob", 6)])
    w.engine.state.nodes.rows.clear()
    kept = dict(rows["aptos_tree"].rows)
    spoil("aptos_tree")
    with pytest.raises(StoreCorrupt, match=r"stores.state"):
        await w.engine.execute(request)
    rows["aptos_tree"].rows.update(kept)
    spoil("aptos_transactions")
    with pytest.raises(StoreCorrupt, match=r"stores.state"):
        await w.engine.revert(w.head)
    if damage == "cut":
        spoil("aptos_meta", b"applied")
        with pytest.raises(StoreCorrupt, match=r"stores.state"):
            await w.engine.open()


# --- the past ------------------------------------------------------------------------------------------------------------


async def test_the_past_is_read_and_proven_until_it_is_pruned(world: World) -> None:
    w = await world(PEOPLE, history=3).open()
    versions, balances, roots = [0], [10 * APT], [w.engine.state.applied.state.hash]
    for number in range(6):
        outcome = await w.block(w.pay("alice", f"new {number}", number))
        versions.append(outcome.detail["version"])
        roots.append(outcome.detail["state_root"])
        balances.append(await w.balance("alice"))
    alice = apt_address(w, "alice")
    ledger = await w.engine.query(HEAD, "ledger")
    assert (ledger.height, ledger.oldest_height, ledger.oldest_version) == (6, 3, versions[3])
    for height, version in enumerate(versions):
        if height < 3:
            with pytest.raises(Pruned):
                await w.engine.query(HEAD, "balance", address=alice, version=version)
            continue
        assert await w.engine.query(HEAD, "balance", address=alice, version=version) == balances[height]
        there = await w.engine.query(HEAD, "account", address=apt_address(w, "new 4"), version=version)
        assert (there is not None) == (height >= 5)
        listed = await w.engine.query(HEAD, "resources", address=apt_address(w, "new 4"), version=version)
        assert len(listed) == (2 if height >= 5 else 0)
        for key in (apt_store_key(alice), account_key(apt_address(w, "new 4")), b"\1nothing"):
            proof = await w.engine.query(HEAD, "state_proof", key=key, version=version)
            assert proof.state_root == roots[height] and proof.key_hash == key_hash(key)
            found = proof.proof.leaf is not None and proof.proof.leaf.key_hash == key_hash(key)
            assert found == (proof.value is not None)
            assert not found or proof.proof.leaf.value_hash == value_hash(proof.value)
    with pytest.raises(UnknownVersion):
        await w.engine.query(HEAD, "balance", address=alice, version=versions[-1] + 1)
    reachable: dict[bytes, Any] = {}
    for height in range(3, 7):
        view = w.engine.state.view(w.head.id) if height == 6 else await w.engine.state.past(height)
        reachable.update(await jmt.reachable(view, view.row.state))
    assert set(w.disk.live["aptos_tree"].rows) == set(reachable), "what is pruned is all that nobody needs"
    with pytest.raises(UnknownQuery):
        await w.engine.query(HEAD, "weather")


async def test_every_transaction_is_in_the_ledger_and_proven_against_its_commitment(world: World) -> None:
    w = await world(PEOPLE).open()
    sent, commitments = [], {}
    for number in range(5):
        payments = [w.pay("alice", "bob", number + at) for at in range(70)]
        outcome = await w.block(*payments)
        sent += payments
        commitments[outcome.detail["version"]] = outcome.commitment
    last = max(commitments)
    assert last == 5 * 72
    for version in (0, 1, 2, 71, 72, 73, 200, 255, 256, 257, last):
        for ledger in (each for each in commitments if each >= version):
            info, siblings = await w.engine.query(HEAD, "transaction_proof", version=version, ledger_version=ledger)
            assert verify(commitments[ledger], version, hashing.digest(hashing.TRANSACTION_INFO, info), siblings)
    rows = await w.engine.query(HEAD, "transactions", start=0, limit=100)
    assert [row.version for row in rows] == list(range(100))
    kinds = [row.transaction[0] for row in rows[:74]]
    assert kinds == [1, 2, *[0] * 70, 3, 2]
    checkpoint = rows[72].transaction_info().state_checkpoint
    assert checkpoint is not None and all(row.transaction_info().state_checkpoint is None for row in rows[1:72])
    mine = await w.engine.query(HEAD, "account_transactions", address=sent[0].sender, start=100, limit=3)
    assert [row.hash for row in mine] == [one.id for one in sent[100:103]]
    block = await w.engine.query(HEAD, "block", version=100)
    assert (block.height, block.first_version, block.version) == (2, 73, 144)
    info = await w.engine.query(HEAD, "ledger_info")
    assert info.commit.version == last and info.commit.executed_state == commitments[last]
    assert await w.engine.query(HEAD, "transaction", hash=b"x" * 32) is None
    assert await w.engine.query(HEAD, "resource", address=sent[0].sender, type=ACCOUNT) is not None
