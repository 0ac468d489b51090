"""``BlobStore`` over any key-value store, in pages of up to 1 MiB.

Tables::

    blob_index   kind ‖ 00 ‖ id          size u64 ‖ generation u64
    blob_data    generation u64 ‖ page   up to 1 MiB of the body
    blob_writing generation u64          size in pages so far, u32: a body being streamed
    blob_meta    generation              the next generation, u64

Invariants:

- the row in ``blob_index`` is written in the last commit of a body, durably: what it names is whole;
- every body has pages of its own, named by a generation that is never used twice; those of a writer that died are named in
  ``blob_writing`` and removed on open;
- one put of an id wins, the others drop what they wrote.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright.storage.limits import check_ids, check_kind, check_range

INDEX = "blob_index"
DATA = "blob_data"
WRITING = "blob_writing"
META = "blob_meta"
PAGE_BYTES = 1024 * 1024
_PAGES_AT_ONCE = 8
_GENERATION = b"generation"


def key_of(kind: str, id: bytes) -> bytes:
    return kind.encode() + b"\x00" + id


def _page_key(generation: int, page: int) -> bytes:
    return generation.to_bytes(8, "big") + page.to_bytes(4, "big")


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES)


class KeyValueBlobStore:
    """Implements ``nodewright.interfaces.BlobStore``; made by ``open_blobs``."""

    def __init__(self, store: KeyValueStore) -> None:
        self.store = store
        self._next = 0
        self._lock = trio.Lock()

    async def load(self) -> None:
        (row,) = await self.store.get_many(META, [_GENERATION])
        self._next = int.from_bytes(row or b"", "big")
        after: bytes | None = None
        while True:
            page = await self.store.scan(WRITING, after=after)
            for key, row in page.items:
                await self._drop(int.from_bytes(key, "big"), int.from_bytes(row, "big"))
            after = page.after
            if after is None:
                return

    async def put(self, kind: str, id: bytes, data: bytes | AsyncIterator[bytes]) -> None:
        check_ids(kind, [id])
        key = key_of(kind, id)
        if await self._entry(key) is not None:
            return
        generation = self._next
        self._next += 1
        if isinstance(data, bytes | bytearray | memoryview):
            data = _pieces(data)
        pages = size = 0
        waiting = bytearray()
        try:
            async for piece in data:
                waiting += piece
                while len(waiting) > PAGE_BYTES:
                    await self._page(generation, pages, bytes(waiting[:PAGE_BYTES]))
                    del waiting[:PAGE_BYTES]
                    pages, size = pages + 1, size + PAGE_BYTES
            if await self._finish(key, generation, pages, size, bytes(waiting)):
                return
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._drop(generation, pages + 1)
            raise
        await self._drop(generation, pages)

    async def _page(self, generation: int, page: int, data: bytes) -> None:
        batch = WriteBatch()
        batch.new.add(DATA)
        batch.put(DATA, _page_key(generation, page), data)
        batch.put(WRITING, generation.to_bytes(8, "big"), (page + 1).to_bytes(4, "big"))
        async with self._lock:
            batch.put(META, _GENERATION, self._next.to_bytes(8, "big"))
            await self.store.commit(batch, durable=False)

    async def _finish(self, key: bytes, generation: int, pages: int, size: int, rest: bytes) -> bool:
        """Write the last page and the index row; False if another writer was first."""
        async with self._lock:
            if await self._entry(key) is not None:
                return False
            batch = WriteBatch()
            if rest:
                batch.put(DATA, _page_key(generation, pages), rest)
            batch.put(INDEX, key, (size + len(rest)).to_bytes(8, "big") + generation.to_bytes(8, "big"))
            batch.put(META, _GENERATION, self._next.to_bytes(8, "big"))
            batch.delete(WRITING, generation.to_bytes(8, "big"))
            await self.store.commit(batch, durable=True)
            return True

    async def _drop(self, generation: int, pages: int) -> None:
        batch = WriteBatch()
        batch.delete_many(DATA, (_page_key(generation, page) for page in range(pages)))
        batch.delete(WRITING, generation.to_bytes(8, "big"))
        await self.store.commit(batch, durable=False)

    async def _entry(self, key: bytes) -> tuple[int, int] | None:
        """(size, generation)"""
        (row,) = await self.store.get_many(INDEX, [key])
        return None if row is None else (int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big"))

    async def get(self, kind: str, id: bytes) -> bytes | None:
        size = await self.size(kind, id)
        return None if size is None else await self.read(kind, id, 0, size)

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        check_ids(kind, [id])
        check_range(offset, length)
        key = key_of(kind, id)
        entry = await self._entry(key)
        if entry is None:
            return None
        size, generation = entry
        end = min(size, offset + length)
        first, last = offset // PAGE_BYTES, _pages(end)
        parts: list[bytes] = []
        for start in range(first, last, _PAGES_AT_ONCE):
            keys = [_page_key(generation, page) for page in range(start, min(last, start + _PAGES_AT_ONCE))]
            for row in await self.store.get_many(DATA, keys):
                if row is None:
                    if await self._entry(key) == entry:
                        raise StoreCorrupt(f"a page of blob {kind}/{id.hex()} is gone; restore the store from a copy")
                    return None  # deleted meanwhile
                parts.append(row)
        whole = b"".join(parts)
        return whole[offset - first * PAGE_BYTES : end - first * PAGE_BYTES] if end > offset else b""

    async def size(self, kind: str, id: bytes) -> int | None:
        check_ids(kind, [id])
        entry = await self._entry(key_of(kind, id))
        return None if entry is None else entry[0]

    async def exists(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        check_ids(kind, ids)
        return [row is not None for row in await self.store.get_many(INDEX, [key_of(kind, id) for id in ids])]

    async def delete(self, kind: str, ids: Sequence[bytes]) -> None:
        check_ids(kind, ids)
        keys = [key_of(kind, id) for id in ids]
        async with self._lock:
            batch = WriteBatch()
            for key, row in zip(keys, await self.store.get_many(INDEX, keys), strict=True):
                if row is not None:
                    size, generation = int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big")
                    batch.delete(INDEX, key)
                    batch.delete_many(DATA, (_page_key(generation, page) for page in range(_pages(size))))
            await self.store.commit(batch, durable=False)

    async def iterate(self, kind: str) -> AsyncIterator[bytes]:
        """In id order where the store is ordered."""
        check_kind(kind)
        prefix = key_of(kind, b"")
        after: bytes | None = None
        while True:
            page = await self.store.scan(INDEX, prefix, after)
            for key, _ in page.items:
                yield key[len(prefix) :]
            after = page.after
            if after is None:
                return

    async def kinds(self) -> list[str]:
        """Found by leaping from kind to kind where the store is ordered; by reading the whole index where it is not."""
        found: set[str] = set()
        ordered = "ordered" in getattr(self.store, "capabilities", ())
        after: bytes | None = None
        while True:
            page = await self.store.scan(INDEX, after=after, limit=1 if ordered else 1000)
            found.update(key.split(b"\x00", 1)[0].decode() for key, _ in page.items)
            if page.after is None:
                return sorted(found)
            after = page.after.split(b"\x00", 1)[0] + b"\x01" if ordered else page.after


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PAGE_BYTES):
        yield data[start : start + PAGE_BYTES]


@asynccontextmanager
async def open_blobs(store: KeyValueStore, environment: Environment) -> AsyncIterator[KeyValueBlobStore]:
    """A ``BlobStore`` in the tables ``blob_*`` of an opened key-value store; drops what writers that died have left."""
    adapter = KeyValueBlobStore(store)
    await adapter.load()
    yield adapter
