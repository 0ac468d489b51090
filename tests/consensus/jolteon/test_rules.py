"""The pure rules under an adversary: whatever is delivered, in whatever order, with f liars among 3f + 1, no two honest
validators order conflicting blocks, and none signs two things for a round."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nodewright.interfaces.common import BlockRef
from nodewright_jolteon.codec import Malformed
from nodewright_jolteon.formats import Block, QuorumCertificate, Timeout, TimeoutCertificate, Vote
from nodewright_jolteon.leaders import Leaders
from nodewright_jolteon.rules import Effect, EnterRound, Equivocated, Order, Persist, Rules, Safety, SendTimeout, SendVote
from nodewright_jolteon.validators import Epoch, Validator, ValidatorSet

SIGNATURE = bytes(64)
START = BlockRef(0, bytes(32))


def committee(count: int) -> ValidatorSet:
    return ValidatorSet(tuple(Validator(hashlib.sha256(bytes([at])).digest(), 1, b"") for at in range(count)))


class Adversary(RuleBasedStateMachine):
    """The scheduler is the adversary: it holds every message, delivers any of them any number of times, runs out timers,
    restarts validators from what they had persisted, and signs whatever it likes as the liars. What it cannot do is make a
    certificate without a quorum's votes."""

    count, liars = 4, 1
    rules_class = Rules

    @initialize()
    def begin(self) -> None:
        self.epoch = Epoch(1, START, committee(self.count))
        self.honest = list(range(self.liars, self.count))
        self.persisted = {me: Safety.of(self.epoch) for me in self.honest}
        self.rules: dict[int, Rules] = {}
        self.blocks: list[Block] = []
        self.votes: dict[tuple[int, BlockRef], set[int]] = {}
        self.timeouts: list[Timeout] = []
        self.certificates = [QuorumCertificate(1, 0, START)]
        self.timeout_certificates: list[TimeoutCertificate] = []
        self.ordered: dict[int, list[bytes]] = {me: [] for me in self.honest}
        self.stored: dict[int, list[Block]] = {me: [] for me in self.honest}
        self.voted: dict[tuple[int, int], BlockRef] = {}
        self.gave_up: set[tuple[int, int]] = set()
        self.proposed: dict[tuple[int, int], bytes] = {}
        self.clock = 0
        for me in self.honest:
            self.boot(me)

    def boot(self, me: int) -> None:
        """From what is durable: the safety file and stored blocks."""
        self.rules[me] = self.rules_class(self.epoch, me, self.persisted[me], Leaders(self.epoch), START)
        self.ordered[me] = []
        rules = self.rules[me]
        for block in self.stored[me]:
            if rules.refusal(block) is None:
                self.perform(me, [effect for effect in rules.insert(block) if isinstance(effect, Order)])
        self.perform(me, rules.start())

    def perform(self, me: int, effects: Any) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                self.persisted[me] = effect.safety
            elif isinstance(effect, SendVote):
                assert self.persisted[me].voted >= effect.round, "a vote before it was persisted"
                assert (me, effect.round) not in self.gave_up, "a vote in a round that was given up"
                known = self.voted.setdefault((me, effect.round), effect.block)
                assert known == effect.block, "two votes in a round"
                self.votes.setdefault((effect.round, effect.block), set()).add(me)
            elif isinstance(effect, SendTimeout):
                assert self.persisted[me].voted >= effect.round, "a timeout before it was persisted"
                self.gave_up.add((me, effect.round))
                self.timeouts.append(Timeout(effect.round, effect.certificate, effect.reason, me, SIGNATURE))
            elif isinstance(effect, Order):
                self.ordered[me] += [block.id for block, _ in effect.blocks]
            elif isinstance(effect, EnterRound):
                if effect.lead:
                    self.propose(me, effect.round)
            else:
                assert isinstance(effect, Equivocated) and effect.validator < self.liars, "an honest one was named"

    def propose(self, me: int, round: int) -> None:
        given = self.rules[me].propose(round)
        if given is None:
            return
        effects, certificate, timeout = given
        self.perform(me, effects)
        block = self.make(round, me, certificate, timeout)
        assert self.proposed.setdefault((me, round), block.id) == block.id, "two blocks in a round"
        self.blocks.append(block)

    def make(self, round: int, author: int, certificate: QuorumCertificate, timeout: TimeoutCertificate | None) -> Block:
        self.clock += 1
        body = Block.body(1, round, author, self.clock, certificate, timeout, ())
        return Block.decode(body + SIGNATURE)

    def node(self, pick: int) -> int:
        return self.honest[pick % len(self.honest)]

    # --- what the network does ---

    @precondition(lambda self: self.blocks)
    @rule(pick=st.integers(0, 2), at=st.integers(0, 7))
    def deliver_block(self, pick: int, at: int) -> None:
        me, block = self.node(pick), self.blocks[-1 - at % len(self.blocks)]
        self.give_block(me, block)

    def give_block(self, me: int, block: Block) -> None:
        rules = self.rules[me]
        self.perform(me, rules.certified(block.certificate))
        if block.timeout is not None:
            self.perform(me, rules.gave_up(block.timeout))
        if block.id in rules.blocks or rules.refusal(block) is not None or block.height <= rules.root.height:
            return
        self.stored[me].append(block)
        self.perform(me, rules.insert(block))
        self.perform(me, rules.vote(block))

    @precondition(lambda self: self.votes)
    @rule(pick=st.integers(0, 2), at=st.integers(0, 5))
    def deliver_votes(self, pick: int, at: int) -> None:
        """All votes for one block; a certificate of them is known to the adversary from then on."""
        me, known = self.node(pick), list(self.votes)
        round, block = known[-1 - at % len(known)]
        for voter in sorted(self.votes[round, block]):
            self.perform(me, self.rules[me].voted(Vote(1, round, block, voter, SIGNATURE)))

    @precondition(lambda self: self.timeouts)
    @rule(pick=st.integers(0, 2), at=st.integers(0, 5))
    def deliver_timeout(self, pick: int, at: int) -> None:
        me = self.node(pick)
        self.perform(me, self.rules[me].timed_out(self.timeouts[-1 - at % len(self.timeouts)]))

    @rule(pick=st.integers(0, 2))
    def run_out(self, pick: int) -> None:
        me = self.node(pick)
        self.perform(me, self.rules[me].timer(self.rules[me].round))

    @rule(pick=st.integers(0, 2))
    def restart(self, pick: int) -> None:
        self.boot(self.node(pick))

    @rule(pick=st.integers(0, 2), rounds=st.integers(1, 4))
    def calm(self, pick: int, rounds: int) -> None:
        """For a while everything newest reaches everybody: chains grow."""
        for _ in range(rounds):
            for me in self.honest:
                for block in self.blocks[-2:]:
                    self.give_block(me, block)
            for me in self.honest:
                for round, block in list(self.votes)[-2:]:
                    for voter in sorted(self.votes[round, block]):
                        self.perform(me, self.rules[me].voted(Vote(1, round, block, voter, SIGNATURE)))

    @rule()
    def everybody_gives_up(self) -> None:
        for me in self.honest:
            self.perform(me, self.rules[me].timer(self.rules[me].round))
        for timeout in self.timeouts[-len(self.honest) :]:
            for me in self.honest:
                self.perform(me, self.rules[me].timed_out(timeout))

    # --- what liars do ---

    def harvest(self) -> None:
        """Certificates that can be made of what was signed, with the liars' signatures added to anything."""
        for (round, block), voters in self.votes.items():
            signers = voters | set(range(self.liars))
            if len(signers) >= self.epoch.validators.quorum_power:
                made = QuorumCertificate(1, round, block, tuple((at, SIGNATURE) for at in sorted(signers)))
                if all(known.round != round or known.block != block for known in self.certificates):
                    self.certificates.append(made)
        by_round: dict[int, dict[int, int]] = {}
        for timeout in self.timeouts:
            known = by_round.setdefault(timeout.round, {})
            known[timeout.voter] = timeout.certificate.round
        have = {one.round for one in self.timeout_certificates}
        for round, said in by_round.items():
            for liar in range(self.liars):
                said.setdefault(liar, 0)  # a liar may say that it knows of nothing
            if round not in have and len(said) >= self.epoch.validators.quorum_power:
                votes = tuple((at, known, SIGNATURE) for at, known in sorted(said.items()))
                self.timeout_certificates.append(TimeoutCertificate(1, round, votes))

    @rule(high=st.integers(0, 3), late=st.integers(0, 2), skip=st.booleans())
    def lie_with_a_block(self, high: int, late: int, skip: bool) -> None:
        """A liar proposes on any certificate, also an old one, as often as it likes in its rounds."""
        self.harvest()
        certificate, timeout = self.certificates[-1 - high % len(self.certificates)], None
        round = certificate.round + 1
        if skip and self.timeout_certificates:
            timeout = self.timeout_certificates[-1 - late % len(self.timeout_certificates)]
            round = timeout.round + 1
            if round <= certificate.round:
                return
        author = round % self.count
        if author < self.liars:
            self.blocks.append(self.make(round, author, certificate, timeout))

    @precondition(lambda self: self.blocks)
    @rule(at=st.integers(0, 7))
    def lie_with_a_vote(self, at: int) -> None:
        block = self.blocks[-1 - at % len(self.blocks)]
        self.votes.setdefault((block.round, block.ref), set()).update(range(self.liars))

    @rule(high=st.integers(0, 3))
    def lie_with_a_timeout(self, high: int) -> None:
        self.harvest()
        certificate = self.certificates[-1 - high % len(self.certificates)]
        for liar in range(self.liars):
            self.timeouts.append(Timeout(certificate.round + 1, certificate, None, liar, SIGNATURE))

    @rule(pick=st.integers(0, 2), high=st.integers(0, 3))
    def show_a_certificate(self, pick: int, high: int) -> None:
        self.harvest()
        me = self.node(pick)
        self.perform(me, self.rules[me].certified(self.certificates[-1 - high % len(self.certificates)]))

    # --- what must hold ---

    @invariant()
    def no_two_orders(self) -> None:
        if not hasattr(self, "ordered"):
            return
        chains = sorted(self.ordered.values(), key=len)
        longest = chains[-1]
        assert all(chain == longest[: len(chain)] for chain in chains), "two orders"

    @invariant()
    def bounded(self) -> None:
        for rules in getattr(self, "rules", {}).values():
            assert len(rules._votes) <= 32 and len(rules._timeouts) <= self.count
            assert all(len(ids) <= 3 for ids in rules._proposals.values())


