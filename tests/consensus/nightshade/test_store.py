"""Rows of the chain store that are not what was written: the store is to blame, never the peer that asked for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.storage import WriteBatch
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nightshade import store as tables
from nodewright_nightshade.store import ChainStore

ID = b"i" * 32

READS: list[tuple[str, bytes, Callable[[ChainStore], Awaitable[Any]]]] = [
    (tables.BLOCKS, ID, lambda store: store.block(ID)),
    (tables.INFOS, ID, lambda store: store.info(ID)),
    (tables.INFOS, ID, lambda store: store.infos([ID])),
    (tables.CHUNKS, ID, lambda store: store.chunk(ID)),
    (tables.PARTS, ID, lambda store: store.part(ID)),
    (tables.EPOCHS, ID, lambda store: store.epoch(ID)),
    (tables.META, b"tally", lambda store: store.tally()),
    (tables.TXS, ID, lambda store: store.places([ID])),
    (tables.RUNS, ID + bytes(4), lambda store: store.run(ID, 0)),
]


@pytest.mark.parametrize("at", range(len(READS)))
@pytest.mark.parametrize("row", [b"", b"\xff" * 11])
async def test_a_damaged_row_is_told_of_the_store(at: int, row: bytes) -> None:
    table, key, read = READS[at]
    kept = MemoryStore(MemoryDisk(), "node")
    batch = WriteBatch()
    batch.put(table, key, row)
    await kept.commit(batch)
    with pytest.raises(StoreCorrupt, match=r"^stores\.chain: .* cannot be read"):
        await read(ChainStore(kept))
