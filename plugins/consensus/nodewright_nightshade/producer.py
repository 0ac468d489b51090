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
from typing import Protocol

import trio
from attrs import define, evolve, field

from nodewright_near.chunks import ChunkEndorsement
from nodewright_near.headers import Approval, Endorsement, Skip, approval_message, approval_of, endorsement_message
from nodewright_near.primitives import NO_SIGNATURE
from nodewright_nightshade import blocks, chunking
from nodewright_nightshade.blocks import Block, InvalidBlock, extra_of
from nodewright_nightshade.chain import Chain, Held, MissingChunks, UnknownParent
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.doomslug import Approvals, Delays, Due, Timer, Tip, Vote, may_produce
from nodewright_nightshade.keys import Signer, verify
from nodewright_nightshade.mandates import endorsed
from nodewright_nightshade.preparing import Preparing
from nodewright_nightshade.safety import Safety
from nodewright_nightshade.sampling import Epoch, Validator
from nodewright_nightshade.waiting import Waiting

MAX_WAITING = 256
MAX_RIVALS = 4  # chunks of one place: more than one only from a liar
CHUNK_AT = 0.5  # of the time until a tip is endorsed, a chunk is made: as late as others still can get it

ENDORSED_TO = 4  # producers of so many next heights hear of an endorsement

Said = Approval | ChunkEndorsement | Block | Chunk


class Say(Protocol):
    async def __call__(self, said: Said, to: Sequence[str] = ()) -> None:
        """``to``: the validators it is for; chunks and blocks are for all."""


@define
class Offered:
    """A chunk on a parent, and who endorsed it: account → key and signature."""

    chunk: Chunk
    signatures: dict[str, tuple[bytes, bytes]] = field(factory=dict)

    def signature(self, validator: Validator) -> bytes | None:
        key, signature = self.signatures.get(validator.account, (b"", b""))
        return signature if key == validator.key else None


