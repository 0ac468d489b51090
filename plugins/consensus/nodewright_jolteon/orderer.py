"""The trio shell of ``rules``: one task changes their state, everything else sends it facts; their effects are carried out.

Invariants
- A block enters the rules only when its parent is there and it is durable in the chain store; a vote comes after that.
- What is signed was written to the safety file and synced before.
- Facts from outside wait in a bounded queue; what this node says itself is taken before them.
- While more than ``MAX_LAG`` ordered blocks wait to be committed this node neither proposes nor votes: ordering cannot run
  away from execution.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import EventLog
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.codec import SIGNATURE_BYTES
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.formats import (
    MAX_BLOCK_BYTES,
    MAX_PROOFS,
    Block,
    LedgerCertificate,
    Proof,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
    block_id,
    timeout_message,
    vote_message,
)
from nodewright_jolteon.genesis import MICROSECONDS
from nodewright_jolteon.keys import Signer
from nodewright_jolteon.leaders import Leaders
from nodewright_jolteon.quorum import QuorumStore
from nodewright_jolteon.rules import (
    Effect,
    EnterRound,
    Equivocated,
    Order,
    Persist,
    Rules,
    SendTimeout,
    SendVote,
)

MAX_FACTS = 1024
MAX_HELD = 64
MAX_LAG = 64
MAX_LAG_PROPOSED = 24
BACKOFF = 1.2
MAX_BACKOFF = 6
FUTURE_SECONDS = 10
LIAR_POINTS = 25
PROOFS_BYTES = MAX_BLOCK_BYTES - 256 * 1024

Fact = Callable[[], Awaitable[None]]


class Outward(Protocol):
    """What the orderer needs of the network."""

    async def broadcast_block(self, block: Block) -> None: ...

    async def send_vote(self, vote: Vote, to: int) -> None: ...

    async def broadcast_timeout(self, timeout: Timeout) -> None: ...

    def ask(self, peer: bytes) -> None:
        """For the blocks that this peer has and this node lacks."""

    def blame(self, peer: bytes | None, points: int, reason: str) -> None:
        """Who sent it; None where nobody did."""

    def accuse(self, key: bytes, points: int, reason: str) -> None:
        """The node of the validator that signed it, where it is known."""


class Nobody:
    """The network of a node that is alone."""

    async def broadcast_block(self, block: Block) -> None:
        await trio.lowlevel.checkpoint()

    async def send_vote(self, vote: Vote, to: int) -> None:
        await trio.lowlevel.checkpoint()

    async def broadcast_timeout(self, timeout: Timeout) -> None:
        await trio.lowlevel.checkpoint()

    def ask(self, peer: bytes) -> None:
        return

    def blame(self, peer: bytes | None, points: int, reason: str) -> None:
        return

    def accuse(self, key: bytes, points: int, reason: str) -> None:
        return


class Orderer:
    def __init__(
        self,
        config: JolteonConfig,
        chain: Chain,
        quorum: QuorumStore,
        events: EventLog,
        environment: Environment,
        signer: Signer | None,
    ) -> None:
        self._config = config
        self._chain = chain
        self._quorum = quorum
        self._events = events
        self._environment = environment
        self._signer = signer
        self.rules: Rules
        self.outward: Outward = Nobody()
        self._send, self._facts = trio.open_memory_channel[Fact](MAX_FACTS)
        self._own: deque[Fact] = deque()
        self._held: dict[bytes, dict[bytes, tuple[Block, bytes | None]]] = {}
        self._deadline = 0.0
        self._leading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._stir = trio.Event()
        quorum.changed = self.wake
        chain.epoch_began = self._epoch_began
        chain.changed = self.wake

    # --- an epoch ---

    async def begin(self, history: Leaders | None = None) -> None:
        """Rules of the chain's epoch, from its committed head."""
        chain, epoch = self._chain, self._chain.epoch
        safety, may_sign = chain.safety.of(epoch)
        me = epoch.validators.place(self._signer.public) if self._signer is not None else None
        head = chain.done.info
        starts = head.block == epoch.start
        self.rules = Rules(
            epoch,
            me,
            safety,
            history or Leaders(epoch),
            head.block,
            0 if starts else head.round,
            head.time,
            may_sign=may_sign,
        )
        self._held.clear()
        await self._sign_as(me if may_sign else None)

    async def _sign_as(self, place: int | None) -> None:
        self._chain.place = place
        await self._quorum.begin(self._chain.epoch, place)

    async def _epoch_began(self) -> None:
        self._own.append(self._restart)
        self.wake()

    async def _restart(self) -> None:
        epoch = self._chain.epoch
        if self.rules.epoch is epoch:
            return
        await self.begin()
        names = [member.key.hex()[:16] for member in epoch.validators.members]
        self._environment.logger.info("an epoch begins", epoch=epoch.number, validators=names)
        self._events.publish("epoch", {"epoch": epoch.number, "validators": len(names), "height": epoch.start.height})
        await self._perform(self.rules.start())

    async def allow(self) -> None:
        """The operator vouches for what this node signed."""
        await self._chain.safety.file.allow()
        await self.submit(self._allowed)

    async def _allowed(self) -> None:
        _, self.rules.may_sign = self._chain.safety.of(self._chain.epoch)
        await self._sign_as(self.rules.me if self.rules.may_sign else None)
        await self._perform(self.rules.start())

    async def restore(self, blocks: Sequence[Block]) -> None:
        """At a start: stored blocks above the committed head, lower ones first. Nothing is signed for them."""
        stale = []
        for block in blocks:
            rules = self.rules
            if block.epoch != rules.epoch.number or block.id in rules.blocks or rules.refusal(block) is not None:
                stale.append(block)
                continue
            effects = rules.insert(block)
            if block.id in rules.blocks:
                self._chain.consider(block, rules.records[block.id])
            await self._perform([effect for effect in effects if isinstance(effect, Order)])
        await self._chain.store.drop(stale)

    # --- running ---

    async def submit(self, fact: Fact) -> None:
        """From outside; waits while too many do."""
        await self._send.send(fact)

    def wake(self) -> None:
        self._stir.set()
        self._stir = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._timer)
            nursery.start_soon(self._stirred)
            await self._perform(self.rules.start())
            while True:
                while self._own:
                    await self._own.popleft()()
                fact = await self._facts.receive()
                await fact()

    async def _stirred(self) -> None:
        """Facts of this node's own, put there by another task, are seen at once."""
        while True:
            await self._stir.wait()
            if self._own:
                await self._send.send(trio.lowlevel.checkpoint)

    # --- facts ---

    async def on_block(self, block: Block, peer: bytes | None) -> None:
        """Its shape and all signatures are good, for the epoch of these rules."""
        rules = self.rules
        if block.epoch != rules.epoch.number or block.id in rules.blocks or block.height <= rules.root.height:
            return
        # Its certificates are news even where the block itself has to wait.
        effects = rules.certified(block.certificate)
        if block.timeout is not None:
            effects += rules.gave_up(block.timeout)
        await self._perform(effects)
        if block.parent != rules.root and block.parent.id not in rules.blocks:
            if sum(map(len, self._held.values())) < MAX_HELD:
                self._held.setdefault(block.parent.id, {})[block.id] = block, peer
            if peer is not None:
                self.outward.ask(peer)
            return
        reason = rules.refusal(block) or self._payload_refusal(block)
        if reason is not None:
            self._refused(block, peer, reason)
            return
        if block.time > (self._environment.now() + FUTURE_SECONDS) * MICROSECONDS:
            return  # it may come again when its time is near
        if rules.crowded(block):
            self._accuse(block.author, "more blocks of one round than are kept")
            return
        await self._chain.store.put_block(block)
        effects = rules.insert(block)
        if block.id in rules.blocks:
            self._chain.consider(block, rules.records[block.id])
            self._events.publish(
                "block_accepted",
                {"hash": block.id.hex(), "height": block.height, "round": block.round, "epoch": block.epoch},
            )
        await self._perform(effects)
        if self._chain.lag <= MAX_LAG:
            await self._perform(rules.vote(block))
        for held, source in self._held.pop(block.id, {}).values():
            self._own.append(partial(self.on_block, held, source))

    def _payload_refusal(self, block: Block) -> str | None:
        most = self._chain.genesis.parameters
        if block.transactions > most.max_block_transactions and len(block.proofs) > 1:
            return "it orders more transactions than the network allows"
        if sum(proof.info.size for proof in block.proofs) > most.max_block_bytes and len(block.proofs) > 1:
            return "it orders more bytes than the network allows"
        taken = self._taken(block.parent.id)
        for proof in block.proofs:
            if proof.info.digest in taken or self._quorum.proofs.was_ordered(proof.info.digest):
                return "it orders a batch that a block below it ordered"
        return None

    def _taken(self, on: bytes) -> set[bytes]:
        """Batches that are ordered by blocks up to ``on`` and not committed."""
        above = self.rules.ancestors(on) or []
        blocks = [*(run.block for run in self._chain.ordered), *above]
        return {proof.info.digest for block in blocks for proof in block.proofs}

    def _accuse(self, validator: int, reason: str) -> None:
        """Who signed something that proves that it lies."""
        self.outward.accuse(self.rules.epoch.validators.key(validator), LIAR_POINTS, reason)

    def _refused(self, block: Block, peer: bytes | None, reason: str) -> None:
        self._events.publish("block_refused", {"hash": block.id.hex(), "height": block.height, "reason": reason})
        self.outward.blame(peer, 10, f"block {block.id.hex()[:16]}: {reason}")

    async def on_vote(self, vote: Vote) -> None:
        if vote.epoch == self.rules.epoch.number:
            await self._perform(self.rules.voted(vote))

    async def on_timeout(self, timeout: Timeout) -> None:
        if timeout.epoch == self.rules.epoch.number:
            await self._perform(self.rules.timed_out(timeout))

    async def on_certificates(self, epoch: int, high: QuorumCertificate, timeout: TimeoutCertificate | None) -> None:
        if epoch == self.rules.epoch.number:
            effects = self.rules.certified(high)
            if timeout is not None:
                effects += self.rules.gave_up(timeout)
            await self._perform(effects)

    async def on_ledger(self, blocks: Sequence[Block], certificates: Sequence[LedgerCertificate]) -> None:
        """A chain of blocks from below or at the last ordered one, that certificates of the ledger stand for, one for the
        last of them."""
        last = certificates[-1].info
        if last.epoch != self.rules.epoch.number or last.block.height <= self._chain.head().height:
            return
        root = self.rules.root
        fresh = [block for block in blocks if block.height > root.height]
        if fresh and fresh[0].parent != root:
            return  # what was asked for is not what is lacked any more
        await self._perform(self.rules.adopt(fresh))
        for certificate in certificates:
            self._chain.certified(certificate)

    # --- effects ---

    async def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                await self._chain.safety.persist(effect.safety)
            elif isinstance(effect, SendVote):
                await self._vote(effect)
            elif isinstance(effect, SendTimeout):
                await self._give_up(effect)
            elif isinstance(effect, EnterRound):
                self._enter(effect)
            elif isinstance(effect, Order):
                await self._chain.order(effect.blocks, self.rules.blocks)
            elif isinstance(effect, Equivocated):
                self._equivocated(effect)

    async def _vote(self, effect: SendVote) -> None:
        me, signer, epoch = self.rules.me, self._signer, self.rules.epoch.number
        assert me is not None and signer is not None
        signature = signer.sign(vote_message(epoch, effect.round, effect.block))
        vote = Vote(epoch, effect.round, effect.block, me, signature)
        self._events.publish("vote", {"hash": effect.block.id.hex(), "height": effect.block.height, "round": effect.round})
        if effect.to == me:
            self._own.append(partial(self.on_vote, vote))
        else:
            await self.outward.send_vote(vote, effect.to)

    async def _give_up(self, effect: SendTimeout) -> None:
        me, signer = self.rules.me, self._signer
        assert me is not None and signer is not None
        message = timeout_message(self.rules.epoch.number, effect.round, effect.certificate.round)
        timeout = Timeout(effect.round, effect.certificate, effect.reason, me, signer.sign(message))
        self._environment.logger.debug("a round is given up", round=effect.round)
        self._own.append(partial(self.on_timeout, timeout))
        await self.outward.broadcast_timeout(timeout)

    def _equivocated(self, effect: Equivocated) -> None:
        key = self.rules.epoch.validators.key(effect.validator)
        first, other = (id.hex() for id in effect.blocks)
        self._environment.logger.warning(
            "a validator signs two things for one round", validator=key.hex(), round=effect.round, what=effect.what
        )
        self._accuse(effect.validator, f"it signs two things for round {effect.round}")
        self._events.publish(
            "equivocation", {"validator": key.hex(), "round": effect.round, "what": effect.what, "hashes": [first, other]}
        )

    # --- rounds ---

    def _enter(self, effect: EnterRound) -> None:
        seconds = self._config.round_seconds * BACKOFF ** min(effect.failures, MAX_BACKOFF)
        self._deadline = self._environment.monotonic() + seconds
        self._leading.cancel()
        self._leading = trio.CancelScope()
        if effect.lead and self._nursery is not None:
            self._nursery.start_soon(self._lead, effect.round, self._leading)
        self.wake()

    async def _timer(self) -> None:
        environment = self._environment
        while True:
            deadline = self._deadline
            left = deadline - environment.monotonic()
            if left > 0:
                with trio.move_on_after(left):
                    while self._deadline == deadline:
                        await self._stir.wait()
                continue
            if not self._config.produce_empty and not self._work():
                await self._stir.wait()
                self._deadline = environment.monotonic() + self._config.round_seconds
                continue
            self._deadline = environment.monotonic() + self._config.round_seconds
            round = self.rules.round
            await self.submit(partial(self._time_out, round))

    async def _time_out(self, round: int) -> None:
        await self._perform(self.rules.timer(round))

    def _work(self) -> bool:
        """Whether there is anything for a block to do."""
        chain = self._chain
        if chain.unsettled or any(block.proofs for block in self.rules.blocks.values()):
            return True
        taken = {proof.info.digest for run in chain.ordered for proof in run.block.proofs}
        return self._quorum.proofs.any_for(taken)

    def _worth_it(self, on: bytes) -> bool:
        """As ``_work``, for a block on this one: new batches, or ordering what is below."""
        above = self.rules.ancestors(on) or []
        if any(block.proofs for block in above):
            return True
        return self._chain.lag <= MAX_LAG_PROPOSED and self._quorum.proofs.any_for(self._taken(on))

    async def _lead(self, round: int, scope: trio.CancelScope) -> None:
        """Wait for the time and the work for a block, then have it made."""
        config, environment, rules = self._config, self._environment, self.rules
        with scope:
            on = rules.safety.certificate.block.id
            parent = rules.blocks.get(on)
            time = parent.time if parent is not None else rules.root_time
            early = time / MICROSECONDS + config.block_seconds - environment.now()
            if early > 0:
                await environment.sleep(min(early, config.block_seconds))
            patient = environment.monotonic() + config.empty_seconds
            while not self._worth_it(on):
                idle = not config.produce_empty and not self._chain.unsettled
                left = math.inf if idle else patient - environment.monotonic()
                if left <= 0:
                    break
                with trio.move_on_after(left):
                    await self._stir.wait()
            await self.submit(partial(self._propose, round))

    async def _propose(self, round: int) -> None:
        rules, signer, chain = self.rules, self._signer, self._chain
        if chain.lag > MAX_LAG or signer is None:
            return
        given = rules.propose(round)
        if given is None:
            return
        effects, certificate, timeout = given
        await self._perform(effects)
        parent = rules.blocks.get(certificate.block.id)
        below = parent.time if parent is not None else rules.root_time
        time = max(below + 1, int(self._environment.now() * MICROSECONDS))
        proofs = self._choose(certificate.block.id, time)
        me = rules.me
        assert me is not None
        body = Block.body(rules.epoch.number, round, me, time, certificate, timeout, proofs)
        block = Block.decode(body + signer.sign(block_id(body)))
        await self.outward.broadcast_block(block)
        await self.on_block(block, None)

    def _choose(self, on: bytes, time: int) -> list[Proof]:
        if self._chain.lag > MAX_LAG_PROPOSED:
            return []
        most, epoch = self._chain.genesis.parameters, self.rules.epoch
        room = PROOFS_BYTES // (128 + SIGNATURE_BYTES * len(epoch.validators))
        return self._quorum.proofs.choose(
            self._taken(on),
            time,
            epoch.number,
            most.max_block_transactions,
            most.max_block_bytes,
            min(MAX_PROOFS, room),
        )
