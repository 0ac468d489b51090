"""Rows that a batch promises to be new (``WriteBatch.new``): the server checks it, with COPY and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodewright.errors import StoreError
from nodewright.interfaces import UtxoTransaction, WriteBatch
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres.statements import COPY_ROWS
from nodewright_postgres.utxo import open_own_utxo

OUTPUT = bytes([1]) + (5000).to_bytes(8, "little") + b"\x01\x51"
SIZES = [1, COPY_ROWS - 1, COPY_ROWS, 10_001]  # in one statement, by COPY, in pieces


def promised(count: int, value: bytes = b"value") -> WriteBatch:
    batch = WriteBatch()
    batch.new.add("a")
    batch.put_many("a", ((number.to_bytes(4, "big"), value) for number in range(count)))
    batch.put("other", b"last", value)
    return batch


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("copied", [True, False])
async def test_a_broken_promise_changes_nothing(postgres: Any, tmp_path: Path, count: int, copied: bool) -> None:
    async with postgres.open(tmp_path) as store:
        await store.commit(promised(1))
        late = promised(count, b"another")
        if not copied:
            late.delete("a", b"none")  # a table with deletes is not copied
        with pytest.raises(StoreError, match="another program writes"):
            await store.commit(late)
        assert (await store.scan("a", limit=2)).items == [(bytes(4), b"value")]
        assert await store.get_many("other", [b"last"]) == [b"value"]
        await store.commit(promised(count))  # the same value is no breach
        assert len((await store.scan("a", limit=10_000)).items) == min(count, 10_000)


@pytest.mark.parametrize("count", [1, 500])
async def test_an_output_that_another_spent_is_not_spent_again(postgres: Any, tmp_path: Path, count: int) -> None:
    """Behind the back of the caches: the server refuses, and the next call judges on what is there."""
    roots = [UtxoTransaction(number.to_bytes(32, "big"), (), OUTPUT) for number in range(count)]
    spends = [UtxoTransaction(b"\x01" + root.txid[1:], (root.txid + bytes(4),), OUTPUT) for root in roots]
    environment = LocalEnvironment(tmp_path)
    async with postgres.open(tmp_path) as store, open_own_utxo(store, environment) as utxo:
        await utxo.spend_and_create(roots, 1)
        schema = postgres.config(tmp_path).schema
        rival = b"\x02" * 32 + bytes(4)
        postgres.sql(
            f"INSERT INTO {schema}.utxo_spend VALUES ('\\x{spends[-1].spends[0].hex()}', '\\x{rival.hex()}')",
            "nodewright",
        )
        with pytest.raises(StoreError, match="another program writes"):
            await utxo.spend_and_create(spends, 2)
        assert not any(await utxo.known([tx.txid for tx in spends]))
        results = await utxo.spend_and_create(spends, 2)
        assert results[:-1] == [None] * (count - 1)
        assert results[-1] is not None and (results[-1].code, results[-1].spender) == ("spent", rival)
