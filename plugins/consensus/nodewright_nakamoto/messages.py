"""What nakamoto nodes say to each other. Pure codecs; every one raises MalformedError on anything else.

Channel ``nakamoto.announce`` (broadcast):
  ``S`` ‖ subtree id32 ‖ leaves4 ‖ series8 ‖ flags1 (1: sealed). A later subtree of one series has an earlier one as prefix.
  ``B`` ‖ Tip
Channel ``nakamoto.request`` (request → reply):
  ``T`` → Tip = header80 ‖ height4 ‖ chain work32
  ``H`` ‖ n×id32 (locator) → k×header80 of the replier's best chain after the first id it has there, k <= MAX_HEADERS
  ``A`` → k×subtree announcement: what the replier's assembly holds now, in order
  ``X`` ‖ n×txid32 → for a prefix of the ids, in order: V 0 (not here), V 1 (fetch it as a body), V length+2 ‖ raw
Bodies (``Transport.fetch``): ``subtree`` (leaf records n×(txid32, fee8, size8)), ``subtree_data``, ``block``,
``transaction``.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

from attrs import frozen

from nodewright_nakamoto import compact
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.header import HEADER_BYTES, Header
from nodewright_nakamoto.subtree import MAX_LEAVES, RECORD, split_ids

ANNOUNCE = "nakamoto.announce"
REQUEST = "nakamoto.request"
BODY_SUBTREE = "subtree"
BODY_DATA = "subtree_data"
BODY_BLOCK = "block"
BODY_TRANSACTION = "transaction"

MAX_HEADERS = 2000
MAX_LOCATOR = 64
MAX_IDS = 4096
MAX_ANNOUNCED = 4096
MAX_REPLY_BYTES = 1024 * 1024
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_SUBTREE = struct.Struct("<32sIQB")
_TIP = struct.Struct("<80sI32s")


@frozen
class SubtreeAnnouncement:
    id: bytes
    leaves: int
    series: int
    sealed: bool

    def encode(self) -> bytes:
        return b"S" + _SUBTREE.pack(self.id, self.leaves, self.series, self.sealed)


@frozen
class Tip:
    """What a peer claims to be its best block; only its header can be checked."""

    header: Header
    height: int
    work: int

    def encode(self) -> bytes:
        return _TIP.pack(self.header.encode(), self.height, self.work.to_bytes(32, "little"))

    @classmethod
    def decode(cls, data: bytes) -> Tip:
        if len(data) != _TIP.size:
            raise MalformedError("a tip has the wrong length")
        header, height, work = _TIP.unpack(data)
        return cls(Header.decode(header), height, int.from_bytes(work, "little"))


def decode_announcement(data: bytes) -> SubtreeAnnouncement | Tip:
    if data[:1] == b"B":
        return Tip.decode(data[1:])
    if data[:1] == b"S" and len(data) == 1 + _SUBTREE.size:
        id, leaves, series, flags = _SUBTREE.unpack(data[1:])
        if 0 < leaves <= MAX_LEAVES and flags <= 1:
            return SubtreeAnnouncement(id, leaves, series, bool(flags))
    raise MalformedError("an announcement of no known form")


def decode_announced(data: bytes) -> list[SubtreeAnnouncement]:
    size = 1 + _SUBTREE.size
    if len(data) % size or len(data) > size * MAX_ANNOUNCED:
        raise MalformedError(f"a list of announcements of {len(data)} bytes")
    found = [decode_announcement(data[at : at + size]) for at in range(0, len(data), size)]
    return [one for one in found if isinstance(one, SubtreeAnnouncement)]


def decode_ids(data: bytes, limit: int) -> list[bytes]:
    if len(data) % 32 or len(data) > 32 * limit:
        raise MalformedError(f"a list of ids of {len(data)} bytes")
    return split_ids(data)


def decode_headers(data: bytes) -> list[Header]:
    if len(data) % HEADER_BYTES or len(data) > HEADER_BYTES * MAX_HEADERS:
        raise MalformedError(f"a list of headers of {len(data)} bytes")
    return [Header.decode(data[i : i + HEADER_BYTES]) for i in range(0, len(data), HEADER_BYTES)]


def encode_transactions(bodies: Sequence[bytes | None]) -> bytes:
    """As many as MAX_REPLY_BYTES holds, at least one entry."""
    parts: list[bytes] = []
    size = 0
    for raw in bodies:
        if raw is not None and len(raw) <= MAX_REPLY_BYTES:
            entry = compact.encode(len(raw) + 2) + raw
        else:
            entry = b"\x00" if raw is None else b"\x01"
        if parts and size + len(entry) > MAX_REPLY_BYTES:
            break
        parts.append(entry)
        size += len(entry)
    return b"".join(parts)


def decode_transactions(data: bytes, limit: int) -> list[bytes | bool]:
    """Per id, for a prefix of those asked: the body, False (not there), or True (fetch it as a body)."""
    found: list[bytes | bool] = []
    at = 0
    while at < len(data):
        length, at = compact.decode(data, at, MAX_REPLY_BYTES + 2)
        if length < 2:
            found.append(bool(length))
            continue
        end = at + length - 2
        if end > len(data) or len(found) >= limit:
            raise MalformedError("a reply with transactions is cut off or longer than asked")
        found.append(data[at:end])
        at = end
    if len(found) > limit or not found:
        raise MalformedError(f"{len(found)} transactions in a reply to a request for {limit}")
    return found


def encode_records(leaves: bytes, fees: Sequence[int], sizes: Sequence[int]) -> bytes:
    return b"".join(map(RECORD.pack, split_ids(leaves), fees, sizes))


def decode_records(data: bytes) -> tuple[bytes, array[int], array[int]]:
    """(leaves, fees, sizes), by whole columns: a million records are never a million objects."""
    if not data or len(data) % RECORD.size or len(data) > RECORD.size * MAX_LEAVES:
        raise MalformedError(f"leaf records of {len(data)} bytes")
    words = array("Q", data)  # six to a record: four of the id, fee, size
    leaves = array("Q", bytes(32 * (len(data) // RECORD.size)))
    for at in range(4):
        leaves[at::4] = words[at::6]
    fees, sizes = words[4::6], words[5::6]
    if sys.byteorder == "big":
        fees.byteswap()
        sizes.byteswap()
    return leaves.tobytes(), fees, sizes
