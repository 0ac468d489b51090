"""The store's own ``utxo`` and ``blob``: columns, what the server checks, older rows, one node at a time under kill -9."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import NodewrightError
from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.storage.blob_adapter import INDEX, open_blobs
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.storage.utxo_records import SPENT, TX, encode_transaction
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres import migrations, writer
from nodewright_postgres.blobs import PostgresBlobs, open_own_blobs
from nodewright_postgres.layouts import LAYOUTS
from nodewright_postgres.plugin import register_storage
from nodewright_postgres.utxo import open_own_utxo

OUTPUT = bytes([1]) + (5000).to_bytes(8, "little") + b"\x01\x51"
MIB = 1024 * 1024
HEAD = struct.Struct("<BIH")
ANY_ROW = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda height, coinbase, spends, rest: HEAD.pack(coinbase, height, spends) + b"\x07" * 36 * spends + rest,
        st.integers(0, 2**32 - 1),
        st.booleans(),
        st.sampled_from([0, 1, 2, 255, 256, 257, 511, 65_535]),
        st.binary(min_size=1, max_size=40),
    ),
)


@pytest.mark.parametrize("table", LAYOUTS)
@settings(max_examples=100, deadline=None)
@given(value=ANY_ROW)
def test_any_row_comes_back_from_its_columns(table: str, value: bytes) -> None:
    layout = LAYOUTS[table]
    columns = layout.split(value)
    assert len(columns) == len(layout.columns) and layout.join(*columns) == value
    assert layout.records([(b"key", value)]) == [(b"key", *columns)]


async def test_rows_of_any_shape_can_be_kept(postgres: Any, tmp_path: Path) -> None:
    """The tables with columns are tables of the key-value store: with what an adapter would write, and anything else."""
    rows = {
        b"": b"",
        b"\x00" * 36: b"\xff" * 40,
        b"k": encode_transaction(5, True, (), OUTPUT)[0],
        b"paged": encode_transaction(2**32 - 1, False, (b"\x01" * 36,) * 70_000, OUTPUT)[0],
        b"spender": b"\x02" * 36,
        b"size": (2**63).to_bytes(8, "big") + bytes(8),
        b"sized": (2**63 - 1).to_bytes(8, "big") * 2,
    }
    async with postgres.open(tmp_path) as store:
        for promise in (False, True):
            batch = WriteBatch()
            for table in LAYOUTS:
                batch.put_many(table, rows)
                if promise:
                    batch.new.add(table)
            await store.commit(batch)
        for table in LAYOUTS:
            assert dict((await store.scan(table)).items) == rows
            assert await store.get_many(table, list(rows)) == list(rows.values())
        batch = WriteBatch()
        for table in LAYOUTS:
            batch.delete_many(table, rows)
        await store.commit(batch)
        assert not any([(await store.scan(table)).items for table in LAYOUTS])


async def test_the_composition_is_given_them() -> None:
    (spec,) = register_storage()
    assert dict(spec.native) == {"utxo": open_own_utxo, "blob": open_own_blobs}


@pytest.mark.parametrize("count", [1, 500])
async def test_the_server_refuses_a_second_spender(postgres: Any, tmp_path: Path, count: int) -> None:
    """Of the same outpoint by its primary key: not even another program that asks nobody can add one."""
    roots = [UtxoTransaction(number.to_bytes(32, "big"), (), OUTPUT) for number in range(count)]
    spends = [UtxoTransaction(b"\x01" + root.txid[1:], (root.txid + bytes(4),), OUTPUT) for root in roots]
    schema = postgres.config(tmp_path).schema
    async with postgres.open(tmp_path) as store, open_own_utxo(store, LocalEnvironment(tmp_path)) as utxo:
        await utxo.spend_and_create(roots, 1)
        assert await utxo.spend_and_create(spends, 2, durable=True) == [None] * count
    rival = f"('\\x{spends[0].spends[0].hex()}', '\\x02')"
    with pytest.raises(NodewrightError, match="duplicate key"):
        postgres.sql(f"INSERT INTO {schema}.utxo_spend (outpoint, spender) VALUES {rival}", "nodewright")
    columns = "count(*), min(height), max(height), count(DISTINCT spends)"
    found = postgres.sql(f"SELECT {columns} FROM {schema}.utxo_transaction WHERE flags = 0", "nodewright")
    assert found == f"{2 * count}|1|2|{count + 1}"


async def filled(utxo: KeyValueUtxoStore, blobs: Any) -> None:
    big = UtxoTransaction(b"\x03" * 32, tuple(b"\x09" * 32 + n.to_bytes(4, "little") for n in range(3)), OUTPUT)
    source = UtxoTransaction(b"\x09" * 32, (), b"\x04" + OUTPUT[1:] * 4, coinbase=True)
    paged = UtxoTransaction(b"\x05" * 32, (), b"\xfe" + (150_000).to_bytes(4, "little") + OUTPUT[1:] * 150_000)
    assert await utxo.spend_and_create([source, paged], 7) == [None, None]
    assert await utxo.spend_and_create([big], 200) == [None]
    await utxo.freeze([paged.txid + b"\x07\x00\x00\x00"])
    await blobs.put("tx", b"a", b"ab" * MIB)
    await blobs.put("block", b"\x00", b"")


async def seen(utxo: Any, blobs: Any) -> list[Any]:
    ids = [b"\x09" * 32, b"\x03" * 32, b"\x05" * 32, b"\x06" * 32]
    outpoints = [id + n.to_bytes(4, "little") for id in ids for n in (0, 3, 7, 149_999, 150_000)]
    return [
        await utxo.get_outputs(outpoints),
        await utxo.transactions(ids),
        [item async for item in utxo.iterate_unmined()],
        len([item async for item in utxo.iterate_unspent()]),
        await blobs.get("tx", b"a"),
        await blobs.get("block", b"\x00"),
        await blobs.kinds(),
    ]


async def test_older_rows_become_columns(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema as version 2 left it, rows of bytes and all: opened, it shows the same, and takes a body that had not
    been written to its end out."""
    environment = LocalEnvironment(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:2])
        older.setattr(writer, "layout_of", migrations.plain)
        older.setattr(writer, "OWN", ())
        async with postgres.open(tmp_path) as store:
            async with open_utxo(store, environment) as utxo, open_blobs(store, environment) as blobs:
                await filled(utxo, blobs)
                before = await seen(utxo, blobs)
            batch = WriteBatch()
            batch.put(TX, b"odd", b"\x09")
            batch.put(SPENT, b"odd", b"")
            batch.put(INDEX, b"odd\x00", b"")
            await store.commit(batch)
    schema = postgres.config(tmp_path).schema
    tables = (
        f"SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
    )
    assert {"kv_utxo_tx", "kv_utxo_spent", "kv_blob_index", "kv_blob_data"} <= set(
        postgres.sql(tables, "nodewright").split()
    )
    for _ in range(2):
        async with postgres.open(tmp_path) as store:
            assert await store.get_many(TX, [b"odd"]) == [b"\x09"]
            assert await store.get_many(SPENT, [b"odd"]) == [b""]
            assert await store.get_many(INDEX, [b"odd\x00"]) == [b""]
            batch = WriteBatch()
            batch.delete(TX, b"odd")
            await store.commit(batch)
            async with open_own_utxo(store, environment) as utxo, open_own_blobs(store, environment) as blobs:
                found = await seen(utxo, blobs)
                found[-1].remove("odd")
                assert found == before
            batch.put(TX, b"odd", b"\x09")
            await store.commit(batch)
    left = set(postgres.sql(tables, "nodewright").split())
    assert {"utxo_transaction", "utxo_spend", "blob", "blob_page"} <= left
    assert not {"kv_utxo_tx", "kv_utxo_spent", "kv_blob_index", "kv_blob_data"} & left


