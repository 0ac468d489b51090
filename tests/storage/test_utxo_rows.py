"""What the UTXO adapter costs: rows written and reads made, counted at the key-value store under it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from nodewright.errors import FormatMismatch, StoreCorrupt
from nodewright.interfaces import BlockRef, Page, UtxoTransaction, WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage import utxo_records as records
from nodewright.storage.utxo_adapter import KeyValueUtxoStore, open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

NONE = Dependencies()
TWO_OUTPUTS = b"\x02" + 2 * (bytes(8) + b"\x01x")


class Counting(MemoryStore):
    """A memory store that counts rows written by table and calls of ``get_many`` by table."""

    def __init__(self) -> None:
        super().__init__(MemoryDisk(keep_history=False), "test")
        self.written: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.commits = 0

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        self.commits += 1
        self.written.update({table: len(rows) for table, rows in batch.tables.items()})
        await super().commit(batch, durable)

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads[table] += 1
        return await super().get_many(table, keys)

    def forget(self) -> None:
        self.written.clear()
        self.reads.clear()
        self.commits = 0


@asynccontextmanager
async def opened(path: Path, store: Counting | None = None) -> AsyncIterator[tuple[Counting, KeyValueUtxoStore]]:
    store = store or Counting()
    async with open_utxo(store, LocalEnvironment(path)) as utxo:
        store.forget()
        yield store, utxo


def txid(number: int) -> bytes:
    return number.to_bytes(32, "big")


def generation(number: int, count: int) -> list[UtxoTransaction]:
    """Each spends the first output of the same place in the generation before."""
    spends = [(txid((number - 1) * count + n) + bytes(4),) if number else () for n in range(count)]
    return [UtxoTransaction(txid(number * count + n), spends[n], TWO_OUTPUTS) for n in range(count)]


async def test_a_cached_batch_costs_two_rows_a_transaction_and_no_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, utxo):
        await utxo.spend_and_create(generation(0, 500), 1)
        store.forget()
        await utxo.spend_and_create(generation(1, 500), 1)
        assert store.commits == 1
        assert store.written == {records.TX: 500, records.SPENT: 500, records.ADMITTED: 1, records.META: 1}
        assert store.reads == {}


async def test_a_cold_batch_costs_one_read_a_table(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, utxo):
        await utxo.spend_and_create(generation(0, 500), 1)
    async with opened(tmp_path, store) as (store, utxo):
        await utxo.spend_and_create(generation(1, 500), 1)
        assert store.reads == {records.TX: 1, records.SPENT: 1}
        store.forget()
        await utxo.get_outputs([txid(n) + bytes(4) for n in range(1000)])
        assert store.reads == {}


async def test_mining_costs_rows_by_bundle_and_pruning_leaves_nothing(tmp_path: Path) -> None:
    block = BlockRef(7, b"b" * 32)
    async with opened(tmp_path) as (store, utxo):
        for number in range(3):
            await utxo.spend_and_create(generation(number, 2000), 1)
        bundles = [bytes([number]) * 32 for number in range(3)]
        for number, bundle in enumerate(bundles):
            await utxo.assign_bundle(bundle, b"".join(tx.txid for tx in generation(number, 2000)))
        store.forget()
        await utxo.set_mined(block, bundles)
        assert store.written == {records.MINED: 3, records.FRESH: 3, records.BLOCK: 1}
        store.forget()
        await utxo.replace([], [], 8, BlockRef(8, b"c" * 32), unmined=[])
        assert sum(store.written.values()) == 1
        assert [held async for held in utxo.iterate_unmined()] == []
        await utxo.prune(7, retention=7)
        assert len((await store.scan(records.ADMITTED)).items) == 0, "mined transactions are struck"
        assert len((await store.scan(records.MINED)).items) == 3, "not deep enough to forget"
        assert await utxo.prune(8, retention=0) == 0  # every transaction has an unspent output
        for table in (records.MINED, records.FRESH, records.BLOCK, records.BUNDLE):
            assert (await store.scan(table)).items == [], table
        assert len([held async for held in utxo.iterate_unspent()]) == 3 * 2 * 2000 - 2 * 2000


async def test_pruning_is_bounded_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodewright.storage.utxo_prune.TRANSACTIONS_PER_CALL", 100)
    monkeypatch.setattr("nodewright.storage.utxo_prune._STEP", 30)
    one_output = b"\x01" + bytes(8) + b"\x00"
    first = [UtxoTransaction(txid(n), (), one_output) for n in range(250)]
    second = [UtxoTransaction(txid(1000 + n), (txid(n) + bytes(4),), one_output) for n in range(250)]
    store = Counting()
    deleted = []
    for turn in range(8):
        async with opened(tmp_path, store) as (_, utxo):  # opened anew each time: the cursor is in the store
            if not turn:
                await utxo.spend_and_create([*first, *second], 1)
                await utxo.assign_bundle(b"1", b"".join(tx.txid for tx in [*first, *second]))
                await utxo.set_mined(BlockRef(1, b"b" * 32), [b"1"])
            deleted.append(await utxo.prune(1, retention=0))
    assert sum(deleted) == 250 and max(deleted) <= 120
    assert len((await store.scan(records.TX)).items) == 250
    assert len((await store.scan(records.SPENT)).items) == 0
    assert len((await store.scan(records.BURIED)).items) == 0


class Slow(Counting):
    """Every call takes a time of its own, so that calls of different tasks meet in every order."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        await trio.sleep(self._dice.random())
        await super().commit(batch, durable)

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        await trio.sleep(self._dice.random())
        return await super().get_many(table, keys)

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        await trio.sleep(self._dice.random())
        return await super().scan(table, prefix, after, limit)


