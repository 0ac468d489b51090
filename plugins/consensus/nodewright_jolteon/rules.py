"""Jolteon's rules for one epoch as a pure state machine (Gelashvili et al., 2021, section 4): no trio, clock or sockets.

Rules are given facts (a block that is here and stored, an authentic vote or timeout, a timer that ran out) and answer with
effects for the shell to carry out, in order. The shell has checked every signature and shape before.

Invariants
- A validator votes at most once in a round, and never in a round that it gave up or at or below one it voted in; a round is
  proposed in once. ``Persist`` stands before whatever depends on it, so that this holds over restarts.
- A vote only for round = certificate.round + 1, or round = timeout.round + 1 with a certificate at least as high as any
  that the quorum of the timeout knew. A timeout never says less than the highest certificate of a block voted for.
- A block is ordered once a child of the next round is certified, with all below it. While at most f of 3f + 1 power lies,
  no two validators order blocks of which neither stands on the other.
- Memory is bounded: a round stands above a certificate or timeout certificate of the one before, two blocks are kept of a
  round, votes of ``MAX_AHEAD`` rounds, timeouts of one.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, evolve, field, frozen

from nodewright.interfaces.common import BlockRef
from nodewright_jolteon.formats import Block, QuorumCertificate, Timeout, TimeoutCertificate, Vote, gathered
from nodewright_jolteon.leaders import Leaders, Record
from nodewright_jolteon.validators import Epoch

MAX_AHEAD = 16
BLOCKS_OF_A_ROUND = 2


@frozen
class Safety:
    """What a validator must remember of its epoch over a restart, whatever became of its stores. ``voted`` is the highest
    round that it voted in or gave up, ``vote`` the block that it voted for there, ``one_chain`` the highest round of a
    certificate under a block that it voted for."""

    certificate: QuorumCertificate
    timeout: TimeoutCertificate | None = None
    voted: int = 0
    one_chain: int = 0
    proposed: int = 0
    vote: BlockRef | None = None

    @classmethod
    def of(cls, epoch: Epoch) -> Safety:
        return cls(QuorumCertificate(epoch.number, 0, epoch.start))

    @property
    def epoch(self) -> int:
        return self.certificate.epoch

    @property
    def round(self) -> int:
        """The round that its certificates open."""
        return max(self.certificate.round, self.timeout.round if self.timeout is not None else 0) + 1


@frozen
class Persist:
    safety: Safety


@frozen
class SendVote:
    """To the leader of the next round."""

    round: int
    block: BlockRef
    to: int


@frozen
class SendTimeout:
    """To everybody."""

    round: int
    certificate: QuorumCertificate
    reason: TimeoutCertificate | None


@frozen
class EnterRound:
    """Start the round's timer; ``lead`` where this node proposes; ``failures``: rounds given up one after the other."""

    round: int
    lead: bool
    failures: int


@frozen
class Order:
    """These have their place now, oldest first."""

    blocks: tuple[tuple[Block, Record], ...]


@frozen
class Equivocated:
    """A validator signed two things for one round: ``what`` is ``block`` or ``vote``."""

    validator: int
    round: int
    what: str
    blocks: tuple[bytes, bytes]


Effect = Persist | SendVote | SendTimeout | EnterRound | Order | Equivocated


