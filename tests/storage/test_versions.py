"""Executed blocks above the applied one, against a plain model: each block's line of parents, walked one by one."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces.common import BlockRef
from nodewright.storage.versions import descendants, drop, lineage


@frozen
class Block:
    id: bytes
    parent: BlockRef | None


def ref(number: int) -> BlockRef:
    return BlockRef(number, bytes([number]))


def tree(parents: list[int | None]) -> dict[bytes, Block]:
    """Block i stands on ``parents[i]`` % i; the first on none; one whose parent is None on a block that is not here."""
    blocks = {}
    for number, parent in enumerate(parents):
        below = None if number == 0 else ref(200) if parent is None else ref(parent % number)
        blocks[bytes([number])] = Block(bytes([number]), below)
    return blocks


def walked(blocks: dict[bytes, Block], block: Block) -> list[bytes]:
    line = [block.id]
    while (parent := blocks[line[-1]].parent) is not None and parent.id in blocks:
        line.append(parent.id)
    return line


TREES = st.lists(st.none() | st.integers(0, 30), min_size=1, max_size=30)


@settings(max_examples=80)
@given(TREES, st.integers(0, 40))
def test_who_stands_on_whom_is_what_a_walk_says(parents: list[int | None], at: int) -> None:
    blocks = tree(parents)
    block = bytes([at % (len(blocks) + 1)])  # at times one that is not here
    above = {id: one for id, one in blocks.items() if id != block and block in walked(blocks, one)}
    found = descendants(blocks, block)
    assert found == above and list(found) == list(above), "in their order"
    assert descendants(blocks, bytes([200])).keys() == {
        id
        for id, one in blocks.items()
        if (last := blocks[walked(blocks, one)[-1]].parent) is not None and last.id == bytes([200])
    }, "those of a parent that is not here"
    left = dict(blocks)
    drop(left, block)
    assert left == (
        {id: one for id, one in blocks.items() if id not in above and id != block} if block in blocks else blocks
    )


@settings(max_examples=40)
@given(TREES)
def test_a_line_goes_down_to_the_block_without_a_parent(parents: list[int | None]) -> None:
    blocks = tree(parents)
    for block in blocks.values():
        walk = walked(blocks, block)
        if blocks[walk[-1]].parent is None:
            assert [one.id for one in lineage(blocks, block)] == walk
        else:
            with pytest.raises(KeyError):
                lineage(blocks, block)


def test_a_line_of_thousands_is_dropped_at_once() -> None:
    ids = [number.to_bytes(4, "big") for number in range(5000)]
    blocks = {id: Block(id, BlockRef(at - 1, ids[at - 1]) if at else None) for at, id in enumerate(ids)}
    drop(blocks, ids[1])
    assert list(blocks) == ids[:1]
