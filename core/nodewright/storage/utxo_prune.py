"""Pruning for the ``utxo`` adapter: deleting transactions all of whose outputs were spent deep in the chain.

Invariants:

- blocks at or below the depth are *buried* in order of height, each transaction once: burying one counts it towards each
  transaction that it spends from (``utxo_buried``), in the same commit that moves the cursor, so that a crash neither
  counts twice nor leaves one out;
- a transaction goes when the count reaches the number of its outputs, with every row of it;
- a block is buried only when none of its bundles is fresh: what is forgotten with it
  is no longer needed to tell the unmined.

A bundle's parents come before its children, as in the chain. Undoing a buried block is not possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import KeyValueStore
from nodewright.storage.utxo_bundles import Bundles, scan_all
from nodewright.storage.utxo_change import Change
from nodewright.storage.utxo_records import BLOCK, BURIED, FRESH, META, TX, Record, decode_names, split_ids
from nodewright.storage.utxo_walk import read_spends

TRANSACTIONS_PER_CALL = 65_536
_STEP = 1024
_CURSOR = b"prune"


class Pruner:
    def __init__(
        self,
        store: KeyValueStore,
        bundles: Bundles,
        lock: trio.Lock,
        new_change: Callable[[], Change],
        commit: Callable[[Change, bool], Awaitable[None]],
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._lock = lock
        self._new_change = new_change
        self._commit = commit
        self._running = trio.Lock()

    async def prune(self, limit: int) -> int:
        """Bury blocks at heights up to ``limit``, at most 65,536 transactions in one call; returns how many
        transactions were deleted."""
        async with self._running:
            if not await self._bundles.compact() and await self._fresh_below(limit):
                return 0
            deleted = 0
            left = TRANSACTIONS_PER_CALL
            while left > 0 and (found := await self._next_block(limit)) is not None:
                count, spent = await self._bury(*found, left)
                deleted += count
                left -= spent
            return deleted

    async def _fresh_below(self, limit: int) -> bool:
        async for _, height in scan_all(self._store, FRESH):
            if int.from_bytes(height, "big") <= limit:
                return True
        return False

    async def _next_block(self, limit: int) -> tuple[BlockRef, list[bytes]] | None:
        lowest: tuple[bytes, bytes] | None = None
        async for item in scan_all(self._store, BLOCK):
            if lowest is None or item < lowest:
                lowest = item
        if lowest is None or int.from_bytes(lowest[0][:8], "big") > limit:
            return None
        return BlockRef(int.from_bytes(lowest[0][:8], "big"), lowest[0][8:]), decode_names(lowest[1])

    async def _bury(self, block: BlockRef, bundles: list[bytes], allowed: int) -> tuple[int, int]:
        """(transactions deleted, transactions buried). The cursor is the block and how many of its transactions are
        buried."""
        (row,) = await self._store.get_many(META, [_CURSOR])
        done = int.from_bytes(row[:8], "big") if row is not None and row[8:] == block.id else 0
        position = 0
        deleted = buried = 0
        for bundle in bundles:
            async for ids in self._bundles.read(self._store, bundle):
                count = len(ids) // 32
                if position + count <= done:
                    position += count
                    continue
                for start in range(max(0, done - position), count, _STEP):
                    step = split_ids(ids[32 * start : 32 * min(count, start + _STEP)])
                    cursor = (position + start + len(step)).to_bytes(8, "big") + block.id
                    deleted += await self._step(step, cursor)
                    buried += len(step)
                    if buried >= allowed:
                        return deleted, buried
                position += count
        async with self._lock:
            change = self._new_change()
            await self._bundles.forget(change.batch, block, bundles)
            change.batch.delete(META, _CURSOR)
            await self._commit(change, False)
        return deleted, max(buried, 1)

    async def _step(self, txids: list[bytes], cursor: bytes) -> int:
        async with self._lock:
            parents: Counter[bytes] = Counter()
            rows = await self._store.get_many(TX, txids)
            for txid, row in zip(txids, rows, strict=True):
                if row is not None:
                    spends = await read_spends(self._store, txid, Record(row, complete=False))
                    parents.update(outpoint[:32] for outpoint in spends)
            change = await self._count(parents)
            change.batch.put(META, _CURSOR, cursor)
            await self._commit(change, False)
            return len(change.removed)

    async def _count(self, parents: Counter[bytes]) -> Change:
        ids = list(parents)
        rows = await self._store.get_many(TX, ids)
        counts = await self._store.get_many(BURIED, ids)
        change = self._new_change()
        for txid, row, count in zip(ids, rows, counts, strict=True):
            if row is None:
                continue
            record = Record(row, complete=False)
            total = parents[txid] + int.from_bytes(count or b"", "big")
            if total >= record.count:
                change.delete(txid, record)
            else:
                change.batch.put(BURIED, txid, total.to_bytes(4, "big"))
        return change