@pytest.mark.seeds(8)
async def test_a_reorganisation_while_mined_ones_are_struck_loses_none_that_are_unmined(
    tmp_path: Path, seed: int, autojump_clock: object
) -> None:
    dice = random.Random(seed)
    async with opened(tmp_path, Slow(dice)) as (_, utxo), trio.open_nursery() as nursery:
        chain = [BlockRef(100, bytes(32))]
        await utxo.replace([], [], 100, chain[0])

        async def strike() -> None:
            while True:
                await utxo.prune(0)
                await trio.sleep(dice.random())

        nursery.start_soon(strike)
        unmined: list[bytes] = []
        mined: list[tuple[bytes, list[bytes]]] = []
        for number in range(40):
            for _ in range(dice.randrange(3)):
                tx = UtxoTransaction(txid(1000 + dice.getrandbits(200)), (), TWO_OUTPUTS)
                await utxo.spend_and_create([tx], 1)
                unmined.append(tx.txid)
            if dice.random() < 0.5:
                taken = dice.sample(unmined, dice.randrange(len(unmined) + 1))
                block = BlockRef(chain[-1].height + 1, txid(number))
                await utxo.assign_bundle(block.id, b"".join(taken))
                await utxo.replace([], [], block.height, block, mined=[block.id])
                chain.append(block)
                mined.append((block.id, taken))
                unmined = [one for one in unmined if one not in taken]
            elif mined:
                bundle, back = mined.pop()
                chain.pop()
                await utxo.replace([], [], chain[-1].height, chain[-1], unmined=[bundle])
                unmined += back
            assert sorted([held.txid async for held in utxo.iterate_unmined()]) == sorted(unmined)
        nursery.cancel_scope.cancel()


async def test_the_cache_keeps_its_budget(tmp_path: Path) -> None:
    async with open_utxo(Counting(), LocalEnvironment(tmp_path), cache_bytes=100_000) as utxo:
        for number in range(5):
            await utxo.spend_and_create(generation(number, 300), 1)
            assert 50_000 < utxo._cache.used <= 100_000


async def test_another_format_is_refused(tmp_path: Path) -> None:
    store = Counting()
    batch = WriteBatch()
    batch.put(records.META, b"format", b"9")
    await store.commit(batch)
    with pytest.raises(FormatMismatch, match=r"format 9.*db upgrade"):
        async with opened(tmp_path, store):
            pass


@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.lists(st.binary(min_size=36, max_size=36), max_size=5),
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=300)), min_size=1, max_size=300),
)
def test_rows_round_trip(height: int, coinbase: bool, spends: list[bytes], outputs: list[tuple[int, bytes]]) -> None:
    vector = _size(len(outputs)) + b"".join(s.to_bytes(8, "little") + _size(len(b)) + b for s, b in outputs)
    row, pages = records.encode_transaction(height, coinbase, tuple(spends), vector)
    record = records.Record(row, complete=True)
    assert not pages
    assert (record.height, record.coinbase, record.count, record.spends()) == (height, coinbase, len(outputs), spends)
    assert [record.output(index) for index in range(record.count)] == outputs


@example(b"\xfd\x02\x00" + bytes(8) + b"\xff" + b"\xff" * 8)  # a script longer than any offset
@given(st.binary(max_size=60))
def test_damaged_outputs_are_named(data: bytes) -> None:
    try:
        row, _ = records.encode_transaction(1, False, (), data)
        record = records.Record(row, complete=True)
        for index in range(min(record.count, 3)):
            record.output(index)
    except (ValueError, StoreCorrupt):
        pass


@example(b"")
@example(b"\x02" + bytes(20))
@given(st.binary(max_size=80))
def test_damaged_rows_are_named(row: bytes) -> None:
    try:
        record = records.Record(row, complete=True)
        if record.paged is None:
            record.spends()
            for index in range(min(record.count, 3)):
                record.output(index)
    except StoreCorrupt:
        pass


def _size(number: int) -> bytes:
    return bytes([number]) if number < 0xFD else b"\xfd" + number.to_bytes(2, "little")
