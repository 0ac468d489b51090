"""What an operator reads in SQL says the same as the stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nodewright.interfaces import UtxoTransaction
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment


def vector(*outputs: tuple[int, bytes]) -> bytes:
    parts = [bytes([len(outputs)]) if len(outputs) < 253 else b"\xfd" + len(outputs).to_bytes(2, "little")]
    for satoshis, script in outputs:
        size = len(script)
        prefix = bytes([size]) if size < 253 else b"\xfd" + size.to_bytes(2, "little") if size < 65536 else b"\xfe"
        parts += [satoshis.to_bytes(8, "little"), prefix + (size.to_bytes(4, "little") if size > 65535 else b""), script]
    return b"".join(parts)


async def test_transactions_and_outputs(postgres: Any, tmp_path: Path) -> None:
    outputs = [
        (21_000_000 * 10**8, b""),
        (1, b"\x51" * 300),
        (2**40, b"\x52" * 70_000),
        *[(n, b"\x53") for n in range(297)],
    ]
    root = UtxoTransaction(b"\xfe" + b"\x01" * 31, (), vector(*outputs), coinbase=True)
    child = UtxoTransaction(
        b"\x02" * 32, tuple(root.txid + n.to_bytes(4, "little") for n in (2, 299)), vector((5, b"\x54"))
    )
    schema = postgres.config(tmp_path).schema
    async with postgres.open(tmp_path) as store, open_utxo(store, LocalEnvironment(tmp_path)) as utxo:
        await utxo.spend_and_create([root], 70_000)
        assert await utxo.spend_and_create([child], 70_100, durable=True) == [None]

        def sql(query: str) -> list[list[str]]:
            return [line.split("|") for line in postgres.sql(query, "nodewright").splitlines()]

        rows = sql(f"SELECT {schema}.display(txid), height, coinbase, inputs, in_pages FROM {schema}.utxo_transactions")
        assert sorted(rows) == sorted(
            [[root.txid[::-1].hex(), "70000", "t", "0", "f"], [child.txid[::-1].hex(), "70100", "f", "2", "f"]]
        )
        found = sql(
            f"SELECT vout, satoshis, script, spender FROM {schema}.utxo_outputs('\\x{root.txid.hex()}') ORDER BY vout"
        )
        for index, (row, known) in enumerate(
            zip(found, await utxo.get_outputs([root.txid + n.to_bytes(4, "little") for n in range(300)]), strict=True)
        ):
            assert known is not None
            assert row[:3] == [str(index), str(known.satoshis), "\\x" + known.script.hex()]
            assert row[3] == ("\\x" + known.spender.hex() if known.spender else "")
        assert sorted(sql(f"SELECT vout, spender, input FROM {schema}.utxo_spent_outputs")) == [
            ["2", "\\x" + child.txid.hex(), "0"],
            ["299", "\\x" + child.txid.hex(), "1"],
        ]
        assert sql(f"SELECT * FROM {schema}.utxo_outputs('\\x00')") == []


async def test_blobs(postgres: Any, tmp_path: Path) -> None:
    schema = postgres.config(tmp_path).schema
    async with postgres.open(tmp_path) as store, open_blobs(store, LocalEnvironment(tmp_path)) as blobs:
        await blobs.put("tx", b"\x00\xff", b"x" * 3_000_000)
        await blobs.put("subtree_data", b"id", b"")
    assert postgres.sql(f"SELECT kind, id, size FROM {schema}.blobs ORDER BY kind", "nodewright").splitlines() == [
        "subtree_data|\\x6964|0",
        "tx|\\x00ff|3000000",
    ]