async def test_a_migration_may_take_longer_than_a_statement(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = migrations.Migration(5, "slow", ("SELECT pg_sleep(1.5)",))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, slow))
    async with postgres.open(tmp_path, timeout_seconds=1.0) as store:
        assert await store.get_many("a", [b"key"]) == [None]


async def test_a_range_is_read_by_what_it_touches(postgres: Any, tmp_path: Path) -> None:
    """The server sends the range, not its pages; and reads of it what it covers."""
    body = random.Random(6).randbytes(9 * MIB + 17)
    async with postgres.open(tmp_path) as store, open_own_blobs(store, LocalEnvironment(tmp_path)) as blobs:
        await blobs.put("tx", b"a", body)
        sent = 0
        call = store._server.call

        async def counted(connection: Any, function: Any, *arguments: Any) -> Any:
            nonlocal sent
            result = await call(connection, function, *arguments)
            if isinstance(result, list):
                sent += sum(len(value) for row in result for value in row if isinstance(value, bytes))
            return result

        store._server.call = counted
        spans = [(0, 1), (MIB - 1, 2), (MIB, MIB), (5, 9 * MIB), (9 * MIB, 17), (9 * MIB + 16, 99), (len(body), 5), (3, 0)]
        for offset, length in [*spans, (10**12, 1), (0, 10**12)]:
            sent = 0
            wanted = body[offset : offset + length]
            assert await blobs.read("tx", b"a", offset, length) == wanted
            assert sent == len(wanted)
        assert await blobs.read("tx", b"b", 0, 1) is None