@define
class Producer:
    chain: Chain
    config: NightshadeConfig
    safety: Safety
    signer: Signer | None
    say: Say
    offered: dict[bytes, dict[int, dict[bytes, Offered]]] = field(factory=dict)  # parent → shard → chunk hash
    # By account and chunk hash, the key and signature of endorsements that came before their chunk.
    early: dict[str, dict[bytes, tuple[bytes, bytes]]] = field(factory=dict)
    produced: dict[str, int] = field(factory=dict)
    shows: Callable[[Chunk, Sequence[str]], Awaitable[bool]] | None = None  # whether a witness carries a chunk
    prove: Callable[[Chunk], Awaitable[None]] | None = None  # makes a chunk's witness for others
    _judging: set[bytes] = field(factory=set)
    _nursery: trio.Nursery | None = None
    waiting: Waiting = field(init=False)
    preparing: Preparing | None = None
    _timer: Timer = field(init=False)
    _approvals: Approvals = field(init=False)
    _delays: Delays = field(init=False)
    _wake: trio.Event = field(factory=trio.Event)
    _tip_at: float = 0.0
    _chunks_for: bytes = b""
    _jump: int = 0  # heights above the head, asked for by ``jump``

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.waiting = Waiting(self.chain, config.max_chunk_transactions, self.wake)
        if config.early_prepare_transactions:
            self.preparing = Preparing(self.chain, self.waiting, self._my_shards)
        self._delays = Delays(
            config.endorsement_seconds, config.min_delay_seconds, config.delay_step_seconds, config.max_delay_seconds
        )
        self._approvals = Approvals()

    def place_in(self, epoch: Epoch) -> int | None:
        """This validator's in an epoch; None where it is none there."""
        return epoch.place(self.signer.account, self.signer.public) if self.signer is not None else None

    def wake(self) -> None:
        self._wake.set()

    def _now(self) -> float:
        return self.chain.environment.monotonic()

    # --- the task ---

    async def run(self) -> None:
        self._stand_on(self.chain.head)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self.waiting.take)
            nursery.start_soon(self.waiting.resend)
            if self.preparing is not None and self.signer is not None:
                nursery.start_soon(self.preparing.run)
            self._nursery = nursery
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
        if len(self.early) > MAX_WAITING:
            self.early = {account: those for account, those in self.early.items() if self.chain.keys_of(account)}
        self.offered = {
            parent: shards
            for parent, shards in self.offered.items()
            if parent == info.hash
            or next(iter(next(iter(shards.values())).values())).chunk.header.inner.height_created > info.height
        }

    def _next(self) -> float:
        found = [self._timer.next_at()] if self.signer is not None else [self._now() + 60]
        if self._chunks_for != self._timer.tip.hash:
            found.append(self._chunk_time())
        for target, since in self._due_blocks():
            found.append(since + self._delays.timer(target, self._timer.tip.final_height) * self._delays.chunk_wait)
        later = [at for at in found if at > self._now()]
        return min(later, default=self._now() + 0.05)

    def _due_blocks(self) -> list[tuple[int, float]]:
        """Heights of blocks on the head that this validator makes and that are approved, and since when."""
        info = self.chain.head.info
        epoch = self.chain.epochs.of(self.chain.chunk_epoch(info))
        place, approvers = self.place_in(epoch), self.chain.approvers(info)
        found = []
        for target in self._approvals.targets():
            if place is not None and epoch.block_producer(target) == place:
                votes = self._approvals.votes(info.hash, info.height, target)
                since = votes.since(approvers) if votes is not None else None
                if since is not None:
                    found.append((target, since))
        return found

    def _chunk_time(self) -> float:
        return self._tip_at + self._delays.endorsement * CHUNK_AT

    async def _act(self) -> None:
        if self.signer is None:
            return
        if self._chunks_for != self._timer.tip.hash and self._now() >= self._chunk_time() and await self._is_wanted():
            self._chunks_for = self._timer.tip.hash
            await self._make_chunks(self.chain.head)
        if self._chunks_for == self._timer.tip.hash:
            await self._approve_jump()
            for due in self._timer.due(self._now()):
                await self._approve(due)
            await self._make_block(self.chain.head)

    async def _is_wanted(self) -> bool:
        """Whether there is something to make a block for."""
        if self.config.produce_empty or self.waiting or self._jump:
            return True
        head = self.chain.head
        # Receipts on their way, and what is not final yet, want blocks too.
        return any(held.placed for held in await self.chain.above_final(head)) or await self._has_receipts(head)

    async def _has_receipts(self, head: Held) -> bool:
        for shard in self.chain.tracked:
            run = await self.chain.run_of(head.info, shard)
            if run.receipts or run.extra.congestion.delayed_receipts_gas:
                return True
        return False

    # --- approvals ---

    async def _approve(self, due: Due) -> None:
        signer = self.signer
        assert signer is not None
        mine = self.chain.approvers(self.chain.head.info).by_account.get(signer.account)
        if mine is None or mine.key != signer.public or not await self.safety.approve(due.target, due.parent_height):
            return
        inner = approval_of(due.parent_hash, due.parent_height, due.target)
        signature = signer.sign(approval_message(inner, due.target))
        approval = Approval(inner, due.target, signature, signer.account)
        self._count(approval, signer.public)
        producer = self._block_producer(due.target)
        await self.say(approval, [producer])
        if not due.is_endorsement:
            # The chunks that wait for a block: its producer may not have heard of them.
            for of_shard in self.offered.get(due.parent_hash, {}).values():
                for offered in of_shard.values():
                    key, given = offered.signatures.get(signer.account, (b"", b""))
                    if key == signer.public:
                        await self.say(ChunkEndorsement(signer.account, offered.chunk.hash, given), [producer])

    def _block_producer(self, target: int) -> str:
        """Of a block at that height on the head."""
        epoch = self.chain.epochs.of(self.chain.chunk_epoch(self.chain.head.info))
        return epoch.validators[epoch.block_producer(target)].account

    def jump(self, heights: int) -> None:
        """Have a block made so far above the head, as if the heights in between had been waited for; a block that is
        approved by now is made first."""
        self._jump = heights
        self.wake()

    async def _approve_jump(self) -> None:
        """Nothing below it can be approved afterwards: on a head that is about to get a child it would stand still."""
        if self._jump and not self._due_blocks():
            info, heights = self.chain.head.info, self._jump
            self._jump = 0
            await self._approve(Due(info.hash, info.height, info.height + heights))

    def _count(self, approval: Approval, key: bytes) -> bool:
        parent = approval.inner.parent_hash if isinstance(approval.inner, Endorsement) else approval.inner.parent_height
        head = self.chain.head.info.height
        vote = Vote(key, approval.signature, self._now())
        return self._approvals.add(approval.account_id, parent, approval.target_height, vote, head)

    def _key(self, account: str, message: bytes, signature: bytes) -> bytes | None:
        """The validator's key that made a signature."""
        return next((key for key in sorted(self.chain.keys_of(account)) if verify(key, message, signature)), None)

    def approved(self, approval: Approval) -> bool:
        """From a peer. Whether its signature holds."""
        if isinstance(approval.inner, Skip) and approval.inner.parent_height >= approval.target_height:
            return False
        message = approval_message(approval.inner, approval.target_height)
        key = self._key(approval.account_id, message, approval.signature)
        if key is None:
            return False
        if self._count(approval, key):
            self.wake()
        return True

    # --- chunks ---

    async def _my_shards(self, head: Held) -> list[int]:
        """Those whose chunks on this head this validator makes."""
        epoch, height = self.chain.epochs.of(self.chain.chunk_epoch(head.info)), head.info.height + 1
        place = self.place_in(epoch)
        if place is None:
            return []
        return [shard for shard in sorted(self.chain.tracked) if epoch.chunk_producer(height, shard) == place]

    async def _make_chunks(self, head: Held) -> None:
        if self.signer is None:
            return
        epoch, height = self.chain.epochs.of(self.chain.chunk_epoch(head.info)), head.info.height + 1
        for shard in await self._my_shards(head):
            if not await self.safety.make_chunk(shard, height):
                continue
            run = await self.chain.run_of(head.info, shard)
            prepared = self.preparing.take(head, shard) if self.preparing is not None else None
            transactions = prepared if prepared is not None else await self.waiting.choose(head, shard)
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
            if not self.config.own_tasks and self.prove is not None:
                await self.prove(chunk)

    async def offer(self, chunk: Chunk) -> None:
        """A chunk whose body and signature were checked: endorsed if it says the truth."""
        inner = chunk.header.inner
        of_parent = self.offered.setdefault(inner.prev_block_hash, {})
        of_shard = of_parent.setdefault(inner.shard_id, {})
        if chunk.hash in of_shard or len(of_shard) >= MAX_RIVALS:
            return
        offered = of_shard[chunk.hash] = Offered(chunk)
        for account, early in self.early.items():
            signature = early.pop(chunk.hash, None)
            if signature is not None:
                offered.signatures[account] = signature
        if len(self.offered) > MAX_WAITING:
            self.offered.pop(next(iter(self.offered)))
        if self.config.own_tasks and self._nursery is not None:
            self._nursery.start_soon(self._endorse, offered)
        else:
            await self._endorse(offered)
        self.wake()

    def chunk(self, id: bytes) -> Chunk | None:
        """One on offer."""
        for of_parent in self.offered.values():
            for of_shard in of_parent.values():
                if id in of_shard:
                    return of_shard[id].chunk
        return None

    async def retry_endorsements(self) -> None:
        """The head has moved: chunks that came before their parent."""
        for of_shard in list(self.offered.get(self.chain.head.info.hash, {}).values()):
            for offered in list(of_shard.values()):
                if self.signer is not None and self.signer.account not in offered.signatures:
                    await self._endorse(offered)

    def _epoch(self, chunk: Chunk) -> Epoch | None:
        parent = self.chain.held.get(chunk.header.inner.prev_block_hash)
        return None if parent is None else self.chain.epochs.of(self.chain.chunk_epoch(parent.info))

    def _checkers(self, chunk: Chunk, epoch: Epoch) -> Mapping[int, int]:
        return self.chain.epochs.assignment(epoch.id, chunk.header.inner.height_created, chunk.shard)

    async def _endorse(self, offered: Offered) -> None:
        chunk, epoch = offered.chunk, self._epoch(offered.chunk)
        parent = self.chain.held.get(chunk.header.inner.prev_block_hash)
        if epoch is None or parent is None or not self.safety.may_sign:
            return
        if self.signer is None or self.signer.account in offered.signatures:
            return
        if self.place_in(epoch) not in self._checkers(chunk, epoch):
            return
        if chunk.shard in self.chain.tracked:
            if extra_of(chunk.header.inner) == (await self.chain.run_of(parent.info, chunk.shard)).extra:
                await self._sign(offered)
            else:
                self._refuse(chunk, "it says of the state what running the last one did not come to")
        elif self.shows is not None and self._nursery is not None and chunk.hash not in self._judging:
            self._judging.add(chunk.hash)
            if self.config.own_tasks:
                self._nursery.start_soon(self._judge, offered)
            else:
                await self._judge(offered)

    async def _judge(self, offered: Offered) -> None:
        """From a witness, in a task of its own."""
        assert self.shows is not None
        chunk = offered.chunk
        try:
            epoch = self._epoch(chunk)
            if epoch is None:
                return
            author = epoch.chunk_producer(chunk.header.inner.height_created, chunk.shard)
            others = [one for one in epoch.chunk_producers[chunk.shard] if one != author]
            if await self.shows(chunk, [epoch.validators[at].account for at in (author, *others)]):
                await self._sign(offered)
            else:
                self._refuse(chunk, "no witness shows that it says the truth")
        finally:
            self._judging.discard(chunk.hash)

    def _refuse(self, chunk: Chunk, reason: str) -> None:
        height = chunk.header.inner.height_created
        self.chain.environment.logger.warning("chunk not endorsed", shard=chunk.shard, height=height, reason=reason)

    async def _sign(self, offered: Offered) -> None:
        signer = self.signer
        assert signer is not None
        signature = signer.sign(endorsement_message(offered.chunk.hash))
        offered.signatures[signer.account] = signer.public, signature
        self.wake()
        height = offered.chunk.header.inner.height_created
        to = {self._block_producer(height + ahead) for ahead in range(ENDORSED_TO)}
        await self.say(ChunkEndorsement(signer.account, offered.chunk.hash, signature), sorted(to))

    def endorsed(self, endorsement: ChunkEndorsement) -> bool:
        """From a peer. Whether its signature holds."""
        account = endorsement.account_id
        key = self._key(account, endorsement_message(endorsement.chunk_hash), endorsement.signature)
        if key is None:
            return False
        for of_parent in self.offered.values():
            for of_shard in of_parent.values():
                offered = of_shard.get(endorsement.chunk_hash)
                if offered is not None:
                    offered.signatures[account] = key, endorsement.signature
                    self.wake()
                    return True
        # Each validator's own: one that names chunks that never come takes room from nobody else.
        early = self.early.setdefault(account, {})
        early[endorsement.chunk_hash] = key, endorsement.signature
        while len(early) > 4 * self.chain.genesis.network.shards + 16:
            early.pop(next(iter(early)))
        return True

    # --- blocks ---

    def _ready_chunks(self, parent: Held) -> dict[int, Offered]:
        """The endorsed chunks on a block."""
        found: dict[int, Offered] = {}
        for shard, of_shard in self.offered.get(parent.info.hash, {}).items():
            for offered in of_shard.values():
                epoch = self._epoch(offered.chunk)
                if epoch is None:
                    continue
                checkers = self._checkers(offered.chunk, epoch)
                signers = [at for at in checkers if offered.signature(epoch.validators[at]) is not None]
                if endorsed(checkers, signers):
                    found[shard] = offered
        return found

    async def _make_block(self, head: Held) -> None:
        network, info = self.chain.genesis.network, head.info
        grandparent = await self.chain.parent(info)
        before = grandparent.info if grandparent is not None else None
        for target, since in self._due_blocks():
            votes = self._approvals.votes(info.hash, info.height, target)
            assert votes is not None
            chunks = self._ready_chunks(head)
            timer = self._delays.timer(target, info.last_final_height)
            if not may_produce(since, self._delays, timer, len(chunks) == network.shards, self._now()):
                continue
            if not await self.safety.make_block(target):
                continue
            approvals = [votes.signature(one.account, one.key) for one in self.chain.approvers(info).all]
            block = await self._block(head, before, target, chunks, approvals)
            try:
                await self.chain.accept(block, {one.chunk.hash: one.chunk for one in chunks.values()})
            except (InvalidBlock, UnknownParent, MissingChunks) as error:
                self.chain.environment.logger.error("the block made here does not hold", height=target, reason=str(error))
                continue
            self.produced["blocks"] = self.produced.get("blocks", 0) + 1
            await self.say(block)
            return

    async def _block(
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
            epoch = self._epoch(offered.chunk)
            assert epoch is not None
            places = sorted(self._checkers(offered.chunk, epoch))
            new[shard] = (offered.chunk.header, [offered.signature(epoch.validators[at]) for at in places])
        place = blocks.place_of(head.info, grandparent, height, self.chain.genesis.network)
        proof = await self.chain.environment.offload(self.signer.prove, head.block.header.inner_rest.random_value)
        block = blocks.build(
            head.block,
            head.info,
            grandparent,
            height,
            max(after, now),
            new,
            approvals,
            proof,
            self.chain.epochs.producers_hash(place.next_epoch_id),
            self.chain.genesis.vote(height, (await self.chain.epoch_set(place.epoch_id)).version),
            self.chain.genesis.network,
        )
        assert block.header.signature == NO_SIGNATURE
        return evolve(block, header=evolve(block.header, signature=self.signer.sign(block.hash)))
