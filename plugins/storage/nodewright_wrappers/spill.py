"""Two blob stores as one: bodies up to a size in the first, larger ones in the second.

For a database that keeps small values well and large ones badly (a record of Aerospike) beside one that streams (files).

Invariants
- A body is in one of the two, by its size alone, so that nothing is said of where it is and a crash leaves nothing to mend.
- Where the limit was changed in between, a body that is there already is found in either, and put again into neither.
- A put holds no more than the limit in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import attrs

from nodewright.errors import StoreError
from nodewright.interfaces.storage import BlobStore, KindListing
from nodewright.plugins.specs import BLOB, setting

KIB = 1024


@attrs.define
class SpillConfig:
    small: str = setting(help="NAME of the [stores.NAME] for small bodies, which nothing else may use", store=BLOB)
    large: str = setting(help="NAME of the [stores.NAME] for larger ones, which nothing else may use", store=BLOB)
    max_kib: int = setting(512, help="bodies of up to so many KiB are small", minimum=1, maximum=1024 * 1024)


def check_spill(config: SpillConfig) -> list[str]:
    return ["small and large name the same store"] if config.small == config.large else []


class SpillStore:
    """Implements ``nodewright.interfaces.BlobStore``."""

    def __init__(self, small: BlobStore, large: BlobStore, limit: int) -> None:
        self._small = small
        self._large = large
        self._limit = limit

    async def _holder(self, kind: str, id: bytes) -> BlobStore | None:
        for store in (self._small, self._large):
            if (await store.exists(kind, [id]))[0]:
                return store
        return None

    async def put(self, kind: str, id: bytes, data: bytes | AsyncIterator[bytes]) -> None:
        if isinstance(data, bytes):
            if await self._holder(kind, id) is None:
                await (self._small if len(data) <= self._limit else self._large).put(kind, id, data)
            return
        begun, size = [], 0
        async for piece in data:
            begun.append(piece)
            size += len(piece)
            if size > self._limit:
                break
        else:
            await self.put(kind, id, b"".join(begun))
            return
        if await self._holder(kind, id) is None:
            await self._large.put(kind, id, _rest(begun, data))

    async def get(self, kind: str, id: bytes) -> bytes | None:
        found = await self._small.get(kind, id)
        return await self._large.get(kind, id) if found is None else found

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        found = await self._small.read(kind, id, offset, length)
        return await self._large.read(kind, id, offset, length) if found is None else found

    async def size(self, kind: str, id: bytes) -> int | None:
        found = await self._small.size(kind, id)
        return await self._large.size(kind, id) if found is None else found

    async def exists(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        here = await self._small.exists(kind, ids)
        rest = [id for id, found in zip(ids, here, strict=True) if not found]
        there = iter(await self._large.exists(kind, rest) if rest else [])
        return [found or next(there) for found in here]

    async def delete(self, kind: str, ids: Sequence[bytes]) -> None:
        await self._small.delete(kind, ids)
        await self._large.delete(kind, ids)

    async def iterate(self, kind: str) -> AsyncIterator[bytes]:
        for store in (self._small, self._large):
            async for id in store.iterate(kind):
                yield id

    async def kinds(self) -> list[str]:
        """See ``interfaces.storage.KindListing``. Raises StoreError where one of the two cannot name them."""
        named: set[str] = set()
        for store in (self._small, self._large):
            if not isinstance(store, KindListing):
                raise StoreError("spill: a store behind it cannot name the kinds of its blobs: name another in the profile")
            named.update(await store.kinds())
        return sorted(named)


async def _rest(begun: list[bytes], data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was read to see how long it is, then what follows."""
    while begun:
        yield begun.pop(0)
    async for piece in data:
        yield piece
