"""``nodewright db`` on stores in PostgreSQL: nothing is made or migrated by looking; migrations are shown, then applied."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.cli.app import invoke
from nodewright.cli.common import ProfileRequest
from nodewright.db.stopped import FolderRecord, open_stores, write_record
from nodewright.environment import NodeEnvironment
from nodewright.interfaces import FormatRecord, UtxoTransaction
from nodewright.storage.utxo_adapter import open_utxo
from nodewright_postgres import layouts, migrations, writer
from nodewright_postgres.blobs import PostgresBlobs

GENESIS = b"\x07" * 32
OUTPUT = bytes([1]) + (5000).to_bytes(8, "little") + b"\x01\x51"


def settings(postgres: Any, schema: str) -> tuple[str, ...]:
    return (
        "stores.utxo.use=postgres",
        f"stores.utxo.port={postgres.port}",
        f"stores.utxo.schema={schema}",
        "stores.utxo.retry_seconds=1",
    )


async def fill(folder: Path, overrides: tuple[str, ...]) -> None:
    plan = ProfileRequest("teranode", overrides).compose()[1]
    write_record(folder, FolderRecord(plan.family, plan.network.id, GENESIS))
    environment = NodeEnvironment("filled", folder)
    async with AsyncExitStack() as stack:
        for store in await open_stores(plan, environment, stack):
            await store.set_format(FormatRecord(store.kind_of_store, "c/1", "e/1", plan.network.id, GENESIS))
            if store.slot == "stores.utxo":
                assert store.rows is not None
                async with open_utxo(store.rows, environment) as utxo:
                    await utxo.spend_and_create([UtxoTransaction(b"\x11" * 32, (), OUTPUT)], 1, durable=True)


@pytest.fixture
def db(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def call(command: str, overrides: tuple[str, ...], *options: str) -> tuple[int, str, str]:
        named = [part for override in overrides for part in ("--set", override)]
        code = invoke(["db", command, "teranode", "--data-dir", str(tmp_path), *named, *options])
        return code, *capsys.readouterr()

    return call


def test_a_store_from_before_its_migrations(
    postgres: Any, tmp_path: Path, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first version left it: rows of bytes alone."""
    used = settings(postgres, "t_upgraded")
    with monkeypatch.context() as first:
        first.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        first.setattr(writer, "layout_of", layouts.plain)
        first.setattr(writer, "OWN", ())
        trio.run(fill, tmp_path, used)

    def applied() -> str:
        return str(
            postgres.sql("SELECT string_agg(number::text, ',' ORDER BY number) FROM t_upgraded._migration", "nodewright")
        )

    for command in ("info", "verify"):
        code, _, err = db(command, used)
        assert code == 1 and "stores.utxo: postgres has 3 migrations to apply first: run  nodewright db upgrade" in err
    code, out, _ = db("upgrade", used, "--dry-run")
    assert code == 0 and "stores.utxo: postgres: 3 migrations of its own\n  2: unspent outputs and blobs" in out
    assert "3: blobs in columns" in out and "4: unspent outputs in columns" in out
    assert "stores.chain: store format key-value" in out and "done" not in out
    assert applied() == "1"
    code, out, _ = db("upgrade", used)
    assert code == 0 and "3 migrations were applied by the stores themselves" in out
    assert applied() == "1,2,3,4"
    code, out, _ = db("upgrade", used)
    assert code == 0 and out.splitlines()[-1].startswith("nothing to do")
    code, out, _ = db("verify", used)
    assert code == 0 and "1 unspent outputs of 5000 satoshis" in out
    code, out, _ = db("info", used)
    assert code == 0 and "not known" not in out and out.count(f"(pid {os.getpid()} on ") >= 2

    postgres.sql("INSERT INTO t_upgraded._migration (number, name) VALUES (99, 'later')", "nodewright")
    for command in ("info", "upgrade"):
        code, _, err = db(command, used)
        assert code == 2 and "was written by a newer version (schema version 99" in err and err.count("\n") == 1


def test_nothing_is_made_by_looking(postgres: Any, tmp_path: Path, db: Any) -> None:
    trio.run(fill, tmp_path, settings(postgres, "t_there"))
    absent = settings(postgres, "t_absent")
    for command in ("info", "verify", "upgrade"):
        code, _, err = db(command, absent)
        assert code == 1 and "stores.utxo: there is no postgres store yet" in err
    assert postgres.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 't_absent'", "nodewright") == "0"
    code, out, _ = db("repair", settings(postgres, "t_there"))
    assert code == 0 and "stores.utxo: its plugin repairs nothing" in out
    code, _, err = db("info", (*settings(postgres, "t_there"), "stores.utxo.database=elsewhere"))
    assert code == 2 and "createdb" in err


async def test_blobs_move_in_and_out(postgres: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``info``, ``verify`` and ``copy`` see the store's own blobs: to it from files, and from it to LevelDB."""
    there = tuple(
        f"stores.{slot}.{name}={value}"
        for slot in ("blobs", "utxo")
        for name, value in (("use", "postgres"), ("port", postgres.port), ("schema", f"t_moved_{slot}"))
    )
    elsewhere = ("stores.blobs.use=leveldb",)
    bodies = {b"a": b"x" * 2_500_000, b"\x00\xff": b"", b"b" * 64: b"body"}
    folders = [tmp_path / name for name in ("files", "postgres", "leveldb")]
    plan = ProfileRequest("teranode", ()).compose()[1]
    folders[0].mkdir()
    write_record(folders[0], FolderRecord(plan.family, plan.network.id, GENESIS))

    async def filled_and_found(folder: Path, overrides: tuple[str, ...], fill: bool) -> dict[bytes, bytes | None]:
        plan = ProfileRequest("teranode", overrides).compose()[1]
        environment = NodeEnvironment("filled", folder)
        async with AsyncExitStack() as stack:
            for store in await open_stores(plan, environment, stack):
                if fill:
                    await store.set_format(FormatRecord(store.kind_of_store, "c/1", "e/1", plan.network.id, GENESIS))
                if store.slot == "stores.blobs":
                    assert store.bodies is not None
                    assert isinstance(store.bodies, PostgresBlobs) == (overrides is there)
                    for id, body in bodies.items() if fill else ():
                        await store.bodies.put("tx", id, body)
                    found = {id: await store.bodies.get("tx", id) async for id in store.bodies.iterate("tx")}
        return found

    def copied(source: tuple[str, ...], of: Path, target: tuple[str, ...], to: Path) -> None:
        command = ["db", "copy", "teranode", "teranode", "--data-dir", str(of), "--to-dir", str(to)]
        command += [part for one in source for part in ("--set", one)] + [
            part for one in target for part in ("--to-set", one)
        ]
        assert invoke(command) == 0

    assert await filled_and_found(folders[0], (), True) == bodies
    await trio.to_thread.run_sync(copied, (), folders[0], there, folders[1])
    assert await filled_and_found(folders[1], there, False) == bodies
    for command in ("info", "verify"):
        named = [part for one in there for part in ("--set", one)]
        code = await trio.to_thread.run_sync(invoke, ["db", command, "teranode", "--data-dir", str(folders[1]), *named])
        assert code == 0
        print(capsys.readouterr().out)
    await trio.to_thread.run_sync(copied, there, folders[1], elsewhere, folders[2])
    assert await filled_and_found(folders[2], elsewhere, False) == bodies
