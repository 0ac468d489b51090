"""The pure rules of the small chains, without any shell: safety under an adversary's schedule, trees against models."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces import BlockRef
from nodewright.testing.shapes import sparse
from nodewright.testing.shapes.bft_formats import BftBlock, Certificate, TimeoutCertificate, Validators
from nodewright.testing.shapes.bft_rules import Finalise, Persist, Rules, Safety, SendTimeout, SendVote
from nodewright.testing.shapes.codec import Malformed, Reader, digest
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.pow_rules import BlockTree, PowBlock

KEYS = [Key(name) for name in ("ada", "bob", "cleo", "dan")]
VALIDATORS = Validators(tuple(key.public for key in KEYS))
GENESIS = BlockRef(0, digest(b"a genesis"))
LIAR = 3


class Arena:
    """Four validators' rules and every message ever sent, delivered in any order, some never. The fourth one lies: it
    proposes two blocks in its rounds, votes for everything, and gives up on any round with an old certificate."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        first = Safety(0, Certificate(0, GENESIS))
        self.rules = [Rules(VALIDATORS, index, GENESIS, first) for index in range(LIAR)]
        self.final: list[list[BftBlock]] = [[] for _ in self.rules]
        self.voted: list[dict[int, bytes]] = [{} for _ in self.rules]
        self.bag: list[tuple[int, tuple[Any, ...]]] = []
        self.certificates = [Certificate(0, GENESIS)]
        self.saved = [first for _ in self.rules]
        self.proposed: dict[tuple[int, int], int] = {}
        for index, rules in enumerate(self.rules):
            self.perform(index, rules.start())

    def everybody(self, *message: Any) -> None:
        self.bag += [(index, message) for index in range(LIAR)]

    def perform(self, index: int, effects: list[Any]) -> None:
        rules = self.rules[index]
        for effect in effects:
            if isinstance(effect, Persist):
                self.saved[index] = effect.safety
            elif isinstance(effect, SendVote):
                block = effect.block
                assert self.voted[index].setdefault(block.round, block.id) == block.id, "two votes in a round"
                assert self.saved[index].voted >= block.round, "a vote that was not persisted"
                self.everybody("vote", block.round, block.ref, b"", index)
                self.everybody("vote", block.round, block.ref, b"", LIAR)
            elif isinstance(effect, SendTimeout):
                self.everybody("timeout", effect.certificate, effect.round, effect.certificate.round, index)
                self.everybody("timeout", effect.certificate, effect.round, 0, LIAR)
            elif isinstance(effect, Finalise):
                self.final[index] += effect.blocks
        if rules.safety.highest not in self.certificates:
            self.certificates.append(rules.safety.highest)
        leads = VALIDATORS.leader(rules.round)
        if leads == index:
            self.propose(index, rules.round, rules.safety.highest, rules.timeout)
        elif leads == LIAR:
            for certificate in self.random.sample(self.certificates, min(2, len(self.certificates))):
                if certificate.round < rules.round:
                    self.propose(LIAR, rules.round, certificate, rules.timeout)

    def propose(self, author: int, round: int, certificate: Certificate, timeout: TimeoutCertificate | None) -> None:
        made = self.proposed.get((author, round), 0)
        if made < (2 if author == LIAR else 1):
            self.proposed[(author, round)] = made + 1
            block = BftBlock.make(KEYS[author], round, author, 0, certificate, timeout, bytes([made]))
            self.everybody("block", block)

    def step(self) -> None:
        if not self.bag or self.random.random() < 0.01:
            index = self.random.randrange(LIAR)
            self.perform(index, self.rules[index].timer(self.rules[index].round))
            return
        at = self.random.randrange(max(len(self.bag) - 30, 0), len(self.bag)) if self.random.random() < 0.8 else 0
        index, message = self.bag.pop(at)
        rules = self.rules[index]
        if message[0] == "block":
            block: BftBlock = message[1]
            if block.parent.id != rules.final.id and block.parent.id not in rules.blocks:
                if block.parent.height >= rules.final.height:
                    self.bag.insert(0, (index, message))
                return
            self.perform(index, rules.insert(block))
            if block.id in rules.blocks:
                self.perform(index, rules.vote(block, b""))
        elif message[0] == "vote":
            self.perform(index, rules.voted(*message[1:], b""))
        else:
            certificate, round, highest, voter = message[1:]
            self.perform(index, rules.certified(certificate) + rules.timed_out(round, highest, voter, b""))
        if self.random.random() < 0.01:
            self.restart(self.random.randrange(LIAR))

    def restart(self, index: int) -> None:
        """Everything but the safety file, the blocks and what is final is forgotten."""
        old = self.rules[index]
        fresh = Rules(VALIDATORS, index, old.final, self.saved[index], blocks=dict(old.blocks))
        if fresh.safety.highest.block.height < fresh.final.height:
            fresh.safety = evolve(fresh.safety, highest=old.safety.highest)
        self.rules[index] = fresh
        self.perform(index, fresh.start())


def test_no_schedule_and_no_liar_makes_two_final_blocks_conflict(budget: int) -> None:
    finals = 0
    for seed in range(30 * budget):
        arena = Arena(seed)
        for _ in range(1500):
            arena.step()
        chains = sorted(([block.id for block in final] for final in arena.final), key=len)
        for shorter, longer in pairwise(chains):
            assert longer[: len(shorter)] == shorter, f"seed {seed}"
        finals += len(chains[-1])
    assert finals > 300, finals


