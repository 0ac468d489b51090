"""Giving space back: what the adapters keep longer than needed, then the files of the store itself."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from nodewright.db.stopped import StoreSlot
from nodewright.storage.utxo_bundles import Bundles


def bytes_on_disk(folder: Path) -> int:
    """Allocated, of all files below; what goes away meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


async def compact_store(store: StoreSlot) -> str:
    """Returns a sentence that says what was done. Raises StoreError."""
    done = []
    if store.keeps_outputs:
        assert store.rows is not None
        bundles = Bundles(store.rows, trio.Lock())
        await bundles.load()
        while not await bundles.compact():
            pass
        done.append("struck mined transactions from the list of unmined ones")
    compaction = store.compaction
    if compaction is None:
        done.append(f"{store.planned.spec.name} has nothing to compact")
        return "; ".join(done)
    before = bytes_on_disk(store.folder)
    await compaction.compact()
    done.append(f"compacted {store.planned.spec.name}: {before} bytes on disk before, {bytes_on_disk(store.folder)} after")
    return "; ".join(done)
