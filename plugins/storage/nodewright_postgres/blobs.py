"""The store's own ``blob``: bodies in pages (``blob_page``) under a row with kind, id and size (``blob``).

Bodies are written as the core's adapter writes them, each change a commit of the store with the owner's epoch in it; here
is what the server can do about reading them.

Invariants, beside the adapter's:

- a read is one query for every 8 MiB, which finds the body and cuts what was asked for out of its pages: a page's bytes
  outside of the range are neither sent nor, since they are stored uncompressed, read by the server;
- what a read returns is of one body: of one that was deleted and put again meanwhile, none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.environment import Environment
from nodewright.storage.blob_adapter import PAGE_BYTES, KeyValueBlobStore, key_of
from nodewright.storage.limits import check_ids, check_range
from nodewright_postgres.config import MIB
from nodewright_postgres.store import PostgresStore

_BYTES_AT_ONCE = 8 * MIB

# Of the body $1, from byte $2 to before byte $3: one row for each page that is touched, at least one, in any order: a sort
# would carry the bodies. A whole page is sent as it is: cut, it would be copied once more.
_RANGE = f"""
SELECT blob.size, blob.generation, page.number, CASE
    WHEN wanted.first <= page.number * {PAGE_BYTES} AND wanted.behind >= least((page.number + 1) * {PAGE_BYTES}, blob.size)
    THEN blob_page.data
    ELSE substr(
        blob_page.data, greatest(wanted.first - page.number * {PAGE_BYTES}, 0)::integer + 1,
        (least(wanted.behind - page.number * {PAGE_BYTES}, {PAGE_BYTES})
            - greatest(wanted.first - page.number * {PAGE_BYTES}, 0))::integer
    ) END
FROM {{schema}}.blob AS blob
CROSS JOIN LATERAL (SELECT $2::bigint AS first, least($3::bigint, blob.size) AS behind) AS wanted
LEFT JOIN LATERAL generate_series(wanted.first / {PAGE_BYTES}, (wanted.behind - 1) / {PAGE_BYTES}) AS page (number)
    ON wanted.first < wanted.behind
LEFT JOIN {{schema}}.blob_page AS blob_page ON blob_page.key = int8send(blob.generation) || int4send(page.number::integer)
WHERE blob.key = $1 AND blob.size IS NOT NULL
"""
_MOST = (1 << 63) - 1


class PostgresBlobs(KeyValueBlobStore):
    """Implements ``nodewright.interfaces.BlobStore``; made by ``open_own_blobs``."""

    def __init__(self, store: PostgresStore) -> None:
        super().__init__(store)
        self._server = store

    async def put(self, kind: str, id: bytes, data: bytes | AsyncIterator[bytes]) -> None:
        if not isinstance(data, bytes) or len(data) > PAGE_BYTES:
            await super().put(kind, id, data)
            return
        check_ids(kind, [id])  # a body of one page is one commit: whether it is there is asked once
        generation = self._next
        self._next += 1
        await self._finish(key_of(kind, id), generation, 0, 0, data)

    async def get(self, kind: str, id: bytes) -> bytes | None:
        return await self.read(kind, id, 0, _MOST)

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        check_ids(kind, [id])
        check_range(offset, length)
        key = key_of(kind, id)
        at = min(offset, _MOST)
        end = min(offset + length, _MOST)
        parts: list[bytes] = []
        first: int | None = None
        while True:
            until = min(end, at + _BYTES_AT_ONCE)
            rows = await self._server.query(_RANGE, key, at, until)
            if not rows or first not in (None, rows[0]["generation"]):
                return None
            size, first = rows[0]["size"], rows[0]["generation"]
            here = [data for _, data in sorted((number, data or b"") for _, _, number, data in rows if number is not None)]
            if sum(map(len, here)) != max(0, min(until, size) - at):
                raise StoreCorrupt(f"a page of blob {kind}/{id.hex()} is gone; restore the store from a copy")
            parts += here
            at = until
            if at >= min(end, size):
                return b"".join(parts)


@asynccontextmanager
async def open_own_blobs(store: PostgresStore, environment: Environment) -> AsyncIterator[PostgresBlobs]:
    """As ``nodewright.storage.blob_adapter.open_blobs``, over an opened store of this plugin."""
    blobs = PostgresBlobs(store)
    await blobs.load()
    yield blobs
