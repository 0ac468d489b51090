"""Kit of the ``execution`` contract: witnesses, receipts between shards, and states handed from node to node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio
from attrs import evolve

from nodewright.interfaces.execution import (
    ExecutionRequest,
    Incomplete,
    Outcome,
    StateParts,
    StateTarget,
)
from nodewright.testing.execution_base import ExecutionKit, Node, World, only
from nodewright.testing.execution_terms import Block, agreed, first

LIES = 24  # places where a witness or a part is changed


class ShardTests(ExecutionKit):
    def _line(self) -> list[Block]:
        """Blocks of all purses, so that every shard runs something and what it sends arrives."""
        one = first([self.tx(purse) for purse in range(self.purses // 2)])
        two = one.after([self.tx(purse) for purse in range(self.purses // 2, self.purses)], [self.tx(0, 1)])
        three = two.after([self.tx(purse, 1) for purse in range(1, 5)], [*self.pair(5)])
        return [one, two, three, three.after()]

    # --- witnesses -----------------------------------------------------------------------------------------------------

    async def _witnessed(self, world: World, node: Node, block: Block) -> list[tuple[ExecutionRequest, Outcome]]:
        found = []
        for shard in range(self.shards):
            request = await node.request(block, shard, record_witness=True)
            outcome = await node.execution.execute(request)
            assert isinstance(outcome, Outcome), outcome
            world.agree(block, shard, outcome)
            assert outcome.witness is not None, "record_witness gives a witness"
            found.append((request, outcome))
        return found

    @only("witness", "discard")
    async def test_a_witness_alone_gives_the_same_outcome(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        async with world.node() as node, world.bare("without state") as nobody:
            for block in self._line():
                await node.run(block)
                for request, outcome in await self._witnessed(world, node, block):
                    checked = await nobody.execution.verify_witness(request, outcome.witness or b"")
                    assert isinstance(checked, Outcome), checked
                    assert agreed(checked) == agreed(outcome), "the witness gives another outcome"
                    assert not checked.evicted and checked.witness is None
                await node.commit(block)
            assert await nobody.execution.applied() is None

    @only("witness", "discard")
    async def test_a_witness_that_shows_another_state_is_incomplete(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, two, *_ = self._line()
        async with world.node() as node, world.bare("without state") as nobody:
            for request, outcome in await self._witnessed(world, node, one):
                for lie in lies(outcome.witness or b""):
                    answer = await nobody.execution.verify_witness(request, lie)
                    if isinstance(answer, Outcome):  # what was changed had no part in it
                        assert agreed(answer) == agreed(outcome), "a changed witness gives another outcome"
                    else:
                        assert isinstance(answer, Incomplete), f"another peer may have a better one: {answer}"
                elsewhere = evolve(request, context=evolve(request.context, parent_commitment=bytes(32)))
                answer = await nobody.execution.verify_witness(elsewhere, outcome.witness or b"")
                assert isinstance(answer, Incomplete), "the witness of another state passes"
            await node.commit(one)
            for request, _ in await self._witnessed(world, node, two):
                answer = await nobody.execution.verify_witness(request, b"")
                assert isinstance(answer, Incomplete)

    # --- receipts ------------------------------------------------------------------------------------------------------

    @only("sharded", "discard", "shards")
    async def test_a_parcel_is_taken_only_with_what_proves_it(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, two, *_ = self._line()
        sent = 0
        async with world.node() as node:
            await node.accept(one)
            for shard in range(self.shards):
                for place, parcel in enumerate(world.parcels(one.ref, shard)):
                    assert parcel.destination == shard and parcel.source in range(self.shards)
                    sent += 1
                    request = await node.request(two, shard)
                    forged = [
                        evolve(parcel, payload=parcel.payload[:-1] + bytes([parcel.payload[-1] ^ 1])),
                        evolve(parcel, commitment=bytes(32)),
                        evolve(parcel, proof=b""),
                        evolve(parcel, destination=(shard + 1) % self.shards),
                    ]
                    for lie in forged:
                        incoming = [*request.incoming]
                        incoming[place] = lie
                        answer = await node.execution.execute(evolve(request, incoming=incoming))
                        assert isinstance(answer, Incomplete), f"a forged parcel is a peer's fault: {answer}"
                        assert [*answer.missing] == [lie.root], "its root names the parcel"
            assert sent, "no shard sent anything: the kit would be blind; have payments cross shards"
            await node.accept(two)

    @only("sharded", "discard")
    async def test_shards_go_forward_by_themselves(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, two, *_ = self._line()
        async with world.node("together") as node:
            await node.accept(one, two)
            await node.checked(two)
        for name, order in (("upwards", range(self.shards)), ("downwards", range(self.shards)[::-1])):
            async with world.node(name) as node:
                for shard in order:
                    for block in (one, two):
                        answer = await node.execute(block, shard)
                        assert isinstance(answer, Outcome)
                        world.agree(block, shard, answer)
                        await node.execution.commit(block.ref, shard)
                        assert await node.execution.applied(shard) == block.ref
                await node.checked(two)
        async with world.node("side by side") as node:
            for block in (one, two):
                requests = [await node.request(block, shard) for shard in range(self.shards)]

                async def run(request: ExecutionRequest, block: Block = block, node: Node = node) -> None:
                    answer = await node.execution.execute(request)
                    assert isinstance(answer, Outcome)
                    world.agree(block, request.shard, answer)
                    await node.execution.commit(block.ref, request.shard)

                async with trio.open_nursery() as nursery:
                    for request in requests:
                        nursery.start_soon(run, request)
            await node.checked(two)

    # --- states in parts -----------------------------------------------------------------------------------------------

    @only("StateParts")
    async def test_a_state_goes_from_node_to_node_in_parts(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, two, *_ = self._line()
        async with world.node("giver") as giver:
            assert isinstance(giver.execution, StateParts)
            await giver.accept(one)
            assert await giver.execution.share_state(dict.fromkeys(range(self.shards), one.ref))
            await giver.accept(two)  # what is shared stands still
            async with world.node("taker") as taker:
                for shard in range(self.shards):
                    await self._hand_over(giver, taker, one, shard)
            async with world.node("taker") as taker:
                assert [await taker.execution.applied(shard) for shard in range(self.shards)] == [one.ref] * self.shards
                await taker.accept(two)
                await giver.checked(two)
                await taker.checked(two)

    async def _hand_over(self, giver: Node, taker: Node, block: Block, shard: int) -> None:
        source, sink = giver.execution, taker.execution
        assert isinstance(source, StateParts) and isinstance(sink, StateParts)
        commitment = giver.world.commitment(block.ref, shard)
        assert commitment is not None
        target = StateTarget(block.ref, shard, commitment, self.state_detail(giver.world.outcomes[block.ref.id, shard]))
        missing = list(await sink.missing_parts(target))
        assert missing and await sink.applied(shard) is None, "while parts come in the shard is not kept"
        taken: set[int] = set()
        while missing:
            index = missing[0]
            part = await source.state_part(block.ref, shard, index)
            assert part is not None and len(part) <= source.max_part_bytes
            assert not await sink.take_part(target, index, part[:-1])
            for lie in lies(part)[::4]:
                assert not await sink.take_part(target, index, lie), "a changed part is taken"
            assert await sink.take_part(target, index, part)
            taken.add(index)
            missing = list(await sink.missing_parts(target))
            assert taken.isdisjoint(missing), "a part that came is missing again"
        assert await source.state_part(block.ref, shard, len(taken) + 1000) is None
        await sink.install_state(target)
        assert await sink.applied(shard) == block.ref


def lies(honest: bytes) -> Sequence[bytes]:
    """The same with a bit changed, in places all over it."""
    places = sorted({number * len(honest) // LIES for number in range(LIES)}) if honest else []
    return [honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :] for at in places]
