"""What goes wrong between a node and its server, and what the operator reads then."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nodewright.errors import (
    ConfigurationError,
    FormatMismatch,
    LeaseLost,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
)
from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_records import SPENT, TX
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage_utxo_model import outpoint, output_vector
from nodewright_aerospike.driver import load_driver
from nodewright_aerospike.entry import encode
from nodewright_aerospike.plugin import open_aerospike


def one(key: bytes, value: bytes = b"value") -> WriteBatch:
    batch = WriteBatch()
    batch.put("a", key, value)
    return batch


async def refusal(opened: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        async with opened:
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def die(store: Any) -> None:
    """As far as the server can tell, the node is killed: what is in its journal stays there."""
    store.rows.applier.stop(StoreError("this node is dead"))


# --- at start ----------------------------------------------------------------------------------------------------------


async def test_no_server(aerospike: Any, tmp_path: Path) -> None:
    said = await refusal(aerospike.open(tmp_path, port=1, retry_seconds=0.2), StoreError)
    assert "127.0.0.1:1" in said and "start it" in said


async def test_no_such_namespace(aerospike: Any, tmp_path: Path) -> None:
    said = await refusal(aerospike.open(tmp_path, namespace="elsewhere"), ConfigurationError)
    assert "no namespace 'elsewhere'" in said


async def test_a_namespace_without_a_disk(aerospike: Any, tmp_path: Path) -> None:
    if aerospike.volatile is None:
        pytest.skip("the server has no namespace without storage on a disk")
    said = await refusal(aerospike.open(tmp_path, namespace=aerospike.volatile), ConfigurationError)
    assert "keeps nothing on a disk" in said and "allow_volatile=true" in said
    async with aerospike.open(tmp_path, namespace=aerospike.volatile, allow_volatile=True) as store:
        await store.commit(one(b"key"))
        assert await store.get_many("a", [b"key"]) == [b"value"]


async def test_a_store_of_a_newer_version(aerospike: Any, tmp_path: Path) -> None:
    async with aerospike.open(tmp_path) as store:
        owner = store.rows.layout.owner
    client = aerospike.client()
    client.put(owner, {"format": 99})
    client.close()
    said = await refusal(aerospike.open(tmp_path), FormatMismatch)
    assert "format 99" in said and "store=NAME" in said


# --- owners ------------------------------------------------------------------------------------------------------------


async def test_a_second_owner_reads_who_is_first(aerospike: Any, tmp_path: Path) -> None:
    """On another data directory, so that it is the server's record that refuses."""
    same = {"store": f"shared {tmp_path}"}
    async with aerospike.open(tmp_path / "a", "first", **same) as store:
        await store.commit(one(b"key"))
        said = await refusal(aerospike.open(tmp_path / "b", "second", **same), StoreLocked)
        assert "node 'first'" in said and f"pid {os.getpid()}" in said and "since 2" in said
    async with aerospike.open(tmp_path / "b", "second", **same) as store:
        assert await store.get_many("a", [b"key"]) == [b"value"], "the first stopped cleanly: the server has all"
        await store.commit(one(b"key", b"second"))
    async with aerospike.open(tmp_path / "a", "first", **same) as store:
        assert await store.get_many("a", [b"key"]) == [b"second"]


async def test_a_journal_that_may_be_needed_is_asked_for(aerospike: Any, tmp_path: Path) -> None:
    same = {"store": f"shared {tmp_path}"}
    async with aerospike.open(tmp_path / "a", "first", **same) as store:
        await store.commit(one(b"key"))
        die(store)
    assert "own data directory" in await refusal(aerospike.open(tmp_path / "b", "second", **same), StoreLocked)
    async with aerospike.open(tmp_path / "b", "second", take_over=True, **same) as store:
        await store.commit(one(b"after"))


async def test_what_a_take_over_gave_up_does_not_come_back(aerospike: Any, tmp_path: Path) -> None:
    """The first owner's journal has commits that never reached the server; another took over, and the first returns."""
    same = {"store": f"shared {tmp_path}"}
    async with aerospike.open(tmp_path / "a", "first", **same) as store:
        await store.commit(one(b"kept"))
        await store.rows.applier.finished(10)
        number = await store.rows.applier.log.append([encode({"a": {b"lost": b"value"}})])  # promised, and nothing more
        die(store)
    async with aerospike.open(tmp_path / "b", "second", take_over=True, **same) as store:
        await store.commit(one(b"second"))
        assert store.rows.applier.log.next_sequence > number
    for _ in range(2):  # also where the first is killed again
        async with aerospike.open(tmp_path / "a", "first", **same) as store:
            assert await store.get_many("a", [b"kept", b"lost", b"second"]) == [b"value", None, b"value"]
            await store.commit(one(b"again"))
            die(store)


