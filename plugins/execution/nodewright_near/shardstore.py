"""The state of one shard: rows and trie nodes of the applied block in a store, and executed blocks above it in memory.

Tables of the key-value store (all keys begin with the shard's number, u16 big-endian): ``near_state`` rows by key,
``near_nodes`` nodes of the trie by path, ``near_meta`` the applied block. A row's key longer than ``LONG`` bytes is cut and
hashed; such a row holds its whole key.

Invariants
- The store holds exactly the rows of ``applied``: they, and the marker, change in one commit. Its nodes may be older
  (``behind``): what they lack is in memory, and follows from the rows.
- A version's values and nodes are what differs from its parent's; a view looks from the newest version down to the store.
- Caches hold what the store holds for ``applied``. They change only after a commit has returned, and what was read before
  it is not put in after it (``_generation``).
- A view whose base is not under ``applied`` any more never answers: it raises ``Stale``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from attrs import define, evolve, field, frozen

from nodewright.caches import RowCache
from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import KeyValueReader, KeyValueStore, WriteBatch
from nodewright.storage.versions import descendants, drop, lineage
from nodewright_near.behind import Behind, mark_key
from nodewright_near.borsh import U64, decode, encode, struct
from nodewright_near.chunks import ChunkExtra
from nodewright_near.primitives import Hash
from nodewright_near.state import State
from nodewright_near.trie import Missing, Source, find, items_under, update, visits, walk
from nodewright_near.ways import Ways

ROWS: Final = "near_state"
NODES: Final = "near_nodes"
META: Final = "near_meta"
LONG: Final = 440
_CUT: Final = 416
_ABSENT: Any = object()
HELD_BACK_BYTES: Final = 16 * 1024 * 1024


class Stale(Exception):
    """The state that a view shows has been passed by what was committed since."""


@struct
@frozen
class Applied:
    """What ``near_meta`` holds of a shard."""

    height: U64
    block: Hash
    extra: ChunkExtra


@define
class Version:
    """An executed block on one shard, not yet committed; or, without a parent, the applied one."""

    ref: BlockRef
    parent: BlockRef | None
    extra: ChunkExtra
    values: dict[bytes, bytes | None] = field(factory=dict)
    nodes: Mapping[bytes, bytes | None] = field(factory=dict)
    outcome: Any = None
    rows: WriteBatch = field(factory=WriteBatch)
    nonces: Mapping[bytes, tuple[int, bytes]] = field(factory=dict)
    ids: frozenset[bytes] = frozenset()


def row_key(shard: int, key: bytes) -> bytes:
    prefix = shard.to_bytes(2, "big")
    return prefix + key if len(key) <= LONG else prefix + key[:_CUT] + sha256(key).digest()


def row_value(key: bytes, value: bytes) -> bytes:
    return value if len(key) <= LONG else len(key).to_bytes(4, "little") + key + value


def value_of_row(key: bytes, row: bytes) -> bytes:
    return row if len(key) <= LONG else row[4 + len(key) :]


def node_key(shard: int, path: bytes) -> bytes:
    prefix = shard.to_bytes(2, "big")
    return prefix + path if len(path) <= LONG else prefix + b"\xff" + sha256(path).digest()


class SyncPace:
    """Which commits of a store are synced: one whenever ``every`` bytes were written since the last; 0: each."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._written = 0

    def due(self, batch: WriteBatch) -> bool:
        if not self._every:
            return True
        for rows in batch.tables.values():
            self._written += sum(map(len, rows)) + sum([len(value) for value in rows.values() if value is not None])
        if self._written < self._every:
            return False
        self._written = 0
        return True


