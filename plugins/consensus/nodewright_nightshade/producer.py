"""What a validator does: approves, makes chunks and blocks, endorses. One task; what others say is given to it as facts.

Invariants:
- nothing is signed that ``Safety`` has not written down first;
- a chunk is endorsed only if what it says of the state is what running the shard's last chunk here came to (or what its
  witness shows, for a shard that is not kept here), and only on the head's chain;
- what waits is bounded: of chunks whose parent is not known here MAX_WAITING, of approvals what ``Approvals`` keeps; what
  stands on a block below the head is forgotten;
- a transaction waits in one place: in the pool, from which it was taken, until it is final or refused for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio
from attrs import define, evolve, field

from nodewright.interfaces.execution import Candidate, Limits
from nodewright_near.borsh import Malformed
from nodewright_near.chunks import ChunkEndorsement
from nodewright_near.headers import Approval, Endorsement, Skip, approval_message, approval_of, endorsement_message
from nodewright_near.primitives import NO_SIGNATURE
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade import blocks, chunking
from nodewright_nightshade.blocks import Block, extra_of
from nodewright_nightshade.chain import Chain, Held
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.doomslug import Approvals, Delays, Due, Timer, Tip, may_produce
from nodewright_nightshade.keys import Signer, verify
from nodewright_nightshade.mandates import endorsed
from nodewright_nightshade.safety import Safety

MAX_WAITING = 256
MAX_CHUNK_TRANSACTION_BYTES = 8 * 1024 * 1024
CHUNK_AT = 0.5  # of the time until a tip is endorsed, a chunk is made: as late as others still can get it

Say = Callable[[Approval | ChunkEndorsement | Block | Chunk], Awaitable[None]]


@define
class Offered:
    """A chunk on a parent, and who endorsed it: place in the epoch → signature."""

    chunk: Chunk
    signatures: dict[int, bytes] = field(factory=dict)


@define
class Producer:
    chain: Chain
    config: NightshadeConfig
    safety: Safety
    signer: Signer | None
    say: Say
    waiting: dict[int, dict[bytes, Candidate]] = field(factory=dict)
    offered: dict[bytes, dict[int, dict[bytes, Offered]]] = field(factory=dict)  # parent → shard → chunk hash
    unmatched: dict[bytes, list[ChunkEndorsement]] = field(factory=dict)
    produced: dict[str, int] = field(factory=dict)
    forward: Callable[[Sequence[bytes]], Awaitable[None]] | None = None
    _timer: Timer = field(init=False)
    _approvals: Approvals = field(init=False)
    _delays: Delays = field(init=False)
    _wake: trio.Event = field(factory=trio.Event)
    _tip_at: float = 0.0
    _chunks_for: bytes = b""

    def __attrs_post_init__(self) -> None:
        config = self.config
        self._delays = Delays(
            config.endorsement_seconds, config.min_delay_seconds, config.delay_step_seconds, config.max_delay_seconds
        )
        self._approvals = Approvals({one.account: one.stake for one in self.chain.epochs.validators})

    @property
    def place(self) -> int | None:
        return self.chain.epochs.place(self.signer.account) if self.signer is not None else None

    def wake(self) -> None:
        self._wake.set()

    def _now(self) -> float:
        return self.chain.environment.monotonic()

    # --- the task ---

    async def run(self) -> None:
        self._stand_on(self.chain.head)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._take)
            while True:
                self._wake = trio.Event()
                if self.chain.head.info.hash != self._timer.tip.hash:
                    self._stand_on(self.chain.head)
                await self._act()
                pause = max(0.0, self._next() - self._now())
                with trio.move_on_after(pause):
                    await self._wake.wait()

    async def _watch(self) -> None:
        while True:
            await self.chain.moved()
            self.wake()

    def _stand_on(self, head: Held) -> None:
        info = head.info
        tip = Tip(info.hash, info.height, info.last_final_height)
        now = self._now()
        if not hasattr(self, "_timer"):
            self._timer = Timer(self._delays, tip, now, approved=self.safety.approved)
        else:
            self._timer.new_tip(tip, now)
        self._tip_at = now
        self._approvals.forget(info.height)
        self.offered = {
            parent: shards
            for parent, shards in self.offered.items()
            if parent == info.hash
            or next(iter(next(iter(shards.values())).values())).chunk.header.inner.height_created > info.height
        }
        if len(self.unmatched) > MAX_WAITING:
            self.unmatched.clear()

    def _next(self) -> float:
        found = [self._timer.next_at()] if self.signer is not None else [self._now() + 60]
        if self._chunks_for != self._timer.tip.hash:
            found.append(self._chunk_time())
        for target in self._approvals.targets():
            votes = self._approvals.votes(self._timer.tip.hash, self._timer.tip.height, target)
            if votes is not None and votes.since is not None:
                timer = self._delays.timer(target, self._timer.tip.final_height)
                found.append(votes.since + timer * self._delays.chunk_wait)
        later = [at for at in found if at > self._now()]
        return min(later, default=self._now() + 0.05)

    def _chunk_time(self) -> float:
        return self._tip_at + self._delays.endorsement * CHUNK_AT

    async def _act(self) -> None:
        if self.signer is None:
            return
        if self._chunks_for != self._timer.tip.hash and self._now() >= self._chunk_time() and await self._is_wanted():
            self._chunks_for = self._timer.tip.hash
            await self._make_chunks(self.chain.head)
        if self._chunks_for == self._timer.tip.hash:
            for due in self._timer.due(self._now()):
                await self._approve(due)
            await self._make_block(self.chain.head)

    async def _is_wanted(self) -> bool:
        """Whether there is something to make a block for."""
        if self.config.produce_empty or any(self.waiting.values()):
            return True
        head = self.chain.head
        # Receipts on their way, and what is not final yet, want blocks too.
        return any(held.ids for held in await self.chain.above_final(head)) or await self._has_receipts(head)

    async def _has_receipts(self, head: Held) -> bool:
        for shard in range(self.chain.genesis.network.shards):
            run = await self.chain.run_of(head.info, shard)
            if run.receipts or run.extra.congestion.delayed_receipts_gas:
                return True
        return False

    # --- approvals ---

    async def _approve(self, due: Due) -> None:
        assert self.signer is not None
        if self.place is None or not await self.safety.approve(due.target):
            return
        inner = approval_of(due.parent_hash, due.parent_height, due.target)
        signature = self.signer.sign(approval_message(inner, due.target))
        approval = Approval(inner, due.target, signature, self.signer.account)
        self._count(approval)
        await self.say(approval)

    def _count(self, approval: Approval) -> bool:
        parent = approval.inner.parent_hash if isinstance(approval.inner, Endorsement) else approval.inner.parent_height
        head = self.chain.head.info.height
        signature, account = approval.signature, approval.account_id
        return self._approvals.add(account, parent, approval.target_height, signature, self._now(), head)

    def approved(self, approval: Approval) -> bool:
        """From a peer. Whether its signature holds."""
        place = self.chain.epochs.place(approval.account_id)
        if place is None:
            return False
        if isinstance(approval.inner, Skip) and approval.inner.parent_height >= approval.target_height:
            return False
        message = approval_message(approval.inner, approval.target_height)
        if not verify(self.chain.epochs.validators[place].key, message, approval.signature):
            return False
        if self._count(approval):
            self.wake()
        return True

    # --- chunks ---

    async def _take(self) -> None:
        """Candidates from the pool wait here, by shard, until they are final or refused."""
        pool = self.chain.pool
        while True:
            candidates = await pool.take(4096)
            for candidate in candidates:
                self.waiting.setdefault(candidate.shard, {})[candidate.id] = candidate
            self.wake()
            if self.forward is not None:
                bodies = pool.bodies([candidate.id for candidate in candidates])
                await self.forward([body for body in bodies if body is not None])

    async def _make_chunks(self, head: Held) -> None:
        place = self.place
        if place is None or self.signer is None:
            return
        grandparent = await self.chain.parent(head.info)
        epoch_id = self.chain.chunk_epoch(head.info, grandparent.info if grandparent is not None else None)
        epoch, height = self.chain.epochs.of(epoch_id), head.info.height + 1
        for shard in range(epoch.shards):
            if epoch.chunk_producer(height, shard) != place or not await self.safety.make_chunk(shard, height):
                continue
            run = await self.chain.run_of(head.info, shard)
            transactions = await self._choose(head, shard)
            chunk = await self.chain.environment.offload(
                chunking.make,
                self.signer,
                head.info.hash,
                height,
                shard,
                run.extra,
                run.receipts,
                transactions,
                len(epoch.validators),
                self.chain.genesis.network,
            )
            await self.say(chunk)
            await self.offer(chunk)

    async def _choose(self, head: Held, shard: int) -> list[SignedTransaction]:
        waiting = self.waiting.get(shard, {})
        pool = self.chain.pool
        if not waiting:
            return []
        used = await self.chain.used(head)
        candidates = [one for one in list(waiting.values())[: 4 * self.config.max_chunk_transactions] if one.id not in used]
        bodies = pool.bodies([one.id for one in candidates])
        for one, body in zip(candidates, bodies, strict=True):
            if body is None:  # it has its final status
                del waiting[one.id]
        here = {one.id: body for one, body in zip(candidates, bodies, strict=True) if body is not None}
        limits = Limits(self.config.max_chunk_transactions, MAX_CHUNK_TRANSACTION_BYTES)
        selection = await self.chain.execution.select(head.info.ref, [one for one in candidates if one.id in here], limits)
        rejected = dict(selection.rejected)
        chosen: list[SignedTransaction] = []
        recent: dict[bytes, bool] = {}
        for one in selection.chosen:
            try:
                signed = SignedTransaction.decode(here[one.id])
            except Malformed as error:
                rejected[one.id] = str(error)
                continue
            named = signed.transaction.block_hash
            if named not in recent:
                recent[named] = await self.chain.is_recent(named, head)
            if recent[named]:
                chosen.append(signed)
            else:
                rejected[one.id] = "Expired: the block it names is not on this chain, or too far back"
        if rejected:
            for id in rejected:
                waiting.pop(id, None)
            await self.chain.execution.release(list(rejected))
            await pool.settle(rejected=rejected)
        return chosen

    async def offer(self, chunk: Chunk) -> None:
        """A chunk whose body and signature were checked: endorsed if this node stands where it does."""
        inner = chunk.header.inner
        of_parent = self.offered.setdefault(inner.prev_block_hash, {})
        of_shard = of_parent.setdefault(inner.shard_id, {})
        if chunk.hash in of_shard or len(of_shard) >= 4:
            return
        offered = of_shard[chunk.hash] = Offered(chunk)
        for early in self.unmatched.pop(chunk.hash, ()):
            self._match(early, offered)
        if len(self.offered) > MAX_WAITING:
            self.offered.pop(next(iter(self.offered)))
        await self._endorse(offered)
        self.wake()

    async def retry_endorsements(self) -> None:
        """The head has moved: chunks that came before their parent."""
        for of_shard in self.offered.get(self.chain.head.info.hash, {}).values():
            for offered in of_shard.values():
                if self.place not in offered.signatures:
                    await self._endorse(offered)

    def _assignment(self, chunk: Chunk) -> Mapping[int, int] | None:
        parent = self.chain.held.get(chunk.header.inner.prev_block_hash)
        if parent is None:
            return None
        grandparent = self.chain.held.get(parent.info.prev)
        epoch_id = self.chain.chunk_epoch(parent.info, grandparent.info if grandparent is not None else None)
        return self.chain.epochs.assignment(epoch_id, parent.info.height + 1, chunk.shard)

    async def _endorse(self, offered: Offered) -> None:
        chunk, assignment = offered.chunk, self._assignment(offered.chunk)
        parent = self.chain.held.get(chunk.header.inner.prev_block_hash)
        if self.signer is None or self.place is None or assignment is None or parent is None:
            return
        if self.place not in assignment or not self.safety.may_sign:
            return
        if extra_of(chunk.header.inner) != (await self.chain.run_of(parent.info, chunk.shard)).extra:
            log = self.chain.environment.logger
            log.warning(
                "chunk not endorsed: it says of the state what running the last one did not come to", shard=chunk.shard
            )
            return
        signature = self.signer.sign(endorsement_message(chunk.hash))
        offered.signatures[self.place] = signature
        await self.say(ChunkEndorsement(self.signer.account, chunk.hash, signature))

    def endorsed(self, endorsement: ChunkEndorsement) -> bool:
        """From a peer. Whether its signature holds."""
        place = self.chain.epochs.place(endorsement.account_id)
        if place is None:
            return False
        key = self.chain.epochs.validators[place].key
        if not verify(key, endorsement_message(endorsement.chunk_hash), endorsement.signature):
            return False
        for of_parent in self.offered.values():
            for of_shard in of_parent.values():
                offered = of_shard.get(endorsement.chunk_hash)
                if offered is not None:
                    self._match(endorsement, offered)
                    self.wake()
                    return True
        if len(self.unmatched) < MAX_WAITING:
            early = self.unmatched.setdefault(endorsement.chunk_hash, [])
            if len(early) < len(self.chain.epochs.validators):
                early.append(endorsement)
        return True

    def _match(self, endorsement: ChunkEndorsement, offered: Offered) -> None:
        place = self.chain.epochs.place(endorsement.account_id)
        if place is not None:
            offered.signatures[place] = endorsement.signature

    # --- blocks ---

    def _ready_chunks(self, parent: Held) -> dict[int, Offered]:
        """The endorsed chunks on a block."""
        found: dict[int, Offered] = {}
        for shard, of_shard in self.offered.get(parent.info.hash, {}).items():
            for offered in of_shard.values():
                assignment = self._assignment(offered.chunk)
                if assignment is not None and endorsed(assignment, list(offered.signatures)):
                    found[shard] = offered
        return found

    async def _make_block(self, head: Held) -> None:
        place, signer = self.place, self.signer
        if place is None or signer is None:
            return
        network, info = self.chain.genesis.network, head.info
        grandparent = await self.chain.parent(info)
        before = grandparent.info if grandparent is not None else None
        for target in self._approvals.targets():
            votes = self._approvals.votes(info.hash, info.height, target)
            epoch = self.chain.epochs.of(blocks.place_of(info, before, target, network).epoch_id)
            if votes is None or epoch.block_producer(target) != place:
                continue
            chunks = self._ready_chunks(head)
            timer = self._delays.timer(target, info.last_final_height)
            if not may_produce(votes, self._delays, timer, len(chunks) == network.shards, self._now()):
                continue
            if not await self.safety.make_block(target):
                continue
            block = self._block(
                head, before, target, chunks, [votes.signatures.get(one.account) for one in epoch.validators]
            )
            await self.chain.accept(block, {one.chunk.hash: one.chunk for one in chunks.values()})
            self.produced["blocks"] = self.produced.get("blocks", 0) + 1
            await self.say(block)
            return

    def _block(
        self,
        head: Held,
        grandparent: blocks.Info | None,
        height: int,
        chunks: Mapping[int, Offered],
        approvals: Sequence[bytes | None],
    ) -> Block:
        assert self.signer is not None
        after = head.block.header.inner_lite.timestamp + 1
        now = int(self.chain.environment.now() * 10**9)
        new = {}
        for shard, offered in chunks.items():
            assignment = self._assignment(offered.chunk)
            assert assignment is not None
            new[shard] = (offered.chunk.header, [offered.signatures.get(at) for at in sorted(assignment)])
        proof = self.signer.sign(head.block.header.inner_rest.random_value)[1:]
        block = blocks.build(
            head.block,
            head.info,
            grandparent,
            height,
            max(after, now),
            new,
            approvals,
            proof,
            self.chain.genesis.producers_hash,
            self.chain.genesis.network,
        )
        assert block.header.signature == NO_SIGNATURE
        return evolve(block, header=evolve(block.header, signature=self.signer.sign(block.hash)))

    def forget_final(self, ids: Sequence[bytes]) -> None:
        for waiting in self.waiting.values():
            for id in ids:
                waiting.pop(id, None)
