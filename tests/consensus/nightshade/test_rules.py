"""The pure rules of Nightshade: sampling, mandates, erasure coding, Doomslug."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_nightshade import erasure
from nodewright_nightshade.doomslug import Approvals, Delays, Timer, Tip, Vote, Votes, finality, may_produce
from nodewright_nightshade.epochs import Approver, Approvers
from nodewright_nightshade.mandates import Mandates, below, chacha20_block, endorsed, shuffle, words
from nodewright_nightshade.sampling import Epoch, Validator, WeightedIndex, assign_chunk_producers

STAKES = st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any)


@given(STAKES)
def test_sampling_gives_each_weight_its_exact_share(weights: list[int]) -> None:
    """Summed over all columns, each index owns exactly weight ÷ total of the seeds."""
    index = WeightedIndex.of(weights)
    share = Counter[int]()
    for column, (alias, odds) in enumerate(zip(index.aliases, index.odds, strict=True)):
        assert 0 <= odds <= index.total
        share[column] += odds
        share[alias] += index.total - odds
    assert [share[at] for at in range(len(weights))] == [weight * len(weights) for weight in weights]


def test_sampling_refuses_no_weight_at_all() -> None:
    for weights in ([0, 0], [3, -1]):
        with pytest.raises(ValueError, match="weights"):
            WeightedIndex.of(weights)


def test_producers_follow_their_stake() -> None:
    validators = [Validator(f"v{at}", bytes([0]) + bytes([at]) * 32, stake) for at, stake in enumerate((10, 30, 60))]
    epoch = Epoch(bytes(32), sha256(b"seed").digest(), tuple(validators), assign_chunk_producers(validators, 2))
    drawn = Counter(epoch.block_producer(height) for height in range(6000))
    assert [round(drawn[at] / 600) for at in range(3)] == [1, 3, 6]
    for height in range(200):
        for shard in range(2):
            assert epoch.chunk_producer(height, shard) in epoch.chunk_producers[shard]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 12))
def test_every_shard_has_two_producers_and_every_validator_a_shard(stakes: list[int], shards: int) -> None:
    validators = [Validator(f"v{at}", b"", stake) for at, stake in enumerate(stakes)]
    members = assign_chunk_producers(validators, shards)
    assert len(members) == shards
    assert all(len(set(one)) == len(one) >= min(2, len(stakes)) for one in members)
    assert set(itertools.chain(*members)) == set(range(len(stakes)))
    assert members == assign_chunk_producers(validators, shards)


def test_chacha20() -> None:
    """RFC 8439, A.1: test vectors 1, 2 and 3 (their nonce begins where our counter's high half is)."""
    first = b"".join(word.to_bytes(4, "little") for word in chacha20_block(bytes(32), 0, bytes(8)))
    assert first.hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    second = b"".join(word.to_bytes(4, "little") for word in chacha20_block(bytes(32), 1, bytes(8)))
    assert second.hex().startswith("9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed")
    third = b"".join(word.to_bytes(4, "little") for word in chacha20_block(bytes(31) + b"\1", 1, bytes(8)))
    assert third.hex().startswith("3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a")


@given(st.binary(min_size=32, max_size=32))
def test_the_stream_of_words_is_that_of_the_blocks(seed: bytes) -> None:
    plain = [word for counter in range(30) for word in chacha20_block(seed, counter, bytes(8))]
    assert list(itertools.islice(words(seed), len(plain))) == plain


@given(st.binary(min_size=32, max_size=32), st.integers(1, 1 << 20))
def test_numbers_below_a_bound(seed: bytes, bound: int) -> None:
    source = words(seed)
    assert all(0 <= below(source, bound) < bound for _ in range(20))
    items = list(range(50))
    shuffle(items, source)
    assert sorted(items) == list(range(50))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 10**6))
