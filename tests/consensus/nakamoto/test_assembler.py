"""The assembler against a plain list: nothing twice, nothing lost, order kept, always a well-shaped block."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nodewright_nakamoto import merkle, subtree
from nodewright_nakamoto.assembler import Assembler, Leaf
from nodewright_nakamoto.subtree import PLACEHOLDER


def leaf(number: int) -> Leaf:
    return Leaf(number.to_bytes(32, "big"), 100 + number % 7, number % 11)


class AssemblerMachine(RuleBasedStateMachine):
    @initialize(exponent=st.integers(1, 4))
    def start(self, exponent: int) -> None:
        self.assembler = Assembler(1 << exponent)
        self.model: list[Leaf] = []
        self.snapshots: list[tuple[int, int, bytes]] = []

    @rule(numbers=st.lists(st.integers(0, 60), max_size=20))
    def extend(self, numbers: list[int]) -> None:
        before = len(self.assembler.sealed)
        sealed = self.assembler.extend([leaf(number) for number in numbers])
        for number in numbers:
            if leaf(number) not in self.model:
                self.model.append(leaf(number))
        assert sealed == self.assembler.sealed[before:]

    @rule(numbers=st.sets(st.integers(0, 60)))
    def remove(self, numbers: set[int]) -> None:
        ids = {leaf(number).id for number in numbers}
        gone = self.assembler.remove(ids)
        assert set(gone) == {one.id for one in self.model if one.id in ids}
        self.model = [one for one in self.model if one.id not in ids]

    @rule(count=st.integers(0, 70), cut=st.integers(1, 9), damaged=st.booleans())
    def remove_block(self, count: int, cut: int, damaged: bool) -> None:
        """Of the first so many in subtrees; where one of its ids is another, nothing happens."""
        ids = [one.id for one in self.model[:count]]
        if damaged and ids:
            ids[len(ids) // 2] = leaf(1000).id
        columns = [b"".join(ids[at : at + cut]) for at in range(0, len(ids), cut)]
        done = self.assembler.remove_block(columns)
        assert done is not (damaged and bool(ids))
        if done:
            self.model = self.model[len(ids) :]

    @rule(data=st.data())
    def rebuild(self, data: st.DataObject) -> None:
        self.model = data.draw(st.permutations(self.model))
        self.assembler.rebuild(self.model)

    @rule()
    def snapshot(self) -> None:
        columns = self.assembler.snapshot()
        if columns is not None:
            self.snapshots.append((self.assembler.series, len(self.assembler.sealed), columns.leaves))

    @invariant()
    def equals_the_model(self) -> None:
        assembler = self.assembler
        assert assembler.leaves() == self.model
        assert assembler.ids() == [one.id for one in self.model]
        assert len(assembler) == len(self.model)

    @invariant()
    def is_a_well_shaped_block(self) -> None:
        columns = self.assembler.template()
        counts = [len(one) for one in columns]
        assert subtree.check_shape(counts) is None
        assert all(count == self.assembler.subtree_size for count in counts[: len(self.assembler.sealed)])
        assert [one.leaves[:32] == PLACEHOLDER for one in columns] == [True, *[False] * len(columns)][: len(columns)]
        if columns:
            first = subtree.FirstSubtree.of(columns[0].leaves)
            prologue = b"\x07" * 32
            flat = prologue + b"".join(one.leaves for one in columns)[32:]
            roots = [merkle.root(one.leaves) for one in columns]
            assert subtree.block_root(prologue, first, roots, counts) == merkle.root(flat)
            assert all(subtree.check_leaves(one.leaves, root) is None for one, root in zip(columns, roots, strict=True))

    @invariant()
    def snapshots_are_prefixes_of_what_they_became(self) -> None:
        columns = self.assembler.template()
        for series, position, leaves in self.snapshots:
            if series == self.assembler.series:
                assert columns[position].leaves.startswith(leaves)


TestAssembler = AssemblerMachine.TestCase
TestAssembler.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("size", [0, 1, 3, 2**21])
def test_a_subtree_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Assembler(size)
