"""Transactions that wait for a chunk: taken from the pool, by shard, until they are final or refused for good.

Invariants: a transaction waits here as long as the pool has it pending; what the chain has above its final block is not
chosen again; what still waits after RESEND_SECONDS is said to the others again, MAX_RESENT at a time, since who makes its
chunks may not have heard of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from attrs import define, field, frozen

from nodewright.interfaces.execution import Candidate, Limits
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade.chain import Chain, Held

MAX_CHUNK_TRANSACTION_BYTES = 8 * 1024 * 1024
RESEND_SECONDS = 5.0
MAX_RESENT = 1000
FEW = 256  # chosen from sooner than it is asked whether that is of use


@frozen
class Chosen:
    """``full``: others wait and have no room beside them."""

    transactions: list[SignedTransaction]
    full: bool


@define
class Waiting:
    """``wake`` is called when there are new ones; ``forward`` (transactions as (id, raw), whether said before)."""

    chain: Chain
    max_count: int
    wake: Callable[[], None]
    by_shard: dict[int, dict[bytes, Candidate]] = field(factory=dict)
    arrived: int = 0
    forward: Callable[[Sequence[tuple[bytes, bytes]], bool], Awaitable[None]] | None = None
    _room: int = 0  # of the last chunk that was full

    def __bool__(self) -> bool:
        return any(self.by_shard.values())

    async def take(self) -> None:
        """Candidates from the pool wait here, by shard, until they are final or refused."""
        pool = self.chain.pool
        while True:
            candidates = await pool.take(4096)
            for candidate in candidates:
                self.by_shard.setdefault(candidate.shard, {})[candidate.id] = candidate
            self.arrived += len(candidates)
            self.wake()
            if self.forward is not None:
                await self._forward([candidate.id for candidate in candidates], False)

    async def _forward(self, ids: Sequence[bytes], again: bool) -> None:
        bodies = zip(ids, self.chain.pool.bodies(ids), strict=True)
        if self.forward is not None:
            await self.forward([(id, body) for id, body in bodies if body is not None], again)

    async def resend(self) -> None:
        """What still waits was perhaps not heard by those who make its chunks. What has its final status goes."""
        before: set[bytes] = set()
        while True:
            await self.chain.environment.sleep(RESEND_SECONDS)
            self._purge()
            used = await self.chain.used(self.chain.head)
            now = {id for waiting in self.by_shard.values() for id in waiting}
            await self._forward(sorted((now & before) - used)[:MAX_RESENT], True)
            before = now

    def _purge(self) -> None:
        for waiting in self.by_shard.values():
            ids = list(waiting)
            for id, body in zip(ids, self.chain.pool.bodies(ids), strict=True):
                if body is None:
                    del waiting[id]

    async def choose(self, head: Held, shard: int) -> list[SignedTransaction]:
        return (await self.look(head, shard)).transactions

    async def settled(self, head: Held, shard: int) -> bool:
        """Whether a choice made now is likely to be that of the next chunk: it is full, or there is little to choose from.
        Between the two, what comes until then would have to be chosen from too."""
        waiting = self.by_shard.get(shard, {})
        count = len(waiting)
        if count > FEW:
            count -= len(waiting.keys() & await self.chain.used(head))
        return count <= FEW or count > self._room

    async def look(self, head: Held, shard: int) -> Chosen:
        """Those for the shard's chunk on this head; what can never be in one is let go."""
        waiting = self.by_shard.get(shard, {})
        pool = self.chain.pool
        if not waiting:
            return Chosen([], False)
        used = await self.chain.used(head)
        candidates = [one for one in islice(waiting.values(), 4 * self.max_count) if one.id not in used]
        limits = Limits(self.max_count, MAX_CHUNK_TRANSACTION_BYTES)
        selection = await self.chain.execution.select(head.info.ran[shard].ref, candidates, limits)
        ids = [one.id for one in selection.chosen]
        bodies = dict(zip(ids, pool.bodies(ids), strict=True))
        chosen: list[SignedTransaction] = []
        rejected: dict[bytes, str] = {}
        # The pool holds what was admitted; what it does not hold any more has its final status.
        read = [SignedTransaction.decode(body) for body in bodies.values() if body is not None]
        gone = [id for id, body in bodies.items() if body is None]
        recent = await self.chain.recent({signed.transaction.block_hash for signed in read}, head)
        for signed in read:
            if recent[signed.transaction.block_hash]:
                chosen.append(signed)
            else:
                rejected[signed.id] = "Expired: the block it names is not on this chain, or too far back"
        refused = list(selection.rejected)
        for id, body in zip(refused, pool.bodies(refused), strict=True):
            if body is None:
                gone.append(id)
            else:
                rejected[id] = selection.rejected[id]
        for id in (*gone, *rejected):
            waiting.pop(id, None)
        if rejected:
            await self.chain.execution.release(list(rejected))
            await pool.settle(rejected=rejected)
        if selection.deferred:
            self._room = len(chosen)
        return Chosen(chosen, bool(selection.deferred))
