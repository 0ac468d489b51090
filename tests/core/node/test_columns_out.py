"""A block's worth taken out by columns leaves what taking them out one by one leaves."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from nodewright.interfaces import BlockRef
from nodewright.interfaces.pool import InBlock
from nodewright.node.pool import by_block, leading_ids
from nodewright.storage import prefix

BLOCK = BlockRef(7, b"b" * 32)


def id_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "WORTH_IT", 1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), unique=True), st.integers(0, 40), st.lists(st.integers(0, 50), unique=True, max_size=3))
def test_taken_out_as_one_by_one(eager: None, held: list[int], count: int, others: list[int]) -> None:
    keys = list(dict.fromkeys([*held[:count], *others]))
    first, second = {key: str(key) for key in held}, {key: str(key) for key in held}
    assert list(prefix.take_all(first, keys)) == [second.pop(key, None) for key in keys]
    assert list(first.items()) == list(second.items())
    left = min(count, len(first))
    assert prefix.take_leading(first, left) == [second.pop(key) for key in list(second)[:left]]
    assert list(first.items()) == list(second.items())


@given(st.lists(st.integers(), max_size=20), st.integers(1, 6))
def test_in_parts_and_in_order(values: list[int], size: int) -> None:
    left = list(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "PART", size)
        parts = []
        for part in prefix.in_parts(left):
            parts.append(part)
            assert len(left) == len(values) - sum(map(len, parts))
    assert [value for part in parts for value in part] == values
    assert all(len(part) == size for part in parts[:-1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), unique=True), st.integers(0, 60), st.booleans(), st.integers(1, 9))
def test_a_block_in_columns_is_the_mapping_that_it_says(numbers: list[int], count: int, damaged: bool, cut: int) -> None:
    pending = [id_of(number) for number in numbers]
    ids = pending[:count]
    if damaged and ids:
        ids[len(ids) // 2] = id_of(1000)
    committed = InBlock([b"".join(ids[at : at + cut]) for at in range(0, len(ids), cut)], BLOCK)
    plain = dict.fromkeys(ids, BLOCK)
    assert dict(committed) == plain and len(committed) == len(plain) and list(committed) == list(plain)
    assert all(committed[id] is BLOCK for id in ids) and id_of(999) not in committed
    assert by_block(committed) == by_block(plain) == ({BLOCK: ids} if ids else {})
    own = leading_ids(committed, pending)
    assert own == (None if damaged and ids else ids) and all(
        one is two for one, two in zip(own or (), pending, strict=False)
    )
