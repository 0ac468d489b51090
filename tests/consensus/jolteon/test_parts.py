"""Tables and properties of the pure parts: encodings, validators, leaders, batches, back pressure, the ledger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockRef
from nodewright_jolteon import genesis, local
from nodewright_jolteon.batches import Batch, Open, Proofs, Rate
from nodewright_jolteon.codec import Malformed, Reader
from nodewright_jolteon.config import JolteonConfig, check
from nodewright_jolteon.formats import (
    BatchInfo,
    Block,
    LedgerCertificate,
    LedgerInfo,
    LedgerVote,
    Proof,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
    block_id,
)
from nodewright_jolteon.leaders import STRETCH, Leaders, Record
from nodewright_jolteon.ledger import MAX_HEIGHTS, Ledger
from nodewright_jolteon.validators import Epoch, Validator, ValidatorSet

HASH = st.binary(min_size=32, max_size=32)
NUMBER = st.integers(0, 2**64 - 1)
REF = st.builds(BlockRef, st.integers(0, 2**63), HASH)
SIGNATURE = st.binary(min_size=64, max_size=64)
SIGNATURES = st.dictionaries(st.integers(0, 255), SIGNATURE, max_size=6).map(lambda found: tuple(sorted(found.items())))
QC = st.builds(QuorumCertificate, NUMBER, NUMBER, REF, SIGNATURES)
TC = st.builds(
    TimeoutCertificate,
    NUMBER,
    NUMBER,
    st.lists(st.tuples(st.integers(0, 2**32 - 1), NUMBER, SIGNATURE), max_size=4).map(tuple),
)
INFO = st.builds(BatchInfo, st.integers(0, 255), NUMBER, NUMBER, NUMBER, HASH, st.integers(1, 100), st.integers(1, 1 << 20))
SET = st.lists(st.builds(Validator, HASH, st.integers(1, 9), st.binary(max_size=40)), min_size=1, max_size=5).map(
    lambda members: ValidatorSet(tuple({member.key: member for member in members}.values()))
)
LEDGER = st.builds(LedgerInfo, NUMBER, NUMBER, REF, NUMBER, HASH, st.binary(max_size=70), st.one_of(st.none(), SET))
MESSAGES: list[tuple[Any, Callable[[Reader], Any]]] = [
    (QC, QuorumCertificate.decode),
    (TC, TimeoutCertificate.decode),
    (st.builds(Proof, INFO, SIGNATURES), Proof.decode),
    (st.builds(Vote, NUMBER, NUMBER, REF, st.integers(0, 255), SIGNATURE), Vote.decode),
    (st.builds(Timeout, NUMBER, QC, st.one_of(st.none(), TC), st.integers(0, 255), SIGNATURE), Timeout.decode),
    (st.builds(LedgerVote, LEDGER, st.integers(0, 255), SIGNATURE), LedgerVote.decode),
    (st.builds(LedgerCertificate, LEDGER, SIGNATURES), LedgerCertificate.decode),
]


@pytest.mark.parametrize("at", range(len(MESSAGES)))
@settings(max_examples=40)
@given(data=st.data())
def test_messages_come_back_as_they_went_and_nothing_else_is_let_in(at: int, data: st.DataObject) -> None:
    strategy, decode = MESSAGES[at]
    message = data.draw(strategy)
    raw = message.encode()
    reader = Reader(raw)
    assert decode(reader) == message
    reader.finish()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(Malformed):
        decode(Reader(raw[:cut]))
    noise = data.draw(st.binary(max_size=200))
    try:
        decode(Reader(noise))
    except Malformed:
        pass


@settings(max_examples=60)
@given(
    qc=QC, timeout=st.one_of(st.none(), TC), time=NUMBER, proofs=st.lists(st.builds(Proof, INFO, SIGNATURES), max_size=3)
)
def test_blocks_come_back_and_their_id_covers_all_but_the_signature(
    qc: QuorumCertificate, timeout: TimeoutCertificate | None, time: int, proofs: list[Proof]
) -> None:
    body = Block.body(3, 9, 1, time, qc, timeout, proofs)
    block = Block.decode(body + bytes(64))
    assert (block.certificate, block.timeout, list(block.proofs), block.time) == (qc, timeout, proofs, time)
    assert block.id == Block.decode(body + b"\1" * 64).id == block_id(body) and block.height == qc.block.height + 1
    with pytest.raises(Malformed):
        Block.decode(body + b"\0" * 65)


def members(*powers: int) -> ValidatorSet:
    return ValidatorSet(
        tuple(Validator(hashlib.sha256(bytes([at])).digest(), power, b"") for at, power in enumerate(powers))
    )


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9))
def test_two_quorums_share_an_honest_validator(powers: list[int]) -> None:
    found = members(*powers)
    liars = found.total_power - found.quorum_power  # the most that may be silent
    assert 2 * found.quorum_power - found.total_power > (found.total_power - 1) // 3
    assert liars <= (found.total_power - 1) // 3 < found.honest_power


def test_changed_validators() -> None:
    found = members(1, 2, 3)
    keys = [member.key for member in found.members]
    fresh = hashlib.sha256(b"fresh").digest()
    changed = found.changed({keys[0]: 0, keys[1]: 5, fresh: 7})
    assert {member.key: member.power for member in changed.members} == {keys[1]: 5, keys[2]: 3, fresh: 7}
    assert changed.place(fresh) is not None and changed.members[changed.place(fresh) or 0].account == fresh
    assert found.changed(dict.fromkeys(keys, 0)) is found  # nobody would be left


def history(leaders: Leaders, rounds: int, dead: int | None = None) -> None:
    count = len(leaders.epoch.validators)
    below = 0
    for round in range(1, rounds):
        author = leaders.leader(round)
        if author == dead:
            continue
        voters = tuple(place for place in range(count) if place != dead)
        failed = leaders.failed(below, round)
        leaders.ordered(Record(round, hashlib.sha256(b"%d" % round).digest(), author, voters, failed))
        below = round


def test_leaders_rotate_first_then_follow_reputation() -> None:
    epoch = Epoch(1, BlockRef(0, bytes(32)), members(1, 1, 1, 1))
    leaders = Leaders(epoch)
    assert [leaders.leader(round) for round in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    history(leaders, 200, dead=2)
    found = Counter(leaders.leader(round) for round in range(192, 192 + STRETCH * 2))
    assert found[2] <= 1 and all(found[place] > 3 for place in (0, 1, 3))
    well = Leaders(epoch)
    history(well, 200)
    assert len(Counter(well.leader(round) for round in range(192, 192 + STRETCH * 2))) == 4


@given(cut=st.integers(0, 30), round=st.integers(150, 220))
@settings(max_examples=40)
def test_the_leader_of_a_round_follows_from_the_chain_below_alone(cut: int, round: int) -> None:
    """However much of it a node has ordered, and however much it still sees as a path above."""
    epoch = Epoch(1, BlockRef(0, bytes(32)), members(3, 1, 2, 1))
    whole = Leaders(epoch)
    history(whole, 150, dead=1)
    records = list(whole.history)
    some = Leaders(epoch, records[: len(records) - cut])
    path = records[len(records) - cut :]
    assert some.leader(round, path) == whole.leader(round)
    assert some.failed(140, round, path) == whole.failed(140, round)


def test_batches_and_their_proofs() -> None:
    batch = Batch.make(2, 7, 1, 1000, [b"one", b"two"])
    assert Batch.decode(batch.raw) == batch and batch.info.count == 2
    assert Batch.make(2, 8, 1, 1000, [b"one", b"two"]).info.digest != batch.info.digest
    with pytest.raises(Malformed):
        Batch.decode(batch.raw + b"\0")
    one = Open(batch, (b"a", b"b"), 0.0)
    validators = members(1, 1, 1, 1)
    assert one.sign(0, bytes(64), validators) is None and one.sign(0, bytes(64), validators) is None
    assert one.sign(3, bytes(64), validators) is None
    proof = one.sign(1, bytes(64), validators)
    assert proof is not None and [place for place, _ in proof.signatures] == [0, 1, 3]
    assert one.sign(2, bytes(64), validators) is None
    assert len(proof.signed(validators)) == 3
    with pytest.raises(Malformed):
        Proof(batch.info, proof.signatures[:2]).signed(validators)


def proof_of(number: int, author: int = 0, expiration: int = 100, count: int = 10) -> Proof:
    digest = hashlib.sha256(b"%d %d" % (number, author)).digest()
    return Proof(BatchInfo(author, number, 1, expiration, digest, count, 1000), ())


def test_proofs_are_chosen_oldest_first_within_limits_and_ordered_once() -> None:
    proofs = Proofs()
    all_of_them = [proof_of(number, number % 2, 100 + number) for number in range(10)]
    assert all(proofs.add(proof, 0) for proof in reversed(all_of_them)) and proofs.backlog == 100
    assert not proofs.add(all_of_them[0], 0) and not proofs.add(proof_of(11, expiration=5), 5)
    chosen = proofs.choose((), 50, 1, 35, 1 << 20, 100)
    assert chosen == all_of_them[:3]
    assert proofs.choose({proof.info.digest for proof in chosen}, 50, 1, 1000, 2500, 100) == all_of_them[3:5]
    assert len(proofs.choose((), 50, 1, 1000, 1 << 20, 4)) == 4 and proofs.choose((), 50, 2, 1000, 1 << 20, 4) == []
    expired = proofs.committed([proof.info for proof in chosen], 105)
    assert sorted(info.number for info in expired) == [3, 4, 5] and proofs.backlog == 40
    assert not proofs.was_ordered(chosen[0].info.digest)  # nobody can name it any more: it has expired
    assert proofs.committed([all_of_them[9].info], 106) == [all_of_them[6].info]
    assert proofs.was_ordered(all_of_them[9].info.digest) and not proofs.add(all_of_them[9], 106)


def test_back_pressure_halves_and_recovers() -> None:
    rate = Rate(160, 12_000, 36_000, 2000)
    assert rate.allowed(0.0, 0) == 12_000
    rate.used(12_000)
    assert rate.allowed(0.0, 0) == 0 and rate.allowed(0.5, 0) == 6000
    seen = []
    for second in range(1, 12):
        rate.allowed(float(second), 40_000)
        seen.append(rate.value)
    assert seen[:3] == [6000, 3000, 1500] and seen[-1] == 160
    for second in range(12, 20):
        rate.allowed(float(second), 0)
    assert rate.value == 12_000


def test_the_ledger_takes_one_vote_of_each_and_is_bounded() -> None:
    epoch = Epoch(1, BlockRef(0, bytes(32)), members(1, 1, 1, 1))

    def info(height: int, root: int = 0) -> LedgerInfo:
        return LedgerInfo(1, height, BlockRef(height, bytes(32)), 0, bytes([root]) * 32, b"")

    ledger = Ledger(epoch, 5)
    assert ledger.voted(LedgerVote(info(6), 0, bytes(64)))
    assert not ledger.voted(LedgerVote(info(6, 1), 0, bytes(64)))
    assert ledger.voted(LedgerVote(info(6, 1), 1, bytes(64))) and ledger.voted(LedgerVote(info(6), 2, bytes(64)))
    assert not ledger.certificates
    assert ledger.voted(LedgerVote(info(6), 3, bytes(64)))
    assert [place for place, _ in ledger.certificates[6].signatures] == [0, 2, 3]
    for height in (3, 5, 5 + MAX_HEIGHTS + 1):
        assert ledger.voted(LedgerVote(info(height), 1, bytes(64)))
    assert set(ledger._votes) == set()
    ledger.up_to(6)
    assert not ledger.certificates


def test_genesis_and_settings_say_what_is_wrong() -> None:
    document: dict[str, Any] = {"network": "x", "time": 1, "hash": bytes(32), "consensus": {"local": True}, "execution": {}}
    with pytest.raises(ConfigurationError, match=r"consensus\.validators"):
        genesis.read(document)
    config = JolteonConfig(local_validators=4, local_validator=3)
    found = genesis.read(local.complete(config, document))
    assert len(found.validators) == 4 and found.validators.place(local.signer(3).public) == 3
    with pytest.raises(ConfigurationError, match="0 to 0"):
        local.complete(JolteonConfig(local_validator=1), document)
    with pytest.raises(ConfigurationError, match="none"):
        local.complete(JolteonConfig(local_validator=0), {**document, "consensus": {}})
    bad = {**document, "consensus": {"validators": [{"key": "00" * 32}], "expiry_seconds": 0}}
    with pytest.raises(ConfigurationError, match="expiry_seconds"):
        genesis.read(bad)
    assert (
        check(JolteonConfig()) == [] and check(JolteonConfig(block_seconds=2.0)) and check(JolteonConfig(min_rate=99_999))
    )