def test_mandates_deal_out_all_stake_evenly(stakes: list[int], shards: int, height: int) -> None:
    mandates = Mandates.of(stakes, shards)
    dealt = mandates.assign(sha256(b"epoch").digest(), height, shards)
    total = Counter[int]()
    for shard in dealt:
        total.update(shard)
    assert [total[at] for at in range(len(stakes))] == stakes
    assert dealt == mandates.assign(sha256(b"epoch").digest(), height, shards)
    sums = [sum(shard.values()) for shard in dealt]
    assert max(sums) - min(sums) <= mandates.price * 2 + (len(stakes) // shards + 1) * mandates.price


def test_two_thirds_and_no_less() -> None:
    assignment = {0: 1, 1: 1, 2: 1}
    assert not endorsed(assignment, [0, 1])
    assert not endorsed(assignment, [0, 0, 1, 1])
    assert endorsed(assignment, [0, 1, 2])
    assert endorsed({0: 67, 1: 33}, [0])
    assert not endorsed({0: 66, 1: 34}, [0])


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 40), st.data())
def test_any_third_of_the_parts_rebuilds_a_chunk(body: bytes, producers: int, data: st.DataObject) -> None:
    least, total = erasure.counts(producers)
    parts = erasure.encode(body, least, total)
    assert len(parts) == total
    assert len({len(part) for part in parts}) == 1
    chosen = data.draw(st.lists(st.integers(0, total - 1), min_size=least, max_size=least, unique=True))
    assert erasure.rebuild({at: parts[at] for at in chosen}, least, total, len(body)) == body
    if least > 1:
        with pytest.raises(ValueError, match="needs"):
            erasure.rebuild({at: parts[at] for at in chosen[1:]}, least, total, len(body))


def test_every_square_of_a_small_code_can_be_inverted() -> None:
    for chosen in itertools.combinations(range(10), 4):
        erasure.inverted(erasure.matrix(4, 10)[list(chosen)])


DELAYS = Delays()


def test_the_timer_of_a_height() -> None:
    assert DELAYS.timer(10, 8) == pytest.approx(1.8)
    assert DELAYS.timer(13, 8) == pytest.approx(1.8 + 3 * 0.18)
    assert DELAYS.timer(1000, 8) == 6.0


def test_an_endorsement_then_skips() -> None:
    timer = Timer(DELAYS, Tip(b"a" * 32, 10, 8), started=0.0)
    assert timer.due(0.59) == []
    (first,) = timer.due(0.6)
    assert first.is_endorsement
    assert first.target == 11
    assert timer.due(1.7) == []
    skips = [due.target for now in (2.5, 5, 7.5, 10) for due in timer.due(now)]
    assert skips == sorted(set(skips))
    assert skips[0] == 12


@given(st.lists(st.tuples(st.floats(0, 8), st.integers(0, 3), st.booleans()), max_size=60), st.integers(0, 30))
def test_nothing_is_approved_twice(steps: list[tuple[float, int, bool]], before: int) -> None:
    """Whatever the tips and times, also over restarts: approved targets only rise."""
    now, height = 0.0, 10
    timer = Timer(DELAYS, Tip(b"0" * 32, height, 8), 0.0, approved=before)
    seen = before
    for at, (wait, jump, restart) in enumerate(steps):
        now += wait
        for due in timer.due(now):
            assert due.target > seen
            assert due.target > due.parent_height
            seen = due.target
        assert timer.approved == seen
        if jump:
            height += jump - 2  # a better chain may be lower
            height = max(1, height)
            timer.new_tip(Tip(bytes([at % 256]) * 32, height, max(0, height - 2)), now)
        if restart:
            timer = Timer(DELAYS, timer.tip, now, approved=timer.approved)


def vote(at: float, key: bytes = b"key") -> Vote:
    return Vote(key, b"sig", at)


def approvers(now: dict[str, int], then: dict[str, int]) -> Approvers:
    all = tuple(Approver(one, b"key", now.get(one, 0), then.get(one, 0)) for one in {**now, **then})
    return Approvers(all, {one.account: one for one in all}, sum(now.values()), sum(then.values()))


