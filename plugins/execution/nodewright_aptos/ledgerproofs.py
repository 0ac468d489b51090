"""Proofs that a transaction is in the ledger, from what the store has: infos, and every eighth level of the accumulator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nodewright.errors import StoreCorrupt
from nodewright_aptos import hashing, records
from nodewright_aptos.accumulator import PAGE_LEVEL
from nodewright_aptos.accumulator import prove as siblings_of
from nodewright_aptos.records import number, read_transaction

Read = Callable[[str, Sequence[bytes]], Awaitable[list[bytes | None]]]
Node = tuple[int, int]
_PAGE: Final = 1 << PAGE_LEVEL


async def prove(read: Read, leaf: int, leaves: int) -> list[bytes]:
    """Siblings of a leaf from the bottom up in the accumulator of ``leaves``. Reads at most 256 rows per eighth level."""
    wanted: dict[Node, None] = {}

    def note(level: int, index: int) -> bytes:
        wanted[level, index] = None
        return bytes(32)

    siblings_of(leaf, leaves, note)
    known: dict[Node, bytes] = {}
    for level, index in wanted:
        known[level, index] = await _node(read, level, index)
    return siblings_of(leaf, leaves, lambda level, index: known[level, index])


async def _node(read: Read, level: int, index: int) -> bytes:
    """A complete node, from the stored level at or below it."""
    base = level - level % PAGE_LEVEL
    first, count = index << (level - base), 1 << (level - base)
    nodes = b"".join(await _stored(read, base, range(first, first + count)))
    while len(nodes) > 32:
        nodes = hashing.pairs(hashing.TRANSACTION_ACCUMULATOR, nodes)
    return nodes


async def _stored(read: Read, level: int, indices: range) -> list[bytes]:
    if level == 0:
        rows = await read(records.TRANSACTIONS, [number(at) for at in indices])
        infos = [read_transaction(at, raw).info for at, raw in zip(indices, rows, strict=True) if raw is not None]
        found = hashing.digests(hashing.TRANSACTION_INFO, infos)
    else:
        rows = await read(records.ACCUMULATOR, [bytes([level]) + number(at) for at in indices])
        found = [raw for raw in rows if raw is not None]
    if len(found) != len(indices):
        raise StoreCorrupt(f"stores.state lacks a part of its ledger near version {indices.start << level}")
    return found
