"""What compaction strikes: known by runs of bytes where it can be, by a set where not, with one answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodewright.storage.utxo_bundles import Mined
from nodewright.storage.utxo_records import split_ids

IDS = st.lists(st.integers(0, 9), max_size=6).map(lambda numbers: b"".join(bytes([number]) * 32 for number in numbers))


@given(st.lists(IDS, max_size=4), st.lists(IDS, max_size=6), st.lists(st.integers(1, 3), max_size=4))
def test_runs_and_single_ids_are_told_alike(columns: list[bytes], rows: list[bytes], cuts: list[int]) -> None:
    mined = Mined()
    for column in columns:
        mined.add(column)
    inside = {id for column in columns for id in split_ids(column)}
    assert len(mined) == sum(map(len, columns)) // 32
    whole, at = b"".join(columns[:1]), 0
    for cut in cuts:  # as they were admitted
        rows = [whole[at : at + 32 * cut], *rows]
        at += 32 * cut
    for row in rows:
        if mined.goes_on_with(row):
            assert inside.issuperset(split_ids(row))
        assert [id in mined for id in split_ids(row)] == [id in inside for id in split_ids(row)]


def test_a_bundle_admitted_in_its_order_needs_no_set() -> None:
    ids = b"".join(bytes([number]) * 32 for number in range(6))
    mined = Mined()
    mined.add(b"\x77" * 64)
    mined.add(ids)
    assert all(mined.goes_on_with(ids[at : at + 64]) for at in range(0, 192, 64)) and mined._ids is None
    assert not mined.goes_on_with(ids[:32]) and ids[:32] in mined