async def test_a_stale_owner_commits_nothing(aerospike: Any, tmp_path: Path) -> None:
    same = {"store": f"shared {tmp_path}"}
    async with aerospike.open(tmp_path / "a", "stale", **same) as stale:
        await stale.commit(one(b"before"))
        await stale.rows.applier.written()
        async with aerospike.open(tmp_path / "b", "fresh", take_over=True, **same) as fresh:
            await fresh.commit(one(b"key", b"fresh"))
            for _ in range(2):
                with pytest.raises(LeaseLost, match="node 'fresh'"):
                    await stale.commit(one(b"key", b"stale"))
            assert await fresh.get_many("a", [b"before", b"key"]) == [b"value", b"fresh"]
    async with aerospike.open(tmp_path / "b", "fresh", **same) as fresh:
        assert await fresh.get_many("a", [b"before", b"key"]) == [b"value", b"fresh"]


# --- late writes, lost writes ------------------------------------------------------------------------------------------


async def send_again(store: Any, tables: dict[str, dict[bytes, bytes | None]], number: int) -> None:
    """What a request does that was given up and lands after all."""
    rows = store.rows
    writes = list(rows.layout.writes(tables, set(), number, True))
    await trio.to_thread.run_sync(rows.server.write_all, writes, rows.server.newer_than(number))