def test_a_vote_needs_a_direct_parent_or_a_quorum_that_gave_up() -> None:
    rules = Rules(VALIDATORS, 0, GENESIS, Safety(0, Certificate(0, GENESIS)))
    rules.start()
    first = BftBlock.make(KEYS[1], 1, 1, 0, Certificate(0, GENESIS), None, b"")
    rules.insert(first)
    assert [type(effect) for effect in rules.vote(first, b"")] == [Persist, SendVote]
    assert rules.vote(first, b"") == []
    rules.gave_up(TimeoutCertificate(2, ((0, 1, b""), (1, 0, b""), (2, 0, b""))))
    stale = BftBlock.make(KEYS[3], 3, 3, 0, Certificate(0, GENESIS), rules.timeout, b"")
    rules.insert(stale)
    assert rules.vote(stale, b"") == [], "the quorum knew a higher certificate than the block builds on"
    sound = BftBlock.make(KEYS[3], 3, 3, 0, Certificate(1, first.ref), rules.timeout, b"")
    rules.insert(sound)
    assert [type(effect) for effect in rules.vote(sound, b"")] == [Persist, SendVote]


def test_only_a_certified_child_of_the_next_round_makes_a_block_final() -> None:
    rules = Rules(VALIDATORS, None, GENESIS, Safety(0, Certificate(0, GENESIS)))
    first = BftBlock.make(KEYS[1], 1, 1, 0, Certificate(0, GENESIS), None, b"")
    late = BftBlock.make(KEYS[3], 3, 3, 0, Certificate(1, first.ref), None, b"")
    then = BftBlock.make(KEYS[0], 4, 0, 0, Certificate(3, late.ref), None, b"")
    rules.insert(first)
    rules.insert(late)
    rules.insert(then)
    assert rules.final == GENESIS, "rounds 1 and 3: a quorum may have moved on to another block in round 2"
    effects = rules.certified(Certificate(4, then.ref))
    assert [effect.blocks for effect in effects if isinstance(effect, Finalise)] == [(first, late)]
    assert rules.final == late.ref


def test_a_block_survives_its_bytes_and_nothing_else_passes_for_it() -> None:
    timeout = TimeoutCertificate(4, ((1, 2, bytes(64)),))
    block = BftBlock.make(KEYS[1], 5, 1, 7, Certificate(3, BlockRef(2, bytes(32)), b"c", ((0, bytes(64)),)), timeout, b"p")
    assert BftBlock.decode(block.encode()) == block
    raw = block.encode()
    for at in range(0, len(raw), 7):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            other = BftBlock.decode(changed)
        except Malformed:
            continue
        assert other.id != block.id or other.signature != block.signature


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    for decode in (BftBlock.decode, PowBlock.decode, lambda raw: sparse.decode(Reader(raw))):
        try:
            decode(data)  # type: ignore[operator]
        except Malformed:
            pass


# --- best chain by work ---


def _block(parent: BlockRef, nonce: int) -> PowBlock:
    ref = BlockRef(parent.height + 1, digest(b"a block", parent.id, nonce.to_bytes(4, "big")))
    return PowBlock(ref, parent, 0, 6, bytes(32), (), b"", nonce)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=25))
@settings(max_examples=100)
def test_the_best_tip_has_most_work_of_all_valid_ones(moves: list[tuple[int, bool]]) -> None:
    tree = BlockTree(GENESIS)
    blocks: list[BlockRef] = [GENESIS]
    bad: set[bytes] = set()
    for nonce, (parent, invalid) in enumerate(moves):
        block = _block(blocks[parent % len(blocks)], nonce)
        tree.insert(block)
        blocks.append(block.ref)
        if invalid:
            tree.invalidate(block.id)
            bad.add(block.id)
        while (switch := tree.switch()) is not None:
            head = tree.head
            for back in switch.back:
                assert back == head
                head = tree.get(back.id).parent  # type: ignore[union-attr]
            for forward in switch.forward:
                assert forward.parent == head
                head = forward.ref
            tree.head = head

        def valid(ref: BlockRef) -> bool:
            return all(step.id not in bad for step in tree.path(ref.id))

        heights = [ref.height for ref in blocks if valid(ref)]
        assert tree.head.height == max(heights) and valid(tree.head)


# --- sparse trees ---

KEYS32 = st.integers(0, 40).map(lambda n: digest(b"k", n.to_bytes(1, "big"))) | st.integers(0, 7).map(
    lambda n: bytes(31) + bytes([n])
)
ROWS = st.dictionaries(KEYS32, st.binary(max_size=8), max_size=20)


@given(ROWS, st.lists(KEYS32, max_size=6), st.dictionaries(KEYS32, st.binary(max_size=8), max_size=4))
@settings(max_examples=100)
def test_a_pruned_tree_reads_and_changes_like_the_whole_one(
    rows: dict[bytes, bytes], reads: list[bytes], writes: dict[bytes, bytes]
) -> None:
    whole = sparse.build(rows)
    assert sparse.root(sparse.build(dict(reversed(rows.items())))) == sparse.root(whole)
    assert dict(sparse.items(whole)) == rows
    part = sparse.decode(Reader(sparse.encode(sparse.prune(whole, [*reads, *writes]))))
    assert sparse.root(part) == sparse.root(whole)
    assert [sparse.get(part, key) for key in reads] == [rows.get(key) for key in reads]
    for key, value in writes.items():
        whole, part = sparse.put(whole, key, value), sparse.put(part, key, value)
    assert sparse.root(part) == sparse.root(whole)


def test_what_was_left_out_is_never_taken_for_absent() -> None:
    rows = {digest(b"k", bytes([n])): b"v" for n in range(30)}
    part = sparse.prune(sparse.build(rows), [next(iter(rows))])
    with pytest.raises(sparse.LeftOut):
        for key in rows:
            sparse.get(part, key)
