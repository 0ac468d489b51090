"""A state from one store to another by parts: each proves itself, nothing else is stored, a crash loses nothing."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces import BlockRef, StateTarget
from nodewright.interfaces.storage import WriteBatch
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_near.borsh import encode
from nodewright_near.chunks import ChunkExtra
from nodewright_near.handover import BadTarget, Handover
from nodewright_near.headers import CongestionInfo
from nodewright_near.primitives import NO_HASH
from nodewright_near.shardstore import META, NODES, ROWS, ShardStore, Version
from nodewright_near.stateparts import Walk, check, write
from nodewright_near.trie import EMPTY_ROOT, Missing, NoNodes, update

ROWS_OF_A_STATE = st.dictionaries(st.binary(min_size=1, max_size=6), st.binary(max_size=200), max_size=60)


class ByPath:
    def __init__(self, nodes: dict[bytes, bytes | None]) -> None:
        self.nodes = nodes

    def node(self, path: bytes, digest: bytes) -> bytes:
        raw = self.nodes.get(path)
        if raw is None:
            raise Missing([(path, digest)])
        return raw


def trie(rows: dict[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes | None]]:
    nodes: dict[bytes, bytes | None] = {}
    return update(NoNodes(), EMPTY_ROOT, rows, nodes), nodes


@settings(max_examples=60)
@given(ROWS_OF_A_STATE, st.integers(60, 4000), st.data())
def test_parts_are_all_of_a_state_once_and_nothing_else_passes(
    rows: dict[bytes, bytes], size: int, data: st.DataObject
) -> None:
    root, nodes = trie(rows)
    got_rows: list[tuple[bytes, bytes]] = []
    got_nodes: list[tuple[bytes, bytes]] = []
    parts, index, count = [], 0, 1
    while index < count:
        walk = Walk(root, index, size)
        walk.run(ByPath(nodes))
        raw = write(walk, [rows[one.key] for one in walk.members if one.value is not None])
        checked = check(root, index, raw, size)
        assert checked is not None
        got_rows += checked.rows
        got_nodes += checked.nodes
        parts.append(raw)
        index, count = index + 1, checked.count
    assert sorted(got_rows) == sorted(rows.items())
    assert sorted(got_nodes) == sorted((path, raw) for path, raw in nodes.items() if raw is not None)
    at = data.draw(st.integers(0, count - 1))
    assert check(root, count, parts[at], size) is None
    raw = parts[at]
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    lie = bytearray(raw)
    lie[bit // 8] ^= 1 << bit % 8
    assert check(root, at, bytes(lie), size) is None
    assert check(root, at, raw + b"\0", size) is None
    assert check(sha256(root).digest(), at, raw, size) is None or not rows
    for other in range(count):
        if other != at and parts[other] != raw:
            assert check(root, at, parts[other], size) is None


def large() -> dict[bytes, bytes]:
    return {b"\x09a%d.near,key" % at: bytes([at % 251]) * (20_000 + at) for at in range(160)}


async def giver(block: BlockRef) -> tuple[MemoryStore, ChunkExtra, dict[bytes, bytes]]:
    rows = large()
    root, nodes = trie(rows)
    extra = ChunkExtra(root, NO_HASH, NO_HASH, 5, 0, (), CongestionInfo())
    store = MemoryStore(MemoryDisk("giver"), "node")
    shard = ShardStore(store, 3, 1 << 20)
    await shard.install(block, extra, Version(block, None, extra, dict(rows), nodes))
    return store, extra, rows


async def everything(store: Any, table: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    after = None
    while True:
        page = await store.scan(table, after=after, limit=1000)
        found.update(page.items)
        after = page.after
        if after is None:
            return found


async def test_a_state_is_handed_over_while_it_changes_and_both_are_killed() -> None:
    block = BlockRef(7, sha256(b"block").digest())
    store, extra, rows = await giver(block)
    out = Handover(store)
    assert not await out.share({3: BlockRef(8, b"x" * 32)}), "it stands elsewhere"
    assert await out.share({3: block})
    before = {table: await everything(store, table) for table in (ROWS, NODES)}
    changed = WriteBatch()
    changed.put_many(ROWS, [(key, b"later") for key in before[ROWS]])
    await store.commit(changed)

    disk = MemoryDisk("taker")
    target = StateTarget(block, 3, extra.commitment(), encode(extra))
    old = WriteBatch()
    old.put(ROWS, b"\0\x03left behind", b"row")
    old.put(ROWS, b"\0\x04of another shard", b"row")
    await MemoryStore(disk, "node").commit(old)

    def start() -> MemoryStore:
        """After a crash that loses whatever it can."""
        disk.crash(len(disk.unsynced))
        return MemoryStore(disk, "node")

    taken = 0
    while True:
        taker = Handover(start())
        wanted = await taker.missing(target)
        if not wanted:
            break
        index = wanted[-1]
        part = await out.part(block, 3, index)
        assert part is not None
        for lie in (part[:-1], part + b"\0", b"", part[:40] + bytes([part[40] ^ 1]) + part[41:]):
            held = await everything(taker.store, ROWS)
            assert not await taker.take(target, index, lie)
            assert await everything(taker.store, ROWS) == held
        with pytest.raises(BadTarget):
            await taker.finish(target)
        assert await taker.take(target, index, part)
        assert await taker.take(target, index, part), "once more changes nothing"
        taken += 1
    assert taken > 3
    assert await out.part(block, 3, taken) is None
    assert await out.part(block, 2, 0) is None
    store = start()
    taker = Handover(store)
    await taker.finish(target)
    assert await taker.kept([], 5) == [3]
    for table, was in before.items():
        assert {key: row for key, row in (await everything(store, table)).items() if key[:2] == b"\0\x03"} == was
    shard = ShardStore(store, 3, 1 << 20)
    await shard.open()
    assert shard.applied == block
    assert await shard.read_values(list(rows)) == list(rows.values())

    with pytest.raises(BadTarget):
        await taker.missing(evolve(target, commitment=b"x" * 32))
    await taker.clear(3)
    assert await taker.kept([3, 4], 5) == [4], "let go, whatever the settings name"
    assert await everything(store, META) == {}
    assert set(await everything(store, ROWS)) == {b"\0\x04of another shard"}
    await out.aclose()


async def test_only_the_two_states_shared_last_are_held() -> None:
    block = BlockRef(7, sha256(b"block").digest())
    store, extra, _ = await giver(block)
    out = Handover(store)
    assert await out.share({3: block})
    blocks: list[Any] = []
    for height in (8, 9):
        later = BlockRef(height, sha256(bytes([height])).digest())
        shard = ShardStore(store, 3, 1 << 20)
        await shard.install(later, extra, Version(later, None, extra))
        assert await out.share({3: later})
        blocks.append(later)
    assert await out.part(block, 3, 0) is None
    assert all([await out.part(one, 3, 0) is not None for one in blocks])
    await out.aclose()
