"""Values that change under keys that stay: the same root and the same nodes as by the general way, whatever came before,
compiled or not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewright.kernels import switch
from nodewright_near import ways as fast
from nodewright_near.trie import EMPTY_ROOT, Missing, NoNodes, update
from nodewright_near.ways import Ways

KEYS = st.text("ab", min_size=1, max_size=7).map(str.encode) | st.binary(min_size=2, max_size=3)
VALUE = st.binary(min_size=3, max_size=3)
FIRST = st.dictionaries(KEYS, VALUE, min_size=1, max_size=24)


@pytest.fixture(params=["plain", "compiled"], autouse=True)
def kernels(request, monkeypatch):
    """Each of these runs on the plain loop, and on the kernel for any number of keys."""
    found = None
    if request.param == "compiled":
        pytest.importorskip("numba")
        assert switch.warm_up(fast.KERNELS) is None
        found = switch.compiled(fast.KERNELS)
    monkeypatch.setattr(fast, "compiled", lambda name: found)
    monkeypatch.setattr(fast, "WORTH_A_CALL", 0)


class Nodes:
    def __init__(self) -> None:
        self.by_path: dict[bytes, bytes] = {}
        self.reads = 0

    def node(self, path: bytes, digest: bytes) -> bytes:
        self.reads += 1
        if path not in self.by_path:
            raise Missing([(path, digest)])
        return self.by_path[path]

    def take(self, changed: dict[bytes, bytes | None]) -> None:
        for path, raw in changed.items():
            if raw is None:
                self.by_path.pop(path, None)
            else:
                self.by_path[path] = raw


def built(rows: dict[bytes, bytes]) -> tuple[Nodes, bytes]:
    changed: dict[bytes, bytes | None] = {}
    root = update(NoNodes(), EMPTY_ROOT, rows, changed)
    nodes = Nodes()
    nodes.take(changed)
    return nodes, root


def patch(ways, nodes, root, changes, changed):
    """The root after ``changes``, or None; what changed with it is put into ``changed``."""
    moved = ways.move(nodes, root, changes)
    if moved is None:
        return None
    changed.update(moved[1])
    return moved[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FIRST, st.data())
def test_equal_to_the_general_way_over_many_batches(rows, data):
    """Now and then keys come and go in between, as accounts do; then what is remembered is followed, not trusted."""
    nodes, root = built(rows)
    ways, rows = Ways(), dict(rows)
    for _ in range(6):
        changes: dict[bytes, bytes | None] = data.draw(st.dictionaries(st.sampled_from(sorted(rows)), VALUE, min_size=1))
        other = data.draw(st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=2))
        if data.draw(st.booleans()):
            changes = {**changes, **other}
        expected: dict[bytes, bytes | None] = {}
        after = update(nodes, root, changes, expected)
        changed: dict[bytes, bytes | None] = {}
        found = patch(ways, nodes, root, changes, changed)
        same_shape = all(
            key in rows and value is not None and len(value) == len(rows[key]) for key, value in changes.items()
        )
        if found is None:
            assert changed == {}
            ways.follow(root, after, expected)
        else:
            assert same_shape
            assert (found, changed) == (after, expected)
        nodes.take(expected)
        rows.update({key: value for key, value in changes.items() if value is not None})
        rows = {key: value for key, value in rows.items() if changes.get(key, value) is not None}
        root = after
        if not rows:
            return


def accounts(count: int) -> dict[bytes, bytes]:
    return {b"\x00user%03d" % number: b"%08d" % number for number in range(count)}


def test_what_was_learned_is_not_read_again():
    nodes, root = built(accounts(300))
    ways = Ways()
    changes: dict[bytes, bytes | None] = {b"\x00user%03d" % number: b"changed." for number in range(100)}
    changed: dict[bytes, bytes | None] = {}
    root = patch(ways, nodes, root, changes, changed)
    assert root is not None
    nodes.take(changed)
    nodes.reads = 0
    assert patch(ways, nodes, root, dict.fromkeys(changes, b"again..."), {}) is not None
    assert nodes.reads == 0


def test_a_state_is_learned_at_once_as_far_as_it_is_at_hand(monkeypatch):
    nodes, root = built(accounts(300))
    ways = Ways()
    ways.learn(nodes, root, accounts(300))
    nodes.reads = 0
    changes: dict[bytes, bytes | None] = {b"\x00user%03d" % number: b"changed." for number in range(0, 300, 7)}
    expected: dict[bytes, bytes | None] = {}
    changed: dict[bytes, bytes | None] = {}
    assert patch(ways, nodes, root, changes, changed) is not None and nodes.reads == 0
    update(nodes, root, changes, expected)
    assert changed == expected
    gone = nodes.by_path.pop(ways.paths[ways.leaves[b"\x00user150"]])
    ways = Ways()
    ways.learn(nodes, root, accounts(300))
    assert gone and 0 < len(ways.leaves) < 300
    monkeypatch.setattr(fast, "MAX_KEYS", 10)
    ways = Ways()
    ways.learn(nodes, root, accounts(300))
    assert not ways.leaves


def test_another_branch_of_the_chain_is_not_taken_for_this_one():
    nodes, root = built(accounts(50))
    ways = Ways()
    left: dict[bytes, bytes | None] = {b"\x00user001": b"left...."}
    right: dict[bytes, bytes | None] = {b"\x00user002": b"right..."}
    assert patch(ways, nodes, root, left, {}) is not None
    expected: dict[bytes, bytes | None] = {}
    changed: dict[bytes, bytes | None] = {}
    assert patch(ways, nodes, root, right, changed) == update(nodes, root, right, expected)
    assert changed == expected


def test_a_node_that_is_not_here_is_asked_for_and_nothing_has_changed():
    nodes, root = built(accounts(50))
    ways = Ways()
    assert patch(ways, nodes, root, {b"\x00user003": b"once...."}, {}) is not None
    leaf = ways.paths[ways.leaves[b"\x00user003"]]
    ways = Ways()
    gone = nodes.by_path.pop(leaf)
    changes: dict[bytes, bytes | None] = {b"\x00user001": b"changed.", b"\x00user003": b"changed."}
    changed: dict[bytes, bytes | None] = {}
    with pytest.raises(Missing) as error:
        patch(ways, nodes, root, changes, changed)
    assert [path for path, _ in error.value.wanted] == [leaf] and changed == {}
    nodes.by_path[leaf] = gone
    assert patch(ways, nodes, root, changes, changed) == update(nodes, root, changes, {})


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(fast, "MAX_KEYS", 10)
    nodes, root = built(accounts(60))
    ways = Ways()
    for start in range(0, 60, 6):
        changes: dict[bytes, bytes | None] = {b"\x00user%03d" % number: b"changed." for number in range(start, start + 6)}
        expected: dict[bytes, bytes | None] = {}
        changed: dict[bytes, bytes | None] = {}
        after = update(nodes, root, changes, expected)
        assert patch(ways, nodes, root, changes, changed) == after
        assert changed == expected
        nodes.take(changed)
        root = after
        assert len(ways.leaves) < 16
