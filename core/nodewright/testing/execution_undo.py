"""Kit of the ``execution`` contract: going back (capability ``undo``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodewright.errors import NodewrightError
from nodewright.interfaces.common import Admitted
from nodewright.interfaces.execution import Outcome, Reverted
from nodewright.testing.execution_base import ExecutionKit, Node, only
from nodewright.testing.execution_terms import GENESIS, Block, by_id, check_accounted, first, merged


class UndoTests(ExecutionKit):
    def _branch(self, salt: bytes = b"") -> list[Block]:
        """Three blocks, families within and across them."""
        parent, child = self.family(0)
        one = first([parent, self.tx(1)], [self.tx(2)], policy=self.policy, salt=salt)
        two = one.after([self.tx(1, 1), child], [self.tx(0, 2)], policy=self.policy, salt=salt)
        three = two.after([self.tx(3), self.tx(1, 2)], policy=self.policy, salt=salt)
        return [one, two, three]

    def _other(self) -> list[Block]:
        """A branch beside it, which undoes some of its payments and repeats others."""
        one = first([self.tx(0, 0, 1), self.tx(2)], policy=self.policy)
        return [one, one.after([self.tx(1), self.tx(3, 0, 1)], [self.tx(4)], policy=self.policy)]

    async def _back(self, node: Node, block: Block) -> Reverted:
        reverted = await node.revert(block)
        assert reverted.block == block.ref
        assert await node.head() == block.parent, "the parent is the applied block again"
        ids = [id for id, _ in reverted.transactions]
        kept = {sample.id: sample.raw for sample in block.samples}
        assert sorted(ids) == sorted(kept), "what the block kept returns to the pool, each once"
        for id, raw in reverted.transactions:
            assert raw is None or raw == kept[id], "another body is given back"
        assert {*reverted.removed}.isdisjoint(ids), "what returns is not removed"
        return reverted

    @only("undo")
    async def test_revert_restores_exactly_one_block_and_several(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        blocks = self._branch()
        async with world.node() as node:
            world.states[GENESIS.id] = await node.state()
            for block in blocks:
                await node.accept(block)
                await node.checked(block)
            for block in reversed(blocks):
                await self._back(node, block)
                again = await node.revert(block)
                assert not again.transactions and await node.head() == block.parent, "revert is idempotent"
                assert await node.state() == world.states[block.parent.id], "revert does not restore the state"
            for block in blocks:  # the same outcomes, commitments and states
                await node.accept(block)
                await node.checked(block)
        async with world.node() as node:  # and after a restart
            for block in reversed(blocks):
                await self._back(node, block)
                assert await node.state() == world.states[block.parent.id]
        async with world.node() as node:
            assert await node.head() == GENESIS, "a revert is durable"
            assert await node.state() == world.states[GENESIS.id]
            await node.accept(*blocks)
            await node.checked(blocks[-1])

    @only("undo")
    async def test_what_came_out_can_be_admitted_and_ordered_again(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        blocks = self._branch()
        samples = by_id(sample for block in blocks for sample in block.samples)
        async with world.node() as node:
            await node.admit(*blocks[0].samples)
            await node.accept(*blocks)
            returned: list[bytes] = []
            for block in reversed(blocks):
                returned = [id for id, _ in (await self._back(node, block)).transactions] + returned
            for purse in range(4):
                places = [returned.index(self.tx(purse, at).id) for at in range(3) if self.tx(purse, at).id in returned]
                assert places == sorted(places), "parents come before their children"
            for answer in await node.admit(*(samples[id] for id in returned)):
                assert isinstance(answer, Admitted), f"what a reorganisation took out is refused: {answer}"
            whole = first([samples[id] for id in returned], policy=self.policy, salt=b"all in one")
            outcomes = await node.accept(whole)
            assert sorted(check_accounted(whole, outcomes)) == sorted(returned)
            state = await node.state()
        async with world.node("never reorganised") as node:
            await node.accept(whole)
            assert await node.state() == state

    @only("undo")
    async def test_another_branch_is_as_if_the_first_had_never_been(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        async with world.node("straight") as node:
            for block in self._other():
                await node.accept(block)
                await node.checked(block)
        for name, rest in (("settled", True), ("reserved", False)):
            async with world.node(name) as node:
                await node.accept(*self._branch())
                for block in reversed(self._branch()):
                    await self._back(node, block)
                    if rest:
                        await node.rest()
                for block in self._other():
                    for outcome in await node.run(block):
                        reserved = {sample.id for one in self._branch() for sample in one.samples}
                        assert outcome.evicted.keys() <= reserved
                        if rest:
                            assert not outcome.evicted, "what was let go is told of as evicted"
                    await node.commit(block)
                    if rest:
                        await node.checked(block)
                await node.checked(self._other()[-1])

    @only("undo")
    async def test_what_lost_to_a_block_can_come_back_when_the_block_goes(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        winner, loser = self.pair(0)
        block = first([winner, self.tx(1)], policy=self.policy)
        async with world.node() as node:
            await node.admit(loser)
            assert merged(await node.run(block), "evicted") == {loser.id: winner.id}
            await node.commit(block)
            await self._back(node, block)
            await node.rest()
            (answer,) = await node.admit(loser)
            assert isinstance(answer, Admitted) and not answer.known, answer
            await node.accept(first([loser], policy=self.policy))

    @only("undo")
    async def test_only_the_applied_block_is_undone(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, two, _ = self._branch()
        rival = first([self.tx(5)], policy=self.policy, salt=b"never applied")
        async with world.node() as node:
            before = await node.state()
            with pytest.raises(Exception):  # noqa: B017 (which one is the execution's own)
                await node.execution.revert(GENESIS)
            assert await node.head() == GENESIS and await node.state() == before
            await node.accept(one, two)
            await node.checked(two)
            for block in (one, rival):
                try:
                    reverted = await node.execution.revert(block.ref)
                except NodewrightError:
                    reverted = Reverted(block.ref)
                assert not reverted.transactions and await node.head() == two.ref
            await node.checked(two)
            answer = await node.execute(two.after([self.tx(6)], policy=self.policy), self.tx(6).shard)
            assert isinstance(answer, Outcome)
