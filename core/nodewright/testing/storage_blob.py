"""Conformance kit of the contract ``blob``."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import strategies as st

from nodewright.errors import StoreError
from nodewright.interfaces.storage import BlobStore
from nodewright.testing.storage_base import StoreKit, tolerant

MIB = 1024 * 1024
KINDS = ("tx", "subtree_data", "b" * 32)


def body(number: int) -> bytes:
    """A body by number: empty, short, or some pages long, with a length that fits none of them."""
    size = (0, 1, 100, 5000, MIB - 1, MIB, MIB + 1, 2 * MIB + 7)[number % 8]
    return (hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]


def id_of(number: int) -> bytes:
    return hashlib.sha256(f"id {number}".encode()).digest()[: (32, 1, 2, 20, 32, 32, 32, 64)[number % 8]]


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def ids_in(store: BlobStore, kind: str) -> set[bytes]:
    found = [id async for id in store.iterate(kind)]
    assert len(found) == len(set(found))
    return set(found)


KIND = st.sampled_from(KINDS)
NUMBER = st.integers(0, 15)
OPERATION = st.one_of(
    st.tuples(st.just("put"), KIND, NUMBER, st.sampled_from([0, 1000, 300_000, 3 * MIB])),
    st.tuples(st.just("put"), KIND, NUMBER, st.sampled_from([0, 1000, 300_000, 3 * MIB])),
    st.tuples(st.just("read"), KIND, NUMBER, st.integers(0, 3 * MIB), st.integers(0, 3 * MIB)),
    st.tuples(st.just("delete"), KIND, st.lists(NUMBER, max_size=3)),
    st.tuples(st.just("reopen")),
)


class BlobStoreTests(StoreKit):
    """Subclass with ``open_store``; name the class ``Test…``."""

    examples = 15

    def test_behaves_as_a_dictionary(self) -> None:
        self.run(st.lists(OPERATION, min_size=1, max_size=12), self._against_model)

    async def _against_model(self, program: list[Any], path: Path) -> None:
        model: dict[tuple[str, bytes], bytes] = {}
        remaining = list(program)
        while remaining:
            async with self.open_store(path) as store:
                while remaining:
                    operation = remaining.pop(0)
                    if operation[0] == "reopen":
                        if not self.volatile:
                            break
                        continue
                    await self._step(store, model, operation)
                await self._compare(store, model)

    async def _step(self, store: BlobStore, model: dict[tuple[str, bytes], bytes], operation: Any) -> None:
        match operation:
            case "put", kind, number, size:
                data = body(number)
                await store.put(kind, id_of(number), pieces(data, size) if size else data)
                model[kind, id_of(number)] = data
            case "read", kind, number, offset, length:
                held = model.get((kind, id_of(number)))
                expected = None if held is None else held[offset : offset + length]
                assert await store.read(kind, id_of(number), offset, length) == expected
            case "delete", kind, numbers:
                await store.delete(kind, [id_of(number) for number in numbers])
                for number in numbers:
                    model.pop((kind, id_of(number)), None)

    async def _compare(self, store: BlobStore, model: dict[tuple[str, bytes], bytes]) -> None:
        ids = [id_of(number) for number in range(16)]
        for kind in KINDS:
            assert await store.exists(kind, ids) == [(kind, id) in model for id in ids]
            assert await ids_in(store, kind) == {id for held, id in model if held == kind}
        for number in range(16):
            held = model.get((KINDS[0], id_of(number)))
            assert await store.get(KINDS[0], id_of(number)) == held
            assert await store.size(KINDS[0], id_of(number)) == (None if held is None else len(held))

    async def test_refuses_names_out_of_bounds(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            for kind in ("", "Tx", "a" * 33, "a/b", "..", "a\n", "1a"):
                with pytest.raises(ValueError):
                    await store.put(kind, b"id", b"")
                with pytest.raises(ValueError):
                    await store.get(kind, b"id")
            for id in (b"", b"i" * 65):
                with pytest.raises(ValueError):
                    await store.put("tx", id, b"")
                with pytest.raises(ValueError):
                    await store.exists("tx", [id])
            with pytest.raises(ValueError):
                await store.read("tx", b"id", -1, 1)

    async def test_what_is_not_there(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            assert await store.get("tx", b"id") is None
            assert await store.size("tx", b"id") is None
            assert await store.read("tx", b"id", 0, 1) is None
            assert await store.exists("tx", []) == []
            await store.delete("tx", [b"id"])
            assert await ids_in(store, "tx") == set()

    async def test_a_put_twice_is_one(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            for _ in range(2):
                await store.put("tx", b"id", b"body")
            async with trio.open_nursery() as nursery:
                for size in (1000, 100_000, MIB, 3 * MIB):
                    nursery.start_soon(store.put, "tx", b"second", pieces(body(7), size))
            assert await store.get("tx", b"second") == body(7)
            assert await ids_in(store, "tx") == {b"id", b"second"}

    async def test_a_broken_stream_leaves_nothing(self, tmp_path: Path) -> None:
        async def broken() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * MIB
            raise OSError("the peer is gone")

        async with self.open_store(tmp_path) as store:
            with pytest.raises(OSError, match="the peer is gone"):
                await store.put("tx", b"id", broken())
            assert await store.exists("tx", [b"id"]) == [False]
            assert await ids_in(store, "tx") == set()
            await store.put("tx", b"id", b"whole")
            assert await store.get("tx", b"id") == b"whole"

    async def test_a_large_body_is_read_in_ranges(self, tmp_path: Path) -> None:
        data = body(7) * 8
        async with self.open_store(tmp_path) as store:
            await store.put("tx", b"id", pieces(data, 77_777))
            parts: list[bytes] = []
            read = 0
            while part := await store.read("tx", b"id", read, 1_000_003):
                parts.append(part)
                read += len(part)
            assert b"".join(parts) == data
            assert await store.read("tx", b"id", len(data), 10) == b""
            assert await store.read("tx", b"id", 5, 0) == b""

    async def test_a_put_that_returned_survives_a_crash(self, tmp_path: Path) -> None:
        if not self.can_crash:
            pytest.skip("cannot be crashed in this process")
        path = tmp_path / "store"
        path.mkdir()
        async with tolerant(self.open_store(path)) as store:
            for number in range(8):
                await store.put("tx", id_of(number), pieces(body(number), 100_000) if number % 2 else body(number))
            survived = await self.crash(store, path, 0)
        async with self.open_store(survived) as store:
            for number in range(8):
                assert await store.get("tx", id_of(number)) == body(number)

    async def test_a_crash_in_a_stream_leaves_nothing(self, tmp_path: Path) -> None:
        if not self.can_crash:
            pytest.skip("cannot be crashed in this process")
        path = tmp_path / "store"
        path.mkdir()
        survived = path

        class Died(Exception):
            pass

        async with tolerant(self.open_store(path)) as store:

            async def dying() -> AsyncIterator[bytes]:
                nonlocal survived
                for _ in range(3):
                    yield b"x" * MIB
                survived = await self.crash(store, path, 7)
                raise Died

            with pytest.raises((Died, StoreError)):
                await store.put("tx", b"id", dying())
        async with self.open_store(survived) as store:
            assert await store.get("tx", b"id") is None
            assert await ids_in(store, "tx") == set()
            await store.put("tx", b"id", b"whole")
            assert await store.get("tx", b"id") == b"whole"
