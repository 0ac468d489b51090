"""The power goes before or after every single commit to any store, at the edge of every step of a block's life: mining,
accepting, reverting, restoring. After the restart nothing accepted is lost or mined twice, and the state is the chain's."""

from __future__ import annotations

from typing import Any

import pytest
import trio


async def unspent_of(world: Any, node: Any) -> dict[bytes, int]:
    """The state recomputed from genesis and the blocks of the best chain alone."""
    found = {world.allocation(index): 1000 for index in range(world.ALLOCATIONS)}
    chain = node.consensus.chain
    for at in chain.index.active[1:]:
        block, _ = await chain.read_block(at)
        raws = [block.prologue]
        for bundle in block.subtrees:
            raws += await chain.store.bodies(await chain.store.subtree(bundle))
        for raw in raws:
            tx = world.Transaction.parse(raw)
            for outpoint in tx.spends:
                del found[outpoint]
            found.update({tx.output(index): amount for index, amount in enumerate(tx.amounts)})
    return found


class Story:
    """A node mines two blocks of its own; then three blocks of another chain arrive, one of which conflicts."""

    def __init__(self, world: Any, spend: Any) -> None:
        self.world = world
        self.first = [spend(i) for i in range(6)]
        self.second = [world.pay([self.first[0].output(0)], [10]), spend(7), spend(8, nonce=1)]
        self.late = [world.pay([self.second[0].output(0)], [5]), spend(9)]
        self.theirs = [[spend(8, nonce=2), spend(0)], [spend(20)], [spend(21)]]
        self.loser = self.second[2].id

    async def foreign(self) -> tuple[Any, list[bytes]]:
        other = self.world.Node("other")
        await other.open()
        ids = []
        for transactions in self.theirs:
            await other.submit(*transactions)
            await other.fill()
            ids += await other.generate()
        return other, ids

    async def tell(self, node: Any, other: Any, ids: list[bytes], accepted: set[bytes]) -> None:
        for transactions, mined in ((self.first, True), (self.second, True), (self.late, False)):
            answers = await node.submit(*transactions)
            accepted.update(one.id for one in answers if isinstance(one, self.world.Admitted))
            await node.fill()
            if mined:
                await node.generate()
        for id in ids:
            await node.feed(other, id)

    async def check(self, node: Any, other: Any, ids: list[bytes], accepted: set[bytes]) -> None:
        for id in ids:
            await node.feed(other, id)
        await node.fill()
        await node.generate(2)
        chain = node.consensus.chain
        assert chain.index.active[len(ids)].id == ids[-1]
        mined = await node.chain_transactions()
        assert len(mined) == len(set(mined)), "mined twice"
        lost = accepted.difference(mined)
        assert lost <= {self.loser}, "lost"
        if lost:
            (status,) = await node.pool.status([self.loser])
            assert status.status in ("replaced", "rejected")
        assert node.ledger.unspent == await unspent_of(self.world, node)
        assert node.ledger.head == node.head
        assert await chain.store.meta("restoring") == b""
        for location in await node.consensus.locate(mined):
            assert location is not None and location.block is not None


async def commits_of(world: Any, spend: Any) -> int:
    story = Story(world, spend)
    other, ids = await story.foreign()
    node = world.Node("node")
    await node.open()
    accepted: set[bytes] = set()
    await story.tell(node, other, ids, accepted)
    commits = int(node.power.points)
    await story.check(node, other, ids, accepted)
    return commits


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("keep", ["nothing", "everything"])
async def test_a_power_cut_at_every_commit(world: Any, spend: Any, autojump: Any, how: str, keep: str) -> None:
    total = await commits_of(world, spend)
    assert total > 30
    kept = (lambda unsynced: 0) if keep == "nothing" else (lambda unsynced: unsynced)
    story = Story(world, spend)
    other, ids = await story.foreign()
    for cut in range(1, total + 1):
        node = world.Node("node")
        await node.open()
        node.power.cut_at, node.power.how = cut, how
        accepted: set[bytes] = set()
        try:
            await story.tell(node, other, ids, accepted)
        except world.PowerCut:
            pass
        node.lose_power(kept)
        await node.open()
        await story.check(node, other, ids, accepted)


async def test_a_power_cut_while_recovering(world: Any, spend: Any, autojump: Any) -> None:
    """Killed in the middle of the reorganisation, then at every commit of the recovery itself."""
    total = await commits_of(world, spend)
    story = Story(world, spend)
    other, ids = await story.foreign()
    for cut in range(total - 12, total + 1):
        for again in range(1, 12):
            node = world.Node("node")
            await node.open()
            node.power.cut_at = cut
            accepted: set[bytes] = set()
            try:
                await story.tell(node, other, ids, accepted)
            except world.PowerCut:
                pass
            node.lose_power()
            node.cut_at_opening = again
            try:
                await node.open()
                node.power.cut_at = None  # the recovery had fewer commits
                done = True
            except world.PowerCut:
                done = False
            node.cut_at_opening = None
            if not done:
                node.lose_power()
                await node.open()
            await story.check(node, other, ids, accepted)
            if done:
                break


@pytest.mark.parametrize("step", ["execute", "commit", "revert"])
async def test_a_cancelled_caller_leaves_memory_and_stores_as_one(world: Any, spend: Any, autojump: Any, step: str) -> None:
    """A client that hangs up cancels its control call in the middle of a block."""
    story = Story(world, spend)
    other, ids = await story.foreign()
    node = world.Node("node")
    await node.open()
    accepted: set[bytes] = set()
    await story.tell(node, other, ids[:1], accepted)
    genuine = getattr(node.ledger, step)
    for id in ids[1:]:
        with trio.CancelScope() as scope:

            async def cancelled(*arguments: Any, scope: trio.CancelScope = scope) -> Any:
                result = await genuine(*arguments)
                scope.cancel()
                await trio.lowlevel.checkpoint()
                return result

            setattr(node.ledger, step, cancelled)
            await node.feed(other, id)
        assert node.ledger.head == node.head
    setattr(node.ledger, step, genuine)
    await story.check(node, other, ids, accepted)


async def test_it_refuses_another_chain_under_its_state(world: Any, autojump: Any) -> None:
    from nodewright.errors import StoreCorrupt

    node = world.Node("node")
    await node.open()
    await node.generate()
    node.lose_power()
    node.document = world.genesis_document(nonce=7)
    with pytest.raises(StoreCorrupt, match="genesis"):
        await node.open()
    await trio.lowlevel.checkpoint()


async def test_old_unmined_bundles_are_dropped_and_the_index_with_them(world: Any, spend: Any, autojump: Any) -> None:
    node = world.Node("node", subtree_size=2, max_unmined_bundles=8)
    consensus = await node.open()
    for index in range(30):
        await node.submit(spend(index))
    await node.fill()
    await consensus.control("publish")
    store = consensus.chain.store
    assert len(await store.unmined()) == 15  # they stand in the assembly: pinned
    await node.generate()
    assert await store.unmined() == []
    for index in range(30, 60):
        await node.submit(spend(index))
        await node.fill()
        await consensus.control("publish")
        consensus.chain.assembler.clear()
    left = await store.unmined()
    assert len(left) <= 9
    held = [bundle for pairs in await store.holders([spend(i).id for i in range(30, 60)]) for bundle, _ in pairs]
    assert set(held) == set(left)
