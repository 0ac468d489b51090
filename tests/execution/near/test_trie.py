"""The trie against a dictionary: one root whatever the order, reads, prefixes, and proofs that nothing false passes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodewright_near import trie
from nodewright_near.borsh import Malformed
from nodewright_near.trie import EMPTY_ROOT, ByHash, Missing, NoNodes, Recorder, find, items_under, update, visits, walk
from nodewright_near.trienodes import decode_node, from_nibbles, nibbles, node_total, pack, unpack, value_ref

KEYS = st.binary(max_size=4) | st.text("ab", max_size=8).map(str.encode) | st.binary(min_size=30, max_size=34)
VALUES = st.binary(max_size=6)
CHANGES = st.dictionaries(KEYS, st.none() | VALUES, max_size=8)


class ByPath:
    """Nodes as a store keeps them."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}

    def node(self, path: bytes, digest: bytes) -> bytes:
        raw = self.nodes.get(path)
        if raw is None:
            raise Missing([(path, digest)])
        assert sha256(raw).digest() == digest
        return raw

    def take(self, changed: dict[bytes, bytes | None]) -> None:
        for path, raw in changed.items():
            if raw is None:
                self.nodes.pop(path, None)
            else:
                self.nodes[path] = raw


def built(rows: dict[bytes, bytes]) -> tuple[ByPath, bytes]:
    changed: dict[bytes, bytes | None] = {}
    root = update(NoNodes(), EMPTY_ROOT, rows, changed)
    source = ByPath()
    source.take(changed)
    return source, root


@settings(max_examples=50)
@given(st.data())
def test_other_values_in_a_few_leaves_of_many(data: st.DataObject) -> None:
    """Branches and extensions above leaves that stay leaves, which is what transfers change; lengths change too."""
    rows = {b"%03d-%b" % (number * 37 % 1000, b"common" * (number % 3)): b"v" * (number % 5) for number in range(120)}
    source, root = built(rows)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(rows)), st.binary(max_size=6), min_size=1, max_size=12))
    changed: dict[bytes, bytes | None] = {}
    after = update(source, root, changes, changed)
    source.take(changed)
    whole, expected = built(rows | changes)
    assert after == expected and source.nodes == whole.nodes


class Trie(RuleBasedStateMachine):
    """Batches of changes on a trie by path, beside a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[bytes, bytes] = {}
        self.source = ByPath()
        self.root = EMPTY_ROOT

    @rule(changes=CHANGES, drop=st.booleans())
    def change(self, changes: dict[bytes, bytes | None], drop: bool) -> None:
        if drop:
            changes = {**dict.fromkeys(list(self.rows)[::2]), **changes}
        changed: dict[bytes, bytes | None] = {}
        self.root = update(self.source, self.root, changes, changed)
        self.source.take(changed)
        for key, value in changes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    @rule(prefix=st.binary(max_size=2) | st.sampled_from([b"a", b"ab", b"aab"]))
    def look(self, prefix: bytes) -> None:
        wanted = [(key, value_ref(self.rows[key])) for key in sorted(self.rows) if key.startswith(prefix)]
        assert list(items_under(self.source, self.root, prefix)) == wanted

    @invariant()
    def one_root_and_no_node_too_many(self) -> None:
        source, root = built(self.rows)
        assert self.root == root
        assert self.source.nodes == source.nodes
        for key in [*self.rows, b"", b"ab", b"nobody"]:
            value = self.rows.get(key)
            assert find(self.source, self.root, key) == (None if value is None else value_ref(value))


TestTrie = Trie.TestCase
TestTrie.settings = settings(max_examples=60, stateful_step_count=8, deadline=None)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=12))
def test_memory_usage_is_that_of_all_nodes(rows: dict[bytes, bytes]) -> None:
    source, _ = built(rows)
    total = 0
    for raw in source.nodes.values():
        node = decode_node(raw)
        assert node.encode() == raw
        total += 50
        if hasattr(node, "part"):
            total += 2 * len(pack(node.part, True))
    total += sum(50 + len(value) for value in rows.values())
    assert node_total(source.nodes[b""]) == total


@given(st.binary(max_size=9), st.booleans(), st.booleans())
def test_hex_prefix(key: bytes, leaf: bool, odd: bool) -> None:
    path = nibbles(key)
    assert from_nibbles(path) == key
    part = path[1:] if odd and path else path
    assert unpack(pack(part, leaf)) == (part, leaf)


@given(st.dictionaries(KEYS, VALUES, min_size=2, max_size=16), st.lists(KEYS, max_size=4), CHANGES, st.data())
@settings(max_examples=60)
def test_a_witness_gives_the_same_reads_and_the_same_root_and_nothing_else_does(
    rows: dict[bytes, bytes], extra: list[bytes], changes: dict[bytes, bytes | None], data: st.DataObject
) -> None:
    source, root = built(rows)
    reads = [*extra, *list(rows)[::2]]
    recorder = Recorder(source)
    values = [rows[key] for key in reads if find(recorder, root, key) is not None]
    expected = update(recorder, root, changes, {})
    blobs = sorted({*recorder.seen.values(), *values})

    def check(given: list[bytes]) -> bytes:
        witness = ByHash(given)
        for key in reads:
            ref = find(witness, root, key)
            assert (None if ref is None else witness.value(ref)) == rows.get(key)
        found = update(witness, root, changes, {})
        if not witness.complete():
            raise Malformed("more than was asked for")
        return found

    assert check(blobs) == expected
    at = data.draw(st.integers(0, len(blobs) - 1))
    with pytest.raises((Missing, Malformed)):
        check(blobs[:at] + blobs[at + 1 :])
    with pytest.raises((Missing, Malformed)):
        check([*blobs, b"one more than is needed"])
    if blobs[at]:
        bit = data.draw(st.integers(0, 8 * len(blobs[at]) - 1))
        flipped = bytearray(blobs[at])
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises((Missing, Malformed)):
            check([*blobs[:at], bytes(flipped), *blobs[at + 1 :]])


def test_walking_asks_for_missing_nodes_level_by_level_until_all_are_here() -> None:
    rows = {sha256(bytes([n])).digest(): bytes([n]) for n in range(200)}
    whole, root = built(rows)
    part = ByPath()
    keys = list(rows)[:40]
    rounds = 0
    todo = visits(root, keys)
    while missing := walk(part, todo):
        assert len({path for path, _, _ in missing}) == len(missing)
        part.take({path: whole.nodes[path] for path, _, _ in missing})
        todo = missing
        rounds += 1
    assert 2 <= rounds <= 5
    assert len(part.nodes) < len(whole.nodes)
    assert [find(part, root, key) for key in keys] == [value_ref(rows[key]) for key in keys]
    changes: dict[bytes, bytes | None] = dict.fromkeys(keys, b"new")
    assert update(part, root, changes, {}) == update(whole, root, changes, {})


def test_a_deep_trie_is_no_deeper_for_python_than_it_may_be() -> None:
    rows = {b"a" * size: b"x" for size in range(1, 2000)}
    source, root = built(rows)
    changed: dict[bytes, bytes | None] = {}
    assert update(source, root, dict.fromkeys(rows), changed) == EMPTY_ROOT
    assert find(source, root, b"a" * 1999) == value_ref(b"x")


def test_nodes_that_lie_are_malformed() -> None:
    source, root = built({b"aa": b"1", b"ab": b"2"})
    for raw in source.nodes.values():
        for bad in (raw[:-1], raw + b"\0", b"\x07" + raw[1:]):
            with pytest.raises(Malformed):
                decode_node(bad)
    assert trie.find(source, root, b"aa") == value_ref(b"1")