class Seven(Adversary):
    count, liars = 7, 2


CHECKS = settings(max_examples=40, stateful_step_count=50, suppress_health_check=list(HealthCheck))
TestFour = Adversary.TestCase
TestFour.settings = CHECKS
TestSeven = Seven.TestCase
TestSeven.settings = settings(CHECKS, max_examples=15)


def test_the_machine_orders_something_when_the_network_is_calm() -> None:
    """The property is not empty: honest rounds order blocks, also after rounds that failed."""
    machine = Adversary()
    machine.begin()
    for _ in range(12):
        machine.calm(0, 2)
        machine.everybody_gives_up()
    assert min(map(len, machine.ordered.values())) >= 3


class Forgetful(Rules):
    """Votes as often as it is asked to."""

    def vote(self, block: Block) -> list[Effect]:
        self.safety = evolve(self.safety, voted=min(self.safety.voted, block.round - 1))
        return super().vote(block)


def test_the_machine_finds_broken_rules() -> None:
    class Broken(Adversary):
        rules_class = Forgetful

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Broken, settings=settings(CHECKS, max_examples=100, database=None, phases=[Phase.generate], derandomize=True)
        )


def test_the_vote_rule_after_a_timeout() -> None:
    """A block on an older certificate than a quorum of the timeout knew gets no vote; one as high gets one, once."""
    epoch = Epoch(1, START, committee(4))
    rules = Rules(epoch, 1, Safety.of(epoch), Leaders(epoch), START)
    rules.start()

    def block(round: int, certificate: QuorumCertificate, timeout: TimeoutCertificate | None, time: int) -> Block:
        return Block.decode(Block.body(1, round, round % 4, time, certificate, timeout, ()) + SIGNATURE)

    def timeouts(round: int, *known: int) -> TimeoutCertificate:
        return TimeoutCertificate(1, round, tuple((at, one, SIGNATURE) for at, one in enumerate(known)))

    first = block(1, QuorumCertificate(1, 0, START), None, 1)
    rules.insert(first)
    assert [type(effect) for effect in rules.vote(first)] == [Persist, SendVote]
    assert rules.vote(first) == []
    high = QuorumCertificate(1, 1, first.ref, tuple((at, SIGNATURE) for at in range(3)))
    low = block(3, QuorumCertificate(1, 0, START), timeouts(2, 1, 0, 0), 2)
    with pytest.raises(Malformed):
        low.check_shape(epoch)
    rules.insert(low)
    assert rules.vote(low) == []
    good = block(3, high, timeouts(2, 1, 0, 0), 3)
    good.check_shape(epoch)
    rules.insert(good)
    assert [type(effect) for effect in rules.vote(good)] == [Persist, SendVote]
    assert rules.safety.one_chain == 1
    rules.timer(3)
    assert rules.vote(good) == [] and rules.safety.vote is None
