"""Kit of the ``execution`` contract: power that goes before and after every write, and calls that are cancelled.

One story for all: transactions are admitted and confirmed, blocks validated, executed and committed; with ``undo`` some are
taken back and others put in their place. A cut leaves the story at one of its blocks, from where it is told on; what is
agreed of it (``World.agreed``) holds it to the story without a cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import trio
from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.testing.execution_base import ExecutionKit, Node, World
from nodewright.testing.execution_disk import Interruption
from nodewright.testing.execution_terms import GENESIS, Block, bundle_of, first, until_cut
from nodewright.testing.power import Power


@frozen
class Move:
    """From one applied block to the next: ``block`` committed, or reverted."""

    block: Block
    back: bool = False

    @property
    def start(self) -> BlockRef:
        return self.block.ref if self.back else self.block.parent

    @property
    def end(self) -> BlockRef:
        return self.block.parent if self.back else self.block.ref


class FaultTests(ExecutionKit):
    def _story(self) -> list[Move]:
        one = first([self.tx(0), self.tx(1)], [self.tx(2)], policy=self.policy)
        two = one.after([self.tx(0, 1), self.tx(3)], policy=self.policy)
        three = two.after([self.tx(4)], [self.tx(0, 2), self.tx(1, 1)], policy=self.policy)
        if "undo" not in self.capabilities:
            return [Move(one), Move(two), Move(three)]
        other = one.after([self.tx(0, 1, 0), self.tx(3, 0, 1)], policy=self.policy, salt=b"other")
        last = other.after([self.tx(0, 2), self.tx(5)], policy=self.policy)
        back = [Move(three, back=True), Move(two, back=True)]
        return [Move(one), Move(two), Move(three), *back, Move(other), Move(last)]

    async def _move(self, node: Node, move: Move) -> None:
        if move.back:
            await node.revert(move.block)
            await node.rest()
            return
        await node.admit(*move.block.samples[::2], self.tx(3), self.tx(2, 0, 1))
        for shard in range(self.shards):
            for samples in move.block.bundles:
                mine = [sample for sample in samples if sample.shard == shard]
                if mine:
                    await node.execution.validate_bundle(bundle_of(mine, shard=shard), move.block.parent)
        await node.run(move.block)
        await node.commit(move.block)

    async def _tell(self, node: Node, moves: list[Move]) -> None:
        for move in moves:
            await self._move(node, move)
            assert await node.head() == move.end

    async def _uncut(self, world: World) -> int:
        """How many writes the story takes; the states at its blocks are agreed from then on."""
        power = Power()
        async with world.node("uncut", power) as node:
            world.states[GENESIS.id] = await node.state()
            for move in self._story():
                await self._move(node, move)
                state = await node.state()
                assert world.states.setdefault(move.end.id, state) == state, f"{move.end} has two states"
        return power.points

    async def test_power_may_go_before_and_after_every_write(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        points = await self._uncut(world)
        wanted = min(self.cuts * self.scale, points)
        for cut_at in sorted({1 + number * points // wanted for number in range(wanted)}):
            for how in ("before", "after"):
                await self._cut(world, cut_at, how)

    async def _cut(self, world: World, cut_at: int, how: Literal["before", "after"]) -> None:
        name = f"{how} {cut_at}"
        story, done = self._story(), 0

        async def told() -> None:
            nonlocal done
            async with world.node(name, Power(cut_at, how)) as node:
                for move in story:
                    await self._move(node, move)
                    done += 1

        cut = await until_cut(told)
        world.crash(name, cut_at)
        at = story[done - 1].end if done else GENESIS
        # What may stand there: the block whose move had returned, or that of the move under way.
        allowed = {at} if not cut else {at, *(move.end for move in story[done : done + 1])}
        if self.late_sync:
            allowed |= {GENESIS, *(move.end for move in story[:done])}
        async with world.bare(name) as node:
            applied = await node.execution.applied(0)
            assert applied in allowed or (applied is None and done == 0), f"cut {name}: {applied} is applied, not {allowed}"
            assert await node.execution.genesis(self.genesis, GENESIS) == world.start
            await self._level(node, story)
            applied = await node.head()
            await node.execution.release_unclaimed()
            known = {sample.id for move in story for sample in move.block.samples}
            node.held.update(dict.fromkeys([*known, self.tx(2, 0, 1).id]))
            assert await node.state() == world.states[applied.id], f"cut {name}: the state is none of the story's"
            behind = [n for n, move in enumerate(story[: done + 1]) if move.end == applied]
            await self._tell(node, story[behind[-1] + 1 if behind else 0 :])
            assert await node.state() == world.states[story[-1].end.id]

    async def _level(self, node: Node, story: list[Move]) -> None:
        """Shards commit by themselves: each that lags behind the first, or that the first lags behind, is brought up."""
        heads = [await node.execution.applied(shard) for shard in range(self.shards)]
        highest = max((head for head in heads if head is not None), key=lambda head: head.height)
        for shard, head in enumerate(heads):
            for move in story:
                if head == move.start and head != highest:
                    result = await node.execute(move.block, shard)
                    node.world.agree(move.block, shard, result)  # type: ignore[arg-type]
                    await node.execution.commit(move.block.ref, shard)
                    head = move.end

    # --- cancelled -----------------------------------------------------------------------------------------------------

    async def _each_step(
        self,
        world: World,
        prepare: Callable[[Node], Awaitable[None]],
        call: Callable[[Node], Awaitable[object]],
        after: Callable[[Node], Awaitable[None]],
    ) -> None:
        """Cancel ``call`` at its first steps and then at some, on a new instance each time; ``after`` has to go well."""
        for at in [*range(6), *range(6, 400, max(1, 9 // self.scale))]:
            async with world.node(f"{call.__name__} {after.__name__} {at}") as node:
                await prepare(node)
                interruption = Interruption(at)
                if at == 0:
                    interruption.scope.cancel()
                node.gate.interruption = interruption
                with interruption.scope:
                    await call(node)
                node.gate.interruption = None
                await after(node)
                if interruption.seen < at:
                    return

    async def test_a_call_that_is_cancelled_leaves_a_usable_instance(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        story = self._story()
        await self._uncut(world)
        one, two = story[0].block, story[1].block

        async def accepted(node: Node) -> None:
            await self._move(node, story[0])

        async def ready(node: Node) -> None:
            await accepted(node)
            await node.admit(*two.samples)
            await node.run(two)

        async def admit(node: Node) -> None:
            await node.admit(*two.samples, self.tx(5))

        async def validate(node: Node) -> None:
            for samples in two.bundles:
                await node.execution.validate_bundle(bundle_of(samples[:1], shard=samples[0].shard), one.ref)

        async def execute(node: Node) -> None:
            await node.run(two)

        async def commit(node: Node) -> None:
            await node.commit(two)

        async def revert(node: Node) -> None:
            await node.revert(one)

        async def goes_on(node: Node) -> None:
            assert await node.head() in (one.ref, two.ref), "a cancelled call left no block applied"
            await self._level(node, story[:2])
            if await node.head() == one.ref:
                await self._move(node, story[1])
            await self._move(node, story[2])
            node.held.update(dict.fromkeys(sample.id for sample in [*two.samples, self.tx(5)]))
            assert await node.state() == world.states[story[2].end.id]

        rival = one.after([self.tx(6), self.tx(0, 1)], policy=self.policy, salt=b"rival")
        async with world.node("rival") as node:
            await node.accept(one, rival)
            world.states[rival.ref.id] = await node.state()

        async def goes_elsewhere(node: Node) -> None:
            await self._level(node, story[:2])
            if await node.head() == one.ref:
                await node.accept(rival)
            node.held.update(dict.fromkeys(sample.id for sample in two.samples))
            assert await node.state() == world.states[(await node.head()).id], "half of a cancelled commit is there"

        async def goes_back(node: Node) -> None:
            if await node.head() == one.ref:
                await node.revert(one)
            assert await node.head() == GENESIS
            node.held.update(dict.fromkeys(sample.id for sample in one.samples))
            assert await node.state() == world.states[GENESIS.id]
            await self._tell(node, story[:2])
            assert await node.state() == world.states[two.ref.id]

        await self._each_step(world, accepted, admit, goes_on)
        await self._each_step(world, accepted, validate, goes_on)
        await self._each_step(world, accepted, execute, goes_on)
        await self._each_step(world, ready, commit, goes_on)
        await self._each_step(world, ready, commit, goes_elsewhere)
        if "undo" in self.capabilities:
            await self._each_step(world, accepted, revert, goes_back)

    async def test_calls_side_by_side_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        """Blocks go their way while transactions are admitted, offered in bundles and let go."""
        world = self.world(tmp_path)
        await self._uncut(world)
        others = [self.tx(n) for n in range(6, self.purses)]

        async def traffic(node: Node, stop: trio.Event) -> None:
            while not stop.is_set():
                await node.admit(*others, self.tx(0, 0, 1))
                for sample in others:
                    await node.execution.validate_bundle(bundle_of([sample], shard=sample.shard), await node.head())
                await node.execution.release([sample.id for sample in others[::2]])
                await trio.lowlevel.checkpoint()

        async with world.node("busy") as node, trio.open_nursery() as nursery:
            stop = trio.Event()
            nursery.start_soon(traffic, node, stop)
            await self._tell(node, self._story())
            stop.set()
        async with world.node("busy") as node:
            await node.execution.release_unclaimed()
            assert await node.state() == world.states[self._story()[-1].end.id]