class ShardStore:
    """``kept`` versions by block id, the applied one among them once there is one."""

    def __init__(
        self,
        store: KeyValueStore,
        shard: int,
        cache_bytes: int,
        pace: SyncPace | None = None,
        behind_bytes: int = HELD_BACK_BYTES,
    ) -> None:
        self.store = store
        self._pace = pace or SyncPace(0)
        self.shard = shard
        self.versions: dict[bytes, Version] = {}
        self.applied: BlockRef | None = None
        self.values = RowCache(cache_bytes // 2)
        self.nodes = RowCache(cache_bytes // 2)
        self.ways = Ways()
        self.behind = Behind(shard, behind_bytes)
        self._generation = 0

    async def open(self) -> None:
        """Raises StoreCorrupt."""
        (raw,) = await self.store.get_many(META, [self.shard.to_bytes(2, "big")])
        if raw is not None:
            marker: Applied = decode(Applied, raw)
            self._stand_on(Version(BlockRef(marker.height, marker.block), None, marker.extra))
            await self._make_nodes(marker)

    async def _make_nodes(self, marker: Applied) -> None:
        """Those that the store does not have, from the rows."""
        keys = await self.behind.read(self.store)
        if self.behind.mark is None:
            return
        changes = dict(zip(keys, await self.read_values(keys), strict=True))
        view = View(
            self, Version(BlockRef(marker.height, marker.block), None, evolve(marker.extra, state_root=self.behind.mark))
        )
        await view.walk(keys)
        while True:
            nodes: dict[bytes, bytes | None] = {}
            try:
                root = update(view, view.root, changes, nodes)
                break
            except Missing as missing:
                await view.fetch(missing.wanted)
        if root != marker.extra.state_root:
            raise StoreCorrupt(
                f"the rows of shard {self.shard} are not those of its block {marker.height}: "
                "restore this store from a copy, or sync it anew"
            )
        self.behind.made(nodes)

    async def write_nodes(self) -> None:
        """All that were held back."""
        if self.behind:
            batch = WriteBatch()
            self._put_nodes(batch, self.behind.nodes)
            self.behind.release(batch)
            await self.store.commit(batch, durable=False)
            self._generation += 1
            self.nodes.update(self.behind.released())

    def _stand_on(self, version: Version) -> None:
        self.applied = version.ref
        self.versions[version.ref.id] = version

    async def install(self, block: BlockRef, extra: ChunkExtra, version: Version) -> None:
        """Genesis: rows and nodes of ``version`` into an empty store."""
        batch = self._batch(version)
        self._put_nodes(batch, version.nodes)
        await self.store.commit(batch)
        self.values.update(version.values)
        self.nodes.update(version.nodes)
        self._stand_on(Version(block, None, extra))

    def learn(self) -> None:
        """The ways of all rows at hand, before the first block changes them. Long: not on the loop."""
        assert self.applied is not None
        view = View(self, self.versions[self.applied.id])
        self.ways.learn(view, view.root, self.values.rows)

    def _batch(self, version: Version) -> WriteBatch:
        """All but the nodes."""
        batch, prefix = version.rows, self.shard.to_bytes(2, "big")
        values = version.values
        if max(map(len, values), default=0) <= LONG:
            batch.tables.setdefault(ROWS, {}).update({prefix + key: value for key, value in values.items()})
        else:
            for key, value in values.items():
                row = None if value is None else row_value(key, value)
                batch.tables.setdefault(ROWS, {})[row_key(self.shard, key)] = row
        marker = Applied(version.ref.height, version.ref.id, version.extra)
        batch.put(META, prefix, encode(marker))
        return batch

    def _put_nodes(self, batch: WriteBatch, nodes: Mapping[bytes, bytes | None]) -> None:
        if nodes:
            shard, rows = self.shard, batch.tables.setdefault(NODES, {})
            prefix = shard.to_bytes(2, "big")
            rows.update({prefix + path if len(path) <= LONG else node_key(shard, path): raw for path, raw in nodes.items()})

    async def commit(self, block: BlockRef) -> Version | None:
        """In one batch, synced as often as the pace says: what a power cut takes is run again by who orders blocks. None
        where it is applied already. Raises StoreCorrupt without its parent."""
        if block == self.applied:
            return None
        version = self.versions.get(block.id)
        if version is None or version.parent is None or version.parent != self.applied:
            raise StoreCorrupt(f"block {block} was committed without its parent; start the node again to replay")
        batch, behind = self._batch(version), self.behind
        before = self.versions[version.parent.id].extra.state_root
        grown = behind.grown(version.nodes)
        if grown is None:
            self._put_nodes(batch, behind.nodes)
            self._put_nodes(batch, version.nodes)
            behind.release(batch)
        else:
            behind.hold(batch, block.height, before, version.values)
        await self.store.commit(batch, durable=self._pace.due(batch))
        self._generation += 1
        self.values.update(version.values)
        if grown is None:
            self.nodes.update(behind.released())
            self.nodes.update(version.nodes)
        else:
            behind.held(block.height, before, version.nodes, grown)
        self.applied = block
        done = Version(block, None, version.extra, outcome=version.outcome)
        self.versions = {block.id: done, **descendants(self.versions, block.id)}
        return version

    def abandon(self, block: BlockRef) -> None:
        if block != self.applied:
            drop(self.versions, block.id)

    def view(self, block: bytes) -> View | None:
        """Of the state after a block; None where it is not here."""
        version = self.versions.get(block)
        return View(self, version) if version is not None else None

    def view_near(self, block: bytes) -> View | None:
        """As ``view``, or else of the applied block; None before genesis."""
        if self.applied is None:
            return None
        return self.view(block) or View(self, self.versions[self.applied.id])

    # --- reading below the versions ---

    async def read_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Of the applied block."""
        cached = self.values.rows.get
        found: list[Any] = [cached(key, _ABSENT) for key in keys]
        if _ABSENT in found:
            places = [at for at, value in enumerate(found) if value is _ABSENT]
            wanted = [keys[at] for at in places]
            generation = self._generation
            rows = await self.store.get_many(ROWS, [row_key(self.shard, key) for key in wanted])
            for at, row in zip(places, rows, strict=True):
                found[at] = None if row is None else value_of_row(keys[at], row)
            if generation == self._generation:
                self.values.update({keys[at]: found[at] for at in places})
        return found

    async def read_nodes(
        self, wanted: Sequence[tuple[bytes, bytes]], still: KeyValueReader | None = None
    ) -> dict[bytes, bytes]:
        generation = self._generation
        rows = await (still or self.store).get_many(NODES, [node_key(self.shard, path) for path, _ in wanted])
        found = {}
        for (path, digest), raw in zip(wanted, rows, strict=True):
            if raw is None or sha256(raw).digest() != digest:
                if still is None and generation != self._generation:
                    raise Stale
                raise StoreCorrupt(
                    f"the state of shard {self.shard} lacks a node of its trie at {path[:32].hex()}: "
                    "restore this store from a copy, or sync it anew"
                )
            found[path] = raw
        if still is None and generation == self._generation:
            self.nodes.update(found)
        return found


class View:
    """The state after one block. It is a ``Source`` of trie nodes and a loader for runs. With ``still``, a snapshot of the
    store, it reads past caches and is never passed by anything."""

    def __init__(self, shard: ShardStore, version: Version, still: KeyValueReader | None = None) -> None:
        self.shard = shard
        self.version = version
        self.root = version.extra.state_root
        *self._chain, base = lineage(shard.versions, version)
        self._base = base.ref
        self._fetched: dict[bytes, bytes] = {}
        self._still = still
        self._behind = dict(shard.behind.nodes) if still is not None else {}

    @classmethod
    async def still(cls, shard: ShardStore, version: Version, snapshot: KeyValueReader) -> View:
        """Raises Stale where the snapshot shows a state that does not lead up to the version."""
        view, mark = cls(shard, version, snapshot), shard.behind.mark
        raw, shown = await snapshot.get_many(META, [shard.shard.to_bytes(2, "big"), mark_key(shard.shard)])
        if raw is None or shown != mark:
            raise Stale
        marker: Applied = decode(Applied, raw)
        if marker.block != view._base.id:
            raise Stale
        return view

    def _check(self) -> None:
        if self._still is not None:
            return
        applied = self.shard.applied
        if applied != self._base and all(version.ref != applied for version in self._chain):
            raise Stale

    def ran(self) -> list[frozenset[bytes]]:
        """The transactions of the blocks from this one down to the applied one, which is left out."""
        return [version.ids for version in self._chain]

    def node(self, path: bytes, digest: bytes) -> bytes:
        for version in self._chain:
            raw = version.nodes.get(path)
            if raw is not None:
                return raw
        raw = self._fetched.get(path)
        if raw is None:
            if self._still is None:
                raw = self.shard.behind.nodes.get(path) or self.shard.nodes.rows.get(path)
            else:
                raw = self._behind.get(path)
            if raw is None:
                raise Missing([(path, digest)])
        return raw

    async def fetch(self, wanted: Sequence[tuple[bytes, bytes]]) -> None:
        self._fetched.update(await self.shard.read_nodes(wanted, self._still))
        self._check()

    async def walk(self, keys: Sequence[bytes]) -> None:
        """Have all nodes on the ways of ``keys`` at hand."""
        todo = visits(self.root, keys)
        while missing := walk(self, todo):
            await self.fetch([(path, digest) for path, digest, _ in missing])
            todo = missing

    async def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[Any] = [_ABSENT] * len(keys)
        for values in [version.values.get for version in reversed(self._chain)]:
            found = [values(key, old) for key, old in zip(keys, found, strict=True)]
        places = [at for at, value in enumerate(found) if value is _ABSENT]
        if places:
            below = await self._below([keys[at] for at in places])
            for at, value in zip(places, below, strict=True):
                found[at] = value
            self._check()
        return found

    async def _below(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self._still is None:
            return await self.shard.read_values(keys)
        rows = await self._still.get_many(ROWS, [row_key(self.shard.shard, key) for key in keys])
        return [None if row is None else value_of_row(key, row) for key, row in zip(keys, rows, strict=True)]

    async def keys_under(self, prefix: bytes) -> list[bytes]:
        while True:
            try:
                return [key for key, _ in items_under(self, self.root, prefix)]
            except Missing as error:
                await self.fetch(error.wanted)

    async def load(self, state: State, keys: Sequence[bytes], prefixes: Sequence[bytes]) -> None:
        for prefix in prefixes:
            state.listed[prefix] = tuple(await self.keys_under(prefix))
        if keys:
            state.loaded.update(zip(keys, await self.values(keys), strict=True))


def proof_values(source: Source, root: bytes, keys: Sequence[bytes], values: Mapping[bytes, bytes | None]) -> list[bytes]:
    """Read ``keys`` through the trie, so that ``source`` sees their paths; the values that are there."""
    return [value for key in keys if find(source, root, key) is not None and (value := values[key]) is not None]
