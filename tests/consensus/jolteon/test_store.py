"""Rows of the chain store that are not what was written: the store is to blame, never the peer that asked for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.storage import WriteBatch
from nodewright_jolteon import store as tables
from nodewright_jolteon.store import ChainStore
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

KEY = (5).to_bytes(8, "big")
ID = b"i" * 32

READS: list[tuple[str, bytes, Callable[[ChainStore], Awaitable[Any]]]] = [
    (tables.BLOCKS, KEY + ID, lambda store: store.blocks_above(0)),
    (tables.BLOCKS, KEY + ID, lambda store: store.block(ID)),
    (tables.META, tables.HEAD, lambda store: store.head()),
    (tables.DONE, ID, lambda store: store.done(ID)),
    (tables.TXS, ID, lambda store: store.places([ID])),
    (tables.LEDGER, KEY, lambda store: store.certificates([5])),
    (tables.LEDGER, KEY, lambda store: store.certificate_from(3)),
    (tables.EPOCHS, KEY, lambda store: store.epoch(5)),
]


@pytest.mark.parametrize("at", range(len(READS)))
@pytest.mark.parametrize("row", [b"", b"\xff" * 11])
async def test_a_damaged_row_is_told_of_the_store(at: int, row: bytes) -> None:
    table, key, read = READS[at]
    kept = MemoryStore(MemoryDisk(), "node")
    batch = WriteBatch()
    batch.put(table, key, row)
    batch.put(tables.IDS, ID, KEY)
    await kept.commit(batch)
    with pytest.raises(StoreCorrupt, match=r"^stores\.chain: .* cannot be read"):
        await read(ChainStore(kept))
