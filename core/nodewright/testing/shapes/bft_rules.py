"""Two-chain rules as a pure state machine (Jolteon: Gelashvili et al., 2021, figures 2 to 4): no trio, clock or sockets.

Rules are given facts (a block that is here and executed, an authentic vote or timeout, a timer that ran out) and answer
effects for the shell to carry out, in order. The shell has checked every signature before.

Safety, kept by ``Safety`` and durable before anything signed leaves (effect ``Persist`` precedes it):
- at most one vote per round, and none at or below a round that this node gave up;
- a vote only for round = certificate.round + 1, or round = timeout.round + 1 with a certificate at least as high as any
  that the quorum of the timeout knew;
- a block is final once its child of the next round is certified. Two final blocks are never in conflict while at most
  ``faults`` validators lie.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, evolve, field, frozen

from nodewright.interfaces import BlockRef
from nodewright.testing.shapes.bft_formats import BftBlock, Certificate, TimeoutCertificate, Validators


@frozen
class Safety:
    """What a validator must remember over a restart, whatever became of its stores."""

    voted: int = 0
    highest: Certificate = field(factory=lambda: Certificate(0, BlockRef(0, bytes(32))))


@frozen
class Persist:
    safety: Safety


@frozen
class SendVote:
    """To the leader of the next round."""

    block: BftBlock
    commitment: bytes
    to: int


@frozen
class SendTimeout:
    """To everybody, with the highest certificate known."""

    round: int
    certificate: Certificate


@frozen
class EnterRound:
    """Start the round's timer; ``lead`` when this node proposes in it."""

    round: int
    timeout: TimeoutCertificate | None
    lead: bool


@frozen
class Finalise:
    """These became final, oldest first."""

    blocks: tuple[BftBlock, ...]


Effect = Persist | SendVote | SendTimeout | EnterRound | Finalise


@define
class Rules:
    """``me`` is this validator's index, None for a node that only follows. ``final`` is the last final block."""

    validators: Validators
    me: int | None
    final: BlockRef
    safety: Safety
    round: int = 0
    timeout: TimeoutCertificate | None = None
    may_sign: bool = True
    blocks: dict[bytes, BftBlock] = field(factory=dict)
    executed: dict[bytes, bytes] = field(factory=dict)
    _votes: dict[tuple[int, bytes, bytes], dict[int, bytes]] = field(factory=dict)
    _timeouts: dict[int, dict[int, tuple[int, bytes]]] = field(factory=dict)
    _gave_up: int = 0

    def start(self) -> list[Effect]:
        """Begin above everything that this node may have signed."""
        return self._enter(max(self.safety.highest.round, self.safety.voted) + 1, None)

    def insert(self, block: BftBlock) -> list[Effect]:
        """A valid block whose parent is here (or final). Its certificate counts at once; a vote waits for ``vote``."""
        if block.id in self.blocks or block.ref.height <= self.final.height:
            return []
        self.blocks[block.id] = block
        effects = self.certified(block.certificate)
        if block.timeout is not None:
            effects += self.gave_up(block.timeout)
        return effects

    def vote(self, block: BftBlock, commitment: bytes) -> list[Effect]:
        """``block`` was inserted, its payload is here, and executing it gave ``commitment``."""
        self.executed[block.id] = commitment
        parent = block.certificate
        direct = block.round == parent.round + 1
        after_timeout = (
            block.timeout is not None and block.round == block.timeout.round + 1 and parent.round >= block.timeout.highest
        )
        if (
            self.me is None
            or not self.may_sign
            or block.round != self.round
            or block.round <= self.safety.voted
            or not (direct or after_timeout)
        ):
            return []
        self.safety = evolve(self.safety, voted=block.round)
        return [Persist(self.safety), SendVote(block, commitment, self.validators.leader(block.round + 1))]

    def voted(self, round: int, block: BlockRef, commitment: bytes, voter: int, signature: bytes) -> list[Effect]:
        """An authentic vote. A quorum of equal ones is a certificate."""
        if round < self.round:
            return []
        votes = self._votes.setdefault((round, block.id, commitment), {})
        votes[voter] = signature
        if len(votes) < self.validators.quorum:
            return []
        return self.certified(Certificate(round, block, commitment, tuple(sorted(votes.items()))))

    def certified(self, certificate: Certificate) -> list[Effect]:
        """A valid certificate: it may raise the highest one, finalise, and open the next round."""
        effects: list[Effect] = []
        if certificate.round > self.safety.highest.round:
            self.safety = evolve(self.safety, highest=certificate)
        head = self.blocks.get(certificate.block.id)
        if head is not None:
            parent = self.blocks.get(head.parent.id)
            if parent is not None and head.round == parent.round + 1:
                effects += self._finalise(parent)
        if certificate.round >= self.round:
            effects += self._enter(certificate.round + 1, None)
        return effects

    def timer(self, round: int) -> list[Effect]:
        """The round's time is over. Asked again while stuck, it says the same again: messages get lost."""
        if round != self.round or self.me is None or not self.may_sign:
            return []
        effects: list[Effect] = []
        if self.safety.voted < round:
            self.safety = evolve(self.safety, voted=round)
            effects.append(Persist(self.safety))
        self._gave_up = round
        return [*effects, SendTimeout(round, self.safety.highest)]

    def timed_out(self, round: int, highest: int, voter: int, signature: bytes) -> list[Effect]:
        """An authentic timeout. One more than the liars makes this node give up too; a quorum ends the round."""
        if round < self.round:
            return []
        given = self._timeouts.setdefault(round, {})
        if voter in given and given[voter][0] >= highest:
            return []
        given[voter] = (highest, signature)
        if len(given) >= self.validators.quorum:
            return self.gave_up(
                TimeoutCertificate(round, tuple((index, known, signed) for index, (known, signed) in sorted(given.items())))
            )
        if len(given) > self.validators.faults and self._gave_up < round:
            effects = self._enter(round, None) if round > self.round else []
            return effects + self.timer(round)
        return []

    def gave_up(self, timeout: TimeoutCertificate) -> list[Effect]:
        return self._enter(timeout.round + 1, timeout) if timeout.round >= self.round else []

    def ancestors(self, id: bytes) -> list[BftBlock]:
        """From the child of the final block to ``id``; empty where the chain to it is not here."""
        chain: list[BftBlock] = []
        while id in self.blocks:
            chain.append(self.blocks[id])
            id = chain[-1].parent.id
        return chain[::-1] if id == self.final.id else []

    def _enter(self, round: int, timeout: TimeoutCertificate | None) -> list[Effect]:
        self.round, self.timeout = round, timeout
        self._votes = {key: votes for key, votes in self._votes.items() if key[0] >= round}
        self._timeouts = {key: given for key, given in self._timeouts.items() if key >= round}
        return [EnterRound(round, timeout, self.me is not None and self.validators.leader(round) == self.me)]

    def _finalise(self, block: BftBlock) -> list[Effect]:
        chain = self.ancestors(block.id)
        if not chain:
            return []
        self.final = block.ref
        keep: Mapping[bytes, BftBlock] = {
            id: other for id, other in self.blocks.items() if other.ref.height > self.final.height
        }
        self.blocks = {id: other for id, other in keep.items() if self._reaches(other, keep)}
        return [Finalise(tuple(chain))]

    def _reaches(self, block: BftBlock, among: Mapping[bytes, BftBlock]) -> bool:
        while block.parent.id in among:
            block = among[block.parent.id]
        return block.parent.id == self.final.id
