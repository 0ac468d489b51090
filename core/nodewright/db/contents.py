"""What a store holds, counted and digested: the measure by which two stores are compared.

The digest of a table is the sum, modulo 2**256, of the SHA-256 of its rows (key length u16 big-endian ‖ key ‖ value); that
of a kind of blobs the same over kind ‖ 00 ‖ id ‖ size u64 big-endian ‖ SHA-256 of the body. It does not depend on the order
in which a store gives them. It finds what was lost or changed by accident; it does not stand against a forger.

The format record is left out everywhere: it is the store's own, not what the store holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable

from attrs import asdict, define, frozen

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.storage import MAX_PAGE, BlobStore, KeyValueReader
from nodewright.storage.formats import FORMAT_KEY, META_KIND, META_TABLE

CHUNK_BYTES = 1024 * 1024
_MODULUS = 1 << 256


@frozen
class Measure:
    """``count`` of rows or blobs; ``size`` in bytes of keys and values, or of bodies; ``digest`` as hex."""

    count: int
    size: int
    digest: str

    def document(self) -> dict[str, int | str]:
        return asdict(self)


@define
class Sum:
    count: int = 0
    size: int = 0
    _sum: int = 0

    def add_rows(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        sha256, number = hashlib.sha256, int.from_bytes
        total, size, count = self._sum, 0, 0
        for key, value in items:
            total += number(sha256(len(key).to_bytes(2, "big") + key + value).digest(), "big")
            size += len(key) + len(value)
            count += 1
        self._sum = total % _MODULUS
        self.size += size
        self.count += count

    def add_blob(self, kind: str, id: bytes, size: int, content: bytes) -> None:
        row = kind.encode() + b"\x00" + id + size.to_bytes(8, "big") + content
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(row).digest(), "big")) % _MODULUS
        self.size += size
        self.count += 1

    @property
    def measure(self) -> Measure:
        return Measure(self.count, self.size, self._sum.to_bytes(32, "big").hex())


async def pages(store: KeyValueReader, table: str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """The rows of a table in pages of at most 10,000 rows and about 16 MiB, without the format record."""
    after: bytes | None = None
    while True:
        page = await store.scan(table, after=after, limit=MAX_PAGE)
        items = page.items
        if table == META_TABLE:
            items = [(key, value) for key, value in items if key != FORMAT_KEY]
        if items:
            yield items
        if page.after is None:
            return
        after = page.after


async def ids(store: BlobStore, kind: str) -> AsyncIterator[bytes]:
    """The ids of a kind, without the format record."""
    async for id in store.iterate(kind):
        if (kind, id) != (META_KIND, FORMAT_KEY):
            yield id


async def size_of(store: BlobStore, kind: str, id: bytes) -> int:
    size = await store.size(kind, id)
    if size is None:
        raise StoreCorrupt(f"blob {kind}/{id.hex()} is listed and cannot be found; restore the store from a copy")
    return size


async def body(store: BlobStore, kind: str, id: bytes, size: int) -> AsyncIterator[bytes]:
    """A blob in pieces of 1 MiB. Raises StoreCorrupt where it ends early or goes on after ``size`` bytes."""
    offset = 0
    while offset < size:
        piece = await store.read(kind, id, offset, CHUNK_BYTES)
        if not piece:
            break
        offset += len(piece)
        yield piece
    if offset != size or await store.read(kind, id, size, 1):
        raise StoreCorrupt(
            f"blob {kind}/{id.hex()} does not have the {size} bytes it should; restore the store from a copy"
        )


async def measure_table(store: KeyValueReader, table: str) -> Measure:
    found = Sum()
    async for items in pages(store, table):
        found.add_rows(items)
    return found.measure


async def measure_blob(store: BlobStore, kind: str, id: bytes, into: Sum) -> None:
    """Read one blob whole and add it. Raises StoreCorrupt, StoreError."""
    size = await size_of(store, kind, id)
    content = hashlib.sha256()
    async for piece in body(store, kind, id, size):
        content.update(piece)
    into.add_blob(kind, id, size, content.digest())


async def measure_kind(store: BlobStore, kind: str) -> Measure:
    found = Sum()
    async for id in ids(store, kind):
        await measure_blob(store, kind, id, found)
    return found.measure
