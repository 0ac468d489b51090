"""The access patterns of the three families, measured over several stores in one run.

- ``spend-and-create``: a batch of transactions, each of which spends an output of the batch before and creates two, through
  the store's own ``utxo`` contract or the adapter over its key-value tables; not durable, and every batch durable.
- ``node reads``: random 32-byte keys, values of 200 to 500 bytes, many a call, out of a table that was loaded before.
- ``block append``: bodies of 1 MiB one after another, each durable when it returns, through the store's own ``blob``
  contract or the adapter.

Rounds go over all stores and patterns in turn, so that what else the machine does falls on all of them alike. A round of a
pattern ends when all that it wrote is durable. Every store is to be empty at first, but for what an earlier run left in it,
and is emptied at the end.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from attrs import define, field, frozen

from nodewright.bench.report import percentile
from nodewright.errors import StoreError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import (
    MAX_KEY_BYTES,
    BlobStore,
    KeyValueStore,
    TableListing,
    UtxoStore,
    UtxoTransaction,
    WriteBatch,
)
from nodewright.plugins.specs import BLOB, UTXO, Native
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.formats import read_format
from nodewright.storage.utxo_adapter import open_utxo

# Two outputs of 25 bytes of script, as of payments to a key's hash.
OUTPUTS = b"\x02" + 2 * (b"\x10" * 8 + b"\x19" + bytes.fromhex("76a914") + b"\x07" * 20 + bytes.fromhex("88ac"))
MARK_TABLE, MARK = "bench_mark", b"nodewright bench storage"
NODE_TABLE = "bench_nodes"
BOOKKEEPING = frozenset({"utxo_meta", "blob_meta"})  # what a store may write when it is opened, data or none
BLOB_KIND = "bench"
NO_NATIVE: Mapping[str, Native] = {}
BODY_BYTES = 1024 * 1024
NODE_BYTES = (200, 500)
LOAD_ROWS = 2_000


@frozen
class Sizes:
    """``batch`` transactions a call; ``nodes`` in the table, ``keys`` of them a call; calls of each pattern in a round."""

    rounds: int = 5
    batch: int = 1000
    batches: int = 10
    nodes: int = 50_000
    keys: int = 256
    reads: int = 40
    bodies: int = 8


@frozen
class Figure:
    """``per_second`` is the median of the rounds, ``p95_ms`` that of single calls over all rounds."""

    store: str
    pattern: str
    unit: str
    per_second: float
    p95_ms: float
    calls: int

    def document(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "pattern": self.pattern,
            "unit": self.unit,
            "per_second": self.per_second,
            "p95_ms": self.p95_ms,
            "calls": self.calls,
        }


class Pattern(Protocol):
    name: str
    unit: str  # of what a second has so many
    each: float  # of them a call

    async def prepare(self) -> None: ...

    def calls(self) -> Sequence[Callable[[], Awaitable[object]]]:
        """Those of one round, made beforehand: only what the store does is timed."""

    async def settle(self) -> None:
        """Ends a round: what its calls wrote is durable."""


class SpendAndCreate:
    unit = "transactions"

    def __init__(self, utxo: UtxoStore, sizes: Sizes, durable: bool) -> None:
        self.name = "spend-and-create, durable" if durable else "spend-and-create"
        self.each = float(sizes.batch)
        self._utxo = utxo
        self._sizes = sizes
        self._durable = durable
        self._tips = [hashlib.sha256(f"{self.name} {index}".encode()).digest() for index in range(sizes.batch)]

    async def prepare(self) -> None:
        await self._apply([UtxoTransaction(txid, (), OUTPUTS) for txid in self._tips])

    def calls(self) -> Sequence[Callable[[], Awaitable[object]]]:
        made = [self._next() for _ in range(self._sizes.batches)]
        return [lambda txs=txs: self._apply(txs) for txs in made]  # type: ignore[misc]

    async def settle(self) -> None:
        if not self._durable:
            await self._utxo.spend_and_create([], 1, durable=True)

    def _next(self) -> list[UtxoTransaction]:
        txs = [UtxoTransaction(hashlib.sha256(tip).digest(), (tip + bytes(4),), OUTPUTS) for tip in self._tips]
        self._tips = [tx.txid for tx in txs]
        return txs

    async def _apply(self, txs: Sequence[UtxoTransaction]) -> None:
        if any(await self._utxo.spend_and_create(txs, 1, self._durable)):
            raise StoreError("the store refuses what it should take: it is not empty, or it is wrong")


class NodeReads:
    unit = "nodes"

    def __init__(self, store: KeyValueStore, sizes: Sizes, dice: random.Random) -> None:
        self.name = "node reads"
        self.each = float(sizes.keys)
        self._store = store
        self._sizes = sizes
        self._dice = dice
        self._keys = [hashlib.sha256(b"node %d" % number).digest() for number in range(sizes.nodes)]

    async def prepare(self) -> None:
        for start in range(0, len(self._keys), LOAD_ROWS):
            rows = WriteBatch()
            for key in self._keys[start : start + LOAD_ROWS]:
                rows.put(NODE_TABLE, key, (key * 16)[: self._dice.randint(*NODE_BYTES)])
            await self._store.commit(rows, durable=start + LOAD_ROWS >= len(self._keys))

    def calls(self) -> Sequence[Callable[[], Awaitable[object]]]:
        count = min(self._sizes.keys, len(self._keys))
        asked = [self._dice.sample(self._keys, count) for _ in range(self._sizes.reads)]
        return [lambda keys=keys: self._read(keys) for keys in asked]  # type: ignore[misc]

    async def settle(self) -> None:
        return

    async def _read(self, keys: Sequence[bytes]) -> None:
        if None in await self._store.get_many(NODE_TABLE, keys):
            raise StoreError("the store has lost a node that was written durably")


class BlockAppend:
    unit = "MiB"
    each = BODY_BYTES / 2**20

    def __init__(self, blobs: BlobStore, sizes: Sizes, dice: random.Random) -> None:
        self.name = "block append"
        self._blobs = blobs
        self._sizes = sizes
        self._dice = dice

    async def prepare(self) -> None:
        return

    def calls(self) -> Sequence[Callable[[], Awaitable[object]]]:
        made = []
        for _ in range(self._sizes.bodies):
            body = self._dice.randbytes(BODY_BYTES)
            id = hashlib.sha256(body).digest()
            made.append((id, body))
        return [lambda id=id, body=body: self._blobs.put(BLOB_KIND, id, body) for id, body in made]  # type: ignore[misc]

    async def settle(self) -> None:
        return


@define
class Measured:
    """One store under one pattern: the seconds of single calls; of whole rounds the rate, with what each took at its end to
    be durable."""

    store: str
    pattern: Pattern
    calls: list[float] = field(factory=list)
    rates: list[float] = field(factory=list)

    async def round(self) -> None:
        calls = self.pattern.calls()
        begin = before = time.perf_counter()
        for call in calls:
            await call()
            now = time.perf_counter()
            self.calls.append(now - before)
            before = now
        await self.pattern.settle()
        self.rates.append(self.pattern.each * len(calls) / (time.perf_counter() - begin))

    def figure(self) -> Figure:
        median, p95 = statistics.median(self.rates), 1000 * percentile(self.calls, 0.95)
        return Figure(self.store, self.pattern.name, self.pattern.unit, median, p95, len(self.calls))


@asynccontextmanager
async def patterns_of(
    name: str, raw: Any, sizes: Sizes, environment: Environment, native: Mapping[str, Native] = NO_NATIVE
) -> AsyncIterator[list[Measured]]:
    """What can be measured of an opened store, prepared; ``native`` is how it gives ``utxo`` and ``blob`` itself
    (``StorageSpec.native``). Raises StoreError where it holds data of somebody else's; what the patterns wrote is gone
    afterwards."""
    rows = raw if isinstance(raw, KeyValueStore) else None
    dice = random.Random(f"bench storage {sizes}")  # the same of every store
    await _take(name, raw)
    own_utxo, own_blobs = native.get(UTXO, open_utxo), native.get(BLOB, open_blobs)
    async with _utxo(raw, rows, environment, own_utxo) as utxo, _blobs(raw, rows, environment, own_blobs) as blobs:
        patterns: list[Pattern] = []
        if utxo is not None:
            patterns += [SpendAndCreate(utxo, sizes, durable) for durable in (False, True)]
        if rows is not None:
            patterns.append(NodeReads(rows, sizes, dice))
        if blobs is not None:
            patterns.append(BlockAppend(blobs, sizes, dice))
        for pattern in patterns:
            await pattern.prepare()
        yield [Measured(name, pattern) for pattern in patterns]
        if blobs is not None and rows is None:
            await blobs.delete(BLOB_KIND, [id async for id in blobs.iterate(BLOB_KIND)])
    if rows is not None:
        await _empty(rows)


@asynccontextmanager
async def _utxo(
    raw: Any, rows: KeyValueStore | None, environment: Environment, over_rows: Native
) -> AsyncIterator[UtxoStore | None]:
    if rows is None or isinstance(raw, UtxoStore):
        yield raw if isinstance(raw, UtxoStore) else None
        return
    async with over_rows(rows, environment) as utxo:
        yield utxo


@asynccontextmanager
async def _blobs(
    raw: Any, rows: KeyValueStore | None, environment: Environment, over_rows: Native
) -> AsyncIterator[BlobStore | None]:
    if rows is None or isinstance(raw, BlobStore):
        yield raw if isinstance(raw, BlobStore) else None
        return
    async with over_rows(rows, environment) as blobs:
        yield blobs


async def _take(name: str, raw: Any) -> None:
    """Leave a mark in an empty store, by which a later run knows what is its own. Raises StoreError where it is not."""
    if not isinstance(raw, KeyValueStore):
        if [kind for kind in await raw.kinds() if kind != BLOB_KIND]:
            raise StoreError(_refusal(name))
        return
    (mark,) = await raw.get_many(MARK_TABLE, [MARK])
    if mark is not None:
        await _empty(raw)
    elif await read_format(raw) is not None or await _has_rows(name, raw):
        raise StoreError(_refusal(name))
    batch = WriteBatch()
    batch.put(MARK_TABLE, MARK, b"")
    await raw.commit(batch)


def _refusal(name: str) -> str:
    return f"the store {name} holds data: name an empty one (the benchmark writes to it, and removes what it wrote)"


async def _has_rows(name: str, store: KeyValueStore) -> bool:
    if not isinstance(store, TableListing):
        raise StoreError(f"the store {name} cannot name its tables, so that it is not known to be empty: not measured")
    for table in await store.tables():
        if table not in BOOKKEEPING and (await store.scan(table, limit=1)).items:
            return True
    return False


async def _empty(store: KeyValueStore) -> None:
    """The mark goes last: killed in the middle, the next run goes on."""
    if isinstance(store, TableListing):
        for table in sorted(await store.tables(), key=lambda table: table == MARK_TABLE):
            await store.delete_range(table, b"", b"\xff" * MAX_KEY_BYTES)


async def measure(measured: Sequence[Measured], sizes: Sizes, step: Callable[[int], None]) -> list[Figure]:
    """All rounds; ``step(1)`` after each pattern of each store. In every round another store is first."""
    patterns = list(dict.fromkeys(one.pattern.name for one in measured))
    for number in range(sizes.rounds):
        for pattern in patterns:
            of_pattern = [one for one in measured if one.pattern.name == pattern]
            first = number % len(of_pattern)
            for one in of_pattern[first:] + of_pattern[:first]:
                await one.round()
                step(1)
    order = {name: index for index, name in enumerate(patterns)}
    return sorted((one.figure() for one in measured), key=lambda figure: order[figure.pattern])


def lines(figures: Sequence[Figure]) -> list[str]:
    """A table by pattern. ``x`` is the rate by that of the first store that has the pattern."""
    rows = [("pattern", "store", "per second", "", "x", "p95 ms a call")]
    first: dict[str, float] = {}
    for figure in figures:
        reference = first.setdefault(figure.pattern, figure.per_second)
        rows.append(
            (
                figure.pattern,
                figure.store,
                f"{figure.per_second:,.0f}",
                figure.unit,
                f"{figure.per_second / reference:.2f}",
                f"{figure.p95_ms:,.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    left = (0, 1, 3)
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
