"""``UtxoStore`` over any key-value store. Rows are described in ``utxo_records``, mined bundles in ``utxo_bundles``.

Invariants:

- a row of ``utxo_tx`` never changes; what does change of a transaction (its spenders, marks, bundles) has rows of its own,
  so that a transaction with one input and two outputs costs two small rows, and its share of one row per call;
- every change is one commit of the key-value store, and one change is made at a time (``_lock``); the caches follow once
  the commit has returned, in one step, and are emptied if it failed;
- a record in the cache agrees with the store: readers read without the lock, and put what they read into the cache only
  if no change came between (``_version``);
- what a change creates and spends is new to the store, and the batch says so (``WriteBatch.new``): a store that checks it
  refuses an output's second spender whatever the caches hold;
- marks (frozen, reassigned, locked, conflicting) are few and all in memory; everything else that is cached has a budget of
  bytes;
- "already applied" is recognised by the spent inputs, which name their spender, so that creating a transaction reads no row
  of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import trio

from nodewright.errors import FormatMismatch, StoreCorrupt, StoreError
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import (
    KeyValueReader,
    KeyValueStore,
    UnminedTransaction,
    UtxoOutput,
    UtxoRefused,
    UtxoTransaction,
    WriteBatch,
)
from nodewright.storage.utxo_bundles import Bundles
from nodewright.storage.utxo_cache import RecordCache
from nodewright.storage.utxo_change import APPLIED, Change
from nodewright.storage.utxo_marks import FREEZE, REASSIGN, UNFREEZE, Marks, output_rows, transaction_rows
from nodewright.storage.utxo_prune import Pruner
from nodewright.storage.utxo_records import (
    CONFLICTING,
    LOCKED,
    META,
    PAGE,
    SPENT,
    TX,
    UNDO,
    UNDONE,
    Record,
    block_key,
    decode_refs,
    encode_ref,
)
from nodewright.storage.utxo_walk import read_output, read_spends, unspent_of

FORMAT = b"1"
DEFAULT_CACHE_BYTES = 64 * 1024 * 1024
COINBASE_MATURITY = 100
UNDO_BLOCKS = 1000
_APPLIED = b"applied"
_FORMAT = b"format"


class KeyValueUtxoStore:
    """Implements ``nodewright.interfaces.UtxoStore``; made by ``open_utxo``."""

    def __init__(self, store: KeyValueStore, environment: Environment, cache_bytes: int, coinbase_maturity: int) -> None:
        self.store = store
        self._environment = environment
        self._maturity = coinbase_maturity
        self._snapshots = "snapshot" in getattr(store, "capabilities", ())
        self._cache = RecordCache(cache_bytes)
        self._marks = Marks()
        self._applied: BlockRef | None = None
        self._version = 0
        self._lock = trio.Lock()
        self._bundles = Bundles(store, self._lock)
        self._pruner = Pruner(store, self._bundles, self._lock, self._new_change, self._commit)

    async def load(self) -> None:
        held, applied = await self.store.get_many(META, [_FORMAT, _APPLIED])
        if held is None:
            batch = WriteBatch()
            batch.put(META, _FORMAT, FORMAT)
            await self.store.commit(batch, durable=True)
        elif held != FORMAT:
            raise FormatMismatch(
                f"{self._environment.slot}: the UTXO tables have format {held.decode(errors='replace')}, this node writes "
                f"{FORMAT.decode()}; see what an upgrade would do with  nodewright db upgrade --dry-run"
            )
        self._applied = next(iter(decode_refs(applied)), None)
        await self._bundles.load()
        await self._marks.load(self.store)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get_outputs(self, outpoints: Sequence[bytes]) -> list[UtxoOutput | None]:
        if any(len(outpoint) != 36 for outpoint in outpoints):
            raise ValueError("an outpoint has 36 bytes")
        found, _ = await self._read(outpoints)
        version = self._version
        results: list[UtxoOutput | None] = []
        append = results.append
        marks = self._marks
        marked = bool(marks)
        for outpoint in outpoints:
            txid = outpoint[:32]
            record = found[txid]
            index = int.from_bytes(outpoint[32:], "little")
            if record is None or index >= record.count:
                append(None)
                continue
            if record.paged is None:
                satoshis, script = record.output(index)
            else:
                try:
                    satoshis, script = await read_output(self.store, txid, record.paged, index)
                except StoreCorrupt:
                    if version == self._version:
                        raise
                    return await self.get_outputs(outpoints)  # removed between its row and its pages
            spender = record.spent.get(index)
            if not marked:
                append(UtxoOutput(satoshis, script, record.height, record.coinbase, spender))
            else:
                append(marks.output(outpoint, record, satoshis, script, spender))
        return results

    async def known(self, txids: Sequence[bytes]) -> list[bool]:
        found, _ = await self._read((), txids)
        return [found[txid] is not None for txid in txids]

    async def _read(
        self, outpoints: Iterable[bytes], txids: Iterable[bytes] = ()
    ) -> tuple[dict[bytes, Record | None], dict[bytes, bytes | None]]:
        """``_gather`` without the lock; with it where changes keep coming between."""
        outpoints, txids = list(outpoints), list(txids)
        await trio.lowlevel.checkpoint()
        for _ in range(3):
            gathered = await self._gather(outpoints, txids)
            if gathered is not None:
                return gathered
        async with self._lock:
            gathered = await self._gather(outpoints, txids)
        assert gathered is not None
        return gathered

    async def _gather(
        self, outpoints: Iterable[bytes], txids: Iterable[bytes]
    ) -> tuple[dict[bytes, Record | None], dict[bytes, bytes | None]] | None:
        """Records of the outpoints' transactions and of ``txids``, with the spenders of these outpoints known, and the
        spenders that were read; None if a change came between. One ``get_many`` per table."""
        version = self._version
        cached = self._cache.get
        found: dict[bytes, Record | None] = {}
        absent: list[bytes] = []
        unsure: list[bytes] = []
        for outpoint in outpoints:
            txid = outpoint[:32]
            record = found.get(txid)
            if record is None and txid not in found:
                record = found[txid] = cached(txid)
                if record is None:
                    absent.append(txid)
            if record is None or not (record.complete or int.from_bytes(outpoint[32:], "little") in record.spent):
                unsure.append(outpoint)
        for txid in txids:
            if txid not in found:
                found[txid] = cached(txid)
                if found[txid] is None:
                    absent.append(txid)
        if not absent and not unsure:
            return found, {}
        rows, spenders = await self._rows(absent, unsure)
        if version != self._version:
            return None
        for txid, row in zip(absent, rows, strict=True):
            if row is not None:
                record = found[txid] = Record(row, complete=False)
                self._cache.put(txid, record)
        for outpoint, spender in zip(unsure, spenders, strict=True):
            record = found[outpoint[:32]]
            if record is not None:
                record.spent[int.from_bytes(outpoint[32:], "little")] = spender
        return found, dict(zip(unsure, spenders, strict=True))

    async def _rows(
        self, txids: Sequence[bytes], outpoints: Sequence[bytes]
    ) -> tuple[Sequence[bytes | None], Sequence[bytes | None]]:
        """Rows of transactions, and spenders of outputs. A store that reads both at once does so in a subclass."""
        rows = await self.store.get_many(TX, txids) if txids else []
        return rows, await self.store.get_many(SPENT, outpoints) if outpoints else []

    # --- changing ----------------------------------------------------------------------------------------------------

    async def spend_and_create(
        self, batch: Sequence[UtxoTransaction], height: int, durable: bool = False
    ) -> list[UtxoRefused | None]:
        async with self._lock:
            change, results = await self._plan((), batch, height)
            if change:
                self._bundles.admit(change.batch, change.admitted)
                await self._commit(change, durable)
            elif durable:
                await self._commit(self._new_change(), durable)  # the earlier, unsynced commit of the same transactions
        return results

    def _new_change(
        self,
        found: dict[bytes, Record | None] | None = None,
        spenders: dict[bytes, bytes | None] | None = None,
    ) -> Change:
        return Change(found or {}, spenders or {}, self._marks.outputs, self._marks.transactions, self._maturity)

    async def remove(self, batch: Sequence[UtxoTransaction], durable: bool = False) -> None:
        async with self._lock:
            change, _ = await self._plan(batch, (), 0)
            await self._commit(change, durable)

    async def replace(
        self,
        remove: Sequence[UtxoTransaction],
        create: Sequence[UtxoTransaction],
        height: int,
        applied: BlockRef,
        mined: Sequence[bytes] = (),
        unmined: Sequence[bytes] = (),
        undo: bytes = b"",
    ) -> None:
        async with self._lock:
            change, results = await self._plan(remove, create, height)
            refused = next((result for result in results if result is not None), None)
            if refused is not None:
                raise StoreError(
                    f"block {applied} cannot be applied: output {refused.outpoint[:32][::-1].hex()}:"
                    f"{int.from_bytes(refused.outpoint[32:], 'little')} is {refused.code}"
                )
            self._bundles.admit(change.batch, change.admitted)
            await self._bundles.take_out(change.batch, unmined, None, applied)
            await self._bundles.put_in(change.batch, applied, mined)
            change.batch.put(META, _APPLIED, encode_ref(applied))
            if undo:
                await self._keep_undo(change.batch, applied, undo)
            await self._commit(change, durable=True)
            self._applied = applied

    async def _keep_undo(self, batch: WriteBatch, block: BlockRef, undo: bytes) -> None:
        """Beside its own, each block takes out the records of the blocks UNDO_BLOCKS below it."""
        old = max(0, block.height - UNDO_BLOCKS).to_bytes(8, "big")
        page = await self.store.scan(UNDONE, old, limit=1000)
        for key, _ in page.items if block.height >= UNDO_BLOCKS else ():
            batch.delete(UNDONE, key)
            batch.delete(UNDO, key[8:])
        batch.put(UNDO, block.id, undo)
        batch.put(UNDONE, block_key(block), b"")

    async def undo(self, block: bytes) -> bytes | None:
        (row,) = await self.store.get_many(UNDO, [block])
        return row

    async def transactions(self, txids: Sequence[bytes]) -> list[UtxoTransaction | None]:
        async with self._lock:
            rows = await self.store.get_many(TX, txids)
            effects: list[UtxoTransaction | None] = []
            for txid, row in zip(txids, rows, strict=True):
                if row is None:
                    effects.append(None)
                    continue
                record = Record(row, complete=False)
                spends = tuple(await read_spends(self.store, txid, record))
                effects.append(UtxoTransaction(txid, spends, await self._vector(txid, record), record.coinbase))
        return effects

    async def _vector(self, txid: bytes, record: Record) -> bytes:
        """The serialised output vector as it was created."""
        if record.paged is None:
            return record.body[7 + 36 * int.from_bytes(record.body[5:7], "little") :]
        keys = [txid + b"o" + page.to_bytes(4, "big") for page in range(record.paged.pages)]
        pages = [(await self.store.get_many(PAGE, [key]))[0] for key in keys]  # one by one: each may be a megabyte
        return b"".join(page or b"" for page in pages)

    async def bundle(self, bundle: bytes) -> bytes | None:
        async with self._lock:
            pages = [page async for page in self._bundles.read(self.store, bundle)]
        return b"".join(pages) if pages else None

    async def _plan(
        self, remove: Sequence[UtxoTransaction], create: Sequence[UtxoTransaction], height: int
    ) -> tuple[Change, list[UtxoRefused | None]]:
        """What to write, and the answer for each of ``create``; nothing is written yet.

        Transactions of the batch itself are not looked up at first: most are new. Those that turn out to be missing, and
        parents in the batch that were applied before, are looked up then, and all is judged again from the start."""
        own = {tx.txid for tx in create}
        removing = [tx.txid for tx in remove]
        looked = {tx.txid for tx in create if not tx.spends} | set(removing)
        outpoints = [outpoint for tx in remove for outpoint in tx.spends]
        later = own - looked - {outpoint[:32] for outpoint in outpoints}
        outpoints += [outpoint for tx in create for outpoint in tx.spends if outpoint[:32] not in later]
        gathered = await self._gather(outpoints, sorted(looked))
        assert gathered is not None  # changes are made under the lock, which is held
        found, spenders = gathered
        if not remove and not looked:
            change = self._new_change(found, spenders)
            if change.create_plain(create, height):
                change.promise()
                return change, [None] * len(create)
        while True:
            change = self._new_change(found, spenders)
            change.remove(remove)
            results: list[UtxoRefused | None] = []
            again: set[bytes] = set()
            for tx in create:
                verdict = change.create(tx, height, tx.txid in looked)
                if verdict is None or verdict is APPLIED:
                    results.append(None)
                    continue
                assert isinstance(verdict, UtxoRefused)
                results.append(verdict)
                if verdict.code == "missing":
                    parent = verdict.outpoint[:32]
                    again.update(txid for txid in (tx.txid, parent) if txid in own and txid not in looked)
            if not again:
                change.promise()
                return change, results
            looked |= again
            more = await self._gather([o for tx in create for o in tx.spends if o[:32] in again], sorted(again))
            assert more is not None
            found.update(more[0])
            spenders.update(more[1])

    async def _commit(self, change: Change, durable: bool) -> None:
        """Commit, then let the caches follow. A caller that is cancelled meanwhile is cancelled after it."""
        try:
            with trio.CancelScope(shield=True):
                await self.store.commit(change.batch, durable)
        except BaseException:
            self._version += 1
            self._cache.clear()
            raise
        self._version += 1
        cache = self._cache
        for txid in change.removed:
            cache.pop(txid)
            self._marks.transactions.pop(txid, None)
        for outpoint in change.unmarked:
            self._marks.outputs.pop(outpoint, None)
        cache.put_all(change.created)
        for txid in change.locked:
            self._marks.transactions[txid] = LOCKED
        peek = cache.peek
        for outpoint, spender in change.spent.items():
            cached = peek(outpoint[:32])
            if cached is not None:
                cached.spent[int.from_bytes(outpoint[32:], "little")] = spender

    async def _commit_rows(self, batch: WriteBatch, durable: bool = False) -> None:
        change = self._new_change()
        change.batch = batch
        await self._commit(change, durable)

    # --- bundles -----------------------------------------------------------------------------------------------------

    async def applied(self) -> BlockRef | None:
        await trio.lowlevel.checkpoint()
        return self._applied

    async def assign_bundle(self, bundle: bytes, txids: bytes) -> None:
        if len(txids) % 32 or not 1 <= len(bundle) <= 64:
            raise ValueError("a bundle has an id of 1 to 64 bytes and txids of 32 bytes each")
        async with self._lock:
            batch = WriteBatch()
            await self._bundles.assign(batch, bundle, txids)
            await self._commit_rows(batch)

    async def set_mined(self, block: BlockRef, bundles: Sequence[bytes]) -> None:
        async with self._lock:
            batch = WriteBatch()
            await self._bundles.put_in(batch, block, bundles)
            await self._commit_rows(batch)

    async def unset_mined(self, block: BlockRef, bundles: Sequence[bytes]) -> None:
        async with self._lock:
            batch = WriteBatch()
            await self._bundles.take_out(batch, bundles, block, block)
            await self._commit_rows(batch)

    async def iterate_unmined(self) -> AsyncIterator[UnminedTransaction]:
        async with self._view() as reader:
            async for txids in self._bundles.unmined_ids(reader):
                for start in range(0, len(txids), 1000):
                    part = txids[start : start + 1000]
                    for txid, row in zip(part, await reader.get_many(TX, part), strict=True):
                        if row is None:
                            continue
                        record = Record(row, complete=False)
                        if not record.coinbase:
                            yield UnminedTransaction(txid, record.height)

    async def iterate_unspent(self) -> AsyncIterator[tuple[bytes, UtxoOutput]]:
        """By txid, then by output index as a number."""
        async with self._view() as reader:
            after: bytes | None = None
            while True:
                page = await reader.scan(TX, after=after, limit=1000)
                records = [(txid, Record(row, complete=False)) for txid, row in page.items]
                async for outpoint, record, satoshis, script in unspent_of(reader, records):
                    yield outpoint, self._marks.output(outpoint, record, satoshis, script, None)
                after = page.after
                if after is None:
                    return

    def _view(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self.store.snapshot() if self._snapshots else nullcontext(self.store)

    async def prune(self, height: int, retention: int = 288) -> int:
        return await self._pruner.prune(height - retention)

    # --- marks -------------------------------------------------------------------------------------------------------

    async def freeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]:
        """Refused ``missing`` or ``spent``; freezing twice is success. Durable."""
        return await self._mark([(outpoint, None) for outpoint in outpoints], FREEZE, 0)

    async def unfreeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]:
        """Refused ``missing``; unfreezing what is not frozen is success. Durable."""
        return await self._mark([(outpoint, None) for outpoint in outpoints], UNFREEZE, 0)

    async def reassign(self, changes: Sequence[tuple[bytes, bytes]], spendable_from: int) -> list[UtxoRefused | None]:
        """Refused ``missing``, ``spent`` or ``not-frozen``; doing the same again is success. Durable."""
        return await self._mark(changes, REASSIGN, spendable_from)

    async def _mark(
        self, changes: Sequence[tuple[bytes, bytes | None]], action: str, spendable_from: int
    ) -> list[UtxoRefused | None]:
        async with self._lock:
            gathered = await self._gather([outpoint for outpoint, _ in changes], ())
            assert gathered is not None
            results, marks = self._marks.judge(changes, action, spendable_from, gathered[0])
            await self._commit_rows(output_rows(marks), durable=True)
            self._marks.set_outputs(marks)
            return results

    async def set_locked(self, txids: Sequence[bytes], locked: bool) -> None:
        await self._flag(txids, LOCKED, locked)

    async def set_conflicting(self, txids: Sequence[bytes], conflicting: bool) -> None:
        await self._flag(txids, CONFLICTING, conflicting)

    async def _flag(self, txids: Sequence[bytes], flag: int, wanted: bool) -> None:
        """Unknown transactions are passed over. Not synced: kept in order with the commits around it."""
        async with self._lock:
            gathered = await self._gather((), txids)
            assert gathered is not None
            flags = self._marks.flags([txid for txid in txids if gathered[0][txid] is not None], flag, wanted)
            await self._commit_rows(transaction_rows(flags))
            self._marks.set_transactions(flags)


@asynccontextmanager
async def open_utxo(
    store: KeyValueStore,
    environment: Environment,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    coinbase_maturity: int = COINBASE_MATURITY,
) -> AsyncIterator[KeyValueUtxoStore]:
    """A ``UtxoStore`` in the tables ``utxo_*`` of an opened key-value store. ``cache_bytes`` bounds the cached records;
    a coinbase may be spent ``coinbase_maturity`` blocks after its own. A store with an attribute ``capabilities`` that has
    ``snapshot`` gives consistent iterations. Raises FormatMismatch."""
    adapter = KeyValueUtxoStore(store, environment, cache_bytes, coinbase_maturity)
    await adapter.load()
    yield adapter
