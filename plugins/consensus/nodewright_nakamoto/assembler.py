"""Continuous assembly of the next block's subtrees. Pure: no clock, no store, no sockets.

Candidates come in dependency order (parents first) and are laid into leaves in that order. A subtree that reaches
``subtree_size`` leaves is sealed. The leaves after the last sealed subtree are *open*; an open run may be announced as
a partial subtree at any time (``snapshot``), and stays open: the next snapshot, or the sealed subtree, has it as a
prefix. So a partial subtree is only ever the last of a block, which is what the block format asks for, and a peer that
has one snapshot needs only the leaves after it to have the next.

Invariants (tests/consensus/nakamoto/test_assembler.py):
- an id stands in the assembly at most once, and in the order in which it was given;
- nothing leaves except through ``remove`` or ``clear``, which name it;
- every sealed subtree has exactly ``subtree_size`` leaves, the first with the coinbase placeholder in leaf 0, and the
  open run has fewer: at any moment sealed + open is a well-shaped block;
- removing only what stands in the open run keeps the sealed subtrees; removing more re-forms all of them, in order,
  under a new ``series`` (leaf 0 is the placeholder, so every later leaf shifts).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Protocol

from attrs import field, frozen

from nodewright_nakamoto.subtree import MAX_LEAVES, PLACEHOLDER, split_ids


@frozen
class Columns:
    """A run of leaves: 32·n bytes and its two columns. ``placeholder`` says whether leaf 0 is the coinbase's place."""

    leaves: bytes = field(repr=False)
    fees: array[int] = field(repr=False)
    sizes: array[int] = field(repr=False)
    placeholder: bool

    def __len__(self) -> int:
        return len(self.leaves) // 32

    @property
    def ids(self) -> bytes:
        return self.leaves[32:] if self.placeholder else self.leaves

    @property
    def count(self) -> int:
        return len(self) - self.placeholder


class Item(Protocol):
    """What assembly needs of a candidate (``interfaces.execution.Candidate`` has these)."""

    @property
    def id(self) -> bytes: ...

    @property
    def size(self) -> int: ...

    @property
    def fee(self) -> int: ...


@frozen
class Leaf:
    id: bytes
    size: int
    fee: int


