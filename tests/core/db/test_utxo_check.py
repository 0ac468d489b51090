"""The UTXO check: silent on every sound store the kit can make, and loud on each kind of damage."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodewright.db.findings import TOLD, Findings
from nodewright.db.utxo_check import Checked, UtxoCheck
from nodewright.interfaces import BlockRef, KeyValueStore, UtxoTransaction, WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.storage.utxo_records import (
    ADMITTED,
    BLOCK,
    BUNDLE,
    BURIED,
    FRESH,
    MARK,
    META,
    MINED,
    PAGE,
    SPENT,
    TX,
    TXMARK,
    UNDO,
    UNDONE,
    block_key,
    bundle_key,
)
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import UtxoStoreTests
from nodewright_memory.plugin import MemoryConfig, open_memory
from nodewright_memory.store import CAPABILITIES


async def check(store: KeyValueStore) -> tuple[Findings, Checked]:
    findings = Findings()
    return findings, await UtxoCheck(store, "stores.utxo", findings, lambda rows: None).run()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[KeyValueStore, KeyValueUtxoStore]]:
    environment = LocalEnvironment(path)
    async with (
        open_memory(MemoryConfig(disk=str(path)), Dependencies(), environment) as store,
        open_utxo(store, environment) as utxo,
    ):
        yield store, utxo


class TestSoundStores(UtxoStoreTests):
    """Whatever the kit does to a store (prune, fork, remove, mark, make pages of many megabytes), the rows agree."""

    capabilities = CAPABILITIES
    examples = 40

    @asynccontextmanager
    async def open_store(self, path: Path) -> AsyncIterator[Any]:
        async with opened(path) as (store, utxo):
            yield utxo
            findings, checked = await check(store)
            assert findings.lines == []
            unspent = [(outpoint, output) async for outpoint, output in utxo.iterate_unspent()]
            assert checked.unspent.count == len(unspent)
            assert checked.unspent.satoshis == sum(output.satoshis for _, output in unspent)
            mixed = sum(
                int.from_bytes(hashlib.sha256(o + out.satoshis.to_bytes(8, "little") + out.script).digest(), "little")
                for o, out in unspent
            )
            whole = (mixed % (1 << 256)).to_bytes(32, "little") + len(unspent).to_bytes(8, "little")
            assert checked.unspent.digest == hashlib.sha256(whole).hexdigest()
            assert checked.applied == await utxo.applied()


def txid(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def outputs(count: int, size: int = 3) -> bytes:
    script = bytes([0xFD]) + size.to_bytes(2, "little") + b"s" * size if size > 252 else bytes([size]) + b"s" * size
    return bytes([count]) + ((1000).to_bytes(8, "little") + script) * count


ROOT, CHILD, GRANDCHILD, LARGE = (txid(number) for number in range(4))
BLOCK_1, BLOCK_2 = BlockRef(1, b"\x01" * 32), BlockRef(2, b"\x02" * 32)
FIRST, SECOND = b"f" * 32, b"s" * 32


async def fill(utxo: KeyValueUtxoStore) -> None:
    """A root of two outputs in block 1, a child in block 2, a grandchild unmined, a large one with pages unmined."""
    root = UtxoTransaction(ROOT, (), outputs(2))
    child = UtxoTransaction(CHILD, (ROOT + bytes(4),), outputs(2))
    grandchild = UtxoTransaction(GRANDCHILD, (CHILD + bytes(4),), outputs(1))
    large = UtxoTransaction(LARGE, (ROOT + b"\x01\x00\x00\x00",), outputs(100, 20_000))
    await utxo.assign_bundle(FIRST, ROOT)
    await utxo.assign_bundle(SECOND, CHILD)
    await utxo.replace((), [root], 1, BLOCK_1, mined=[FIRST], undo=b"u1")
    await utxo.replace((), [child], 2, BLOCK_2, mined=[SECOND], undo=b"u2")
    assert await utxo.spend_and_create([grandchild, large], 3) == [None, None]
    await utxo.freeze([CHILD + b"\x01\x00\x00\x00"])
    await utxo.set_locked([GRANDCHILD], True)


SPENT_ROOT = ROOT + bytes(4)
DAMAGE: list[tuple[str, str, bytes, bytes | Callable[[bytes], bytes] | None, str]] = [
    ("a parent lost", TX, ROOT, None, "a spent row of an output that does not exist"),
    ("a mined transaction lost", TX, CHILD, None, "a transaction of a block is gone"),
    ("a spender lost", TX, GRANDCHILD, None, "spenders are gone that were not pruned"),
    ("a row cut", TX, CHILD, lambda row: row[:-1], "a transaction's row is unreadable"),
    ("a row with more", TX, CHILD, lambda row: row + b"x", "a transaction's row is unreadable"),
    ("an empty row", TX, CHILD, b"", "a transaction's row is unreadable"),
    ("a spent row lost", SPENT, SPENT_ROOT, None, "an output's spender is not the transaction that spends it"),
    ("another spender", SPENT, SPENT_ROOT, GRANDCHILD + bytes(4), "a spent row names a transaction that does not spend it"),
    ("a spender cut", SPENT, SPENT_ROOT, b"x", "a spent row is unreadable"),
    (
        "an output too many",
        SPENT,
        ROOT + b"\x02\x00\x00\x00",
        CHILD + bytes(4),
        "a spent row of an output that does not exist",
    ),
    ("a page lost", PAGE, LARGE + b"o" + bytes(4), None, "a large transaction's pages are not what its row says"),
    (
        "a page cut",
        PAGE,
        LARGE + b"o" + bytes(4),
        lambda row: row[1:],
        "a large transaction's pages are not what its row says",
    ),
    ("a page too many", PAGE, LARGE + b"o" + b"\x00\x00\x00\x09", b"x", "a page of a transaction that has no such page"),
    ("a page of a small one", PAGE, ROOT + b"o" + bytes(4), b"x", "a page of a transaction that has no such page"),
    ("a mark of nothing", MARK, txid(9) + bytes(4), bytes(5), "a mark of an output that does not exist"),
    ("a mark cut", MARK, CHILD + b"\x01\x00\x00\x00", b"x", "a mark is unreadable"),
    ("a flag of nothing", TXMARK, txid(9), b"\x01", "a row of utxo_txmark of a transaction that does not exist"),
    ("a count of nothing", BURIED, txid(9), b"\x01", "a row of utxo_buried of a transaction that does not exist"),
    ("a count too high", BURIED, ROOT, b"\x00\x00\x00\x02", "more buried spenders than a kept transaction can have"),
    (
        "a bundle's page lost",
        BUNDLE,
        bundle_key(SECOND, 0),
        b"\x00\x00\x80\x01" + CHILD,
        "a bundle's pages are not what it says",
    ),
    ("a bundle cut", BUNDLE, bundle_key(SECOND, 0), lambda row: row[:-1], "a bundle's pages are not what it says"),
    ("a bundle without a start", BUNDLE, bundle_key(txid(9), 1), CHILD, "a bundle's pages are not what it says"),
    ("a bundle in no block", MINED, SECOND, None, "a block names a bundle that is not mined in it"),
    ("a block lost", BLOCK, block_key(BLOCK_2), None, "a bundle is mined in a block that does not name it"),
    ("a bundle's blocks cut", MINED, SECOND, lambda row: row[:8], "the blocks of a bundle are unreadable"),
    ("fresh and in no block", FRESH, txid(9), bytes(8), "a fresh bundle is in no block"),
    ("admitted from the future", ADMITTED, b"\xff" * 8, b"\x00", "an admitted row has a number that was not given out"),
    ("admitted and cut", ADMITTED, bytes(8), b"\x00x", "an admitted row is unreadable"),
    ("an undo record lost", UNDO, BLOCK_2.id, None, "an undo record is gone"),
    ("an undo record forgotten", UNDONE, block_key(BLOCK_2), None, "an undo record that is not listed"),
    ("a marker cut", META, b"applied", b"x", "the marker of the applied block is unreadable"),
]


@pytest.mark.parametrize(
    ("table", "key", "change", "what"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE]
)
async def test_damage_is_found(
    tmp_path: Path, table: str, key: bytes, change: bytes | Callable[[bytes], bytes] | None, what: str
) -> None:
    async with opened(tmp_path) as (store, utxo):
        await fill(utxo)
        assert (await check(store))[0].lines == []
        (row,) = await store.get_many(table, [key])
        batch = WriteBatch()
        batch.tables[table] = {key: change(row or b"") if callable(change) else change}
        await store.commit(batch)
        findings, _ = await check(store)
        assert f"stores.utxo: {what}" in findings.damage, findings.lines


async def test_an_unmined_transaction_whose_parent_is_gone_with_its_rows(tmp_path: Path) -> None:
    """As pruning would leave it, but for the fact that the spender is not buried."""
    async with opened(tmp_path) as (store, utxo):
        await fill(utxo)
        batch = WriteBatch()
        batch.delete(TX, CHILD)
        batch.delete(SPENT, CHILD + bytes(4))
        batch.delete(MARK, CHILD + b"\x01\x00\x00\x00")
        await store.commit(batch)
        findings, _ = await check(store)
        assert "stores.utxo: a transaction spends from one that is gone and was not pruned" in findings.damage


def test_the_first_cases_are_told_and_all_are_counted() -> None:
    told: list[tuple[str, bool]] = []
    findings = Findings(lambda line, damaged: told.append((line, damaged)))
    for number in range(TOLD + 5):
        findings.damaged("lost", str(number))
    findings.close()
    assert findings.count == TOLD + 5
    assert len(told) == TOLD + 1
    assert told[-1] == ("lost: 5 more", True)
