"""Rows of the ``utxo`` adapter, and how they are read. Pure: no store, no trio.

Tables (numbers in big-endian where they are keys, little-endian in values)::

    utxo_tx        txid                       a transaction: see below; never changed once written
    utxo_page      txid ‖ 's'|'o' ‖ page u32  spends or outputs of a transaction too big for one row
    utxo_spent     outpoint                   txid ‖ input u32 of the spender
    utxo_mark      outpoint                   flags u8 ‖ spendable_from u32 ‖ new script: frozen or reassigned outputs
    utxo_txmark    txid                       flags u8: locked, conflicting
    utxo_admitted  sequence u64               00 ‖ txids, or 01 ‖ bundle id: what may be unmined
    utxo_bundle    n u8 ‖ bundle ‖ page u32   count u32 ‖ txids (page 0), txids (the others)
    utxo_mined     bundle                     (height u64 ‖ n u8 ‖ block id)*: the blocks it is in
    utxo_block     height u64 ‖ block id      (n u8 ‖ bundle)*
    utxo_fresh     bundle                     height u64: mined, its transactions still among ``utxo_admitted``
    utxo_buried    txid                       count u32: outputs whose spender is buried deep enough to prune
    utxo_undo      block id                   the execution's record of how to revert that block
    utxo_undone    height u64 ‖ block id      empty: which undo records are old enough to delete
    utxo_meta      applied | sequence | prune | format

A row of ``utxo_tx`` is ``flags u8 ‖ height u32 ‖ spends u16 ‖ spends (36 each) ‖ outputs`` or, when that is over 1 MiB,
``flags u8 ‖ height u32 ‖ spends u32 ‖ outputs u32 ‖ bytes of outputs u64`` and for every page of outputs
``first output that begins in it u32 ‖ its offset in the page u32``.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable

from attrs import frozen

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import BlockRef

TX = "utxo_tx"
PAGE = "utxo_page"
SPENT = "utxo_spent"
MARK = "utxo_mark"
TXMARK = "utxo_txmark"
ADMITTED = "utxo_admitted"
BUNDLE = "utxo_bundle"
MINED = "utxo_mined"
BLOCK = "utxo_block"
FRESH = "utxo_fresh"
BURIED = "utxo_buried"
UNDO = "utxo_undo"
UNDONE = "utxo_undone"
META = "utxo_meta"

PAGE_BYTES = 1024 * 1024
SPENDS_PER_PAGE = PAGE_BYTES // 36
IDS_PER_PAGE = PAGE_BYTES // 32

COINBASE = 1
PAGED = 2

FROZEN = 1
REASSIGNED = 2

LOCKED = 1
CONFLICTING = 2

NO_OUTPUT = 0xFFFFFFFF  # a page in which no output begins

HEAD = struct.Struct("<BIH")
_PAGED_HEAD = struct.Struct("<BIIIQ")
_INDEX = struct.Struct("<II")
_MARK = struct.Struct("<BI")

_INPUT = [index.to_bytes(4, "little") for index in range(256)]


def spender_of(txid: bytes, index: int) -> bytes:
    return txid + (_INPUT[index] if index < 256 else index.to_bytes(4, "little"))


def compact_size(data: bytes, at: int) -> tuple[int, int]:
    """(number, offset after it). Raises StoreCorrupt where the data ends first."""
    try:
        first = data[at]
        if first < 0xFD:
            return first, at + 1
        width = 2 if first == 0xFD else 4 if first == 0xFE else 8
    except IndexError:
        raise StoreCorrupt("an output vector ends early; restore the store from a copy") from None
    if at + 1 + width > len(data):
        raise StoreCorrupt("an output vector ends early; restore the store from a copy")
    return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width


class Record:
    """A transaction held in memory. ``spent`` maps an output's index to its spender, None where known to be unspent;
    an index that is not in it is unspent where ``complete``, else unknown. Only the adapter changes it."""

    __slots__ = ("body", "coinbase", "complete", "count", "height", "offsets", "paged", "size", "spent", "start")

    def __init__(self, body: bytes, complete: bool) -> None:
        try:
            flags, height, spends = HEAD.unpack_from(body)
        except struct.error:
            raise StoreCorrupt("a row of a transaction ends early; restore the store from a copy") from None
        self.body = body
        self.height: int = height
        self.coinbase = bool(flags & COINBASE)
        self.paged: Paged | None = None
        self.offsets: array[int] | None = None
        self.spent: dict[int, bytes | None] = {}
        self.complete = complete
        if flags & PAGED:
            self.paged = decode_paged(body)
            self.count = self.paged.outputs
            self.start = 0
        else:
            start = 7 + 36 * spends
            count = body[start] if start < len(body) else 0xFD
            if count < 0xFD:
                self.count, self.start = count, start + 1
            else:
                self.count, self.start = compact_size(body, start)
        self.size = 480 + len(body) + 170 * self.count

    @classmethod
    def fresh(cls, body: bytes, height: int, start: int, count: int) -> Record:
        """Of a row just made, of no coinbase and not paged: ``count`` outputs from ``start`` on, all unspent."""
        record = cls.__new__(cls)
        record.body = body
        record.height = height
        record.coinbase = False
        record.paged = None
        record.offsets = None
        record.spent = {}
        record.complete = True
        record.count = count
        record.start = start
        record.size = 480 + len(body) + 170 * count
        return record

    def output(self, index: int) -> tuple[int, bytes]:
        """(satoshis, script) of an output of a transaction that is not paged."""
        offsets = self.offsets
        if offsets is None:
            offsets = self.offsets = output_offsets(self.body, self.start, self.count)
        at = offsets[index]
        body = self.body
        length = body[at + 8]
        start = at + 9
        if length >= 0xFD:
            length, start = compact_size(body, at + 8)
        return int.from_bytes(body[at : at + 8], "little"), body[start : start + length]

    def spends(self) -> list[bytes]:
        """The outpoints it spends, where it is not paged."""
        end = 7 + 36 * int.from_bytes(self.body[5:7], "little")
        return [self.body[at : at + 36] for at in range(7, end, 36)]


def output_offsets(data: bytes, start: int, count: int) -> array[int]:
    """Where each of ``count`` serialised outputs begins. Raises StoreCorrupt where the data ends first."""
    offsets = array("I")
    append = offsets.append
    at = start
    size = len(data)
    for _ in range(count):
        if at + 9 > size:  # before it is kept: a damaged length can be larger than an offset holds
            raise StoreCorrupt("an output vector ends early; restore the store from a copy")
        append(at)
        length = data[at + 8]
        if length < 0xFD:
            at += 9 + length
        else:
            length, at = compact_size(data, at + 8)
            at += length
    if at > size:
        raise StoreCorrupt("an output vector ends early; restore the store from a copy")
    return offsets


@frozen
class Paged:
    """Header of a transaction in pages: ``firsts[p]`` is the first output that begins in page ``p`` (NO_OUTPUT where a
    long script fills it), at ``starts[p]`` of that page."""

    spends: int
    outputs: int
    outputs_bytes: int
    firsts: tuple[int, ...]
    starts: tuple[int, ...]

    @property
    def pages(self) -> int:
        return len(self.firsts)

    @property
    def spend_pages(self) -> int:
        return -(-self.spends // SPENDS_PER_PAGE)

    def page_of(self, index: int) -> int:
        """The page from which to walk to output ``index``."""
        begun = [(first, page) for page, first in enumerate(self.firsts) if first != NO_OUTPUT]
        return begun[bisect_right(begun, (index, self.pages)) - 1][1]


def decode_paged(body: bytes) -> Paged:
    try:
        _, _, spends, outputs, outputs_bytes = _PAGED_HEAD.unpack_from(body)
        index = [_INDEX.unpack_from(body, at) for at in range(_PAGED_HEAD.size, len(body), _INDEX.size)]
    except struct.error:
        raise StoreCorrupt("a row of a large transaction ends early; restore the store from a copy") from None
    return Paged(spends, outputs, outputs_bytes, tuple(first for first, _ in index), tuple(start for _, start in index))


def encode_transaction(
    height: int, coinbase: bool, spends: tuple[bytes, ...], outputs: bytes
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """(row, pages as (key after the txid, value)). Raises ValueError for an output vector that is not well-formed."""
    flags = COINBASE if coinbase else 0
    if not outputs:
        raise ValueError("an output vector has at least its count")
    if 36 * len(spends) + len(outputs) <= PAGE_BYTES:
        return HEAD.pack(flags, height, len(spends)) + b"".join(spends) + outputs, []
    pages = [
        (b"s" + (at // SPENDS_PER_PAGE).to_bytes(4, "big"), b"".join(spends[at : at + SPENDS_PER_PAGE]))
        for at in range(0, len(spends), SPENDS_PER_PAGE)
    ]
    try:
        count, start = compact_size(outputs, 0)
        offsets = output_offsets(outputs, start, count)
    except StoreCorrupt:
        raise ValueError("the output vector is not well-formed") from None
    index = bytearray()
    number = 0
    for page, at in enumerate(range(0, len(outputs), PAGE_BYTES)):
        pages.append((b"o" + page.to_bytes(4, "big"), outputs[at : at + PAGE_BYTES]))
        while number < count and offsets[number] < at:
            number += 1
        begins = number < count and offsets[number] < at + PAGE_BYTES
        index += _INDEX.pack(number, offsets[number] - at) if begins else _INDEX.pack(NO_OUTPUT, 0)
    return _PAGED_HEAD.pack(flags | PAGED, height, len(spends), count, len(outputs)) + bytes(index), pages


def page_keys(txid: bytes, record: Record) -> list[bytes]:
    """The keys of every page of a transaction; none where it is not paged."""
    if record.paged is None:
        return []
    return [txid + b"s" + page.to_bytes(4, "big") for page in range(record.paged.spend_pages)] + [
        txid + b"o" + page.to_bytes(4, "big") for page in range(record.paged.pages)
    ]


@frozen
class Mark:
    """Of one output: ``script`` is what it was reassigned to, None where it was not."""

    frozen: bool
    spendable_from: int = 0
    script: bytes | None = None


def encode_mark(mark: Mark) -> bytes:
    flags = (FROZEN if mark.frozen else 0) | (REASSIGNED if mark.script is not None else 0)
    return _MARK.pack(flags, mark.spendable_from) + (mark.script or b"")


def decode_mark(row: bytes) -> Mark:
    flags, spendable_from = _MARK.unpack_from(row)
    return Mark(bool(flags & FROZEN), spendable_from, row[_MARK.size :] if flags & REASSIGNED else None)


def encode_ref(block: BlockRef) -> bytes:
    return block.height.to_bytes(8, "big") + bytes([len(block.id)]) + block.id


def encode_refs(blocks: Iterable[BlockRef]) -> bytes:
    return b"".join(map(encode_ref, blocks))


def decode_refs(row: bytes | None) -> list[BlockRef]:
    found = []
    at = 0
    while row and at < len(row):
        end = at + 9 + row[at + 8]
        found.append(BlockRef(int.from_bytes(row[at : at + 8], "big"), row[at + 9 : end]))
        at = end
    return found


def block_key(block: BlockRef) -> bytes:
    return block.height.to_bytes(8, "big") + block.id


def encode_names(names: Iterable[bytes]) -> bytes:
    return b"".join(bytes([len(name)]) + name for name in names)


def decode_names(row: bytes | None) -> list[bytes]:
    found = []
    at = 0
    while row and at < len(row):
        end = at + 1 + row[at]
        found.append(row[at + 1 : end])
        at = end
    return found


def bundle_key(bundle: bytes, page: int) -> bytes:
    return bytes([len(bundle)]) + bundle + page.to_bytes(4, "big")


def split_ids(ids: bytes) -> list[bytes]:
    return [ids[at : at + 32] for at in range(0, len(ids), 32)]
