"""Conformance kit of the contract ``key-value``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import strategies as st

from nodewright.interfaces.storage import (
    MAX_KEY_BYTES,
    MAX_PAGE,
    MAX_VALUE_BYTES,
    KeyValueReader,
    KeyValueStore,
    WriteBatch,
)
from nodewright.testing.storage_base import StoreKit, tolerant

Model = dict[str, dict[bytes, bytes]]
Rows = list[tuple[str, bytes, bytes | None]]

TABLES = ("a", "b", "a_b")
KEYS = st.one_of(
    st.binary(max_size=3),
    st.sampled_from([b"", b"\x00", b"\xff", b"\xff\xff", b"k" * MAX_KEY_BYTES, b"a\x00", b"a\xff"]),
)
VALUES = st.one_of(st.binary(max_size=20), st.just(b""), st.integers(1000, 70_000).map(lambda size: b"v" * size))
TABLE = st.sampled_from(TABLES)
BATCH = st.lists(st.tuples(TABLE, KEYS, st.none() | VALUES), max_size=12)
COMMIT = st.tuples(st.just("commit"), BATCH, st.booleans())
OPERATION = st.one_of(
    COMMIT,
    COMMIT,
    st.tuples(st.just("get"), TABLE, st.lists(KEYS, max_size=6)),
    st.tuples(st.just("scan"), TABLE, st.binary(max_size=1), st.none() | KEYS, st.integers(1, 5)),
    st.tuples(st.just("delete_range"), TABLE, KEYS, KEYS),
    st.tuples(st.just("reopen")),
)


def batch_of(rows: Rows) -> WriteBatch:
    batch = WriteBatch()
    for table, key, value in rows:
        if value is None:
            batch.delete(table, key)
        else:
            batch.put(table, key, value)
    return batch


def apply(model: Model, rows: Rows) -> Model:
    """A changed copy of the model."""
    changed = {table: dict(held) for table, held in model.items()}
    for table, key, value in rows:
        held = changed.setdefault(table, {})
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value
    return changed


async def read_all(reader: KeyValueReader, limit: int = 3) -> Model:
    """Every row of the kit's tables, read page by page; tables without rows are left out."""
    found: Model = {}
    for table in TABLES:
        rows: dict[bytes, bytes] = {}
        after = None
        while True:
            page = await reader.scan(table, after=after, limit=limit)
            assert len(page.items) <= limit
            for key, value in page.items:
                assert key not in rows, "a scan gave a key twice"
                rows[key] = value
            after = page.after
            if after is None:
                break
        if rows:
            found[table] = rows
    return found


def without_empty(model: Model) -> Model:
    return {table: rows for table, rows in model.items() if rows}


