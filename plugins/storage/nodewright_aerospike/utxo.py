"""The store as a node gets it: key-value rows, and unspent outputs in records of their own.

A transaction is one record: its row, and who spent which of its outputs (``layout``). The rules and the other rows are
those of the core's adapter; here is what a record per transaction changes about reading them.

Invariants, beside the adapter's:

- a record with at most 1,024 outputs is read whole, with all spenders, in one request, and is complete in memory;
- a row that is not retired is newer than the server's, and so are the spenders that are not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueReader, Page, UtxoOutput, WriteBatch
from nodewright.storage.utxo_adapter import COINBASE_MATURITY, FORMAT, KeyValueUtxoStore
from nodewright.storage.utxo_change import Change
from nodewright.storage.utxo_records import META, SPENT, TX, Record
from nodewright.storage.utxo_walk import unspent_of
from nodewright_aerospike.layout import NUMBER, OUTPUTS_PER_RECORD, ROW, SPENDERS
from nodewright_aerospike.store import CAPABILITIES, Rows, held_in

_FORMAT_KEY = b"format"
_RECORDS_AT_ONCE = 2000


class AerospikeStore(KeyValueUtxoStore):
    """Implements ``nodewright.interfaces.KeyValueStore`` and ``UtxoStore``; made by ``plugin.open_aerospike``."""

    capabilities = CAPABILITIES

    def __init__(self, rows: Rows, environment: Environment, cache_bytes: int) -> None:
        super().__init__(rows, environment, cache_bytes, COINBASE_MATURITY)
        self.rows = rows
        self._begun = False

    async def load(self) -> None:
        """Writes nothing where there are no outputs yet: the slot may be for rows alone."""
        if META in await self.rows.tables():
            self._begun = True
            await super().load()

    async def _commit(self, change: Change, durable: bool) -> None:
        if not self._begun:
            change.batch.put(META, _FORMAT_KEY, FORMAT)
        await super()._commit(change, durable)
        self._begun = True

    # --- rows --------------------------------------------------------------------------------------------------------

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self.rows.get_many(table, keys)

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        return await self.rows.scan(table, prefix, after, limit)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        await self.rows.commit(batch, durable)

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        return await self.rows.delete_range(table, start, end)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self.rows.snapshot()

    async def tables(self) -> list[str]:
        return await self.rows.tables()

    # --- a record for each transaction -------------------------------------------------------------------------------

    async def _gather(
        self, outpoints: Iterable[bytes], txids: Iterable[bytes]
    ) -> tuple[dict[bytes, Record | None], dict[bytes, bytes | None]] | None:
        version = self._version
        cached = self._cache.get
        outpoints = list(outpoints)
        found: dict[bytes, Record | None] = {}
        absent: list[bytes] = []
        for txid in [*[outpoint[:32] for outpoint in outpoints], *txids]:
            if txid not in found:
                record = found[txid] = cached(txid)
                if record is None:
                    absent.append(txid)
        read = await self._records(absent) if absent else []
        if version != self._version:
            return None
        for txid, record in zip(absent, read, strict=True):
            found[txid] = record
            if record is not None:
                self._cache.put(txid, record)
        unsure: list[bytes] = []
        for outpoint in outpoints:
            record = found[outpoint[:32]]
            if record is not None and not record.complete and int.from_bytes(outpoint[32:], "little") not in record.spent:
                unsure.append(outpoint)
        spenders = await self.rows.get_many(SPENT, unsure) if unsure else []
        if version != self._version:
            return None
        for outpoint, spender in zip(unsure, spenders, strict=True):
            record = found[outpoint[:32]]
            assert record is not None
            record.spent[int.from_bytes(outpoint[32:], "little")] = spender
        return found, dict(zip(unsure, spenders, strict=True))

    async def _records(self, txids: Sequence[bytes]) -> list[Record | None]:
        """As they are now, rows and spenders."""
        newest = self.rows.applier.overlay.rows.get(TX, {})
        known: dict[bytes, Record | None] = {}
        for txid in txids:
            if txid in newest:  # then all that was spent of it is not retired either
                row = newest[txid]
                known[txid] = None if row is None else self._record(txid, row, {})
        missing = [txid for txid in txids if txid not in known]
        rows, server = self.rows, self.rows.server
        for start in range(0, len(missing), _RECORDS_AT_ONCE):
            part = missing[start : start + _RECORDS_AT_ONCE]
            keys = rows.layout.keys(TX, part)
            for txid, bins in zip(part, await server.patiently(server.read, keys, [ROW, SPENDERS, NUMBER]), strict=True):
                held = held_in(bins, ROW)
                whole = await rows.whole(TX, txid, held) if isinstance(held, tuple) else held
                known[txid] = None if whole is None else self._record(txid, whole, (bins or {}).get(SPENDERS) or {})
        return [known[txid] for txid in txids]

    def _record(self, txid: bytes, row: bytes, spenders: dict[int, bytes]) -> Record:
        record = Record(row, complete=False)
        record.complete = record.count <= OUTPUTS_PER_RECORD
        if record.complete:
            record.spent.update(spenders)
            newest = self.rows.applier.overlay.rows.get(SPENT)
            if newest:
                for index in range(record.count):
                    outpoint = txid + index.to_bytes(4, "little")
                    if outpoint in newest:
                        record.spent[index] = newest[outpoint]
        return record

    async def iterate_unspent(self) -> AsyncIterator[tuple[bytes, UtxoOutput]]:
        """In no order. Outputs made or spent since it began may be there or not."""
        if TX not in await self.rows.tables():
            return
        async for page in self.rows.walk(TX, [ROW, SPENDERS, NUMBER], ROW):
            deleted = self.rows.applier.overlay.rows.get(TX, {})
            for txid, bins in page:
                if len(txid) != 32 or deleted.get(txid, b"") is None:
                    continue
                held = held_in(bins, ROW)
                row = await self.rows.whole(TX, txid, held) if isinstance(held, tuple) else held
                if row is None:
                    continue
                spenders = bins.get(SPENDERS) or {}
                assert isinstance(spenders, dict)
                record = self._record(txid, row, spenders)
                if record.paged is None and record.complete:
                    for index in range(record.count):
                        if record.spent.get(index) is None:
                            outpoint = txid + index.to_bytes(4, "little")
                            yield outpoint, self._marks.output(outpoint, record, *record.output(index), None)
                    continue
                async for outpoint, _, satoshis, script in unspent_of(self.rows, [(txid, record)]):
                    yield outpoint, self._marks.output(outpoint, record, satoshis, script, None)
