"""The state: rows of the applied block in a store, executed blocks above it in memory, earlier ones by reverse records.

Invariants
- The store holds exactly the state, tree and ledger of ``applied``: they and the marker change in one commit, be it of the
  next block or the revert of the last.
- A version's values and nodes are what differs from its parent's; a view looks from the newest version down to the store.
- Caches hold what the store holds for ``applied``. They change only after a commit has returned, and what was read before
  it is not put in after it (``_generation``).
- State is held of every block from ``oldest`` to ``applied``: their tree nodes, and reverse records of all but ``oldest``.
- A view whose base is not under ``applied`` any more never answers: it raises ``Stale``. While a commit is under way, what
  it changes is read as it was before (``_moving``); while a revert is, nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from attrs import define, field

from nodewright.caches import RowCache
from nodewright.errors import Pruned, StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import MAX_PAGE, KeyValueStore, WriteBatch
from nodewright.storage.rows import sound as sound_row
from nodewright.storage.versions import descendants, drop, lineage
from nodewright_aptos import records
from nodewright_aptos.caches import NodeCache
from nodewright_aptos.jmtnodes import Node, decode_node
from nodewright_aptos.records import BlockRow, number, part_key, read_block
from nodewright_aptos.state import Absent

_UNDO_KEPT: Final = 8


T = TypeVar("T")


def sound(what: str, read: Callable[[], T]) -> T:
    """What ``read`` makes of a row. Raises StoreCorrupt where it is not what was written."""
    return sound_row("stores.state", what, read)


def block_of(raw: bytes) -> BlockRow:
    return sound("a block", lambda: read_block(raw))


class Stale(Exception):
    """The state that a view shows has been passed by what was committed or reverted since."""


@define
class Version:
    """An executed block, not yet committed; or, without a parent, the applied one. ``before`` are the values that its
    ``values`` replace; ``sequences`` (sender -> (last sequence number, id)) and ``ids`` are of what it kept."""

    row: BlockRow
    parent: BlockRef | None
    values: dict[bytes, bytes | None] = field(factory=dict)
    nodes: dict[bytes, Node] = field(factory=dict)
    stale: list[bytes] = field(factory=list)
    before: dict[bytes, bytes | None] = field(factory=dict)
    outcome: Any = None
    rows: WriteBatch = field(factory=WriteBatch)
    sequences: Mapping[bytes, tuple[int, bytes]] = field(factory=dict)
    ids: frozenset[bytes] = frozenset()

    @property
    def ref(self) -> BlockRef:
        return self.row.ref


class StateStore:
    """``versions`` by block id, the applied one among them once there is one. ``history`` blocks before the applied one
    stay readable."""

    def __init__(self, store: KeyValueStore, cache_bytes: int, history: int) -> None:
        self.store = store
        self.history = history
        self.versions: dict[bytes, Version] = {}
        self.applied: BlockRow | None = None
        self.oldest = 0
        self.values = RowCache(cache_bytes // 2)
        self.nodes = NodeCache(cache_bytes // 2)
        self._generation = 0
        self._moving: Version | None = None
        self._reverting = False
        self._undo: dict[int, dict[bytes, bytes | None]] = {}

    async def open(self) -> None:
        applied, oldest = await self.store.get_many(records.META, [records.APPLIED, records.OLDEST])
        if applied is not None:
            self._stand_on(sound("the applied block", lambda: read_block(applied)))
            self.oldest = int.from_bytes(oldest or b"", "big")

    def _stand_on(self, row: BlockRow, outcome: Any = None) -> None:
        self.applied = row
        self.versions[row.id] = Version(row, None, outcome=outcome)

    # --- committing --------------------------------------------------------------------------------------------------

    async def install(self, version: Version) -> None:
        """Genesis, into an empty store."""
        batch = self._batch(version, undo=False)
        batch.put(records.META, records.OLDEST, number(version.row.height))
        await self.store.commit(batch)
        self.oldest = version.row.height
        self._committed(version.values, version.nodes)
        self._stand_on(version.row)

    def _batch(self, version: Version, undo: bool = True) -> WriteBatch:
        """The version's rows with everything else that its commit writes; the version is not used again."""
        batch, row = version.rows, version.row
        state = batch.tables.setdefault(records.STATE, {})
        state.update(version.values)
        batch.put_many(records.TREE, {key: node.encode() for key, node in version.nodes.items()})
        batch.new.add(records.TREE)
        raw = row.encode()
        batch.put(records.BLOCKS, number(row.height), raw)
        batch.put(records.BLOCK_IDS, row.id, number(row.height))
        batch.put(records.META, records.APPLIED, raw)
        if undo:
            for part, rows in enumerate(records.encode_undo(version.before)):
                batch.put(records.UNDO, part_key(row.height, part), rows)
            for part, rows in enumerate(records.encode_stale(version.stale)):
                batch.put(records.STALE, part_key(row.version, part), rows)
        return batch

    def _committed(self, values: Mapping[bytes, bytes | None], nodes: Mapping[bytes, Node]) -> None:
        self._generation += 1
        self.values.update(values)
        self.nodes.update(nodes)

    async def commit(self, block: BlockRef) -> Version | None:
        """Durable, in one batch. None where it is applied already. Raises StoreCorrupt without its parent."""
        applied = self.applied
        if applied is not None and block == applied.ref:
            return None
        version = self.versions.get(block.id)
        if version is None or applied is None or version.parent != applied.ref:
            raise StoreCorrupt(f"block {block} was committed without its parent; start the node again to replay")
        batch = self._batch(version)
        pruned, oldest = await self._prune(batch, block.height)
        self.oldest = oldest
        self._moving = version
        try:
            await self.store.commit(batch)
        finally:
            self._moving = None
        self.nodes.drop(pruned)
        self._committed(version.values, version.nodes)
        self.applied = version.row
        self.versions = descendants(self.versions, block.id)
        self._stand_on(version.row, version.outcome)
        return version

    async def _prune(self, batch: WriteBatch, height: int) -> tuple[list[bytes], int]:
        """Into the batch: what is needed only by blocks more than ``history`` below ``height``. Two of them at most, so
        that a setting made smaller is caught up with in time. Returns tree nodes that go, and the oldest block then."""
        gone: list[bytes] = []
        oldest = self.oldest
        for _ in range(2):
            if oldest + self.history >= height:
                break
            oldest += 1
            (raw,) = await self.store.get_many(records.BLOCKS, [number(oldest)])
            if raw is None:
                break
            version = block_of(raw).version
            rows = await self._parts(records.STALE, version)
            gone += sound("a list of stale nodes", partial(records.read_stale, list(rows.values())))
            batch.delete_many(records.STALE, rows)
            batch.delete_many(records.UNDO, await self._parts(records.UNDO, oldest))
        if oldest != self.oldest:
            batch.delete_many(records.TREE, gone)
            batch.new.discard(records.TREE)
            batch.put(records.META, records.OLDEST, number(oldest))
        return gone, oldest

    async def _parts(self, table: str, first: int) -> dict[bytes, bytes]:
        """All parts of one record, in order."""
        rows: dict[bytes, bytes] = {}
        part = 0
        while True:
            keys = [part_key(first, at) for at in range(part, part + (1 if part == 0 else 16))]
            found = await self.store.get_many(table, keys)
            rows.update({key: raw for key, raw in zip(keys, found, strict=True) if raw is not None})
            if found[-1] is None:
                return rows
            part += len(keys)

    def abandon(self, block: BlockRef) -> None:
        if self.applied is None or block != self.applied.ref:
            drop(self.versions, block.id)

    # --- going back --------------------------------------------------------------------------------------------------

    async def revert(self, rows: WriteBatch) -> None:
        """Undo the applied block in one durable batch: its state, tree, block row, and ``rows`` of its ledger, which the
        caller has put in as deletions. Raises Pruned where its reverse record is gone."""
        applied = self.applied
        assert applied is not None
        kept = applied.height > self.oldest
        undo = await self._parts(records.UNDO, applied.height) if kept else {}
        (raw,) = await self.store.get_many(records.BLOCKS, [number(max(applied.height, 1) - 1)])
        if not undo or raw is None:
            raise Pruned(
                f"block {applied.ref} cannot be undone: execution.history keeps {self.history} blocks; sync this node anew"
            )
        parent = block_of(raw)
        before = sound("a reverse record", lambda: records.read_undo(list(undo.values())))
        rows.tables.setdefault(records.STATE, {}).update(before)
        nodes = await self._nodes_of(applied.version)
        rows.delete_many(records.TREE, nodes)
        rows.delete_many(records.STALE, await self._parts(records.STALE, applied.version))
        rows.delete_many(records.UNDO, undo)
        rows.delete(records.BLOCKS, number(applied.height))
        rows.delete(records.BLOCK_IDS, applied.id)
        rows.put(records.META, records.APPLIED, raw)
        self._reverting = True
        try:
            await self.store.commit(rows)
        finally:
            self._reverting = False
        self.nodes.drop(nodes)
        self._undo.pop(applied.height, None)
        self._committed(before, {})
        self.versions = {}
        self._stand_on(parent)

    async def _nodes_of(self, version: int) -> list[bytes]:
        """Keys of the tree nodes that the update at this version wrote."""
        keys: list[bytes] = []
        after: bytes | None = None
        while True:
            page = await self.store.scan(records.TREE, number(version), after, MAX_PAGE)
            keys += [key for key, _ in page.items]
            if page.after is None:
                return keys
            after = page.after

    # --- views -------------------------------------------------------------------------------------------------------

    def view(self, block: bytes) -> View | None:
        """Of the state after a block at or above the applied one; None where it is not here."""
        version = self.versions.get(block)
        return View(self, version) if version is not None else None

    def view_near(self, block: bytes) -> View | None:
        """As ``view``, or else of the applied block; None before genesis."""
        if self.applied is None:
            return None
        return self.view(block) or View(self, self.versions[self.applied.id])

    async def past(self, height: int) -> PastView:
        """Of the state after a committed block below the applied one. Raises Pruned."""
        if self.applied is None or not self.oldest <= height <= self.applied.height:
            raise Pruned(f"the state at block {height} is not held: the oldest that is, is that of block {self.oldest}")
        (raw,) = await self.store.get_many(records.BLOCKS, [number(height)])
        if raw is None:
            raise Pruned(f"the state at block {height} is not held any more")
        return PastView(self, block_of(raw))

    async def undo(self, height: int) -> dict[bytes, bytes | None]:
        """What a committed block changed, as it was before. A few are kept in memory."""
        known = self._undo.get(height)
        if known is None:
            rows = list((await self._parts(records.UNDO, height)).values())
            known = sound("a reverse record", lambda: records.read_undo(rows))
            while len(self._undo) >= _UNDO_KEPT:
                del self._undo[next(iter(self._undo))]
            self._undo[height] = known
        return known

    async def read_values(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Of the applied block. Raises Stale."""
        cache = self.values.rows
        found = {key: cache[key] for key in keys if key in cache}
        if self._moving is not None:
            before = self._moving.before
            found.update({key: before[key] for key in keys if key in before})
        wanted = [key for key in keys if key not in found]
        if wanted:
            if self._reverting:
                raise Stale
            generation = self._generation
            fresh = dict(zip(wanted, await self.store.get_many(records.STATE, wanted), strict=True))
            found.update(fresh)
            if generation == self._generation:
                self.values.update(fresh)
        return found

    def moving_under(self, prefix: bytes) -> dict[bytes, bytes | None]:
        """Rows with a prefix that the commit under way changes, as they were. Raises Stale while a revert is under way."""
        if self._reverting:
            raise Stale
        if self._moving is None:
            return {}
        return {key: value for key, value in self._moving.before.items() if key.startswith(prefix)}

    async def read_nodes(self, keys: Sequence[bytes]) -> dict[bytes, Node | None]:
        cache = self.nodes.rows
        found: dict[bytes, Node | None] = {key: cache.get(key) for key in keys}
        wanted = [key for key, node in found.items() if node is None]
        if wanted:
            generation = self._generation
            raws = await self.store.get_many(records.TREE, wanted)
            there = {key: raw for key, raw in zip(wanted, raws, strict=True) if raw is not None}
            fresh = sound("a node of the tree", lambda: {key: decode_node(raw) for key, raw in there.items()})
            found.update(fresh)
            if generation == self._generation:
                self.nodes.update(fresh)
        return found


class View:
    """The state after one block at or above the applied one: a loader of values and a reader of tree nodes."""

    def __init__(self, store: StateStore, version: Version) -> None:
        self.store = store
        self.row = version.row
        *self._chain, base = lineage(store.versions, version)
        self._base = base.ref

    def _check(self) -> None:
        applied = None if self.store.applied is None else self.store.applied.ref
        if applied != self._base and all(version.ref != applied for version in self._chain):
            raise Stale

    async def values(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = {}
        below: Sequence[bytes] = keys
        if self._chain:
            below = []
            for key in keys:
                for version in self._chain:
                    if key in version.values:
                        found[key] = version.values[key]
                        break
                else:
                    below.append(key)
        if below:
            found.update(await self.store.read_values(below))
            self._check()
        return found

    async def nodes(self, keys: Sequence[bytes]) -> list[Node | None]:
        found: dict[bytes, Node | None] = {}
        below = []
        for key in keys:
            for version in self._chain:
                if key in version.nodes:
                    found[key] = version.nodes[key]
                    break
            else:
                below.append(key)
        if below:
            found.update(await self.store.read_nodes(below))
            self._check()
        return [found[key] for key in keys]

    async def ledger_rows(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Of this block and those before it."""
        found = await self.store.store.get_many(table, list(keys)) if keys else []
        for version in self._chain:
            above = version.rows.tables.get(table, {})
            found = [above.get(key) if raw is None else raw for key, raw in zip(keys, found, strict=True)]
        return found

    async def under(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Keys with this prefix and their values, in order, the first ``limit`` of them beyond ``after``."""
        changes: dict[bytes, bytes | None] = {}
        for version in reversed(self._chain):
            changes.update({key: value for key, value in version.values.items() if key.startswith(prefix)})
        rows = await rows_under(self.store, prefix)
        self._check()
        return _merged(rows, changes, after, limit)


class PastView:
    """The state after a committed block: what it became since, less what later blocks changed. Its tree is all there."""

    def __init__(self, store: StateStore, row: BlockRow) -> None:
        self.store = store
        self.row = row

    def _heights(self) -> range:
        applied = self.store.applied
        if applied is None or not self.store.oldest <= self.row.height <= applied.height:
            raise Stale
        return range(self.row.height + 1, applied.height + 1)

    async def values(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        generation = self.store.applied
        found: dict[bytes, bytes | None] = {}
        rest = list(dict.fromkeys(keys))
        for height in self._heights():
            before = await self.store.undo(height)
            found.update({key: before[key] for key in rest if key in before})
            rest = [key for key in rest if key not in before]
            if not rest:
                break
        if rest:
            found.update(await self.store.read_values(rest))
        if self.store.applied is not generation:
            raise Stale
        return found

    async def nodes(self, keys: Sequence[bytes]) -> list[Node | None]:
        found = await self.store.read_nodes(keys)
        self._heights()
        return [found[key] for key in keys]

    async def under(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        generation = self.store.applied
        changes: dict[bytes, bytes | None] = {}
        for height in reversed(self._heights()):
            before = await self.store.undo(height)
            changes.update({key: value for key, value in before.items() if key.startswith(prefix)})
        rows = await rows_under(self.store, prefix)
        if self.store.applied is not generation:
            raise Stale
        return _merged(rows, changes, after, limit)


Held = View | PastView


async def rows_under(store: StateStore, prefix: bytes) -> dict[bytes, bytes | None]:
    """All rows of the applied state with a prefix: those of one address, so not many."""
    rows: dict[bytes, bytes | None] = {}
    after: bytes | None = None
    while True:
        held = store.moving_under(prefix)
        page = await store.store.scan(records.STATE, prefix, after, MAX_PAGE)
        rows.update(page.items)
        rows.update(held)
        rows.update(store.moving_under(prefix))
        if page.after is None:
            return rows
        after = page.after


def _merged(
    rows: Mapping[bytes, bytes | None], changes: Mapping[bytes, bytes | None], after: bytes | None, limit: int
) -> list[tuple[bytes, bytes]]:
    merged: dict[bytes, bytes | None] = {**rows, **changes}
    ordered = sorted(key for key, value in merged.items() if value is not None and (after is None or key > after))
    return [(key, value) for key in ordered[:limit] if (value := merged[key]) is not None]


class Loaded:
    """The state before a block's transactions, as executors take it (``executors.Base``): what a view says, under what the
    block itself changed before them."""

    def __init__(self, view: Held) -> None:
        self._view = view
        self.known: dict[bytes, bytes | None] = {}

    async def load(self, keys: Iterable[bytes]) -> None:
        known = self.known
        wanted = [key for key in dict.fromkeys(keys) if key not in known]
        if wanted:
            known.update(await self._view.values(wanted))

    def get(self, key: bytes) -> bytes | None:
        try:
            return self.known[key]
        except KeyError:
            raise Absent([key]) from None
