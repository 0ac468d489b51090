"""How unspent outputs could lie in PostgreSQL, measured with plain asyncpg: why the store keeps rows and uses COPY.

    python benchmarks/postgres_layouts.py [--transactions 60000] [--batch 1000]

One server, one connection for each layout, which take turns batch by batch; the transactions are those of
benchmarks/utxo_store.py, nothing is durable. Layouts:

- rows, upserted: a row of bytes for each transaction and each spent output, INSERT ... ON CONFLICT DO UPDATE;
- rows, COPY: the same rows by binary COPY, conditional by the primary key of the spent outputs (what the store does);
- columns, COPY: the transaction's row in columns (txid, height, coinbase, spends, outputs);
- a row per output: columns (txid, vout, satoshis, script, spender), spent by one conditional UPDATE for a batch.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import struct
import time
from pathlib import Path
from typing import Any

import asyncpg

from nodewright.testing.postgres_server import postgres_server

HERE = Path(__file__).parent
BEGIN = "BEGIN; SET LOCAL synchronous_commit TO off"
HEAD = struct.Struct("<BIH")
TABLES = """
CREATE TABLE spent (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE tx (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE columns (txid bytea PRIMARY KEY, height integer, coinbase boolean, spends bytea, outputs bytea);
CREATE TABLE outputs (txid bytea, vout integer, satoshis bigint, script bytea, spender bytea, PRIMARY KEY (txid, vout));
"""


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spent_rows(batch: list[Any]) -> list[tuple[bytes, bytes]]:
    return sorted((tx.spends[0], tx.txid + bytes(4)) for tx in batch)


def tx_rows(batch: list[Any]) -> list[tuple[bytes, bytes]]:
    return sorted((tx.txid, HEAD.pack(0, 1, len(tx.spends)) + b"".join(tx.spends) + tx.outputs) for tx in batch)


def output_rows(batch: list[Any]) -> list[tuple[bytes, int, int, bytes, None]]:
    """Both outputs of each, which have 25 bytes of script."""
    return sorted((tx.txid, vout, 1, tx.outputs[10:35], None) for tx in batch for vout in (0, 1))


async def upserted(connection: Any, batch: list[Any]) -> None:
    for table, rows in (("spent", spent_rows(batch)), ("tx", tx_rows(batch))):
        await connection.execute(
            f"INSERT INTO {table} SELECT * FROM unnest($1::bytea[], $2::bytea[]) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [key for key, _ in rows],
            [value for _, value in rows],
        )


async def copied(connection: Any, batch: list[Any]) -> None:
    await connection.copy_records_to_table("spent", records=spent_rows(batch))
    await connection.copy_records_to_table("tx", records=tx_rows(batch))


async def in_columns(connection: Any, batch: list[Any]) -> None:
    await connection.copy_records_to_table("spent", records=spent_rows(batch))
    rows = sorted((tx.txid, 1, tx.coinbase, b"".join(tx.spends), tx.outputs) for tx in batch)
    await connection.copy_records_to_table("columns", records=rows)


async def by_output(connection: Any, batch: list[Any]) -> None:
    spent = spent_rows(batch)
    status = await connection.execute(
        "UPDATE outputs AS o SET spender = by.spender FROM unnest($1::bytea[], $2::integer[], $3::bytea[]) "
        "AS by (txid, vout, spender) WHERE o.txid = by.txid AND o.vout = by.vout "
        "AND (o.spender IS NULL OR o.spender = by.spender)",
        [key[:32] for key, _ in spent],
        [0] * len(spent),
        [value for _, value in spent],
    )
    assert status == f"UPDATE {len(spent)}"
    await connection.copy_records_to_table("outputs", records=output_rows(batch))
    rows = sorted((tx.txid, 1, tx.coinbase, b"".join(tx.spends), b"") for tx in batch)
    await connection.copy_records_to_table("columns", records=rows)


LAYOUTS = {
    "rows, upserted": upserted,
    "rows, COPY": copied,
    "columns, COPY": in_columns,
    "a row per output": by_output,
}


async def measure(arguments: dict[str, Any], batches: list[Any]) -> dict[str, list[float]]:
    connections: dict[str, Any] = {}
    for number, name in enumerate(LAYOUTS):
        connection = connections[name] = await asyncpg.connect(**arguments)
        await connection.execute(f"CREATE SCHEMA layout{number}; SET search_path TO layout{number}; {TABLES}")
        await connection.copy_records_to_table("outputs", records=output_rows(batches[0]))
    seconds: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    for batch in batches[1:]:
        for name, write in LAYOUTS.items():
            start = time.perf_counter()
            await connections[name].execute(BEGIN)
            await write(connections[name], batch)
            await connections[name].execute("COMMIT")
            seconds[name].append(time.perf_counter() - start)
    for connection in connections.values():
        await connection.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=1000)
    options = parser.parse_args()
    batches = load(HERE / "utxo_store.py").make(options.transactions, options.batch)
    with postgres_server(["shared_buffers=64MB"]) as server:
        arguments = {
            "host": "127.0.0.1", "port": server.port, "user": "nodewright", "database": "postgres",
            "password": server.password, "server_settings": {"jit": "off", "plan_cache_mode": "force_generic_plan"},
        }  # fmt: skip
        seconds = asyncio.run(measure(arguments, batches))
    best = sum(seconds["rows, COPY"])
    for name, found in seconds.items():
        print(
            f"{name:18} {options.batch * len(found) / sum(found):10,.0f} /s   p95 "
            f"{1000 * statistics.quantiles(found, n=20)[-1]:6.1f} ms   {best / sum(found):.2f} of COPY"
        )


if __name__ == "__main__":
    main()