async def test_a_write_that_lands_late_changes_nothing(aerospike: Any, tmp_path: Path) -> None:
    root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x"), (2, b"y")]))
    child = UtxoTransaction(b"c" * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")]))
    async with aerospike.open(tmp_path) as store:
        await store.commit(one(b"key", b"old"))
        await store.spend_and_create([root, child], 1)
        await store.rows.applier.finished(10)  # so that these were requests of their own
        number = store.rows.applier.log.next_sequence - 1
        spent: dict[str, dict[bytes, bytes | None]] = {SPENT: {outpoint(root.txid, 0): child.txid + bytes(4)}}
        await store.commit(one(b"key", b"new"))
        batch = WriteBatch()
        batch.delete("a", b"gone")
        await store.commit(batch)
        await store.remove([child])
        await store.rows.applier.finished(10)
        await send_again(store, {"a": {b"key": b"old"}}, 1)
        await send_again(store, spent, number)
        await send_again(store, {TX: {child.txid: b"row"}}, number)
        assert await store.get_many("a", [b"key"]) == [b"new"]
    async with aerospike.open(tmp_path) as store:
        (output,) = await store.get_outputs([outpoint(root.txid, 0)])
        assert output is not None and output.spender is None
        assert await store.known([child.txid]) == [False]
        assert await store.spend_and_create([child], 2) == [None]


async def test_a_spender_that_is_not_ours_is_noticed(aerospike: Any, tmp_path: Path) -> None:
    """Somebody else writes to the set: CREATE_ONLY refuses, and the store stops instead of guessing."""
    root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]))
    child = UtxoTransaction(b"c" * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")]))
    async with aerospike.open(tmp_path, close_seconds=0.0) as store:
        await store.spend_and_create([root], 1)
        await store.rows.applier.finished(10)
        (key,) = store.rows.layout.keys(TX, [root.txid])
        from aerospike_helpers.operations import map_operations

        client = aerospike.client()
        client.operate(key, [map_operations.map_put("s", 0, b"f" * 36)])
        client.close()
        await store.spend_and_create([child], 1)
        with pytest.raises(StoreError, match="spender on the server"):
            await store.rows.applier.written()
        with pytest.raises(StoreError, match="spender on the server"):
            await store.commit(one(b"after"))


async def test_a_server_that_forgot_everything_is_given_it_again(aerospike: Any, tmp_path: Path) -> None:
    """The journal holds all there ever was: an emptied server is filled from it."""
    async with aerospike.open(tmp_path) as store:
        for turn in range(5):
            await store.commit(one(bytes([turn])))
        await store.rows.applier.finished(10)
        rows = store.rows
        keys = [rows.layout.owner, *rows.layout.keys("a", [bytes([turn]) for turn in range(5)])]
    client = aerospike.client()
    client.batch_remove(keys)
    client.close()
    async with aerospike.open(tmp_path) as store:
        assert len((await store.scan("a")).items) == 5


async def test_a_server_that_lost_what_the_journal_gave_up_is_refused(aerospike: Any, tmp_path: Path) -> None:
    async with aerospike.open(tmp_path, journal_mib=1) as store:
        for turn in range(4):
            await store.commit(one(bytes([turn]), b"v" * 1_000_000))
            await store.rows.applier.finished(10)
        owner = store.rows.layout.owner
    client = aerospike.client()
    client.remove(owner)
    client.close()
    assert "restore its data" in await refusal(aerospike.open(tmp_path, journal_mib=1), StoreCorrupt)


async def test_what_is_only_in_the_journal_is_brought_over_at_the_next_start(aerospike: Any, tmp_path: Path) -> None:
    async with aerospike.open(tmp_path) as store:
        for turn in range(200):
            await store.commit(one(turn.to_bytes(2, "big")))
        die(store)
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-survived"))
    async with aerospike.open(tmp_path.with_name(f"{tmp_path.name}-survived")) as store:
        assert len((await store.scan("a")).items) == 200


# --- while it runs -----------------------------------------------------------------------------------------------------


async def test_a_full_namespace(aerospike: Any, tmp_path: Path) -> None:
    """Refused in one sentence before it is promised; what was promised before is kept until there is room."""
    async with aerospike.open(tmp_path) as store:
        await store.commit(one(b"before"))
        aerospike.set(stop_writes_avail_pct=100)
        try:
            with pytest.raises(StoreFull, match="namespace is full") as caught:
                while True:  # the server looks at its disk every now and then
                    await store.commit(one(b"late"))
            assert "\n" not in str(caught.value)
            assert await store.get_many("a", [b"before"]) == [b"value"]
        finally:
            aerospike.set(stop_writes_avail_pct=5)
        while True:
            try:
                await store.commit(one(b"after"))
                break
            except StoreFull:
                await trio.lowlevel.checkpoint()
        assert await store.get_many("a", [b"before", b"after"]) == [b"value", b"value"]


class Log:
    """What a node's log is told, by name."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, level: str) -> Any:
        return lambda name, **_: self.told.append(name)


async def test_a_server_that_is_away_for_a_while(aerospike: Any, tmp_path: Path, budget: int) -> None:
    """Commits and reads that come meanwhile wait for it; the log has it once. With a budget it is away for ten seconds."""
    aerospike.kill()
    aerospike.start()
    environment = LocalEnvironment(tmp_path)
    environment.logger = log = Log()
    async with open_aerospike(aerospike.config(tmp_path), Dependencies(), environment) as store:
        for turn in range(20):
            await store.commit(one(bytes([turn])))
        aerospike.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, one(b"later"))
            nursery.start_soon(store.get_many, "a", [b"not there"])
            nursery.start_soon(store.scan, "a")
            await trio.testing.wait_all_tasks_blocked(0.01)
            while "aerospike_away" not in log.told:
                await trio.lowlevel.checkpoint()
            if budget > 1:
                await trio.sleep(10)
            await trio.to_thread.run_sync(aerospike.start)
        assert len((await store.scan("a")).items) == 21
    assert [name for name in log.told if name != "aerospike_server_restarted"] == ["aerospike_away", "aerospike_back"]


async def test_a_server_that_stays_away(aerospike: Any, tmp_path: Path) -> None:
    async with aerospike.open(tmp_path, retry_seconds=0.2) as store:
        await store.commit(one(b"before"))
        aerospike.kill()
        try:
            for call in (lambda: store.commit(one(b"late")), lambda: store.get_many("a", [b"k"]), lambda: store.scan("a")):
                with pytest.raises(StoreError, match="did not answer") as caught:
                    await call()
                assert "start it" in str(caught.value) and "\n" not in str(caught.value)
            assert await store.get_many("a", [b"before"]) == [b"value"], "what is not retired is in memory"
        finally:
            aerospike.start()
        for _ in range(100):  # a call waits 0.2 s, and the driver looks for the server four times a second
            try:
                await store.commit(one(b"after"))
                break
            except StoreError:
                continue
        assert await store.get_many("a", [b"before", b"late", b"after"]) == [b"value", None, b"value"]


async def test_calls_after_closing(aerospike: Any, tmp_path: Path) -> None:
    async with aerospike.open(tmp_path) as store:
        await store.commit(one(b"key"))
        with pytest.raises(StoreError, match="no snapshots"):
            store.snapshot()
    for call in (store.commit(one(b"late")), store.scan("a"), store.get_many("a", [b"key"])):
        with pytest.raises(StoreError, match="closed"):
            await call


async def test_a_value_in_parts_and_its_space(aerospike: Any, tmp_path: Path) -> None:
    """Large, larger, small, gone: always the newest, and no part that nobody names is left on the server."""
    async with aerospike.open(tmp_path) as store:
        rows = store.rows
        for value in (b"a" * 2_000_000, b"b" * 5_000_000, b"c" * 700_000, b"d", None):
            batch = WriteBatch()
            batch.tables["a"] = {b"key": value}
            await store.commit(batch)
            await rows.applier.finished(10)
            assert await store.get_many("a", [b"key"]) == [value]
            keys = rows.layout.part_keys("a", b"key", 0, 12)
            late = rows.server.newer_than(rows.applier.log.next_sequence - 1)
            await trio.to_thread.run_sync(rows.server.remove_all, keys, late)  # of an older value, landing late
            assert await store.get_many("a", [b"key"]) == [value]
            parts = await trio.to_thread.run_sync(rows.server.read, keys, ["n"])
            size = len(value or b"")
            assert sum(part is not None for part in parts) == (-(-size // (512 * 1024)) if size > 512 * 1024 else 0)


async def test_a_table_with_too_many_keys_is_not_sorted(aerospike: Any, tmp_path: Path) -> None:
    batch = WriteBatch()
    batch.put_many("a", {number.to_bytes(2, "big"): b"" for number in range(1500)})
    async with aerospike.open(tmp_path, index_keys=1000) as store:
        await store.commit(batch)
        with pytest.raises(StoreError, match="index_keys"):
            await store.scan("a")


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aerospike", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'nodewright\[aerospike\]'"):
        load_driver()
