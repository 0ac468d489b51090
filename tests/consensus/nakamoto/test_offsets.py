"""Single bodies of stored subtrees: those that were stored, and read without reading the whole subtree."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.storage.blob_adapter import open_blobs
from nodewright.testing.environment import LocalEnvironment
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto import offsets, subtree
from nodewright_nakamoto.store import SUBTREE, SUBTREE_DATA, ChainStore

DICE = random.Random(5)


class Counted:
    """Counts what is read of a blob store."""

    def __init__(self, blobs: Any) -> None:
        self.blobs = blobs
        self.bytes = self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blobs, name)

    async def get(self, kind: str, id: bytes) -> bytes | None:
        return self._count(await self.blobs.get(kind, id))

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        return self._count(await self.blobs.read(kind, id, offset, length))

    def _count(self, data: bytes | None) -> bytes | None:
        self.bytes += len(data or b"")
        self.reads += 1
        return data


def a_subtree(sizes: list[int], placeholder: bool) -> tuple[subtree.Subtree, list[bytes], list[bytes]]:
    ids = [DICE.randbytes(32) for _ in sizes]
    bodies = [DICE.randbytes(size) for size in sizes]
    first = [subtree.PLACEHOLDER] if placeholder else []
    zero = [0] if placeholder else []
    built = subtree.build(b"".join([*first, *ids]), [*zero, *[1 for _ in ids]], [*zero, *sizes])
    return built, ids, bodies


@pytest.mark.parametrize("placeholder", [False, True])
async def test_one_of_many_costs_little(tmp_path: Path, placeholder: bool) -> None:
    environment = LocalEnvironment(tmp_path)
    async with open_blobs(MemoryStore(MemoryDisk("b"), "n"), environment) as blobs:
        counted = Counted(blobs)
        store = ChainStore(MemoryStore(MemoryDisk("c"), "n"), counted, environment)
        built, ids, bodies = a_subtree([DICE.randrange(1, 40) for _ in range(150_000)], placeholder)
        await store.put_bundle(built, bodies)
        assert await store.transactions([ids[149_998], ids[7]]) == [bodies[149_998], bodies[7]]  # and it is scanned
        for picked in (0, 1023, 1024, 77_777, 149_999):
            counted.bytes = counted.reads = 0
            assert await store.transactions([ids[picked]]) == [bodies[picked]]
            assert counted.bytes <= 48 * offsets.STRIDE + 40
        counted.bytes = counted.reads = 0
        asked = list(range(149_999, 149_999 - 4096, -1))
        assert await store.transactions([ids[at] for at in asked]) == [bodies[at] for at in asked]
        assert counted.reads <= 12
        assert counted.bytes < 6 * offsets.STRIDE * (48 + 40)
        assert await store.drop_bundle(built.root)
        assert await store.transactions([ids[5]]) == [None]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=8, max_size=60),
    placeholder=st.booleans(),
    picks=st.lists(st.integers(0, 59), min_size=1, max_size=7),
)
def test_any_of_any(tmp_path_factory: Any, sizes: list[int], placeholder: bool, picks: list[int]) -> None:
    """With strides and spans so short that every edge is met."""

    async def run() -> None:
        environment = LocalEnvironment(tmp_path_factory.mktemp("n"))
        async with open_blobs(MemoryStore(MemoryDisk("b"), "n"), environment) as blobs:
            built, _, bodies = a_subtree(sizes, placeholder)
            await blobs.put(SUBTREE_DATA, built.root, b"".join(bodies))
            await blobs.put(SUBTREE, built.root, subtree.encode(built))
            one = offsets.Offsets(blobs, environment, SUBTREE, SUBTREE_DATA)
            leaves = [pick % len(sizes) + placeholder for pick in picks]
            found = await one.bodies(built.root, leaves, len(built))
            assert found == {leaf: bodies[leaf - placeholder] for leaf in leaves}
            assert await one.bodies(bytes(32), leaves, len(built)) == {}

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STRIDE": 4, "SCAN_RECORDS": 8, "SPAN_BYTES": 50, "GAP_BYTES": 10}.items():
            patch.setattr(offsets, name, value)
        trio.run(run)
