"""``nodewright db`` on stores in PostgreSQL: nothing is made or migrated by looking; migrations are shown, then applied."""

from __future__ import annotations

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


def test_a_store_from_before_a_migration(postgres: Any, tmp_path: Path, db: Any) -> None:
    """As the version before left it: without the views, and without the row that says that they are there."""
    used = settings(postgres, "t_upgraded")
    trio.run(fill, tmp_path, used)

    def migrations() -> str:
        return str(
            postgres.sql("SELECT string_agg(number::text, ',' ORDER BY number) FROM t_upgraded._migration", "nodewright")
        )

    postgres.sql(
        "DROP VIEW t_upgraded.utxo_transactions, t_upgraded.utxo_spent_outputs, t_upgraded.blobs; "
        "DROP FUNCTION t_upgraded.utxo_outputs, t_upgraded.compact_size, t_upgraded.display; "
        "DROP TABLE t_upgraded.kv_blob_index; DELETE FROM t_upgraded._migration WHERE number > 1",
        "nodewright",
    )
    for command in ("info", "verify"):
        code, _, err = db(command, used)
        assert code == 1 and "stores.utxo: postgres has 1 migrations to apply first: run  nodewright db upgrade" in err
    code, out, _ = db("upgrade", used, "--dry-run")
    assert code == 0 and "stores.utxo: postgres: 1 migrations of its own\n  2: unspent outputs and blobs" in out
    assert "stores.chain: store format key-value" in out and "done" not in out
    assert migrations() == "1"
    code, out, _ = db("upgrade", used)
    assert code == 0 and "1 migrations were applied by the stores themselves" in out
    assert migrations() == "1,2"
    code, out, _ = db("upgrade", used)
    assert code == 0 and out.splitlines()[-1].startswith("nothing to do")
    code, out, _ = db("verify", used)
    assert code == 0 and "1 unspent outputs of 5000 satoshis" in out

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
