"""Partitioners: what they promise of any block, held against counts and objectives worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.kernels import switch

np = pytest.importorskip("numpy")

# ruff: noqa: E402
from nodewright_aptos.partition import PARTITIONERS, Access, Partition, figures, inner, loops, messages, partition
from nodewright_aptos.partition.fanout import Step, cap_of, powers, search
from nodewright_aptos.partition.hypergraph import hypergraph
from nodewright_aptos.partition.measures import LATENCY


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[None]:
    """The plain loops are what is tested; ``test_compiled`` holds the compiled ones to them."""
    switch.disable()
    yield


Row = tuple[int, list[int], list[int]]


@st.composite
def blocks(draw: Any, most: int = 60) -> Access:
    """A few senders and keys, so that they meet; what is written is mostly read too, and each sender has its own key."""
    senders, keys = draw(st.integers(1, 12)), draw(st.integers(1, 10))
    some = st.lists(st.integers(0, keys - 1), max_size=3, unique=True)
    drawn = draw(st.lists(st.tuples(st.integers(0, senders - 1), some, some, st.booleans()), max_size=most))
    numbers: dict[int, int] = {}
    rows: list[Row] = []
    for sender, read, written, blind in drawn:
        number = numbers.setdefault(sender, len(numbers))
        own = keys + number
        rows.append((number, [own, *read, *([] if blind else written)], [own, *written]))
    return Access.of(rows, len(numbers), keys + len(numbers))


def rows_of(access: Access) -> list[tuple[int, set[int], set[int]]]:
    return [
        (
            int(access.senders[one]),
            set(access.reads[access.read_starts[one] : access.read_starts[one + 1]].tolist()),
            set(access.writes[access.write_starts[one] : access.write_starts[one + 1]].tolist()),
        )
        for one in range(len(access))
    ]


def naive_messages(access: Access, made: Partition) -> list[tuple[int, int, int, int]]:
    """For each write, by looking at all that comes after."""
    rows, order, found = rows_of(access), made.order.tolist(), []
    for at, writer in enumerate(order):
        for key in rows[writer][2]:
            told = {int(made.shard[writer])}
            for reader in order[at + 1 :]:
                if key in rows[reader][1] and int(made.shard[reader]) not in told:
                    told.add(int(made.shard[reader]))
                    found.append((writer, key, int(made.shard[reader]), reader))
                if key in rows[reader][2]:
                    break
    return found


def naive_fanout(access: Access, made: Partition) -> float:
    rows = rows_of(access)
    places: dict[int, set[int]] = {}
    senders: dict[int, set[int]] = {}
    for (sender, read, written), shard in zip(rows, made.shard.tolist(), strict=True):
        for key in read | written:
            places.setdefault(key, set()).add(shard)
            senders.setdefault(key, set()).add(sender)
    shared = [len(places[key]) for key, own in senders.items() if len(own) > 1]
    return sum(shared) / max(len(shared), 1)


@settings(max_examples=80)
@given(blocks(), st.integers(1, 5), st.sampled_from(list(PARTITIONERS)), st.integers(0, 3), st.booleans())
def test_every_partition(access: Access, shards: int, name: str, seed: int, reorder: bool) -> None:
    made = partition(access, shards, name, seed, reorder)
    rows = rows_of(access)
    assert sorted(made.order.tolist()) == list(range(len(access)))
    assert ((made.shard >= 0) & (made.shard < shards)).all()
    stands = {transaction: at for at, transaction in enumerate(made.order.tolist())}
    for sender in range(access.sender_count):
        own = [stands[one] for one, row in enumerate(rows) if row[0] == sender]
        assert own == sorted(own)
    assert sorted(one for block in made.sub_blocks() for one in block.tolist()) == list(range(len(access)))
    for shard, block in enumerate(made.sub_blocks()):
        assert (made.shard[block] == shard).all()
        assert [stands[one] for one in block.tolist()] == sorted(stands[one] for one in block.tolist())
    along = made.rounds[made.order]
    assert (np.diff(along) >= 0).all()
    if not reorder:
        assert made.order.tolist() == list(range(len(access)))
        assert not made.rounds.any()
    if name == "fanout":
        weights = np.bincount(access.senders, minlength=access.sender_count)
        assert np.bincount(made.shard, minlength=shards).max() <= cap_of(weights, shards)
    if name == "components" and reorder:
        written = set().union(*(row[2] for row in rows)) if rows else set()
        for number in range(int(made.rounds.max(initial=0)) + 1):
            owners: dict[int, int] = {}
            for one in np.flatnonzero(made.rounds == number).tolist():
                for key in (rows[one][1] | rows[one][2]) & written:
                    assert owners.setdefault(key, int(made.shard[one])) == int(made.shard[one])
    again = partition(access, shards, name, seed, reorder)
    assert (again.shard == made.shard).all() and (again.order == made.order).all() and (again.rounds == made.rounds).all()


@settings(max_examples=80)
@given(blocks(), st.integers(1, 70), st.sampled_from(list(PARTITIONERS)))
def test_messages_and_figures_are_what_a_naive_count_finds(access: Access, shards: int, name: str) -> None:
    made = partition(access, shards, name)
    found = messages(access, made)
    listed = list(zip(*(column.tolist() for column in (found.writer, found.key, found.shard, found.reader)), strict=True))
    assert sorted(listed) == sorted(naive_messages(access, made))
    told = figures(access, made)
    assert told["cross_shard_messages"] == len(found)
    assert told["fanout"] == pytest.approx(naive_fanout(access, made))
    sizes = [len(block) for block in made.sub_blocks()]
    assert told["imbalance"] == pytest.approx(max(sizes) * shards / max(len(access), 1))
    assert told["span"] == pytest.approx(naive_span(access, made) * shards / max(len(access), 1))
    assert (told["message_chain"] > 0) == (len(found) > 0)


def naive_span(access: Access, made: Partition) -> int:
    """Ends of transactions, each looked up among all before it."""
    rows, order = rows_of(access), made.order.tolist()
    ends: list[int] = []
    for at, one in enumerate(order):
        begins = max((ends[before] for before in range(at) if made.shard[order[before]] == made.shard[one]), default=0)
        for key in rows[one][1]:
            writers = [before for before in range(at) if key in rows[order[before]][2]]
            if writers and made.shard[order[writers[-1]]] != made.shard[one]:
                begins = max(begins, ends[writers[-1]] + LATENCY)
        ends.append(begins + 1)
    return max(ends, default=0)


def test_a_chain_is_the_messages_that_wait_for_each_other() -> None:
    # One key that goes 0 -> 1 -> 0, and meanwhile one that goes 1 -> 0.
    access = Access.of([(0, [0], [0]), (1, [1], [1]), (1, [0], [0]), (0, [0, 1], [0])], 2, 2)
    made = partition(access, 2, "round-robin")
    told = figures(access, made)
    assert (told["cross_shard_messages"], told["message_chain"]) == (3, 2)


def total(access: Access, place: Any, shards: int, p: float) -> float:
    """The objective, by its definition."""
    touching: dict[int, set[int]] = {}
    for sender, read, written in rows_of(access):
        for key in read | written:
            touching.setdefault(key, set()).add(sender)
    result = 0.0
    for senders in touching.values():
        if len(senders) > 1:
            for shard in range(shards):
                result += 1 - (1 - p) ** sum(int(place[sender]) == shard for sender in senders)
    return result


@settings(max_examples=60)
@given(blocks(), st.integers(2, 4), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(0, 3), st.booleans())
def test_a_gain_is_the_difference_of_the_objective(access: Access, shards: int, p: float, seed: int, full: bool) -> None:
    """One iteration from any place, with room and without: what it says that it gained, by brute force; and no shard above
    its cap, or above what it had where that was more."""
    graph = hypergraph(access)
    random = np.random.default_rng(seed)
    place = random.integers(0, shards, access.sender_count).astype(np.int32)
    counts, loads = np.zeros((graph.edges, shards), np.int32), np.zeros(shards, np.int64)
    loops.tally(graph.pin_starts, graph.pins, graph.weights, place, counts, loads)
    cap = int(loads.max(initial=0)) if full else len(access)
    power = powers(p, access.sender_count)
    before = total(access, place, shards, p)
    assert loops.objective(counts, power) == pytest.approx(before)
    told = np.zeros(2)
    blocked, gains = np.empty((access.sender_count, 2), np.int64), np.empty(access.sender_count)
    state = (graph.pin_starts, graph.pins, graph.weights, place, counts, loads, cap, power)
    visit = np.arange(access.sender_count, dtype=np.int64)
    waiting = loops.sweep(visit, *state, np.empty(shards), blocked, gains, told)
    middle = total(access, place, shards, p)
    assert before - middle == pytest.approx(float(told[1]))
    for (sender, to), gain in zip(blocked[:waiting].tolist(), gains[:waiting].tolist(), strict=True):
        assert gain > 0 and to != place[sender]
    if full:  # every sender of every pair of shards, as if all of them had been turned away
        pair = [(one, to) for one in range(access.sender_count) for to in range(shards) if to != place[one]]
        pair.sort(key=lambda item: int(place[item[0]]) * shards + item[1])
        sizes = np.bincount([int(place[one]) * shards + to for one, to in pair], minlength=shards * shards)
        chosen = {one: to for one, to in pair}  # one way out each: a sender is listed once
        pair = [item for item in pair if chosen[item[0]] == item[1]]
        sizes = np.bincount([int(place[one]) * shards + to for one, to in pair], minlength=shards * shards)
        starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        told[:] = 0
        loops.swap(starts, np.array([one for one, _ in pair], np.int64), *state, told)
        after = total(access, place, shards, p)
        assert middle - after == pytest.approx(float(told[1]), abs=1e-9) and after <= middle + 1e-9
    assert loads.max(initial=0) <= cap
    fresh, fresh_loads = np.zeros_like(counts), np.zeros_like(loads)
    loops.tally(graph.pin_starts, graph.pins, graph.weights, place, fresh, fresh_loads)
    assert (fresh == counts).all() and (fresh_loads == loads).all()


@settings(max_examples=60)
@given(blocks(), st.integers(1, 4), st.integers(0, 3))
def test_the_objective_never_rises(access: Access, shards: int, seed: int) -> None:
    steps: list[Step] = []
    place = search(hypergraph(access), shards, seed, steps.append)
    for step in steps:
        assert step.after <= step.before + 1e-9
    for step, following in itertools.pairwise(steps):
        assert following.p >= step.p
        if following.p == step.p:
            assert following.before == pytest.approx(step.after, abs=1e-9)
    if steps and steps[-1].p == 1.0:
        assert steps[-1].after == pytest.approx(total(access, place, shards, 1.0))


def test_minority_shards_run_first() -> None:
    """Sender 0 alone touches the key from its shard; the three others of another shard come after it, in block order."""
    from nodewright_aptos.partition.ordering import ordered

    access = Access.of([(1, [0], [0]), (2, [0], [0]), (0, [0], [0]), (3, [0], [0])], 4, 1)
    order = ordered(access, hypergraph(access), np.array([1, 0, 0, 0], np.int32), 2)
    assert order.tolist() == [2, 0, 1, 3]


def test_separable_blocks_are_separated() -> None:
    """Four groups that share nothing: one key to a shard, no message, by components and by fanout alike."""
    rows = [(sender, [sender % 4], [sender % 4]) for sender in range(40)]
    access = Access.of(rows, 40, 4)
    for name in ("fanout", "components"):
        told = figures(access, partition(access, 4, name))
        assert (told["fanout"], told["cross_shard_messages"], told["imbalance"]) == (1.0, 0, 1.0), name
    assert figures(access, partition(access, 4, "round-robin"))["fanout"] == 1.0  # groups are what the turns make, here


def test_what_cannot_be_had_is_refused() -> None:
    access = Access.of([(0, [0], [0])], 1, 1)
    with pytest.raises(ValueError, match="not one of fanout, components, round-robin"):
        partition(access, 2, "metis")
    with pytest.raises(ValueError, match="1 to 256 are possible"):
        partition(access, 257)


@pytest.fixture
def compiled() -> Iterator[None]:
    pytest.importorskip("numba")
    assert switch.warm_up(inner.KERNELS) is None
    yield
    switch.disable()


@pytest.mark.usefixtures("compiled")
def test_compiled_loops_give_the_very_same() -> None:
    assert inner.inner() is not loops
    random = np.random.default_rng(1)
    rows = []
    for _ in range(600):
        group = int(random.integers(0, 6))
        touched = (random.integers(0, 4, 2) + 4 * group).tolist()
        rows.append((int(random.integers(0, 20)) * 6 + group, touched, touched[:1]))
    numbers: dict[int, int] = {}
    rows = [(numbers.setdefault(sender, len(numbers)), read, written) for sender, read, written in rows]
    access = Access.of(rows, len(numbers), 24)
    for name in PARTITIONERS:
        for shards in (1, 3, 40):
            fast = partition(access, shards, name, 5)
            told = figures(access, fast)
            switch.disable()
            slow = partition(access, shards, name, 5)
            assert (fast.shard == slow.shard).all() and (fast.order == slow.order).all()
            assert (fast.rounds == slow.rounds).all()
            assert told == figures(access, slow)
            assert switch.warm_up(inner.KERNELS) is None
