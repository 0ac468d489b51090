"""``nodewright bench storage``: which stores, in which order, and that it leaves nobody's data changed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from nodewright.bench.storage import Measured, Sizes, lines, measure, patterns_of
from nodewright.bench.storage_stores import aerospike_settings, bench_stores, built_in, named, steps
from nodewright.cli.app import invoke
from nodewright.config.profile import profile_from_text
from nodewright.errors import ConfigurationError, StoreError
from nodewright.interfaces import WriteBatch
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

SMALL = Sizes(rounds=2, batch=20, batches=2, nodes=100, keys=10, reads=2, bodies=1)
QUICK = ("--rounds=2", "--batch=20", "--batches=2", "--nodes=100", "--keys=10", "--bodies=1")
PATTERNS = ["spend-and-create", "spend-and-create, durable", "node reads", "block append"]


def never(steps: int) -> None:
    pass


def test_the_table_and_the_json_have_every_store_and_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    wrapped = ("--set=stores.front.use=cached", "--set=stores.front.inner=disk", "--set=stores.disk.use=leveldb")
    arguments = ("bench", "storage", "--only=memory", "--only=leveldb", *wrapped, *QUICK, f"--json={file}")
    assert invoke([*arguments, f"--folder={tmp_path}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    document = json.loads(file.read_text())
    names = ["memory", "leveldb", "front (cached)"]
    found = [(figure["pattern"], figure["store"]) for figure in document["figures"]]
    assert found == [(pattern, name) for pattern in PATTERNS for name in names]
    assert len(shown) == 1 + len(found) and shown[0].split()[:2] == ["pattern", "store"]
    assert all(figure["per_second"] > 0 and figure["p95_ms"] > 0 for figure in document["figures"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"], "its files are gone"


async def test_all_stores_have_their_turn_in_every_round(tmp_path: Path) -> None:
    order: list[str] = []

    class Told:
        unit, each, name = "things", 1.0, "told"

        def __init__(self, store: str) -> None:
            self.store = store

        async def prepare(self) -> None: ...

        def calls(self) -> Sequence[Callable[[], Awaitable[object]]]:
            async def call() -> None:
                order.append(self.store)

            return [call, call]

        async def settle(self) -> None: ...

    done: list[int] = []
    figures = await measure([Measured(name, Told(name)) for name in "abc"], Sizes(rounds=3), done.append)
    assert "".join(order) == "aabbccbbccaaccaabb"
    assert [figure.calls for figure in figures] == [6, 6, 6] and sum(done) == 9
    assert len(lines(figures)) == 4


async def test_a_store_that_holds_data_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = MemoryStore(MemoryDisk("d"), "test")
    batch = WriteBatch()
    batch.put("mine", b"k", b"v")
    await store.commit(batch)
    with pytest.raises(StoreError, match="the store mine holds data"):
        async with patterns_of("mine", store, SMALL, LocalEnvironment(tmp_path)):
            pass
    assert await store.tables() == ["mine"]
    async with open_files(FilesConfig(), Dependencies(), LocalEnvironment(tmp_path)) as blobs:
        await blobs.put("block", b"id", b"body")
        with pytest.raises(StoreError, match="holds data"):
            async with patterns_of("files", blobs, SMALL, LocalEnvironment(tmp_path)):
                pass


async def test_what_it_wrote_is_gone_and_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    store = MemoryStore(MemoryDisk("d"), "test")
    environment = LocalEnvironment(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        async with patterns_of("mine", store, SMALL, environment) as measured:
            await measured[0].round()
            raise KeyboardInterrupt
    assert len(await store.tables()) > 2
    async with patterns_of("mine", store, SMALL, environment) as measured:
        await measure(measured, SMALL, never)
    assert await store.tables() == []
    async with open_files(FilesConfig(), Dependencies(), environment) as blobs:
        async with patterns_of("files", blobs, SMALL, environment) as measured:
            assert [one.pattern.name for one in measured] == ["block append"]
            await measure(measured, SMALL, never)
        assert [id async for id in blobs.iterate("bench")] == []


async def test_the_stores_of_a_profile(tmp_path: Path) -> None:
    host = PluginHost(())
    text = 'extends = "teranode"\n[stores.utxo]\nuse = "write_behind"\ninner = "disk"\n[stores.disk]\nuse = "leveldb"\n'
    stores = named(profile_from_text(text, "mine.toml", host.find_profile), host)
    assert [(store.name, len(store.components)) for store in stores] == [
        ("utxo (write_behind)", 2),
        ("chain (leveldb)", 1),
        ("blobs (files)", 1),
    ]
    done: list[int] = []
    figures = await bench_stores(stores, tmp_path, SMALL, None, done.append)
    assert len(figures) == 9 and sum(done) <= steps(stores, SMALL)
    with pytest.raises(ConfigurationError, match="there is no store"):
        named(profile_from_text('[stores.a]\nuse = "cached"\ninner = "b"\n', "mine.toml", host.find_profile), host)


def test_aerospike_stands_by_itself_where_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODEWRIGHT_AEROSPIKE", raising=False)
    with built_in(PluginHost(()), ("aerospike",)) as (stores, left_out):
        assert stores == [] and "NODEWRIGHT_AEROSPIKE" in left_out[0].reason
    assert aerospike_settings("db.example:3100", "utxo") == (
        'stores.aerospike.host="db.example"',
        "stores.aerospike.port=3100",
        'stores.aerospike.namespace="utxo"',
    )
    assert aerospike_settings("localhost") == ('stores.aerospike.host="localhost"',)


async def test_postgres_stands_by_itself_where_its_server_can_be_had(tmp_path: Path) -> None:
    from nodewright.testing import postgres_server

    if (missing := postgres_server.missing()) is not None:
        pytest.skip(f"no PostgreSQL: {missing}")
    with built_in(PluginHost(()), ("postgres",)) as (stores, left_out):
        assert left_out == []
        figures = await bench_stores(stores, tmp_path, SMALL, None, never)
    assert [figure.pattern for figure in figures] == PATTERNS


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["bench", "storage", "--only=redis"]) == 2
    assert "'redis' is none of memory, leveldb, postgres, aerospike" in capsys.readouterr().err