@define
class Rules:
    """``me`` is this validator's place, None for a node that only follows. ``root`` is the last ordered block."""

    epoch: Epoch
    me: int | None
    safety: Safety
    leaders: Leaders
    root: BlockRef
    root_round: int = 0
    root_time: int = 0
    may_sign: bool = True
    round: int = 0
    failures: int = 0
    blocks: dict[bytes, Block] = field(factory=dict)
    records: dict[bytes, Record] = field(factory=dict)
    _votes: dict[int, dict[int, Vote]] = field(factory=dict)
    _timeouts: dict[int, Timeout] = field(factory=dict)
    _proposals: dict[int, list[bytes]] = field(factory=dict)

    @property
    def validator(self) -> bool:
        return self.me is not None and self.may_sign

    # --- where it stands ---

    def start(self) -> list[Effect]:
        """Begin above everything that this node may have signed; what it said last is said again."""
        effects = self._enter(max(self.safety.round, self.round))
        said = self.blocks.get(self.safety.vote.id) if self.safety.vote is not None else None
        if said is not None and said.round == self.safety.voted == self.round and self.validator:
            effects.append(self._send(said))
        return effects

    def ancestors(self, id: bytes) -> list[Block] | None:
        """From the child of the last ordered block to ``id``; None where the chain to it is not here."""
        chain: list[Block] = []
        while id in self.blocks:
            chain.append(self.blocks[id])
            id = chain[-1].parent.id
        return chain[::-1] if id == self.root.id else None

    def path(self, id: bytes) -> list[Record]:
        return [self.records[block.id] for block in self.ancestors(id) or ()]

    def leader(self, round: int, on: bytes) -> int:
        """Of a round above the block ``on``, which is here."""
        return self.leaders.leader(round, self.path(on))

    # --- blocks ---

    def refusal(self, block: Block) -> str | None:
        """Why a block whose parent is here breaks a rule."""
        parent = self.blocks.get(block.parent.id)
        if parent is None and block.parent != self.root:
            return "it stands on a block that is not there"
        below, time = (parent.round, parent.time) if parent is not None else (self.root_round, self.root_time)
        if block.certificate.round != below:
            return "its certificate is not of its parent's round"
        if block.time <= time:
            return "its time is not after its parent's"
        if block.author != self.leader(block.round, block.parent.id):
            return "its author does not lead its round"
        return None

    def crowded(self, block: Block) -> bool:
        """Whether its round has as many blocks as are kept, and none of them waits for this one."""
        others = self._proposals.get(block.round, ())
        return len(others) >= BLOCKS_OF_A_ROUND and self.safety.certificate.block.id != block.id

    def insert(self, block: Block) -> list[Effect]:
        """A stored block without a ``refusal``. Its certificates count at once; a vote waits for ``vote``."""
        if block.id in self.blocks or block.height <= self.root.height:
            return []
        effects: list[Effect] = []
        others = self._proposals.setdefault(block.round, [])
        if others:
            effects.append(Equivocated(block.author, block.round, "block", (others[0], block.id)))
        if self.crowded(block):
            return effects
        others.append(block.id)
        self.records[block.id] = self._record(block, self.path(block.parent.id))
        self.blocks[block.id] = block
        effects += self.certified(block.certificate)
        if block.timeout is not None:
            effects += self.gave_up(block.timeout)
        if self.safety.certificate.block.id == block.id:  # its certificate came before it
            effects += self._order(block)
            if self._leads(self.round):
                effects.append(EnterRound(self.round, True, self.failures))
        return effects

    def _record(self, block: Block, path: Sequence[Record]) -> Record:
        failed = self.leaders.failed(block.certificate.round, block.round, path)
        return Record(block.round, block.id, block.author, block.voters, failed)

    def adopt(self, chain: Sequence[Block]) -> list[Effect]:
        """Blocks that a certificate of the ledger stands for, oldest first, from the child of the last ordered one on."""
        fresh = [block for block in chain if block.height > self.root.height]
        if not fresh:
            return []
        ordered: list[tuple[Block, Record]] = []
        for block in fresh:
            record = self.records.get(block.id) or self._record(block, [])
            self.leaders.ordered(record)
            ordered.append((block, record))
        self._root(fresh[-1])
        effects: list[Effect] = [Order(tuple(ordered))]
        return effects + self.certified(fresh[-1].certificate)

    # --- proposing and voting ---

    def propose(self, round: int) -> tuple[list[Effect], QuorumCertificate, TimeoutCertificate | None] | None:
        """What a block of this round stands on; None where this node is not to make one, or made one."""
        certificate, timeout = self.safety.certificate, self.safety.timeout
        if not self.validator or round != self.round or round <= max(self.safety.proposed, self.safety.voted):
            return None
        if self.ancestors(certificate.block.id) is None or self.leader(round, certificate.block.id) != self.me:
            return None
        reason = None if certificate.round + 1 == round else timeout
        if certificate.round + 1 != round and (timeout is None or timeout.round + 1 != round):
            return None
        self.safety = evolve(self.safety, proposed=round)
        return [Persist(self.safety)], certificate, reason

    def vote(self, block: Block) -> list[Effect]:
        """``block`` was inserted and stands for everything a vote may depend on."""
        parent, timeout = block.certificate, block.timeout
        direct = block.round == parent.round + 1
        after_timeout = timeout is not None and block.round == timeout.round + 1 and parent.round >= timeout.highest
        if (
            not self.validator
            or block.id not in self.blocks
            or block.round != self.round
            or block.round <= self.safety.voted
            or not (direct or after_timeout)
        ):
            return []
        one_chain = max(self.safety.one_chain, parent.round)
        self.safety = evolve(self.safety, voted=block.round, one_chain=one_chain, vote=block.ref)
        return [Persist(self.safety), self._send(block)]

    def _send(self, block: Block) -> SendVote:
        return SendVote(block.round, block.ref, self.leader(block.round + 1, block.id))

    def voted(self, vote: Vote) -> list[Effect]:
        """An authentic vote. A quorum of equal ones is a certificate."""
        if not self.round <= vote.round <= self.round + MAX_AHEAD:
            return []
        votes = self._votes.setdefault(vote.round, {})
        known = votes.setdefault(vote.voter, vote)
        if known.block != vote.block:
            return [Equivocated(vote.voter, vote.round, "vote", (known.block.id, vote.block.id))]
        equal = {voter: one.signature for voter, one in votes.items() if one.block == vote.block}
        if self.epoch.validators.power_of(equal) < self.epoch.validators.quorum_power:
            return []
        return self.certified(QuorumCertificate(self.epoch.number, vote.round, vote.block, gathered(equal)))

    def certified(self, certificate: QuorumCertificate) -> list[Effect]:
        """A valid certificate: it may become the highest one, order blocks, and open the next round."""
        effects: list[Effect] = []
        if certificate.round > self.safety.certificate.round:
            self.safety = evolve(self.safety, certificate=certificate)
        head = self.blocks.get(certificate.block.id)
        if head is not None and head.round == certificate.round:
            effects += self._order(head)
        if certificate.round >= self.round:
            self.failures = 0
            effects += self._enter(certificate.round + 1)
        return effects

    # --- giving up ---

    def timer(self, round: int) -> list[Effect]:
        """The round's time is over. Asked again while stuck, it says the same again: messages get lost."""
        safety = self.safety
        if round != self.round or not self.validator or safety.voted > round or safety.certificate.round < safety.one_chain:
            return []
        direct = safety.certificate.round + 1 == round
        if not direct and (safety.timeout is None or safety.timeout.round + 1 != round):
            return []
        self.safety = evolve(safety, voted=round, vote=None)
        return [Persist(self.safety), SendTimeout(round, safety.certificate, None if direct else safety.timeout)]

    def timed_out(self, timeout: Timeout) -> list[Effect]:
        """An authentic timeout. More power than may lie makes this node give up too; a quorum ends the round."""
        effects = self.certified(timeout.certificate)
        if timeout.reason is not None:
            effects += self.gave_up(timeout.reason)
        if timeout.round != self.round:
            return effects
        known = self._timeouts.get(timeout.voter)
        if known is None or known.certificate.round < timeout.certificate.round:
            self._timeouts[timeout.voter] = timeout
        power = self.epoch.validators.power_of(self._timeouts)
        if power >= self.epoch.validators.quorum_power:
            votes = tuple((place, one.certificate.round, one.signature) for place, one in sorted(self._timeouts.items()))
            effects += self.gave_up(TimeoutCertificate(self.epoch.number, timeout.round, votes))
        elif power >= self.epoch.validators.honest_power and self.me not in self._timeouts:
            effects += self.timer(timeout.round)
        return effects

    def gave_up(self, timeout: TimeoutCertificate) -> list[Effect]:
        if timeout.round < self.round:
            return []
        self.safety = evolve(self.safety, timeout=timeout)
        self.failures += 1
        return self._enter(timeout.round + 1)

    # --- inside ---

    def _enter(self, round: int) -> list[Effect]:
        self.round = round
        self._votes = {at: votes for at, votes in self._votes.items() if at >= round}
        self._timeouts = {}
        self._proposals = {at: ids for at, ids in self._proposals.items() if at > self.root_round}
        return [EnterRound(round, self._leads(round), self.failures)]

    def _leads(self, round: int) -> bool:
        on = self.safety.certificate.block.id
        return self.validator and self.ancestors(on) is not None and self.leader(round, on) == self.me

    def _order(self, head: Block) -> list[Effect]:
        """``head`` is certified: its parent is ordered if their rounds follow each other."""
        parent = self.blocks.get(head.parent.id)
        if parent is None or head.round != parent.round + 1:
            return []
        chain = self.ancestors(parent.id)
        if not chain:
            return []
        ordered = tuple((block, self.records[block.id]) for block in chain)
        for _, record in ordered:
            self.leaders.ordered(record)
        self._root(parent)
        return [Order(ordered)]

    def _root(self, block: Block) -> None:
        """Only what stands on it can still be ordered."""
        self.root, self.root_round, self.root_time = block.ref, block.round, block.time
        alive = {block.id}
        kept: dict[bytes, Block] = {}
        for other in sorted(self.blocks.values(), key=lambda one: one.height):
            if other.parent.id in alive:
                alive.add(other.id)
                kept[other.id] = other
        self.blocks = kept
        self.records = {id: record for id, record in self.records.items() if id in kept}
        self._proposals = {at: ids for at, ids in self._proposals.items() if at > block.round}
