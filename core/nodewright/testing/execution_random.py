"""Kit of the ``execution`` contract: programs that Hypothesis makes, run by two instances of which one restarts.

The two are told of different transactions before blocks order them, see bundles by themselves, and are held to each other:
equal outcomes of every block, equal states at the end, which are those of a third one that saw the committed blocks alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import trio
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import Incomplete, Invalid, Outcome
from nodewright.testing.execution_base import ExecutionKit, Node
from nodewright.testing.execution_terms import GENESIS, Block, Sample, bundle_of, check_accounted

# (purse, place in its chain, variant): few, so that they meet. A place beyond the chain stands for an invalid one.
NAME = st.tuples(st.integers(0, 3), st.sampled_from((0, 0, 0, 1, 1, 2, 9)), st.sampled_from((0, 0, 0, 1)))
NAMES = st.lists(NAME, max_size=4)
NODE = st.integers(0, 1)
BLOCK = st.tuples(
    st.just("block"),
    st.lists(NAMES, max_size=3),
    st.integers(0, 1),
    st.sampled_from(("commit", "commit", "abandon", "leave")),
)
OPERATION = st.one_of(
    BLOCK,
    BLOCK,
    st.tuples(st.just("admit"), NODE, NAMES, st.booleans()),
    st.tuples(st.just("admit"), NODE, NAMES, st.booleans()),
    st.tuples(st.just("release"), NODE, NAMES),
    st.tuples(st.just("bundle"), NODE, NAMES),
    st.tuples(st.just("revert")),
    st.tuples(st.just("restart"), st.booleans(), st.booleans()),
)


@define
class Line:
    """Blocks one upon the other: ``committed``, and ``above`` them those that are executed alone."""

    committed: list[Block] = field(factory=list)
    above: list[Block] = field(factory=list)

    @property
    def applied(self) -> BlockRef:
        return self.committed[-1].ref if self.committed else GENESIS

    @property
    def tip(self) -> BlockRef:
        return self.above[-1].ref if self.above else self.applied


class RandomTests(ExecutionKit):
    def test_whatever_happens_two_instances_agree(self) -> None:
        @settings(
            max_examples=self.examples * self.scale,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors],
        )
        @given(st.lists(OPERATION, min_size=1, max_size=14))
        def attempt(program: list[Any]) -> None:
            with tempfile.TemporaryDirectory() as folder:
                trio.run(self._run_program, program, Path(folder))

        attempt()

    async def _run_program(self, program: list[Any], folder: Path) -> None:
        world = self.world(folder)
        remaining, line = list(program), Line()
        async with world.node("steady") as steady:
            crashed, claimed = False, True
            while True:
                async with world.node("restarting") as other:
                    assert await other.head() == line.applied, "a restart lost a block, or made one"
                    if claimed:  # else blocks come before the pool has claimed what it knows, as in a node that recovers
                        await other.execution.release_unclaimed()
                    for block in line.above:
                        await other.run(block)
                    crashed, claimed = await self._until_restart([steady, other], line, remaining)
                    if not remaining:
                        await other.execution.release_unclaimed()
                        states = [await node.state() for node in (steady, other)]
                        assert states[0] == states[1], "the states of two instances differ after the same blocks"
                        break
                if crashed and not self.late_sync:
                    world.crash("restarting", len(remaining))
        async with world.node("the blocks alone") as node:
            await node.accept(*line.committed)
            assert await node.state() == states[0], "what no block did is in the state"

    async def _until_restart(self, nodes: list[Node], line: Line, remaining: list[Any]) -> tuple[bool, bool]:
        """Whether the restart is to be a crash, and whether reservations are claimed at once after it."""
        while remaining:
            match remaining.pop(0):
                case "admit", number, names, confirm:
                    await nodes[number].admit(*self._named(names), confirm=confirm)
                case "release", number, names:
                    await nodes[number].execution.release([sample.id for sample in self._named(names)])
                case "bundle", number, names:
                    samples = self._named(names)
                    mine = [sample for sample in samples if sample.shard == samples[0].shard]
                    if mine:
                        head = await nodes[number].head()
                        await nodes[number].execution.validate_bundle(bundle_of(mine, shard=mine[0].shard), head)
                case "block", bundles, policy, fate:
                    lots = tuple(tuple(self._named(names)) for names in bundles)
                    block = Block(line.tip, lots, self.policies[policy % len(self.policies)], b"%d" % len(remaining))
                    await self._block(nodes, line, block, fate)
                case ("revert",):
                    if "undo" in self.capabilities and line.committed:
                        block = line.committed.pop()
                        line.above.clear()
                        ids = [sorted(id for id, _ in (await node.revert(block)).transactions) for node in nodes]
                        assert ids[0] == ids[1], "two instances take different transactions out of a block"
                case "restart", crash, claimed:
                    return crash, claimed
        return False, True

    async def _block(self, nodes: list[Node], line: Line, block: Block, fate: str) -> None:
        outcomes: list[list[Outcome]] = []
        for node in nodes:
            results = [await node.execute(block, shard) for shard in range(self.shards)]
            ran = [
                node.world.agree(block, shard, result)
                for shard, result in enumerate(results)
                if isinstance(result, Outcome)
            ]
            if len(ran) < self.shards:
                assert block.policy == "reject_block", f"a consensus that discards was given {results}"
                assert all(isinstance(result, Outcome | Invalid | Incomplete) for result in results)
            outcomes.append(ran)
        assert len(outcomes[0]) == len(outcomes[1]), "one instance refuses a block that another one takes"
        if len(outcomes[0]) < self.shards:
            return
        for ran in outcomes:
            kept = check_accounted(block, ran)
            if block.policy == "reject_block":
                assert len(kept) == len(block.samples), "a block that is not to discard did"
        if fate == "abandon":
            for node in nodes:
                for shard in range(self.shards):
                    await node.execution.abandon(block.ref, shard)
        elif fate == "commit":
            due = [*line.above, block]
            for node in nodes:
                for one in due:
                    await node.commit(one)
                    assert await node.head() == one.ref
            line.committed += due
            line.above.clear()
        elif "single-head" not in self.capabilities:
            line.above.append(block)

    def _named(self, names: list[tuple[int, int, int]]) -> list[Sample]:
        return [self.tx(purse, place, variant) if place < 3 else self.invalid(purse) for purse, place, variant in names]