class KeyValueStoreTests(StoreKit):
    """Subclass with ``open_store``; name the class ``Test…``."""

    # --- against a model ---------------------------------------------------------------------------------------------

    def test_behaves_as_a_dictionary(self) -> None:
        self.run(st.lists(OPERATION, min_size=1, max_size=25), self._against_model)

    async def _against_model(self, program: list[Any], path: Path) -> None:
        model: Model = {}
        remaining = list(program)
        while remaining:
            async with self.open_store(path) as store:
                while remaining:
                    operation = remaining.pop(0)
                    if operation[0] == "reopen":
                        if not self.volatile:
                            break
                        continue
                    model = await self._step(store, model, operation)
                assert await read_all(store) == without_empty(model)

    async def _step(self, store: KeyValueStore, model: Model, operation: Any) -> Model:
        match operation:
            case "commit", rows, durable:
                await store.commit(batch_of(rows), durable=durable)
                return apply(model, rows)
            case "get", table, keys:
                held = model.get(table, {})
                assert await store.get_many(table, keys) == [held.get(key) for key in keys]
            case "scan", table, prefix, after, limit:
                await self._check_page(store, model.get(table, {}), table, prefix, after, limit)
            case "delete_range", table, start, end:
                gone = [key for key in model.get(table, {}) if start <= key < end]
                assert await store.delete_range(table, start, end) == len(gone)
                return apply(model, [(table, key, None) for key in gone])
        return model

    async def _check_page(
        self, store: KeyValueStore, held: dict[bytes, bytes], table: str, prefix: bytes, after: bytes | None, limit: int
    ) -> None:
        if "ordered" not in self.capabilities:
            after = None
        page = await store.scan(table, prefix, after, limit)
        matching = sorted(
            item for item in held.items() if item[0].startswith(prefix) and (after is None or item[0] > after)
        )
        if "ordered" in self.capabilities:
            assert page.items == matching[:limit]
            assert page.after == (page.items[-1][0] if len(matching) > limit else None)
        else:
            assert len(page.items) == min(limit, len(matching))
            assert set(page.items) <= set(matching)

    # --- limits ------------------------------------------------------------------------------------------------------

    async def test_takes_what_the_limits_allow(self, tmp_path: Path) -> None:
        batch = WriteBatch()
        batch.put("t" * 48, b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES)
        batch.put("t", b"", b"")
        async with self.open_store(tmp_path) as store:
            await store.commit(batch)
            (large,) = await store.get_many("t" * 48, [b"k" * MAX_KEY_BYTES])
            assert large is not None and len(large) == MAX_VALUE_BYTES
            assert await store.get_many("t", [b"", b"x"]) == [b"", None]
            assert (await store.scan("t")).items == [(b"", b"")]

    async def test_refuses_what_is_over_the_limits(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            for table, key, value in (
                ("t", b"k" * (MAX_KEY_BYTES + 1), b""),
                ("t", b"k", b"v" * (MAX_VALUE_BYTES + 1)),
                ("", b"k", b""),
                ("T", b"k", b""),
                ("t" * 49, b"k", b""),
                ("t\n", b"k", b""),
            ):
                batch = WriteBatch()
                batch.put("a", b"beside", b"it")
                batch.put(table, key, value)
                with pytest.raises(ValueError):
                    await store.commit(batch)
            for limit in (0, -1, MAX_PAGE + 1):
                with pytest.raises(ValueError):
                    await store.scan("a", limit=limit)
            with pytest.raises(ValueError):
                await store.get_many("a-b", [b"k"])
            assert await read_all(store) == {}, "a refused batch left something"

    async def test_an_unknown_table_is_empty(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            assert await store.get_many("never", [b"k"]) == [None]
            assert (await store.scan("never")).items == []
            assert await store.delete_range("never", b"", b"\xff") == 0
            assert await store.get_many("never", []) == []
            await store.commit(WriteBatch())

    async def test_a_large_table_in_pages(self, tmp_path: Path) -> None:
        rows = {hashlib.sha256(str(number).encode()).digest()[:8]: str(number).encode() for number in range(2500)}
        batch = WriteBatch()
        batch.put_many("a", rows)
        batch.put("a_b", b"beside", b"")
        async with self.open_store(tmp_path) as store:
            await store.commit(batch, durable=False)
            assert (await read_all(store, limit=999))["a"] == rows
            whole = await store.scan("a", limit=MAX_PAGE)
            assert dict(whole.items) == rows and whole.after is None
            if "ordered" in self.capabilities:
                assert whole.items == sorted(rows.items())
            keys = list(rows)
            assert await store.get_many("a", keys) == list(rows.values())
            assert await store.delete_range("a", b"", b"\xff" * 9) == 2500
            assert (await store.scan("a")).items == []
            assert len((await store.scan("a_b")).items) == 1

    async def test_a_page_of_large_values_fits_in_memory(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            for number in range(6):
                batch = WriteBatch()
                batch.put("a", bytes([number]), bytes([number]) * MAX_VALUE_BYTES)
                await store.commit(batch, durable=False)
            seen: list[bytes] = []
            after = None
            while True:
                page = await store.scan("a", after=after, limit=1000)
                assert sum(len(value) for _, value in page.items) <= 4 * MAX_VALUE_BYTES
                seen += [key for key, _ in page.items]
                after = page.after
                if after is None:
                    break
            assert sorted(seen) == [bytes([number]) for number in range(6)]

    # --- concurrency, cancellation, snapshots ------------------------------------------------------------------------

    async def test_commits_side_by_side_are_whole(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:

            async def write(number: int) -> None:
                for turn in range(5):
                    batch = WriteBatch()
                    for key in range(20):
                        batch.put("a", bytes([key]), bytes([number, turn]))
                        batch.put("b", bytes([key]), bytes([number, turn]))
                    await store.commit(batch, durable=turn % 2 == 0)

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(write, number)
            found = await read_all(store, limit=100)
            assert len({*found["a"].values(), *found["b"].values()}) == 1

    async def test_a_cancelled_commit_is_whole_or_nothing(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            with trio.CancelScope() as scope:
                scope.cancel()
                batch = WriteBatch()
                batch.put_many("a", {bytes([key]): b"" for key in range(50)})
                await store.commit(batch)
            assert len((await store.scan("a")).items) in (0, 50)
            batch = WriteBatch()
            batch.put("a", b"after", b"")
            await store.commit(batch)
            assert await store.get_many("a", [b"after"]) == [b""]

    async def test_a_snapshot_stands_still(self, tmp_path: Path) -> None:
        if "snapshot" not in self.capabilities:
            pytest.skip("no capability snapshot")
        before: Rows = [("a", bytes([key]), b"old") for key in range(9)]
        after: Rows = [("a", bytes([key]), None if key % 2 else b"new") for key in range(9)] + [("b", b"later", b"")]
        async with self.open_store(tmp_path) as store:
            await store.commit(batch_of(before))
            async with store.snapshot() as view:
                await store.commit(batch_of(after))
                assert await read_all(view) == {"a": {key: b"old" for _, key, _ in before}}
                assert await view.get_many("b", [b"later"]) == [None]
                async with store.snapshot() as second:
                    assert await second.get_many("b", [b"later"]) == [b""]
            assert await store.get_many("a", [b"\x00", b"\x01"]) == [b"new", None]

    # --- what survives -----------------------------------------------------------------------------------------------

    async def test_survives_closing(self, tmp_path: Path) -> None:
        if self.volatile:
            pytest.skip("nothing survives")
        for number in range(3):
            async with self.open_store(tmp_path) as store:
                assert len((await store.scan("a")).items) == number
                batch = WriteBatch()
                batch.put("a", bytes([number]), b"")
                await store.commit(batch, durable=number % 2 == 0)

    def test_a_crash_keeps_a_prefix(self) -> None:
        if not self.can_crash:
            pytest.skip("cannot be crashed in this process")
        self.run(st.tuples(st.lists(COMMIT, max_size=12), st.integers(0, 7)), self._crashed)

    async def _crashed(self, program: tuple[list[Any], int], path: Path) -> None:
        commits, keep = program
        states: list[Model] = [{}]
        synced = 0
        async with tolerant(self.open_store(path)) as store:
            for _, rows, durable in commits:
                await store.commit(batch_of(rows), durable=durable)
                states.append(without_empty(apply(states[-1], rows)))
                if durable:
                    synced = len(states) - 1
            survived = await self.crash(store, path, keep)
        async with self.open_store(survived) as store:
            assert await read_all(store) in states[synced:], "what survived is no prefix that holds every durable commit"
            await store.commit(batch_of([("a", b"after", b"it")]))
            assert await store.get_many("a", [b"after"]) == [b"it"]
