"""Kit of the ``execution`` contract: the state of a stopped instance, computed anew from its blocks (``StateAudit``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from attrs import define, evolve, field

from nodewright.interfaces.audit import ChainPart, Journal, StateAudit
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.pool import TransactionStatus
from nodewright.testing.execution_base import ExecutionKit, Node, World, only
from nodewright.testing.execution_disk import Gate
from nodewright.testing.execution_terms import Block, by_id, first


@define
class Told:
    """Implements ``interfaces.audit.Report``."""

    kinds: list[str] = field(factory=list)

    def differs(self, kind: str, where: str, fix: str) -> None:
        assert kind and where and fix, "what is wrong, where, and what to do"
        self.kinds.append(f"{kind}: {where}")

    def note(self, line: str) -> None:
        assert line

    def progress(self, label: str, length: int | None) -> AbstractContextManager[Callable[[int], None]]:
        return _nothing()


@contextmanager
def _nothing() -> Iterator[Callable[[int], None]]:
    yield lambda steps: None


@define
class Chain:
    """Implements ``interfaces.audit.ChainAudit`` over blocks that a test committed."""

    listed: Sequence[tuple[BlockRef, Sequence[tuple[bytes, bytes]], tuple[bytes, bytes] | None]]
    whole: bool = True

    async def load(self, applied: BlockRef | None) -> None:
        pass

    @property
    def highest(self) -> int:
        return max((block.height for block, _, _ in self.listed), default=0)

    async def parts(self) -> AsyncIterator[ChainPart]:
        for block, transactions, prologue in self.listed:
            if prologue is not None:
                yield ChainPart(block, prologue[0], [prologue[1]], "the kit", prologue=True)
            yield ChainPart(block, b"".join(id for id, _ in transactions), [raw for _, raw in transactions], "the kit")

    async def loose(self) -> AsyncIterator[ChainPart]:
        nothing: Sequence[ChainPart] = ()
        for part in nothing:
            yield part


class AuditTests(ExecutionKit):
    async def _chain(self, node: Node, blocks: Sequence[Block]) -> Chain:
        listed = []
        for block in blocks:
            prologue = node.world.prologues[block.ref.id]
            made = None
            if prologue:
                (id,) = await node.execution.identify([prologue])
                assert id is not None, "its own prologue has an id"
                made = id, prologue
            listed.append((block.ref, [(sample.id, sample.raw) for sample in block.samples], made))
        return Chain(listed)

    async def _compare(self, world: World, name: str, chain: Chain, pending: Mapping[bytes, bytes]) -> list[str]:
        mined = {id: block for block, transactions, _ in chain.listed for id, _ in transactions}

        def final(id: bytes) -> TransactionStatus | None:
            return TransactionStatus(id, "committed", mined[id]) if id in mined else None

        told = Told()
        async with world.components(name, Gate()) as (dependencies, environment):
            assert self.spec.audit is not None
            config = self.spec.config() if self.config is None else self.config
            async with self.spec.audit(config, dependencies, environment) as opened:
                audit: StateAudit = opened
                applied = await audit.applied()
                assert applied == chain.listed[-1][0], "the audit finds the applied block"
                samples = [self.tx(0), self.invalid(1)]
                ids = audit.identify([samples[0].raw, b"garbage", samples[1].raw])
                assert ids == [samples[0].id, None, samples[1].id]
                await chain.load(applied)
                await audit.compare(chain, Journal(pending, final), told)
        return told.kinds

    @only("audit")
    async def test_a_stopped_instance_holds_what_its_blocks_give(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one = first([self.tx(0), self.tx(1)], [self.tx(2)], policy=self.policy)
        two = one.after([self.tx(0, 1), self.tx(3)], policy=self.policy)
        three = two.after([self.tx(4), self.tx(1, 1)], policy=self.policy)
        waiting = [self.tx(5), self.tx(5, 1), self.tx(2, 1)]
        async with world.node() as node:
            await node.accept(one, two, three)
            if "undo" in self.capabilities:
                await node.revert(three)
                await node.rest()
                await node.accept(three)
            chain = await self._chain(node, [one, two, three])
            await node.admit(*waiting)
        pending = {sample.id: sample.raw for sample in by_id(waiting).values()}
        assert await self._compare(world, "a", chain, pending) == [], "a sound instance is said to be damaged"
        for lacks in range(3):
            listed = [
                (ref, transactions[:-1] if number == lacks else transactions, prologue)
                for number, (ref, transactions, prologue) in enumerate(chain.listed)
            ]
            assert await self._compare(world, "a", evolve(chain, listed=listed), pending), "a transaction too much passes"