class Assembler:
    def __init__(self, subtree_size: int) -> None:
        if not 2 <= subtree_size <= MAX_LEAVES or subtree_size & (subtree_size - 1):
            raise ValueError(f"subtree_size must be a power of two from 2 to {MAX_LEAVES}, not {subtree_size}")
        self.subtree_size = subtree_size
        self.series = 0
        self.sealed: list[Columns] = []
        self._members: set[bytes] = set()
        self._open_new()

    def _open_new(self) -> None:
        first = not self.sealed
        self._ids: list[bytes] = [PLACEHOLDER] if first else []
        self._fees = array("Q", [0] if first else [])
        self._sizes = array("Q", [0] if first else [])

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, id: bytes) -> bool:
        return id in self._members

    @property
    def open_count(self) -> int:
        """Transactions in the open run."""
        return len(self._ids) - (not self.sealed)

    def extend(self, candidates: Sequence[Item]) -> list[Columns]:
        """Lay candidates into leaves, skipping ids that stand here already. Returns the subtrees this sealed."""
        members = self._members
        sealed_before = len(self.sealed)
        ids = [candidate.id for candidate in candidates]
        if len(self._ids) + len(ids) < self.subtree_size and members.isdisjoint(ids) and len(set(ids)) == len(ids):
            members.update(ids)
            self._ids += ids
            self._fees.extend([candidate.fee for candidate in candidates])
            self._sizes.extend([candidate.size for candidate in candidates])
            return []
        for candidate in candidates:
            id = candidate.id
            if id in members:
                continue
            members.add(id)
            self._ids.append(id)
            self._fees.append(candidate.fee)
            self._sizes.append(candidate.size)
            if len(self._ids) == self.subtree_size:
                self.sealed.append(self._columns())
                self._open_new()
        return self.sealed[sealed_before:]

    def _columns(self) -> Columns:
        return Columns(b"".join(self._ids), self._fees[:], self._sizes[:], not self.sealed)

    def snapshot(self) -> Columns | None:
        """The open run as a partial subtree; None while it holds no transaction."""
        return self._columns() if self.open_count else None

    def template(self) -> list[Columns]:
        """The subtrees of a block built now, in order: the sealed ones and the open run."""
        partial = self.snapshot()
        return [*self.sealed, partial] if partial else list(self.sealed)

    def ids(self) -> list[bytes]:
        """Every transaction here, in order."""
        return [id for columns in self.template() for id in split_ids(columns.ids)]

    def leaves(self) -> list[Leaf]:
        found: list[Leaf] = []
        for columns in self.template():
            ids, skip = columns.leaves, int(columns.placeholder)
            found.extend(
                Leaf(ids[32 * i : 32 * i + 32], columns.sizes[i], columns.fees[i]) for i in range(skip, len(columns))
            )
        return found

    def remove(self, ids: Collection[bytes]) -> list[bytes]:
        """Take these out (mined elsewhere, evicted, no longer pending); returns those that stood here. What is left
        keeps its order."""
        gone = self._members.intersection(ids)
        if not gone:
            return []
        if len(gone) == len(self._members):
            return self.clear()
        open_ids = set(self._ids)
        if gone <= open_ids:
            self._members -= gone
            kept = [i for i, id in enumerate(self._ids) if id not in gone]
            self._ids = [self._ids[i] for i in kept]
            self._fees = array("Q", [self._fees[i] for i in kept])
            self._sizes = array("Q", [self._sizes[i] for i in kept])
            self.series += 1
        else:
            self._keep_only(gone)
        return list(gone)

    def remove_block(self, columns: Sequence[bytes]) -> bool:
        """Take out a block that is what stands here, or begins it, leaf for leaf (``columns``: the ids of each of its
        subtrees). False, and nothing is done, where it is not: then ``remove`` does it."""
        taken = b"".join(columns)
        if not taken:
            return True
        here = b"".join([run.ids for run in self.template()])
        if not here.startswith(taken):
            return False
        if len(here) == len(taken):
            self._empty()
        else:
            self._keep_only(set(split_ids(taken)))
        return True

    def _keep_only(self, gone: set[bytes]) -> None:
        """Re-form everything but ``gone``, by columns: the cost is a set look-up and three copies per transaction."""
        runs = self.template()
        ids = [id for run in runs for id in split_ids(run.ids)]
        fees, sizes = array("Q"), array("Q")
        for run in runs:
            fees.extend(run.fees[run.placeholder :])
            sizes.extend(run.sizes[run.placeholder :])
        kept = [i for i, id in enumerate(ids) if id not in gone]
        members = self._members - gone
        self.clear()
        self._members = members
        start, room = 0, self.subtree_size - 1  # leaf 0 of the first subtree is the placeholder
        while start < len(kept):
            part = kept[start : start + room]
            self._ids += [ids[i] for i in part]
            self._fees.extend([fees[i] for i in part])
            self._sizes.extend([sizes[i] for i in part])
            if len(self._ids) == self.subtree_size:
                self.sealed.append(self._columns())
                self._open_new()
            start, room = start + len(part), self.subtree_size

    def rebuild(self, leaves: Sequence[Item]) -> list[Columns]:
        """Replace the whole assembly by these, in order (a reorganisation puts what it took back in front)."""
        self.clear()
        return self.extend(leaves)

    def clear(self) -> list[bytes]:
        """Take everything out; returns what stood here."""
        gone = list(self._members)
        self._empty()
        return gone

    def _empty(self) -> None:
        self._members = set()
        self.sealed = []
        self.series += 1
        self._open_new()
