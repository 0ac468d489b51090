"""Kit of the ``execution`` contract: blocks. Purity, what commit changes, and both policies for what cannot run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import trio

from nodewright.errors import UnknownQuery
from nodewright.interfaces.execution import HEAD, Deferred, Execution, Incomplete, Invalid, Outcome
from nodewright.testing.execution_base import ExecutionKit, Node, only
from nodewright.testing.execution_terms import (
    GENESIS,
    Block,
    Sample,
    agreed,
    bundle_of,
    check_accounted,
    first,
    merged,
    missing_of,
    refusal,
)


class BlockTests(ExecutionKit):
    async def test_a_new_instance_stands_on_its_genesis(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        async with world.bare() as node:
            execution = node.execution
            assert isinstance(execution, Execution)
            assert execution.capabilities == self.capabilities, "the spec provides what the component has, and no more"
            assert execution.format, "its state format has a name"
            assert await execution.applied() is None
            start = await execution.genesis(self.genesis, GENESIS)
            world.start = start
            if "sharded" in self.capabilities:
                assert start is not None and len(start) == 32 * self.shards, "32 bytes for every shard"
            state = await node.state()
            assert [await execution.applied(shard) for shard in range(self.shards)] == [GENESIS] * self.shards
            assert await execution.genesis(self.genesis, GENESIS) == start, "genesis is idempotent"
            assert await node.state() == state
        async with world.node() as node:
            assert await node.head() == GENESIS, "the genesis state outlives its process"
            assert await node.state() == state
            await node.accept(self._plain())
            assert await node.execution.genesis(self.genesis, GENESIS) == start
            assert await node.head() != GENESIS, "genesis is for an empty store"

    async def test_a_query_that_it_does_not_have_is_said_to_be_unknown(self, tmp_path: Path) -> None:
        async with self.world(tmp_path).node() as node:
            with pytest.raises(UnknownQuery):
                await node.execution.query(HEAD, "what no execution answers")

    def _plain(self, start: int = 0, count: int = 3, salt: bytes = b"") -> Block:
        """All of it is valid."""
        return first([self.tx(start + n) for n in range(count)], self.family(start + count), policy=self.policy, salt=salt)

    def _mixed(self) -> Block:
        """A conflict over two bundles, a repetition, a family in order, and one that cannot run for good."""
        one, other = self.pair(0)
        parent, child = self.family(1)
        return first([one, parent], [other, self.tx(2), self.invalid(3)], [parent, child, self.tx(4)])

    # --- purity ------------------------------------------------------------------------------------------------------

    async def test_an_outcome_depends_on_parent_and_request_alone(self, tmp_path: Path) -> None:
        """Whatever was admitted, validated or executed before, in whatever order, and however often it is asked for."""
        world = self.world(tmp_path)
        block = self._mixed() if "discard" in self.policies else self._plain()
        rival = first([self.tx(5), *self.family(6)], policy=self.policy)
        samples = block.samples
        async with world.node("nothing before") as node:
            await node.run(block)
            await node.run(block)
        async with world.node("admitted") as node:
            await node.admit(*samples, self.tx(0, 1), self.tx(9))
            await node.run(block)
        async with world.node("others admitted") as node:
            await node.admit(self.tx(0, variant=1), self.tx(2, variant=1), self.tx(1, variant=1), confirm=False)
            await node.run(block)
        for name, order in (("validated", 1), ("validated backwards", -1)):
            async with world.node(name) as node:
                for samples_of in block.bundles[::order]:
                    await self._validate(node, samples_of)
                await node.run(block)
        async with world.node("beside a rival") as node:
            await node.run(rival)
            await node.run(block)
            await node.run(rival)
            await node.run(block)
        async with world.node("at once") as node, trio.open_nursery() as nursery:
            for some in (block, rival, block):
                nursery.start_soon(node.run, some)
            nursery.start_soon(node.admit, *samples)
        states = []
        for name in ("nothing before", "others admitted", "beside a rival"):
            async with world.node(name) as node:
                await node.accept(block)
                states.append(await node.state())
        assert states[0] == states[1] == states[2]

    async def _validate(self, node: Node, samples: tuple[Sample, ...]) -> None:
        for shard in range(self.shards):
            mine = [sample for sample in samples if sample.shard == shard]
            if mine:
                await node.execution.validate_bundle(bundle_of(mine, shard=shard), await node.head())

    async def test_nothing_changes_before_commit(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        async with world.node() as node:
            before = await node.state()
            await node.run(self._plain())
            assert await node.head() == GENESIS
            assert await node.state() == before
        async with world.node() as node:
            assert await node.head() == GENESIS, "what was executed is durable before it is committed"
            assert await node.state() == before
            await node.accept(self._plain())
            assert await node.state() != before, "the state that the author reads shows no change: the kit would be blind"

    # --- commit ------------------------------------------------------------------------------------------------------

    async def test_commit_advances_once_and_outlives_the_process(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = self._plain()
        async with world.node() as node:
            await node.accept(block)
            state = await node.state()
            for _ in range(2):
                assert await node.commit(block) == {}, "a second commit tells of nothing"
                assert await node.head() == block.ref
            assert await node.state() == state, "a second commit changes nothing"
        world.crash("a", 7 if self.late_sync else 0)
        async with world.node() as node:
            assert await node.head() == block.ref
            assert await node.state() == state
            await node.commit(block)
            child = block.after([self.tx(0, 1), self.tx(7)], policy=self.policy)
            await node.accept(child)
            state = await node.state()
        async with world.node("never restarted") as node:
            await node.accept(block, child)
            assert await node.state() == state

    async def test_what_was_not_executed_or_lacks_its_parent_is_not_committed(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = self._plain()
        child = block.after([self.tx(6)], policy=self.policy)
        async with world.node() as node:
            before = await node.state()
            await self._refuses_to_commit(node, block)
            await node.run(block)
            if "single-head" not in self.capabilities:
                await node.run(child)
            await self._refuses_to_commit(node, child)
            assert await node.state() == before
            rival = self._plain(salt=b"rival")
            await node.run(rival)
            await node.run(block)
            await node.commit(block)
            await self._refuses_to_commit(node, rival)
            await node.accept(child)
            await node.checked(child)
        async with world.node("without a rival") as node:
            await node.accept(block, child)
            await node.checked(child)

    async def _refuses_to_commit(self, node: Node, block: Block) -> None:
        head = await node.head()
        with pytest.raises(Exception):  # noqa: B017 (which one is the execution's own)
            await node.execution.commit(block.ref)
        assert await node.head() == head

    async def test_a_parent_whose_state_is_not_here_defers(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = self._plain()
        child = block.after([self.tx(6)], policy=self.policy)
        async with world.node() as node:
            await self._defers(node, child)
            await node.run(block)
            if "single-head" in self.capabilities:
                await self._defers(node, child)
            await node.commit(block)
            await self._defers(node, first([self.tx(9)], policy=self.policy, salt=b"on genesis"))
            await node.accept(child)

    async def _defers(self, node: Node, block: Block) -> None:
        head = await node.head()
        assert await node.execute(block) == Deferred(block.parent, head)

    @only("uncommitted parents")
    async def test_blocks_stand_on_uncommitted_parents_and_beside_each_other(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block, rival = self._plain(), self._plain(5)
        child = block.after([self.tx(0, 1)], [self.tx(9)], policy=self.policy)
        other = rival.after([self.tx(0)], policy=self.policy)
        async with world.node("first all executed") as node:
            for one in (block, rival, other, child):
                await node.run(one)
            assert await node.head() == GENESIS
            for shard in range(self.shards):
                await node.execution.abandon(rival.ref, shard)
            await node.commit(block)
            await node.commit(child)
            state = await node.state()
        async with world.node("one after the other") as node:
            await node.accept(block, child)
            assert await node.state() == state
        async with world.node("the others") as node:
            await node.accept(rival, other)

    async def test_an_abandoned_block_is_forgotten(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = self._plain()
        rivals = [self._plain(salt=bytes([n])) for n in range(20)]
        refs = {rival.ref.id for rival in rivals}
        gc.freeze()  # what was there before is not looked at
        async with world.node() as node:
            for rival in rivals:
                await node.run(rival)
                for shard in range(self.shards):
                    await node.execution.abandon(rival.ref, shard)
                    await node.execution.abandon(rival.ref, shard)
            await self._refuses_to_commit(node, rivals[0])
            world.outcomes.clear()
            gc.collect()
            held = [one for one in gc.get_objects() if isinstance(one, Outcome) and one.block.id in refs]
            gc.unfreeze()
            assert not held, f"{len(held)} outcomes of 20 abandoned blocks are still in memory"
            await node.accept(block)
            for shard in range(self.shards):
                await node.execution.abandon(block.ref, shard)  # committed: there is nothing to forget
            assert await node.head() == block.ref
            await node.accept(block.after([self.tx(7)], policy=self.policy))

    # --- what cannot run ---------------------------------------------------------------------------------------------

    async def _as_if(self, tmp_path: Path, block: Block, kept: Block) -> None:
        """The block has the effect of one that has its kept transactions alone."""
        world = self.world(tmp_path)
        async with world.node("whole") as node:
            outcomes = await node.accept(block)
            told = check_accounted(block, outcomes)
            assert sorted(told) == sorted(sample.id for sample in kept.samples)
            state = await node.state()
        async with world.node("kept alone") as node:
            outcomes = await node.accept(kept)
            assert sorted(check_accounted(kept, outcomes)) == sorted(sample.id for sample in kept.samples)
            assert await node.state() == state, "what a block discards or retries has an effect"

    @only("discard")
    async def test_discard_gives_each_transaction_one_fate(self, tmp_path: Path) -> None:
        one, other = self.pair(0)
        mixed = self._mixed()
        kept = first([one, *self.family(1)], [self.tx(2), self.tx(4)])
        await self._as_if(tmp_path / "mixed", mixed, kept)
        reverse = first([other], [one, self.tx(2)])
        await self._as_if(tmp_path / "reverse", reverse, first([other, self.tx(2)]))
        world = self.world(tmp_path)
        async with world.node() as node:
            outcomes = await node.run(mixed)
            assert merged(outcomes, "discarded").keys() == {other.id, self.invalid(3).id}
            assert not merged(outcomes, "retry")
            assert not merged(outcomes, "evicted"), "nothing was reserved here"

    @only("discard", "waiting")
    async def test_discard_lets_a_child_before_its_parent_run_later(self, tmp_path: Path) -> None:
        parent, child = self.family(0)
        early = first([child], [self.tx(3), parent])
        await self._as_if(tmp_path / "early", early, first([self.tx(3), parent]))
        world = self.world(tmp_path)
        alone = first([self.tx(1), child])
        async with world.node("a") as a, world.node("b") as b:
            await b.admit(parent)  # that a node has the parent reserved makes no difference
            for node in (a, b):
                for block in (early, alone):
                    assert merged(await node.run(block), "retry").keys() == {child.id}
            await a.accept(early)
            again = early.after([child])
            outcomes = await a.accept(again)
            assert check_accounted(again, outcomes) == [child.id], "a retried transaction runs once its parent has"
            state = await a.state()
        async with world.node("in order") as node:
            block = first([self.tx(3), parent])
            await node.accept(block, block.after([child]))
            assert await node.state() == state

    @only("discard")
    async def test_what_becomes_of_a_child_does_not_depend_on_who_has_its_parent_reserved(self, tmp_path: Path) -> None:
        """Its parent loses to the block, or is not in it; the nodes know of it by other ways, or not at all."""
        winner, _ = self.pair(0)
        loser, child = self.tx(0, 0, 1), self.tx(0, 1, 1)
        blocks = [
            first([winner], [child, self.tx(2)]),
            first([winner, loser], [child]),
            first([winner], [child], [loser]),
            first([self.tx(2), child], [winner]),
            first([child], [self.tx(2)]),
        ]
        world = self.world(tmp_path)
        for name, known in (("nothing", ()), ("family", (loser, child)), ("winner", (winner,)), ("parent", (loser,))):
            for confirm in (True, False):
                async with world.node(f"{name} {confirm}") as node:
                    await node.admit(*known, confirm=confirm)
                    for block in blocks:
                        check_accounted(block, await node.run(block))
                    await node.accept(blocks[0])
                    await node.checked(blocks[0])

    @only("discard")
    async def test_discard_passes_over_repetitions(self, tmp_path: Path) -> None:
        parent, child = self.family(0)
        block = first([parent, self.tx(2)], [self.tx(2), child, parent], [parent])
        await self._as_if(tmp_path, block, first([parent, self.tx(2), child]))

    @only("discard")
    async def test_what_an_earlier_block_has_done_is_not_done_again(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = first([self.tx(0), *self.family(1)])
        async with world.node("again") as node:
            await node.accept(block, block.after([self.tx(0)], [*self.family(1), self.tx(2)]))
            state = await node.state()
        async with world.node("once") as node:
            await node.accept(block, block.after([self.tx(2)]))
            assert await node.state() == state, "a transaction has had its effect twice"

    @only("reject_block")
    async def test_reject_block_refuses_and_names_the_first_that_cannot_run(self, tmp_path: Path) -> None:
        one, other = self.pair(0)
        parent, child = self.family(1)
        good = self._plain(4)
        good = first(*good.bundles, policy="reject_block")
        cases = [
            (first([self.tx(2), one], [other], policy="reject_block"), other),
            (first([other], [one, self.tx(2)], policy="reject_block"), one),
            (first([parent, self.tx(2)], [parent], policy="reject_block"), parent),
            (first([self.tx(2), self.invalid(3)], policy="reject_block"), self.invalid(3)),
        ]
        if self.waits:
            cases.append((first([child], [parent], policy="reject_block"), child))
        world = self.world(tmp_path)
        async with world.node("a") as a, world.node("b") as b:
            await b.admit(other, parent, child)
            before = await a.state()
            for block, named in cases:
                for node in (a, b):
                    answer = refusal(await node.execute(block, named.shard))
                    assert answer.transaction == named.id, f"{answer.code} is said of another transaction"
                    await self._refuses_to_commit(node, block)
            assert await a.state() == before
            for node in (a, b):
                await node.accept(good)

    async def test_a_block_whose_bodies_are_not_here_is_incomplete_and_never_invalid(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = first([self.tx(0)], [self.tx(1), self.tx(2)], policy=self.policy)
        ids = {sample.id for sample in block.samples}
        async with world.node() as node:
            await node.admit(self.tx(0), self.tx(2))
            missing: set[bytes] = set()
            for shard in range(self.shards):
                answer = await node.execute(block, shard, bodies=False)
                if isinstance(answer, Incomplete):
                    missing |= missing_of(answer)
            assert self.tx(1).id in missing and missing <= ids
            await node.run(block)
            await node.admit(self.tx(1))
            for shard in range(self.shards):
                answer = await node.execute(block, shard, bodies=False)
                assert not isinstance(answer, Invalid)
                if isinstance(answer, Outcome):
                    assert agreed(answer) == world.outcomes[block.ref.id, shard]
            await node.accept(block)

    # --- reservations give way -----------------------------------------------------------------------------------------

    async def test_what_is_ordered_overrides_what_was_reserved(self, tmp_path: Path) -> None:
        winner, loser = self.pair(0)
        world = self.world(tmp_path)
        block = first([winner, self.tx(1)], policy=self.policy)
        async with world.node("before") as node:
            await node.admit(loser, self.tx(1), self.tx(2))
            outcomes = await node.run(block)
            assert merged(outcomes, "evicted") == {loser.id: winner.id}
            late = await node.commit(block)
            assert loser.id not in late, "an eviction that the outcome told is told again by commit"
            assert await node.execution.release([loser.id]) == [], "an evicted reservation is still held"
            state = await node.state()
        async with world.node("between") as node:
            await node.run(block)
            await node.admit(loser, confirm=False)
            assert await node.commit(block) == {loser.id: winner.id}, "commit tells what execute could not know"
            assert await node.execution.release([loser.id]) == []
            assert await node.state() == state
        async with world.node("never") as node:
            await node.run(block)
            assert await node.commit(block) == {}
            assert await node.state() == state
