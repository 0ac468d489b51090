"""Trie nodes that are held back: whatever is written when, and wherever a process dies, the state is whole."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import WriteBatch
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_near.behind import BEHIND, Behind, mark_key
from nodewright_near.chunks import ChunkExtra
from nodewright_near.headers import CongestionInfo
from nodewright_near.layers import Layer
from nodewright_near.primitives import NO_HASH
from nodewright_near.shardstore import META, NODES, ROWS, ShardStore, Stale, Version, View, node_key, row_key
from nodewright_near.trie import EMPTY_ROOT, NoNodes, find, update

SHARD = 3
KEYS = st.text("ab", min_size=1, max_size=6).map(str.encode) | st.just(b"long" * 130)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(min_size=1, max_size=3), min_size=0, max_size=6)
STEPS = st.lists(st.tuples(CHANGES, st.sampled_from(("", "", "", "dies", "dies", "writes", "stops"))), max_size=9)


def extra(root: bytes) -> ChunkExtra:
    return ChunkExtra(root, NO_HASH, NO_HASH, 0, 0, (), CongestionInfo())


def block(height: int) -> BlockRef:
    return BlockRef(height, sha256(bytes([height])).digest())


def trie(rows: dict[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    changed: dict[bytes, bytes | None] = {}
    root = update(NoNodes(), EMPTY_ROOT, rows, changed)
    return root, {path: raw for path, raw in changed.items() if raw is not None}


async def begun(store: MemoryStore, rows: dict[bytes, bytes], budget: int) -> ShardStore:
    root, nodes = trie(rows)
    shard = ShardStore(store, SHARD, 1 << 20, behind_bytes=budget)
    await shard.open()
    await shard.install(block(0), extra(root), Version(block(0), None, extra(root), dict(rows), dict(nodes)))
    return shard


async def put(shard: ShardStore, height: int, changes: dict[bytes, bytes | None]) -> None:
    """A block with these changes, committed."""
    view = shard.view(block(height - 1).id)
    assert view is not None
    nodes: dict[bytes, bytes | None] = {}
    await view.walk(list(changes))
    while True:
        try:
            nodes.clear()
            root = update(view, view.root, changes, nodes)
            break
        except LookupError as missing:
            await view.fetch(missing.wanted)  # type: ignore[attr-defined]
    version = Version(block(height), block(height - 1), extra(root), changes, nodes)
    shard.versions[block(height).id] = version
    await shard.commit(block(height))


async def check(shard: ShardStore, rows: dict[bytes, bytes], height: int) -> None:
    """Root and every value, by nodes that are at hand or fetched."""
    root, nodes = trie(rows)
    view = shard.view(block(height).id)
    assert view is not None and view.root == root
    await view.walk(list(rows))
    for key, value in rows.items():
        found = find(view, root, key)
        assert found is not None and found[1] == sha256(value).digest()
    assert await view.values(list(rows)) == list(rows.values())
    kept = {path: view.node(path, b"") for path in nodes}
    assert kept == nodes


async def in_store(store: MemoryStore, table: str) -> dict[bytes, bytes]:
    page = await store.scan(table, limit=10_000)
    return dict(page.items)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from((0, 700, 1 << 20)))
async def test_nodes_are_whole_after_any_end(steps, budget):
    disk = MemoryDisk("stores.state")
    store = MemoryStore(disk, "test")
    rows: dict[bytes, bytes] = {b"first": b"value"}
    shard = await begun(store, rows, budget)
    for height, (changes, then) in enumerate(steps, 1):
        changes = {key: value for key, value in changes.items() if rows.get(key) != value}
        await put(shard, height, changes)
        for key, value in changes.items():
            rows.pop(key, None) if value is None else rows.update({key: value})
        if then in ("writes", "stops"):
            await shard.write_nodes()
            assert not shard.behind and not await in_store(store, BEHIND)
            assert await in_store(store, NODES) == {node_key(SHARD, path): raw for path, raw in trie(rows)[1].items()}
        if then in ("dies", "stops"):
            shard = ShardStore(store, SHARD, 1 << 20, behind_bytes=budget)
            await shard.open()
        assert len(shard.behind.nodes) == 0 or budget
        await check(shard, rows, height)


async def test_a_commit_writes_rows_and_no_nodes_until_there_is_no_room():
    store = MemoryStore(MemoryDisk("stores.state"), "test")
    rows = {b"key%03d" % number: b"%08d" % number for number in range(200)}
    shard = await begun(store, dict(rows), 16_000)
    before = await in_store(store, NODES)
    written = []
    for height in range(1, 12):
        changes: dict[bytes, bytes | None] = {
            b"key%03d" % ((number + 20 * height) % 200): b"%08d" % height for number in range(30)
        }
        await put(shard, height, changes)
        rows.update({key: value for key, value in changes.items() if value is not None})
        stored = await in_store(store, NODES)
        written.append(stored != before)
        before = stored
        assert (await in_store(store, ROWS))[row_key(SHARD, b"key%03d" % (20 * height % 200))] == b"%08d" % height
        assert bool(await in_store(store, BEHIND)) == bool(shard.behind)
    assert any(written) and not written[0] and not all(written[1:])
    await check(shard, rows, 11)


async def test_rows_that_are_not_those_of_the_block_are_found_at_the_start():
    store = MemoryStore(MemoryDisk("stores.state"), "test")
    shard = await begun(store, {b"one": b"1", b"two": b"2"}, 1 << 20)
    await put(shard, 1, {b"one": b"3"})
    batch = WriteBatch()
    batch.put(ROWS, row_key(SHARD, b"one"), b"4")
    await store.commit(batch)
    with pytest.raises(StoreCorrupt, match="rows of shard 3 are not those of its block 1"):
        await ShardStore(store, SHARD, 1 << 20).open()


async def test_a_snapshot_is_read_with_what_was_held_back_then():
    store = MemoryStore(MemoryDisk("stores.state"), "test")
    rows = {b"key%03d" % number: b"%08d" % number for number in range(40)}
    shard = await begun(store, dict(rows), 1 << 20)
    await put(shard, 1, {b"key001": b"changed."})
    rows[b"key001"] = b"changed."
    version = shard.versions[block(1).id]
    async with store.snapshot() as snapshot:
        view = await View.still(shard, version, snapshot)
        await put(shard, 2, {b"key002": b"another."})
        await view.walk(list(rows))
        for key, value in rows.items():
            found = find(view, view.root, key)
            assert found is not None and found[1] == sha256(value).digest()
    async with store.snapshot() as snapshot:
        version = shard.versions[block(2).id]
        await shard.write_nodes()
        with pytest.raises(Stale):  # its nodes are older than what is held back now
            await View.still(shard, version, snapshot)
    assert await store.get_many(META, [mark_key(SHARD)]) == [None]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 30), min_size=1), st.integers(0, 2)), max_size=12))
def test_layers_are_held_back_as_their_nodes_are(steps):
    """Columns, plain nodes, and other columns (what was known of the trie was forgotten) in between: the same is held, and
    the same is counted."""
    np = pytest.importorskip("numpy")
    budget = 1500
    paths = [[b"p%d" % number for number in range(31)] for _ in range(2)]
    paths[1].reverse()
    quick, plain = Behind(0, budget), Behind(0, budget)
    for number, (wide, chosen, kind) in enumerate(steps):
        which = paths[kind % 2]
        raws = [b"%d:%d" % (number, at) * (1 + wide) for at in sorted(chosen)]
        nodes = dict(zip([which[at] for at in sorted(chosen)], raws, strict=True))
        sizes = np.array([len(raw) for raw in raws], np.int64)
        columns = np.array(sorted(chosen), np.int64), sizes, np.cumsum(sizes)
        layer = nodes if kind == 2 else Layer(which, *columns, b"".join(raws))
        assert dict(layer) == nodes and len(layer) == len(nodes) and layer.get(b"none") is None
        layer = nodes if kind == 2 else Layer(which, *columns, b"".join(raws))
        grown = plain.grown(nodes)
        assert quick.grown(layer) == grown
        if grown is None:
            assert quick.released() == plain.released()
        else:
            quick.held(number, bytes(32), layer, grown)
            plain.held(number, bytes(32), nodes, grown)
            if wide:
                assert quick.nodes == plain.nodes
    assert quick.nodes == plain.nodes
