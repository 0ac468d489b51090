"""Reading outputs row by row and page by page, within bounded memory except for the script that is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.storage import KeyValueReader
from nodewright.storage.utxo_records import PAGE, PAGE_BYTES, SPENDS_PER_PAGE, SPENT, Paged, Record, compact_size

_GROUP = 5000
_PAGES_AT_ONCE = 8


class _Walker:
    """A window over the output pages of one transaction that only moves forward."""

    def __init__(self, reader: KeyValueReader, txid: bytes, paged: Paged, page: int, at: int) -> None:
        self._reader = reader
        self._txid = txid
        self._paged = paged
        self._next_page = page
        self._data = bytearray()
        self._at = at

    async def _need(self, count: int) -> None:
        """Have ``count`` bytes at hand, or all that are left."""
        while len(self._data) - self._at < count and self._next_page < self._paged.pages:
            missing = self._at + count - len(self._data)
            last = min(self._paged.pages, self._next_page + min(_PAGES_AT_ONCE, -(-missing // PAGE_BYTES)))
            keys = [self._txid + b"o" + page.to_bytes(4, "big") for page in range(self._next_page, last)]
            for row in await self._reader.get_many(PAGE, keys):
                if row is None:
                    raise StoreCorrupt(
                        f"a page of transaction {self._txid[::-1].hex()} is gone; restore the store from a copy"
                    )
                self._data += row
            self._next_page = last

    async def skip(self, count: int) -> None:
        self._at += count
        if self._at >= PAGE_BYTES and self._at <= len(self._data):
            del self._data[: self._at]
            self._at = 0

    async def output(self, wanted: bool) -> tuple[int, bytes]:
        """The next output; its script is left empty unless ``wanted``."""
        await self._need(17)
        head = bytes(self._data[self._at : self._at + 17])
        if len(head) < 9:
            raise StoreCorrupt(
                f"the outputs of transaction {self._txid[::-1].hex()} end early; restore the store from a copy"
            )
        length, start = compact_size(head, 8)
        script = b""
        if wanted:
            await self._need(start + length)
            script = bytes(self._data[self._at + start : self._at + start + length])
        else:
            await self._need(min(start + length, PAGE_BYTES))
        await self.skip(start + length)
        return int.from_bytes(head[:8], "little"), script


async def read_output(reader: KeyValueReader, txid: bytes, paged: Paged, index: int) -> tuple[int, bytes]:
    """(satoshis, script) of one output of a transaction in pages."""
    page = paged.page_of(index)
    walker = _Walker(reader, txid, paged, page, paged.starts[page])
    for _ in range(index - paged.firsts[page]):
        await walker.output(wanted=False)
    return await walker.output(wanted=True)


async def read_spends(reader: KeyValueReader, txid: bytes, record: Record) -> list[bytes]:
    """The outpoints that a transaction spends, in input order."""
    if record.paged is None:
        return record.spends()
    found: list[bytes] = []
    for page in range(record.paged.spend_pages):
        (row,) = await reader.get_many(PAGE, [txid + b"s" + page.to_bytes(4, "big")])
        found += [(row or b"")[at : at + 36] for at in range(0, 36 * SPENDS_PER_PAGE, 36) if at < len(row or b"")]
    return found


async def unspent_of(
    reader: KeyValueReader, records: Sequence[tuple[bytes, Record]]
) -> AsyncIterator[tuple[bytes, Record, int, bytes]]:
    """(outpoint, record, satoshis, script) of every unspent output of these, in order."""
    group: list[tuple[bytes, Record, int]] = []
    for txid, record in records:
        if record.paged is not None:
            async for item in _unspent(reader, group):
                yield item
            group = []
            async for item in _unspent_in_pages(reader, txid, record, record.paged):
                yield item
            continue
        for index in range(record.count):
            group.append((txid + index.to_bytes(4, "little"), record, index))
            if len(group) == _GROUP:
                async for item in _unspent(reader, group):
                    yield item
                group = []
    async for item in _unspent(reader, group):
        yield item


async def _unspent(
    reader: KeyValueReader, group: Sequence[tuple[bytes, Record, int]]
) -> AsyncIterator[tuple[bytes, Record, int, bytes]]:
    if not group:
        return
    spenders = await reader.get_many(SPENT, [outpoint for outpoint, _, _ in group])
    for (outpoint, record, index), spender in zip(group, spenders, strict=True):
        if spender is None:
            yield (outpoint, record, *record.output(index))


async def _unspent_in_pages(
    reader: KeyValueReader, txid: bytes, record: Record, paged: Paged
) -> AsyncIterator[tuple[bytes, Record, int, bytes]]:
    walker = _Walker(reader, txid, paged, paged.page_of(0), paged.starts[paged.page_of(0)]) if paged.outputs else None
    for start in range(0, paged.outputs, _GROUP):
        outpoints = [txid + index.to_bytes(4, "little") for index in range(start, min(paged.outputs, start + _GROUP))]
        for outpoint, spender in zip(outpoints, await reader.get_many(SPENT, outpoints), strict=True):
            assert walker is not None
            satoshis, script = await walker.output(wanted=spender is None)
            if spender is None:
                yield outpoint, record, satoshis, script
