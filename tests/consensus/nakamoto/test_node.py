"""One node: mining candidates, controls, queries, the operator's marks, status."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nodewright.errors import ControlRefused, UnknownControl, UnknownQuery
from nodewright.interfaces import Candidate, Consensus
from nodewright_nakamoto import merkle
from nodewright_nakamoto.chain import InvalidHeader, NotYet
from nodewright_nakamoto.config import NakamotoConfig, check
from nodewright_nakamoto.header import Header, search_nonce, sha256d
from nodewright_nakamoto.plugin import register_consensus


def solved(candidate: dict[str, Any], coinbase_id: bytes) -> int:
    """What an outside miner does with a candidate."""
    root = merkle.climb(coinbase_id, 0, [bytes.fromhex(one)[::-1] for one in candidate["merkleProof"]])
    previous = bytes.fromhex(candidate["prevhash"])[::-1]
    bits = int(candidate["nBits"], 16)
    header = Header(candidate["version"], previous, root, candidate["time"], bits, 0)
    nonce = search_nonce(header.encode(), bits, 0, 1000)
    assert nonce is not None
    return nonce


async def test_a_candidate_is_solved_outside(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node")
    consensus = await node.open()
    assert isinstance(consensus, Consensus)
    for round in range(3):
        await node.submit(*[spend(20 * round + i) for i in range(5 * round)])
        await node.fill()
        candidate = await consensus.control("mining_candidate", payout=b"me")
        assert candidate["num_tx"] == 5 * round + 1 and candidate["height"] == round + 1
        coinbase = bytes.fromhex(candidate["coinbase"])
        changed = coinbase + b"extra"  # the miner may write into the coinbase
        nonce = solved(candidate, sha256d(changed))
        id = await consensus.control("submit_solution", id=candidate["id"], nonce=nonce, coinbase=changed)
        assert consensus.head().id == id
        record = await consensus.block(id)
        assert record is not None and record.prologue == changed and record.transactions == 5 * round + 1
        assert record.size == candidate["sizeWithoutCoinbase"] + len(changed)
        assert (await consensus.block_at(round + 1)) == record
    again = await consensus.control("submit_solution", id=candidate["id"], nonce=nonce, coinbase=changed)
    assert again == id  # the same solution again is no error
    fresh = await consensus.control("mining_candidate")
    with pytest.raises(ControlRefused, match="stale"):
        await consensus.control("submit_solution", id=candidate["id"], nonce=nonce, coinbase=changed)
    with pytest.raises(ControlRefused, match="high-hash"):
        for wrong in range(50):
            await consensus.control("submit_solution", id=fresh["id"], nonce=wrong, time=fresh["time"] + wrong)
            fresh = await consensus.control("mining_candidate")


async def test_unknown_names_are_told(world: Any, autojump: Any) -> None:
    consensus = await world.Node("node").open()
    with pytest.raises(UnknownControl, match="mining_candidate"):
        await consensus.control("sandbox_patch")
    with pytest.raises(UnknownQuery, match="merkle_proof"):
        await consensus.query("validators")
    with pytest.raises(ControlRefused):
        await consensus.control("submit_solution", id="xyz", nonce=1)
    with pytest.raises(ControlRefused):
        await consensus.control("generate", count=0)
    with pytest.raises(ControlRefused):
        await consensus.control("invalidate_block", id=bytes(32))


async def test_queries(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node")
    consensus = await node.open()
    transactions = [spend(i) for i in range(9)]
    await node.submit(*transactions)
    await node.fill()
    assert (await consensus.query("assembly"))["transactions"] == 9
    (id,) = await node.generate()
    record = await consensus.block(id)
    assert record is not None
    for tx in transactions:
        proof = await consensus.query("merkle_proof", id=tx.id)
        siblings = [bytes.fromhex(one)[::-1] for one in proof["siblings"]]
        assert merkle.climb(tx.id, proof["index"], siblings) == Header.decode(record.header).merkle_root
    proof = await consensus.query("merkle_proof", id=record.prologue_id)
    assert proof["coinbase"] and proof["index"] == 0
    assert await consensus.query("merkle_proof", id=bytes(32)) is None
    stats = await consensus.query("block_stats", height=1)
    assert stats["transactions"] == 10 and stats["fees"] == 9 and stats["bundles"] == 3
    assert (await consensus.query("header_range", start=0, count=5))[1] == record.header
    assert (await consensus.query("mining_info"))["height"] == 1
    assert await consensus.query("difficulty") > 0
    assert (await consensus.query("header", id=id))["confirmations"] == 1
    (location,) = await consensus.locate([transactions[5].id])
    assert location is not None and location.block == consensus.head()
    (prologue,) = await consensus.locate([record.prologue_id])
    assert prologue is not None and prologue.bundle == id
    raws = await consensus.transactions([transactions[3].id, record.prologue_id, bytes(32)])
    assert raws == [transactions[3].raw, record.prologue, None]
    assert await consensus.bundle(record.bundles[0].id) is not None
    assert consensus.final().height == 0
    assert consensus.status()["state"] == "idle"


async def test_invalidate_and_reconsider(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node")
    consensus = await node.open()
    await node.submit(spend(1))
    await node.fill()
    ids = await node.generate(3)
    head = await consensus.control("invalidate_block", id=ids[1])
    assert head.height == 1
    assert [tip["status"] for tip in await consensus.query("tips")] == ["invalid"]
    (other,) = await node.generate()
    node.lose_power()
    consensus = await node.open()  # the mark survives
    assert consensus.head().id == other
    head = await consensus.control("reconsider_block", id=ids[1])
    assert head.id == ids[2]
    mined = await node.chain_transactions()
    assert mined == [spend(1).id]
    head = await consensus.control("invalidate_block", id=ids[0])
    assert head.height == 0
    (status,) = await node.pool.status([spend(1).id])
    assert status is not None and status.status == "pending"
    await node.generate()
    assert await node.chain_transactions() == [spend(1).id]


async def test_header_rules(world: Any, autojump: Any) -> None:
    node = world.Node("node")
    consensus = await node.open()
    await node.generate(12)
    chain = consensus.chain
    tip = chain.tip

    def header(time: int, bits: int = 0x207FFFFF) -> Header:
        raw = Header(1, tip.id, bytes(32), time, bits, 0)
        nonce = search_nonce(raw.encode(), bits, 0, 1000) or 0
        return Header(1, tip.id, bytes(32), time, bits, nonce)

    now = int(node.environment.now())
    with pytest.raises(InvalidHeader, match="median"):
        chain.check_header(header(chain.index.median_time(tip)))
    with pytest.raises(NotYet):
        chain.check_header(header(now + 3 * 3600))
    with pytest.raises(InvalidHeader, match="target"):
        chain.check_header(header(now + 100, 0x2070FFFF))
    good = header(now + 100)
    nonce = next(n for n in range(1000) if search_nonce(good.encode(), good.bits, n, 1) is None)
    with pytest.raises(InvalidHeader, match="hash"):
        chain.check_header(Header(1, tip.id, bytes(32), good.time, good.bits, nonce))
    chain.check_header(good)
    with pytest.raises(KeyError):
        chain.check_header(Header(1, b"\x01" * 32, bytes(32), now, good.bits, 0))


async def test_a_transaction_twice_on_one_chain_is_refused_by_bundles_alone(world: Any, spend: Any, autojump: Any) -> None:
    node, other = world.Node("node"), world.Node("other")
    consensus = await node.open()
    theirs = await other.open()
    for one in (node, other):
        await one.submit(spend(1), spend(2))
        await one.fill()
    (first,) = await node.generate()
    await other.feed(node, first)
    # The other node mines a mined transaction again: its own ledger is told to look away.
    other.ledger.mined.clear()
    await other.pool.restore([(spend(2).id, spend(2).raw)])
    theirs.chain.assembler.clear()
    from nodewright_nakamoto.assembler import Leaf

    theirs.chain.assembler.extend([Leaf(spend(2).id, len(spend(2).raw), 1)])
    other.pool.raw[spend(2).id] = spend(2).raw
    other.pool.candidates[spend(2).id] = Candidate(spend(2).id, len(spend(2).raw), 1)
    template = await theirs.assembly.template()
    solved = await theirs.assembly.solve(template)
    assert solved is not None
    executions = other.ledger.executions
    with pytest.raises(ControlRefused, match="in one of its ancestors"):
        await theirs.assembly.submit(template, *solved)
    assert consensus.head() == theirs.head()
    assert other.ledger.executions == executions and node.ledger.executions == 1
    # The assembly is repaired: what is mined is told so, and not mined again.
    (status,) = await other.pool.status([spend(2).id])
    assert status is not None and status.status == "committed" and status.block == consensus.head()
    await other.generate()
    assert theirs.head().height == 2 and (await other.chain_transactions()).count(spend(2).id) == 1


async def test_an_execution_that_names_one_bad_transaction_at_a_time(world: Any, spend: Any, autojump: Any) -> None:
    """Each attempt gets further than the one before, and blocks are made meanwhile."""
    node = world.Node("node")
    await node.open()
    bad = [spend(number) for number in range(30)]
    good = [spend(number) for number in range(30, 60)]
    for pair in zip(good, bad, strict=True):
        await node.submit(*pair)
    await node.fill()
    for tx in bad:  # what they spend is gone, and only the block's execution finds out
        del node.ledger.unspent[tx.spends[0]]
    for _ in range(6):
        await node.generate()
        node.consensus.assembly._deferred, ready = [], node.consensus.assembly._deferred
        node.pool.give_back([one.id for one in ready])
        await node.fill()
    assert sorted(await node.chain_transactions()) == sorted(tx.id for tx in good)
    assert [one.status for one in await node.pool.status([tx.id for tx in bad])] == ["rejected"] * 30


async def test_the_built_in_miner_keeps_its_pace(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node", mine=True, mine_empty=False, block_interval_seconds=10.0)
    async with node.running() as consensus:
        await trio.sleep(100)
        assert consensus.head().height == 0
        await node.submit(spend(0))
        await world.until(lambda: consensus.head().height == 1, 30)
        started = trio.current_time()
        await node.submit(spend(1))
        await world.until(lambda: consensus.head().height == 2, 30)
        assert 9 <= trio.current_time() - started <= 11
        assert consensus.status()["state"] == "running"
    node = world.Node("busy", mine=True, block_interval_seconds=5.0)
    async with node.running() as consensus:
        await trio.sleep(51)
        assert 9 <= consensus.head().height <= 10


async def test_the_same_seed_gives_the_same_chain(world: Any, spend: Any, autojump: Any) -> None:
    heads = []
    for _ in range(2):
        node = world.Node("node")
        await node.open()
        await node.submit(*[spend(i) for i in range(7)])
        await node.fill()
        await node.generate()
        heads.append((await node.consensus.block(node.head.id)).bundles)
    assert heads[0] == heads[1]


async def test_what_is_settled_between_take_and_assembly_is_not_assembled(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node")
    async with node.running() as consensus:
        async with consensus.chain.lock:  # as while a block is connected
            await node.submit(spend(0), spend(1))
            await world.until(lambda: not node.pool.ready)
            await node.pool.settle(rejected={spend(0).id: "a block came first"})
        await world.until(lambda: spend(1).id in consensus.chain.assembler)
        assert spend(0).id not in consensus.chain.assembler


def test_the_plugin_registers_one_consensus() -> None:
    (spec,) = register_consensus()
    assert spec.name == "nakamoto" and "consensus" in spec.provides
    assert check(NakamotoConfig()) == []
    assert len(check(NakamotoConfig(subtree_size=3, payout_script="xx", coinbase_text="x" * 41))) == 3
