"""The ledger: ordered blocks are run, outcomes signed, and what a quorum came to is committed.

Invariants
- A block runs once its batches are here and its parent has run: before it is ordered, unless the execution has a single
  head; then once it is ordered and its parent is committed.
- A block is committed when a quorum signed its outcome, or that of one above it, and this node came to the same. Where it
  came to something else the node stops: two nodes never commit different states.
- Durable in this order: batches, block; the decision in the chain store; the execution's state; the pool's statuses.
- Blocks on top of one that ends its epoch are ordered in vain: they never run, and their transactions are batched again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import trio
from attrs import define, evolve, field

from nodewright.errors import NodewrightError, StoreError
from nodewright.interfaces.common import BlockRef, Bundle
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Deferred, Execution, ExecutionRequest, Incomplete, Outcome
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright_jolteon import running
from nodewright_jolteon.formats import Block, LedgerCertificate, LedgerInfo, LedgerVote
from nodewright_jolteon.genesis import Genesis
from nodewright_jolteon.keys import Signer
from nodewright_jolteon.leaders import Record
from nodewright_jolteon.ledger import Ledger
from nodewright_jolteon.quorum import QuorumStore
from nodewright_jolteon.running import PROLOGUE, Ran
from nodewright_jolteon.safety import SafetyFile
from nodewright_jolteon.store import ChainStore, Done
from nodewright_jolteon.validators import Epoch

REPEAT_SECONDS = 1.0


@define(eq=False)
class Run:
    """One block on its way to be committed."""

    block: Block
    record: Record
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ordered: trio.Event = field(factory=trio.Event)
    finished: trio.Event = field(factory=trio.Event)
    ran: Ran | None = None  # None when finished: it stands on the end of an epoch


class Chain:
    """``done`` is what the committed head did. ``say`` sends a vote on the ledger to everybody."""

    def __init__(
        self,
        genesis: Genesis,
        store: ChainStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        environment: Environment,
        quorum: QuorumStore,
        signer: Signer | None,
    ) -> None:
        self.genesis = genesis
        self.store = store
        self.execution = execution
        self.pool = pool
        self.events = events
        self.environment = environment
        self.quorum = quorum
        self.signer = signer
        self.done: Done
        self.epoch: Epoch
        self.ledger: Ledger
        self.safety: SafetyFile
        self.place: int | None = None  # where this node signs in this epoch
        self.ordered: list[Run] = []
        self.say: Callable[[bytes], Awaitable[None]] = _say_nothing
        self.changed: Callable[[], None] = lambda: None
        self.epoch_began: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._single = "single-head" in execution.capabilities
        self._runs: dict[bytes, Run] = {}
        self._nursery: trio.Nursery | None = None
        self._lock = trio.Lock()
        self._work = trio.Event()
        self._moved = trio.Event()
        quorum.head = self.head
        quorum.ordered_digests = self._ordered_digests
        quorum.settling = self._settled

    # --- where it stands ---

    def head(self) -> BlockRef:
        return self.done.info.block

    @property
    def lag(self) -> int:
        """Blocks ordered and not committed."""
        return len(self.ordered)

    @property
    def carrying(self) -> bool:
        """Whether transactions wait to be ordered again."""
        for run in reversed(self.ordered):
            if run.ran is not None:
                return bool(run.ran.done.carried)
        return bool(self.done.carried)

    @property
    def unsettled(self) -> bool:
        """Whether more blocks are needed for what this node has ordered: others may not have ordered it yet."""
        return self.carrying or any(run.block.proofs for run in self.ordered)

    async def moved(self) -> None:
        """Until the next commit."""
        await self._moved.wait()

    async def _settled(self) -> None:
        """No commit is between the execution's and the pool's part of it."""
        async with self._lock:
            pass

    def _ordered_digests(self) -> list[bytes]:
        return [proof.info.digest for run in self._runs.values() for proof in run.block.proofs]

    # --- ordered blocks ---

    def consider(self, block: Block, record: Record) -> None:
        """A block that may be ordered: it is run at once where the execution can."""
        if not self._single and block.epoch == self.epoch.number:
            self._start(block, record)

    def _start(self, block: Block, record: Record) -> Run:
        run = self._runs.get(block.id)
        if run is None:
            run = self._runs[block.id] = Run(block, record)
            if self._nursery is not None:
                self._nursery.start_soon(self._follow, run)
        return run

    async def order(self, blocks: Sequence[tuple[Block, Record]], alive: Collection[bytes]) -> None:
        """These are next, oldest first; of those that are neither ordered nor ``alive`` nothing will become."""
        for block, record in blocks:
            if block.height <= self.head().height or block.epoch != self.epoch.number:
                continue  # the rules of an epoch that has ended may not know it yet
            run = self._start(block, record)
            self.ordered.append(run)
            run.ordered.set()
        self._work.set()
        kept = {run.block.id for run in self.ordered}
        await self._drop([run for run in self._runs.values() if run.block.id not in kept and run.block.id not in alive])

    async def _drop(self, runs: Sequence[Run]) -> None:
        for run in runs:
            run.scope.cancel()
            del self._runs[run.block.id]
        for run in runs:
            if run.ran is not None:
                async with self._lock:
                    await self.execution.abandon(run.block.ref)
        await self.store.drop([run.block for run in runs])

    async def _follow(self, run: Run) -> None:
        with run.scope:
            bundles = await self.quorum.bundles(run.block)
            before = await self._before(run)
            if before is not None:
                run.ran = await self._execute(run.block, run.record, before, bundles)
            run.finished.set()
            await run.ordered.wait()
            self._work.set()
            self.changed()
            if run.ran is not None:
                await self._vote(run.ran.done.info)

    async def _before(self, run: Run) -> Done | None:
        """What the parent came to; None if that ended the epoch, or nothing runs on it."""
        parent = run.block.parent
        if self._single:
            await run.ordered.wait()
            while self.head() != parent:
                await self._moved.wait()
        if parent == self.head():
            return self.done
        below = self._runs.get(parent.id)
        if below is None:
            return None
        await below.finished.wait()
        if below.ran is None or below.ran.done.info.next is not None:
            return None
        return below.ran.done

    async def _execute(self, block: Block, record: Record, before: Done, bundles: Sequence[Bundle]) -> Ran:
        again = running.ordered_again(block, before.carried)
        whole = [*([again[1]] if again is not None else ()), *bundles]
        version = self.genesis.document.get("protocol_versions", {})
        context = running.context_of(block, record, self.epoch, _version(version, block.height), before)
        prologue = await self.execution.prologue(context)
        request = ExecutionRequest(block.parent, block.ref, context, whole, prologue.raw, invalid_transaction="discard")
        async with self._lock:
            outcome = await self.execution.execute(request)
        if not isinstance(outcome, Outcome):
            raise StoreError(f"block {block.ref} cannot be run: {_described(outcome)}")
        return running.judged(
            block,
            record,
            self.epoch,
            before,
            whole,
            again[0] if again is not None else None,
            prologue,
            outcome,
            self.genesis.parameters,
        )

    # --- the ledger ---

    async def _vote(self, info: LedgerInfo) -> None:
        if self.place is None or self.signer is None or info.epoch != self.epoch.number:
            return
        if await self.safety.sign_outcome(info):
            vote = LedgerVote(info, self.place, self.signer.sign(info.message))
            self.voted(vote)
            await self.say(vote.encode())

    def voted(self, vote: LedgerVote) -> bool:
        """An authentic vote of this epoch; False where its author signed two outcomes of a height."""
        if vote.info.epoch != self.epoch.number:
            return True
        good = self.ledger.voted(vote)
        self._work.set()
        return good

    def certified(self, certificate: LedgerCertificate) -> None:
        """A valid certificate of this epoch."""
        if certificate.info.epoch == self.epoch.number:
            self.ledger.certified(certificate)
            self._work.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for run in self._runs.values():
                nursery.start_soon(self._follow, run)
            nursery.start_soon(self._repeat)
            while True:
                await self._commit_what_can_be()
                await self._work.wait()
                self._work = trio.Event()

    async def _repeat(self) -> None:
        """Messages get lost: while nothing is committed, what this node came to is said again."""
        while True:
            height = self.head().height
            await self.environment.sleep(REPEAT_SECONDS)
            if self.head().height == height and self.ordered:
                first = self.ordered[0]
                if first.ran is not None:
                    await self._vote(first.ran.done.info)

    async def _commit_what_can_be(self) -> None:
        while self.ordered:
            base = self.head().height
            heights = [at for at in self.ledger.certificates if base < at <= base + len(self.ordered)]
            if not heights:
                return
            top = min(heights)
            certificate, run = self.ledger.certificates[top], self.ordered[top - base - 1]
            if certificate.info.block != run.block.ref:
                raise NodewrightError(
                    f"consensus: a quorum committed block {certificate.info.block} and this node ordered {run.block.ref} "
                    "in its place: more validators lie than the network can bear; the node stops"
                )
            if run.ran is None:
                return
            if run.ran.done.info != certificate.info:
                raise NodewrightError(
                    f"execution divergence at block {run.block.ref}: this node came to state root "
                    f"{run.ran.done.info.root.hex()[:16]} and a quorum to {certificate.info.root.hex()[:16]}; the node "
                    "stops: compare versions and settings of the execution with the others', then restore the stores"
                )
            for below in self.ordered[: top - base]:
                await self._commit(below, certificate if below is run else None)

    async def _commit(self, run: Run, certificate: LedgerCertificate | None) -> None:
        ran, block = run.ran, run.block
        assert ran is not None
        with trio.CancelScope(shield=True):
            async with self._lock:
                following = ran.done.info.next
                epoch = Epoch(self.epoch.number + 1, block.ref, following) if following is not None else None
                refused = {**ran.done.rejected, **dict.fromkeys(ran.done.retried, "")}
                places = running.places_of(block.height, ran.bundles, refused, ran.done.prologue_id)
                known = await self.store.places(list(ran.done.rejected))
                rejected = {
                    id: reason
                    for (id, reason), place in zip(ran.done.rejected.items(), known, strict=True)
                    if place is None
                }
                done = evolve(ran.done, rejected=rejected, kept=len(places))
                await self.store.decide(block, done, places, certificate, epoch, ran.again)
                late = await self.execution.commit(block.ref)
                # In one step: a batch is ordered and not committed, or committed, at every moment.
                self.done = done
                self.ordered.pop(0)
                self.quorum.committed(block)
                self._runs.pop(block.id, None)
                self.ledger.up_to(block.height)
                committed = dict.fromkeys(places, block.ref)
                committed.pop(done.prologue_id, None)
                evicted = {**ran.outcome.evicted, **(late or {})}
                await self._settle(committed, rejected, evicted)
            self._tell(block, done)
            if epoch is not None:
                await self._begin(epoch)
            self._moved.set()
            self._moved = trio.Event()

    async def _settle(
        self, committed: dict[bytes, BlockRef], rejected: dict[bytes, str], evicted: dict[bytes, bytes]
    ) -> None:
        replaced = {id: winner for id, winner in evicted.items() if id not in rejected and id not in committed}
        if evicted:
            self.events.publish("evicted", {id.hex(): winner.hex() for id, winner in evicted.items()})
        if committed or rejected or replaced:
            await self.pool.settle(committed, rejected, replaced)

    def _tell(self, block: Block, done: Done) -> None:
        self.events.publish(
            "finalised",
            {
                "hash": block.id.hex(),
                "height": block.height,
                "previous": block.parent.id.hex(),
                "epoch": block.epoch,
                "round": block.round,
                "transactions": done.kept,
                "root": done.info.root.hex(),
            },
        )

    async def _begin(self, epoch: Epoch) -> None:
        """A block ended the epoch: what was ordered on top of it never was."""
        stale = list(self._runs.values())
        self.ordered.clear()
        self.epoch, self.ledger = epoch, Ledger(epoch, self.head().height)
        await self._drop(stale)
        await self.epoch_began()

    # --- a start ---

    async def replay(self, block: Block) -> None:
        """A committed block that the execution has not applied: run and commit it again. Raises StoreError."""
        parent, done = await self.store.done(block.parent.id), await self.store.done(block.id)
        epoch = await self.store.epoch(block.epoch)
        if parent is None or done is None or epoch is None:
            raise StoreError(f"stores.chain lacks what block {block.ref} stands on: restore it from a backup")
        self.epoch = epoch
        bundles = [await self.quorum.stored(proof.info.digest) for proof in block.proofs]
        here = [bundle for bundle in bundles if bundle is not None]
        if len(here) < len(bundles):
            raise StoreError(f"stores.chain lacks a batch of block {block.ref}: restore it from a backup")
        ran = await self._execute(block, done.record, parent, here)
        if ran.done.info != done.info:
            raise NodewrightError(
                f"execution divergence at block {block.ref}: running it again came to another state than was committed; "
                "the stores are not from one moment, or the execution changed: restore them from one backup"
            )
        await self.execution.commit(block.ref)

    async def settle_again(self, block: Block) -> None:
        """Tell the pool what the last committed block did: a crash may have come between."""
        done = await self.store.done(block.id)
        assert done is not None
        ids: dict[bytes, None] = {}
        for reference in done.bundles:
            bundle = await self.quorum.stored(reference.id)
            if bundle is not None:
                ids.update(dict.fromkeys(bundle.id_at(index) for index in range(len(bundle))))
        found = list(ids)
        places = dict(zip(found, await self.store.places(found), strict=True))
        committed = {
            id: block.ref
            for id, place in places.items()
            if place is not None and place.height == block.height and place.bundle != PROLOGUE
        }
        await self.pool.settle(committed, dict(done.rejected), {})


def _version(versions: object, height: int) -> int:
    """The protocol version in force."""
    assert hasattr(versions, "items")
    known = [(int(start), int(version)) for start, version in versions.items() if int(start) <= height]
    return max(known)[1] if known else 0


def _described(answer: object) -> str:
    if isinstance(answer, Deferred):
        return f"the execution stands at {answer.have}, not at {answer.need}; start the node again"
    if isinstance(answer, Incomplete):
        return f"the execution lacks {len(answer.missing)} things, among them {answer.missing[0].hex()[:16]}"
    return str(answer)


async def _say_nothing(payload: bytes) -> None:
    await trio.lowlevel.checkpoint()
