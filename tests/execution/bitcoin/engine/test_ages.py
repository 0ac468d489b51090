"""Relative lock times in the life of transactions before Genesis.

Invariants:
- a block holds a transaction only from the height, and the median time, on at which every output it spends is old enough;
  ages count from the block that made the output, wherever and whenever its transaction was admitted, across restarts and
  reorganisations, and alike on a node that saw the block alone;
- what is not old enough for the next block is not admitted, not selected, and named by ``unripe`` with all that descends
  from it;
- from Genesis on nobody looks.
"""

from __future__ import annotations

import random

import pytest

from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Refused
from nodewright.interfaces.execution import Candidate, Incomplete, Invalid, Limits, Outcome, Timed
from nodewright_bitcoin import admission, bundles

BEFORE = {"genesis_height": 1000, "chronicle_height": 2000}
BY_TIME = 1 << 22
MANY = Limits(1000, 1_000_000)


class Chain:
    """A world whose blocks have times, and what a consensus knows of them."""

    def __init__(self, world) -> None:
        self.world = world
        self.times = [world.now]
        self.ids = [world.genesis.id]
        world.engine.use_times(self)

    def median_time_past(self, block: BlockRef, height: int) -> int:
        if self.ids[block.height] != block.id:
            raise KeyError(block.id)
        return self.median(height)

    def median(self, height: int) -> int:
        span = sorted(self.times[max(0, height - 10) : height + 1])
        return span[len(span) // 2]

    def request(self, *lots, bodies=True, **changes):
        world = self.world
        height = len(self.times)
        context = BlockContext(height, world.now, extra=self.median(height - 1).to_bytes(8, "little"))
        made = [world.bundle_of(lot, bodies) for lot in lots]
        return world.request(made, salt=len(self.ids).to_bytes(4, "little"), context=context, **changes)

    async def judge(self, *lots, bodies=True, **changes):
        return await self.world.engine.execute(self.request(*lots, bodies=bodies, **changes))

    async def mine(self, *lots, step=600, count=1):
        for _ in range(count):
            request = self.request(*lots)
            result = await self.world.engine.execute(request)
            assert isinstance(result, Outcome), result
            await self.world.engine.commit(request.block)
            self.times.append(self.times[-1] + step)
            self.ids.append(request.block.id)
            lots = ()

    async def revert(self, count=1):
        for _ in range(count):
            await self.world.engine.revert(self.world.head)
            del self.times[-1], self.ids[-1]

    async def restart(self):
        await self.world.reopen()
        self.world.engine.use_times(self)

    async def selected(self, *txs) -> list[bytes]:
        asked = [Candidate(tx.txid, len(tx.raw), 1000) for tx in txs]
        selection = await self.world.engine.select(self.world.head, asked, MANY)
        assert not selection.rejected
        return [one.id for one in selection.chosen]

    async def refused(self, *txs) -> None:
        """By the next block, whether its bodies come or not, and by admission."""
        result = await self.judge(txs)
        assert isinstance(result, Invalid), result
        assert (result.code, result.transaction) == ("bad-txns-nonfinal", txs[-1].txid)
        (answer,) = await self.world.admit(txs[-1])
        assert isinstance(answer, Refused), answer
        assert (answer.code, answer.kind) == ("non-BIP68-final", "policy")

    async def allowed(self, *txs) -> None:
        assert isinstance(await self.judge(txs), Outcome)


@pytest.fixture
def new_chain(new_world):
    async def make(**eras) -> Chain:
        return Chain(await new_world(**(BEFORE | eras)))

    return make


def split(world, coin, parts=2):
    return world.pay([coin], [(400_000 // parts, owner) for owner in range(parts)])


def spend(world, parent, index, sequence, satoshis=100_000):
    return world.pay(
        [world.coins_of(parent, range(len(parent.outputs)))[index]], [(satoshis, 5)], sequence=sequence, version=2
    )


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
async def test_an_age_in_blocks_counts_from_the_block_and_not_from_admission(new_chain, restart):
    chain, other = await new_chain(), await new_chain()
    world = chain.world
    assert isinstance(world.engine, Timed)
    parent = split(world, world.genesis_coins()[0])
    child, sibling = spend(world, parent, 0, 3), spend(world, parent, 1, 0xFFFFFFFF)
    await world.admit(parent, sibling)  # at the next height 1, and both wait
    await chain.mine(count=4)
    await other.mine(count=4)
    if restart:
        await chain.restart()
        await world.admit(parent, sibling)
    (answer,) = await world.admit(child)  # its parent is four blocks old in the store, and in none of them
    assert isinstance(answer, Refused) and answer.code == "non-BIP68-final"
    for one in (chain, other):
        result = await one.judge([parent, child])
        assert isinstance(result, Invalid) and result.code == "bad-txns-nonfinal"
        await one.mine([parent])  # at height 5
    for one in (chain, other):
        for _ in range(2):  # 6 and 7
            await one.refused(child)
            await one.mine()
            if restart:
                await one.restart()
        (answer,) = await one.world.admit(child)
        assert isinstance(answer, Admitted)
        assert await one.selected(child) == [child.txid]
        assert not await one.world.engine.unripe()
        await one.allowed(child)
        assert (await one.world.output(world.coins_of(parent, range(2))[0])).height == 5
        await one.mine([child])
    # Who descends from a parent that is made anew stays reserved, and what it spends stays spent.
    assert world.engine.state.is_stored(sibling.txid)
    assert (await world.output(world.coins_of(parent, range(2))[1])).spender[:32] == sibling.txid
    await chain.mine([sibling])
    await other.mine([sibling])
    assert await world.digest() == await other.world.digest()


@pytest.mark.parametrize("distance", [1, 3])
async def test_an_age_in_time_counts_between_median_times(new_chain, distance):
    chain = await new_chain()
    world = chain.world
    parent = split(world, world.genesis_coins()[0])
    child = spend(world, parent, 0, distance | BY_TIME)
    await chain.mine(count=12, step=100)
    await world.admit(parent)
    await chain.mine(count=2, step=100)
    await chain.mine([parent], step=100)  # at height 15
    began = chain.median(14)
    while chain.median(len(chain.times) - 1) < began + 512 * distance:
        await chain.refused(child)
        await chain.mine(step=101)
    assert len(chain.times) > 18
    await chain.allowed(child)
    (answer,) = await world.admit(child)
    assert isinstance(answer, Admitted)
    await chain.mine([child])


async def test_blocks_whose_bundles_are_in_any_order(new_chain):
    chain = await new_chain()
    world = chain.world
    parent = split(world, world.genesis_coins()[0])
    child = spend(world, parent, 0, 1)
    free = spend(world, parent, 1, 0)  # a lock of nothing
    for lots in ([[parent, child]], [[parent], [child]], [[parent, free], [child]]):
        result = await chain.judge(*lots)
        assert isinstance(result, Invalid) and (result.code, result.transaction) == ("bad-txns-nonfinal", child.txid)
    result = await chain.judge([child], [parent])
    assert isinstance(result, Invalid | Incomplete)
    assert await chain.judge([child]) == Incomplete([parent.txid])
    assert isinstance(await chain.judge([parent, free]), Outcome)
    assert isinstance(await chain.judge([parent], [free]), Outcome)
    # Under a consensus that discards it is to be ordered again, and the rest stands.
    result = await chain.judge([parent, child, free], invalid_transaction="discard")
    assert isinstance(result, Outcome) and list(result.retry) == [child.txid] and not result.discarded
    await chain.mine([parent, free])
    await chain.allowed(child)


async def test_a_reorganisation_makes_what_was_ripe_wait(new_chain):
    chain = await new_chain()
    world = chain.world
    parent = split(world, world.genesis_coins()[0])
    child = spend(world, parent, 0, 2)
    heir = world.pay([world.coins_of(child, [5])[0]], [(90_000, 6)])
    other = world.pay([world.genesis_coins()[1]], [(900_000, 6)])
    await chain.mine([parent])
    await chain.mine()
    assert all(isinstance(answer, Admitted) for answer in await world.admit(child, heir, other))
    assert await chain.selected(child, heir, other) == [child.txid, heir.txid, other.txid]
    await chain.revert(2)
    assert set(await world.engine.unripe()) == {child.txid, heir.txid}
    assert await chain.selected(parent, child, heir, other) == [parent.txid, other.txid]
    await chain.mine(count=2)
    await chain.mine([parent, other])  # at 3 now
    assert await chain.selected(child, heir) == []
    result = await chain.judge([child, heir], bodies=False)
    assert isinstance(result, Invalid) and (result.code, result.transaction) == ("bad-txns-nonfinal", child.txid)
    await chain.mine()
    assert not await world.engine.unripe()
    assert await chain.selected(child, heir) == [child.txid, heir.txid]
    assert isinstance(await chain.judge([child, heir], bodies=False), Outcome)
    await chain.mine([child, heir])
    # Out and in again: what a block held is bound as before.
    await chain.revert(3)
    assert set(await world.engine.unripe()) == {child.txid, heir.txid}
    await chain.restart()
    await world.admit(parent, other, child, heir)
    assert set(await world.engine.unripe()) == {child.txid, heir.txid}
    await chain.mine([parent])
    await chain.mine()
    assert isinstance(await chain.judge([other, child, heir], bodies=False), Outcome)


async def test_eras(new_chain):
    chain = await new_chain(csv_height=4, genesis_height=8, chronicle_height=100)
    world = chain.world
    parent = split(world, world.genesis_coins()[0], 3)
    young, old, last = [spend(world, parent, index, 50) for index in range(3)]
    await chain.mine([parent])
    # Before the opcode blocks may hold it, and nobody relays it.
    await chain.allowed(young)
    (answer,) = await world.admit(young)
    assert isinstance(answer, Refused) and answer.code == "non-BIP68-final"
    await chain.mine(count=2)
    await chain.refused(young)
    await chain.mine(count=4)
    # The next block is Genesis's first: it may hold them, and they are relayed on it.
    assert len(chain.times) == 8
    for tx in (young, old):
        (answer,) = await world.admit(tx)
        assert isinstance(answer, Refused) and answer.code == "non-BIP68-final"
    await chain.allowed(young, old)
    await chain.mine()
    assert all(isinstance(answer, Admitted) for answer in await world.admit(young, old))
    assert await chain.selected(young, old) == [young.txid, old.txid]
    await chain.mine([young])
    await chain.allowed(old, last)
    await chain.revert(3)
    assert set(await world.engine.outdated()) == {young.txid, old.txid}
    await world.engine.release(await world.engine.outdated())
    for tx in (young, old, last):
        await chain.refused(tx)


async def test_a_lock_time_is_met_by_the_median_time_and_not_by_the_clock(new_chain):
    """Of any era: it was admitted by the node's clock, which is ahead of the median time past."""
    chain = await new_chain(genesis_height=0, chronicle_height=0)
    world = chain.world
    await chain.mine(count=11, step=100)
    lock = chain.times[-1]
    waits = world.pay([world.genesis_coins()[0]], [(900_000, 1)], locktime=lock, sequence=0)
    heir = world.pay(world.coins_of(waits, [1]), [(800_000, 1)])
    other = world.pay([world.genesis_coins()[1]], [(900_000, 1)])
    assert all(isinstance(answer, Admitted) for answer in await world.admit(waits, heir, other, time=lock + 1))
    while chain.median(len(chain.times) - 1) <= lock:
        assert await chain.selected(waits, heir, other) == [other.txid]
        assert set(await world.engine.unripe()) == {waits.txid, heir.txid}
        await chain.mine(step=100)
    assert await chain.selected(waits, heir, other) == [waits.txid, heir.txid, other.txid]
    assert isinstance(await chain.judge([waits, heir], bodies=False), Outcome)
    assert world.engine.state.timed == {waits.txid}
    await world.engine.release([waits.txid])
    assert not world.engine.state.timed


async def test_a_consensus_without_times_meets_no_age_in_time(new_chain):
    chain = await new_chain()
    world = chain.world
    parent = split(world, world.genesis_coins()[0])
    in_time, in_blocks = spend(world, parent, 0, 1 | BY_TIME), spend(world, parent, 1, 2)
    await chain.mine([parent])
    await chain.mine(count=30)
    world.engine.times = None
    await chain.refused(in_time)
    await chain.allowed(in_blocks)


async def test_nobody_looks_from_genesis_on(new_chain, monkeypatch):
    def look(*_):
        raise AssertionError("asked of a transaction after Genesis")

    chain = await new_chain(genesis_height=0, chronicle_height=0)
    world = chain.world
    monkeypatch.setattr(admission, "relative_locks", look)
    monkeypatch.setattr(bundles, "relative_locks", look)
    monkeypatch.setattr(type(world.engine), "made_at", look)
    monkeypatch.setattr(type(world.engine), "_unripe", look)
    reads = 0
    read = world.utxo.get_outputs

    async def counted(points):
        nonlocal reads
        reads += 1
        return await read(points)

    monkeypatch.setattr(world.utxo, "get_outputs", counted, raising=False)
    parents = [world.pay([coin], [(900_000, 1)], sequence=77, version=2) for coin in world.genesis_coins()[:3]]
    children = [
        world.pay(world.coins_of(parent, [1]), [(800_000, 1)], sequence=BY_TIME | 77, version=2) for parent in parents
    ]
    await world.admit(*parents)
    await world.admit(*children)
    assert reads == 2, "one for each batch"
    assert len(await chain.selected(*parents, *children)) == 6
    await chain.mine([*parents, *children])
    assert reads == 2


@pytest.mark.seeds(8)
async def test_random_lives_against_the_definition(new_chain, seed):
    """Parents are admitted and mined at their own times, blocks come and go, the node starts again: after each step the
    verdict on every child is the one that follows from the chain alone."""
    rng = random.Random(seed)
    chain = await new_chain(genesis_height=60, csv_height=3)
    world = chain.world
    parents = [split(world, coin) for coin in world.genesis_coins()[:4]]
    lots = [(parent, index, rng.choice([0, BY_TIME]) | rng.randrange(1, 6)) for parent in parents for index in (0, 1)]
    children = [(parent, spend(world, parent, index, sequence), sequence) for parent, index, sequence in lots]
    blocks: list[list] = []
    for _ in range(14):
        made = {tx.txid: height for height, block in enumerate(blocks, 1) for tx in block}
        act = rng.choice(["admit", "mine", "mine", "mine", "revert", "restart"])
        if act == "admit":
            await world.admit(rng.choice(parents))
        elif act == "mine":
            free = [parent for parent in parents if parent.txid not in made]
            block = rng.sample(free, rng.randrange(len(free) + 1)) if rng.random() < 0.6 else []
            await chain.mine(*([block] if block else []), step=rng.choice([1, 200, 600, 1500]))
            blocks.append(block)
        elif act == "revert" and blocks:
            depth = rng.randrange(1, min(4, len(blocks)) + 1)
            await chain.revert(depth)
            del blocks[-depth:]
        elif act == "restart":
            await chain.restart()
            await world.admit(*[parent for parent in parents if parent.txid in world.engine.state])
        made = {tx.txid: height for height, block in enumerate(blocks, 1) for tx in block}
        height = len(chain.times)
        for parent, child, sequence in children:
            if parent.txid not in made:
                continue
            since, distance = made[parent.txid], sequence & 0xFFFF
            if sequence & BY_TIME:
                ripe = chain.median(since - 1) + 512 * distance <= chain.median(height - 1)
            else:
                ripe = since + distance <= height
            result = await chain.judge([child])
            assert isinstance(result, Outcome) == (ripe or height < 3), (act, result)
            (answer,) = await world.admit(child, confirm=False)
            assert isinstance(answer, Admitted) == ripe, (act, answer)
            await world.engine.release([child.txid])
