"""What of the store is pure: entries of the journal, the index of keys, what is not retired, groups of commits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError, StoreCorrupt, StoreError, StoreFull
from nodewright.storage.utxo_records import SPENT
from nodewright_aerospike.applier import merge
from nodewright_aerospike.config import AerospikeConfig, check_config
from nodewright_aerospike.entry import decode, encode
from nodewright_aerospike.keyindex import KeyIndex
from nodewright_aerospike.layout import OUTPUTS_PER_RECORD, spender_place, split_spenders
from nodewright_aerospike.overlay import Commit, Overlay
from nodewright_aerospike.problems import BUSY, FULL, NO_NAMESPACE, TOO_BIG, Place, ServerAway, away, final, problem

ROWS = st.dictionaries(st.binary(max_size=4), st.none() | st.binary(max_size=4), max_size=5)
TABLES = st.dictionaries(st.sampled_from(["a", "b", "t" * 48]), ROWS, max_size=3)
KEYS = st.binary(max_size=2)


@given(TABLES)
def test_an_entry_comes_back(tables: dict[str, dict[bytes, bytes | None]]) -> None:
    assert decode(encode(tables)) == tables


@given(TABLES, st.data())
def test_an_entry_cut_anywhere_is_refused_or_whole(
    tables: dict[str, dict[bytes, bytes | None]], data: st.DataObject
) -> None:
    """The journal's own checksum finds damage; what is decoded all the same never reaches outside the entry."""
    raw = encode(tables)
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found = decode(cut)
    except StoreCorrupt:
        return
    assert all(found[name] == tables[name] for name in found)


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=60), KEYS, KEYS, st.booleans(), st.integers(1, 20))
def test_the_index_is_a_sorted_set(
    changes: list[tuple[bytes, bool]], start: bytes, end: bytes, inclusive: bool, limit: int
) -> None:
    index, model = KeyIndex(), set()
    for key, there in changes:
        (index.add if there else index.discard)(key)
        (model.add if there else model.discard)(key)
    assert index.count == len(model)
    expected = sorted(key for key in model if key < end and (key > start or (inclusive and key == start)))
    assert index.range(start, inclusive, end, limit) == expected[:limit]


def test_a_large_index_splits_and_empties() -> None:
    keys = [(number * 7919 % 10_007).to_bytes(2, "big") for number in range(10_007)]
    index = KeyIndex(keys[:100])
    for key in keys:
        index.add(key)
    assert index.range(b"", True, None, 20_000) == sorted(keys)
    for key in keys:
        index.discard(key)
    assert index.count == 0 and index.range(b"", True, None, 1) == []


@given(st.lists(TABLES, max_size=6), st.data())
def test_what_is_not_retired_is_the_newest(
    commits: list[dict[str, dict[bytes, bytes | None]]], data: st.DataObject
) -> None:
    overlay = Overlay()
    made = [Commit(number, tables, 1) for number, tables in enumerate(commits, 1)]
    for commit in made:
        overlay.add(commit)
    retired = data.draw(st.integers(0, len(made)))
    for commit in made[:retired]:
        overlay.retire(commit)
    left = made[retired:]
    assert overlay.size == len(left)
    for table in ("a", "b", "t" * 48):
        expected: dict[bytes, bytes | None] = {}
        for commit in left:
            expected.update(commit.tables.get(table, {}))
        assert overlay.rows.get(table, {}) == expected


def test_an_output_spent_again_loses_its_spender_first() -> None:
    """Within one group: spent by one, taken back, spent by another. The server must not keep the first."""
    outpoint, other = b"x" * 36, b"y" * 36
    commits = [
        Commit(1, {SPENT: {outpoint: b"first", other: b"kept"}}, 1),
        Commit(2, {SPENT: {outpoint: None}}, 1),
        Commit(3, {SPENT: {outpoint: b"second"}}, 1),
    ]
    tables, respent = merge(commits)
    assert tables == {SPENT: {outpoint: b"second", other: b"kept"}} and respent == {outpoint}
    index = int.from_bytes(b"xxxx", "little")
    put, gone = split_spenders(tables[SPENT], respent)
    assert put[spender_place(outpoint)[0]] == {index: b"second"} and gone == {spender_place(outpoint)[0]: [index]}


def test_spenders_of_many_outputs_are_in_records_of_their_own() -> None:
    txid = b"t" * 32
    assert spender_place(txid + (OUTPUTS_PER_RECORD - 1).to_bytes(4, "little")) == (txid, OUTPUTS_PER_RECORD - 1)
    assert spender_place(txid + OUTPUTS_PER_RECORD.to_bytes(4, "little")) == (txid + b"\0\0\0\x01", OUTPUTS_PER_RECORD)


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        (NO_NAMESPACE, ConfigurationError, "stores.utxo.namespace"),
        (FULL, StoreFull, "stop-writes"),
        (BUSY, StoreError, "transaction-pending-limit"),
        (TOO_BIG, StoreError, "max-record-size"),
        (4, StoreError, "code 4"),
    ],
)
def test_each_failure_is_one_sentence(code: int, kind: type[Exception], named: str) -> None:
    place = Place("stores.utxo", "db", 3000, "nodewright", "stores.utxo")
    said = final(code, "what the server says", place)
    assert isinstance(said, kind) and named in str(said) and "\n" not in str(said)


def test_a_busy_record_is_tried_again_and_then_named() -> None:
    place = Place("stores.utxo", "db", 3000, "nodewright", "stores.utxo")
    error = problem(BUSY, "hot key", place)
    assert isinstance(error, ServerAway)
    assert "transaction-pending-limit" in str(away(error, place, 1.0))


def test_settings_that_no_type_refuses() -> None:
    assert check_config(AerospikeConfig()) == []
    assert len(check_config(AerospikeConfig(host="", namespace="", sets="a_b", store="s" * 256))) == 4