async def endless(first: bytes) -> AsyncIterator[bytes]:
    yield first * MIB
    while True:
        await trio.lowlevel.checkpoint()
        yield first * (MIB // 3)


@pytest.mark.slow
async def test_blobs_and_outputs_when_the_server_is_killed(postgres: Any, tmp_path: Path, budget: int) -> None:
    """The node lives: all that returned is there. A node that dies with it: all that was durable, no body by half."""
    instants = random.Random(7)
    done = 0

    def body(number: int) -> bytes:
        return number.to_bytes(4, "big") * (1 + number % 3 * MIB // 4 * 2)

    def transaction(number: int) -> UtxoTransaction:
        spends = () if number == 0 else (number.to_bytes(32, "big") + bytes(4),)
        return UtxoTransaction((number + 1).to_bytes(32, "big"), spends, OUTPUT)

    async def check(utxo: Any, blobs: PostgresBlobs, least: int) -> int:
        ids = [id async for id in blobs.iterate("tx")]
        count = len(ids)
        assert least <= count and ids == [number.to_bytes(4, "big") for number in range(count)]
        for number in random.Random(count).sample(range(count), min(count, 8)):
            assert await blobs.get("tx", number.to_bytes(4, "big")) == body(number)
        assert not [id async for id in blobs.iterate("half")]
        known = await utxo.known([transaction(number).txid for number in range(count + 2)])
        outputs = await utxo.get_outputs([transaction(number).txid + bytes(4) for number in range(count)])
        assert all(known[:least]) and known == sorted(known, reverse=True), "one is missing before a later one"
        assert [output is not None and output.spender is not None for output in outputs[: least - 1]] == [True] * (
            least - 1
        )
        return count

    environment = LocalEnvironment(tmp_path)
    for turn in range(2 * budget):
        try:
            async with (
                postgres.open(tmp_path, retry_seconds=20.0 if turn % 2 else 0.0) as store,
                open_own_utxo(store, environment, cache_bytes=2000) as utxo,
                open_own_blobs(store, environment) as blobs,
            ):
                done = await check(utxo, blobs, done)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(blobs.put, "half", b"id", endless(b"x"))
                    for step in range(instants.randint(1, 12)):
                        await utxo.spend_and_create([transaction(done)], 1)
                        await blobs.put("tx", done.to_bytes(4, "big"), body(done))
                        done += 1
                        if turn % 2 and step == 2:
                            await trio.to_thread.run_sync(postgres.kill)
                            await trio.to_thread.run_sync(postgres.start)
                    nursery.cancel_scope.cancel()
                await check(utxo, blobs, done)
                if turn % 2 == 0:
                    postgres.kill()
        finally:
            if not postgres.running:
                postgres.start()
    async with (
        postgres.open(tmp_path) as store,
        open_own_utxo(store, environment) as utxo,
        open_own_blobs(store, environment) as blobs,
    ):
        await check(utxo, blobs, done)
        assert (
            postgres.sql(
                f"SELECT count(*) FROM {postgres.config(tmp_path).schema}.blob_page AS p WHERE NOT EXISTS (SELECT FROM "
                f"{postgres.config(tmp_path).schema}.blob AS b WHERE int8send(b.generation) = substr(p.key, 1, 8))",
                "nodewright",
            )
            == "0"
        ), "pages of a body that was never whole are still there"
