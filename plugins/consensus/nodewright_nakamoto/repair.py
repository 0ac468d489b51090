"""The assembly put right after a block of one's own was refused, whatever the cause: rebuilt from the pool in dependency
order, and run on the tip before anything is mined on it again.

Invariants (tests/integration/test_repair.py):
- what is left in the assembly ran on the tip without an objection, unless the answer says that it did not;
- a transaction gets a final status here only for a reason that the execution gives (rejected, and its descendants with
  it) or because a block of the chain holds it (committed); what else cannot stand in a block now stays pending, *deferred*;
- at most MAX_TRIALS executions, however many transactions are bad: under ``discard`` one execution names all of them. An
  execution that names one at a time gets the part before the last one named.
The caller holds the chain's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

from nodewright.interfaces.common import BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import Candidate, ExecutionRequest, Incomplete, Invalid, Limits, Outcome
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain
from nodewright_nakamoto.header import sha256d

MAX_TRIALS = 8


@frozen
class Repaired:
    """``struck`` have a final status now, ``deferred`` are to be offered again when the tip moves. ``problem`` is what the
    execution still objects to, empty where nothing is."""

    kept: int
    struck: int
    deferred: Sequence[Candidate]
    problem: str = ""


@define
class Objection:
    """What one trial found: whom to reject, who must wait, and where one is named alone, who that is."""

    rejected: dict[bytes, str] = field(factory=dict)
    waiting: set[bytes] = field(factory=set)
    first: bytes | None = None
    problem: str = ""


class Repairer:
    def __init__(self, chain: Chain, keeper: BundleKeeper) -> None:
        self._chain = chain
        self._keeper = keeper
        self._trials = 0

    async def run(self) -> Repaired:
        chain = self._chain
        before = len(chain.pool)
        candidates: Sequence[Candidate] = chain.pool.pending(max(1, before))
        candidates = await self._settle_mined(candidates)
        deferred: list[Candidate] = []
        objection: Objection | None = None
        for _ in range(MAX_TRIALS):
            chosen = await self._select(candidates, deferred)
            chain.assembler.rebuild(chosen)
            objection = await self._trial()
            if objection is None:
                return Repaired(len(chosen), before - len(chain.pool), deferred)
            if not objection.rejected and not objection.waiting:
                chain.assembler.clear()
                return Repaired(0, before - len(chain.pool), [*deferred, *chosen], objection.problem)
            if objection.rejected:
                await chain.pool.settle(rejected=objection.rejected)
            deferred += [one for one in chosen if one.id in objection.waiting]
            candidates = self._still_pending([one for one in chosen if one.id not in objection.waiting])
        assert objection is not None
        named = objection.first
        place = next((at for at, one in enumerate(chosen) if one.id == named), 0)
        deferred += self._still_pending(chosen[place:])
        chain.assembler.rebuild(chosen[:place])
        return Repaired(place, before - len(chain.pool), deferred, objection.problem)

    def _still_pending(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        bodies = self._chain.pool.bodies([one.id for one in candidates])
        return [one for one, body in zip(candidates, bodies, strict=True) if body is not None]

    async def _settle_mined(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that no block of the chain holds; the others are told where they are."""
        chain, store = self._chain, self._chain.store
        holders = await store.holders([one.id for one in candidates])
        named = sorted({bundle for pairs in holders for bundle, _ in pairs})
        rows = await store.bundle_rows(named)
        blocks = {
            bundle: chain.block_ref(row.blocks) if row is not None else None
            for bundle, row in zip(named, rows, strict=True)
        }
        committed: dict[bytes, BlockRef] = {}
        for one, pairs in zip(candidates, holders, strict=True):
            block = next((found for bundle, _ in pairs if (found := blocks[bundle]) is not None), None)
            if block is not None:
                committed[one.id] = block
        if committed:
            await chain.pool.settle(committed=committed)
        return [one for one in candidates if one.id not in committed]

    async def _select(self, candidates: Sequence[Candidate], deferred: list[Candidate]) -> Sequence[Candidate]:
        chain = self._chain
        limits = Limits(len(candidates), sum(one.size for one in candidates))
        selection = await chain.execution.select(chain.tip.ref, candidates, limits)
        if selection.rejected:
            await chain.pool.settle(rejected=selection.rejected)
        deferred += selection.deferred
        return self._still_pending(selection.chosen) if selection.rejected else selection.chosen

    async def _trial(self) -> Objection | None:
        """Run the assembly on the tip as a block that is never made; None where the execution has no objection."""
        chain, execution = self._chain, self._chain.execution
        if not len(chain.assembler):
            return None
        self._trials += 1
        parent = chain.tip
        subtrees = [await self._keeper.build(columns) for columns in chain.assembler.template()]
        bundles = [Bundle(BundleRef(one.root, one.count, sum(one.sizes)), one.ids) for one in subtrees]
        time = max(int(chain.environment.now()), chain.index.median_time(parent) + 1)
        # It claims no fees: whatever of the block is kept pays enough for it.
        prologue = await execution.prologue(chain.context(parent, time, extra=b"trial"))
        block = BlockRef(parent.height + 1, sha256d(b"trial" + parent.id + self._trials.to_bytes(8, "little")))
        context = chain.context(parent, time)
        request = ExecutionRequest(parent.ref, block, context, bundles, prologue.raw, invalid_transaction="discard")
        result = await execution.execute(request)
        if isinstance(result, Incomplete):
            bodied = [Bundle(one.ref, one.ids, await self._bodies(one)) for one in bundles]
            result = await execution.execute(
                ExecutionRequest(parent.ref, block, context, bodied, prologue.raw, invalid_transaction="discard")
            )
        if isinstance(result, Outcome):
            await execution.abandon(block)
            return self._of_outcome(result.discarded, result.retry)
        if isinstance(result, Invalid):
            text = f"{result.code}: {result.message}"
            if result.transaction is None or result.transaction not in chain.assembler:
                return Objection(problem=text)
            return Objection({result.transaction: text}, first=result.transaction, problem=text)
        if isinstance(result, Incomplete):
            here = {id for id in result.missing if id in chain.assembler}
            return Objection(waiting=here, problem=f"{len(result.missing)} bodies or parents are not here")
        return Objection(problem=f"the execution stands at {result.have}, the chain's tip is {parent.ref}")

    async def _bodies(self, bundle: Bundle) -> list[bytes]:
        ids = [bundle.id_at(index) for index in range(len(bundle))]
        # A body that is gone is given as none: the execution then says which one it lacks.
        return [body or b"" for body in await self._keeper.bodies(ids)]

    @staticmethod
    def _of_outcome(discarded: Mapping[bytes, tuple[str, str]], retry: Mapping[bytes, str]) -> Objection | None:
        if not discarded and not retry:
            return None
        rejected = {id: f"{code}: {message}" for id, (code, message) in discarded.items()}
        first = next(iter({**rejected, **retry}))
        return Objection(rejected, set(retry), first, next(iter({**rejected, **retry}.values())))