def test_a_block_needs_more_than_two_thirds() -> None:
    approvals, three = Approvals(), approvers({"a": 1, "b": 1, "c": 1}, {})
    parent = b"p" * 32
    assert approvals.add("a", parent, 11, vote(1.0), head=10)
    assert not approvals.add("a", parent, 11, vote(1.0), head=10)
    assert not approvals.add("a", b"q" * 32, 11, vote(1.0), head=10), "one parent for a target"
    assert not approvals.add("b", parent, 10, vote(1.0), head=10)
    assert approvals.add("b", parent, 11, vote(2.0), head=10)
    votes = approvals.votes(parent, 10, 11)
    assert votes is not None
    assert votes.since(three) is None
    assert not may_produce(None, DELAYS, 1.8, True, 3.0)
    assert approvals.add("stranger", parent, 11, vote(2.5), head=10)
    assert votes.since(three) is None
    assert approvals.add("c", 9, 12, vote(2.0), head=10)
    assert approvals.add("c", parent, 11, vote(3.0), head=10)
    assert votes.since(three) == 3.0
    assert may_produce(3.0, DELAYS, 1.8, True, 3.0)
    assert not may_produce(3.0, DELAYS, 1.8, False, 3.2)
    assert may_produce(3.0, DELAYS, 1.8, False, 3.31)
    approvals.forget(11)
    assert approvals.targets() == [12]


def test_near_the_end_of_an_epoch_both_sets_approve() -> None:
    both = approvers({"a": 1, "b": 1, "c": 1}, {"c": 1, "d": 1, "e": 1})
    votes = Votes()
    for at, account in enumerate("abcd"):
        assert votes.add(account, vote(float(at)))
    assert votes.since(both) is None, "all of this epoch, two thirds and no more of the next"
    votes.add("e", vote(9.0, key=b"another key"))
    assert votes.since(both) is None
    votes.by_account.pop("e")
    votes.add("e", vote(9.0))
    assert votes.since(both) == 9.0
    assert votes.signature("e", b"key") == b"sig"
    assert both.enough("abcde")
    assert not both.enough("abc")


def test_a_liar_fills_nobodys_memory_and_a_long_stall_ends() -> None:
    """Votes of one validator are bounded whatever targets it names; how far a target is ahead does not matter."""
    approvals, four = Approvals(), approvers({"liar": 1, "b": 1, "c": 1, "d": 1}, {})
    for target in range(11, 5000):
        approvals.add("liar", 10, target, vote(1.0), head=10)
    assert len(approvals.targets()) <= 64
    assert approvals.targets()[-1] == 4999
    for account in ("b", "c", "d"):
        assert approvals.add(account, 10, 1_000_000, vote(1.0), head=10)
    votes = approvals.votes(b"p" * 32, 10, 1_000_000)
    assert votes is not None
    assert votes.since(four) is not None
    assert approvals.targets()[0] > 4000


def test_after_a_start_the_timer_goes_on_where_it_was() -> None:
    timer = Timer(DELAYS, Tip(b"a" * 32, 10, 8), 0.0, approved=500)
    found = [due.target for now in range(7) for due in timer.due(float(now))]
    assert found == [501]


def test_finality_by_heights_in_a_row() -> None:
    assert finality(12, (11, b"p"), (10, b"g")) == (b"p", b"g")
    assert finality(12, (11, b"p"), (9, b"g")) == (b"p", None)
    assert finality(13, (11, b"p"), (10, b"g")) == (None, None)
    assert finality(1, (0, b"genesis"), None) == (b"genesis", None)


def test_sampling_is_deterministic_over_a_known_seed() -> None:
    index = WeightedIndex.of([5, 1, 4])
    drawn = [index.draw(sha256(at.to_bytes(4, "little")).digest()) for at in range(2000)]
    found = Counter(drawn)
    for at, weight in enumerate((5, 1, 4)):
        assert abs(Fraction(found[at], 2000) - Fraction(weight, 10)) < Fraction(4, 100)
