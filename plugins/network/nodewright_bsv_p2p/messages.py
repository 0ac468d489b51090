"""Payloads of the wire protocol: what each message holds, bounded before it is read. Pure.

Invariants: ``decode(encode(x)) == x``; decoding raises nothing but ``WireError`` and allocates no more than a constant
times the bytes given; every count is compared with its limit and with the bytes left first.

Layouts (integers little-endian, V = CompactSize): version: version4 services8 time8 to26 from26 nonce8 V agent height4
relay1 and what newer nodes put behind; getheaders: version4 V×id32 stop32; headers: V×(header80 V0); inv, getdata,
notfound: V×(kind4 hash32); protoconf: V fields, max payload4, V streams; reject: V command, code1, V reason, hash32 or
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from attrs import field, frozen

from nodewright_bitcoin.encoding import ParseError, read_compact_size, sha256d, write_compact_size
from nodewright_bitcoin.split import EXTENDED_MARK, transaction_end
from nodewright_bsv_p2p.framing import WireError

PROTOCOL_VERSION: Final = 70016
OLDEST_VERSION: Final = 70001
NODE_NETWORK: Final = 1

MAX_LOCATOR: Final = 101
MAX_HEADERS: Final = 2000
MAX_INVENTORY: Final = 50_000
MAX_AGENT_BYTES: Final = 256
MAX_REASON_BYTES: Final = 256
HEADER_BYTES: Final = 80
LEAST_MAX_PAYLOAD: Final = 1024 * 1024
MAX_PROTOCONF_BYTES: Final = 1024 * 1024

TX, BLOCK = 1, 2

REJECT_MALFORMED, REJECT_INVALID, REJECT_DUPLICATE, REJECT_NONSTANDARD, REJECT_FEE = 0x01, 0x10, 0x12, 0x40, 0x42

_VERSION = Struct("<iQq26s26sQ")
_KIND = Struct("<I32s")

LIMITS: Final = {
    "version": 2048,
    "verack": 0,
    "ping": 8,
    "pong": 8,
    "sendheaders": 0,
    "getheaders": 4 + 3 + 32 * MAX_LOCATOR + 32,
    "getblocks": 4 + 3 + 32 * MAX_LOCATOR + 32,
    "headers": 3 + 81 * MAX_HEADERS,
    "inv": 3 + 36 * MAX_INVENTORY,
    "getdata": 3 + 36 * MAX_INVENTORY,
    "notfound": 3 + 36 * MAX_INVENTORY,
    "protoconf": MAX_PROTOCONF_BYTES,
    "feefilter": 8,
    "reject": 1 + 12 + 1 + 3 + MAX_REASON_BYTES + 32,
    "mempool": 0,
    "getaddr": 0,
}
"""Longest payload of each message that is read; ``tx`` and ``block`` are bounded by settings, others are skipped unread."""


class Cursor:
    """Reads a payload from its beginning."""

    def __init__(self, raw: bytes, what: str) -> None:
        self.raw = raw
        self.at = 0
        self.what = what

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.raw):
            raise WireError(f"{self.what} is cut short")
        piece = self.raw[self.at : end]
        self.at = end
        return piece

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def size(self, limit: int) -> int:
        try:
            value, self.at = read_compact_size(self.raw, self.at, limit)
        except ParseError as error:
            raise WireError(f"{self.what}: {error}") from error
        return value

    def text(self, limit: int) -> str:
        return self.take(self.size(limit)).decode("utf-8", "replace")

    @property
    def left(self) -> int:
        return len(self.raw) - self.at

    def end(self) -> None:
        if self.left:
            raise WireError(f"{self.left} bytes follow {self.what}")


def _text(value: str, limit: int) -> bytes:
    raw = value.encode()[:limit]
    return write_compact_size(len(raw)) + raw


@frozen
class Version:
    """``time`` in Unix seconds. Addresses are not used: they are written as zeros and passed over."""

    version: int = PROTOCOL_VERSION
    services: int = NODE_NETWORK
    time: int = 0
    nonce: int = 0
    agent: str = ""
    height: int = 0
    relay: bool = True

    def encode(self) -> bytes:
        address = bytes(26)
        head = _VERSION.pack(self.version, self.services, self.time, address, address, self.nonce)
        return (
            head
            + _text(self.agent, MAX_AGENT_BYTES)
            + self.height.to_bytes(4, "little", signed=True)
            + bytes((self.relay,))
        )

    @classmethod
    def decode(cls, raw: bytes) -> Version:
        cursor = Cursor(raw, "version")
        version, services, time, _, _, nonce = _VERSION.unpack(cursor.take(_VERSION.size))
        agent = cursor.text(MAX_AGENT_BYTES)
        height = cursor.number(4, signed=True)
        relay = bool(cursor.number(1)) if cursor.left else True
        return cls(version, services, time, nonce, agent, height, relay)  # what newer nodes say behind is passed over


@frozen
class GetHeaders:
    """``locator`` ids from the newest on; ``stop`` 32 zeros where there is none. ``getblocks`` has the same form."""

    locator: tuple[bytes, ...]
    stop: bytes = bytes(32)
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        head = self.version.to_bytes(4, "little") + write_compact_size(len(self.locator))
        return b"".join((head, *self.locator, self.stop))

    @classmethod
    def decode(cls, raw: bytes) -> GetHeaders:
        cursor = Cursor(raw, "getheaders")
        version = cursor.number(4)
        count = cursor.size(MAX_LOCATOR)
        ids = cursor.take(32 * count)
        stop = cursor.take(32)
        cursor.end()
        return cls(tuple(ids[at : at + 32] for at in range(0, len(ids), 32)), stop, version)


def encode_headers(headers: Sequence[bytes]) -> bytes:
    return write_compact_size(len(headers)) + b"".join([header + b"\x00" for header in headers])


def decode_headers(raw: bytes) -> list[bytes]:
    """80 bytes each, each on the one before."""
    cursor = Cursor(raw, "headers")
    found: list[bytes] = []
    for _ in range(cursor.size(MAX_HEADERS)):
        header = cursor.take(HEADER_BYTES)
        cursor.size(0xFFFFFFFF)  # the number of transactions, which is not said here
        if found and header[4:36] != sha256d(found[-1]):
            raise WireError("headers that do not follow one another")
        found.append(header)
    cursor.end()
    return found


@frozen
class Item:
    """Of an inventory: ``kind`` is TX, BLOCK or one that is not used here."""

    kind: int
    hash: bytes


def encode_inventory(items: Sequence[Item]) -> bytes:
    return write_compact_size(len(items)) + b"".join([_KIND.pack(item.kind, item.hash) for item in items])


def decode_inventory(raw: bytes) -> list[Item]:
    cursor = Cursor(raw, "an inventory")
    count = cursor.size(MAX_INVENTORY)
    rows = cursor.take(_KIND.size * count)
    cursor.end()
    return [Item(kind, hash) for kind, hash in _KIND.iter_unpack(rows)]


def encode_nonce(nonce: int) -> bytes:
    """Of ping and pong; also a fee filter (satoshis for 1,000 bytes)."""
    return nonce.to_bytes(8, "little")


def decode_nonce(raw: bytes) -> int:
    cursor = Cursor(raw, "a number of eight bytes")
    value = cursor.number(8)
    cursor.end()
    return value


@frozen
class ProtoConf:
    """``max_payload``: the longest payload that the sender takes, but for blocks."""

    max_payload: int = LEAST_MAX_PAYLOAD
    streams: str = ""

    def encode(self) -> bytes:
        fields = 2 if self.streams else 1
        streams = _text(self.streams, 255) if self.streams else b""
        return write_compact_size(fields) + self.max_payload.to_bytes(4, "little") + streams

    @classmethod
    def decode(cls, raw: bytes) -> ProtoConf:
        cursor = Cursor(raw, "protoconf")
        fields = cursor.size(0xFFFF)
        if not fields:
            raise WireError("protoconf without a field")
        payload = cursor.number(4)
        if payload < LEAST_MAX_PAYLOAD:
            raise WireError(f"protoconf asks for payloads of at most {payload} bytes, below {LEAST_MAX_PAYLOAD}")
        return cls(payload, cursor.text(255) if fields > 1 else "")  # fields unknown here follow


@frozen
class Reject:
    command: str
    code: int
    reason: str = ""
    hash: bytes = b""

    def encode(self) -> bytes:
        return b"".join((_text(self.command, 12), bytes((self.code,)), _text(self.reason, MAX_REASON_BYTES), self.hash))

    @classmethod
    def decode(cls, raw: bytes) -> Reject:
        cursor = Cursor(raw, "reject")
        command = cursor.text(12)
        code = cursor.number(1)
        return cls(command, code, cursor.text(MAX_REASON_BYTES), cursor.take(min(32, cursor.left)))


@frozen
class FlatBlock:
    """``transactions`` raw, in order, the coinbase first."""

    header: bytes
    transactions: tuple[bytes, ...] = field(repr=False)

    @property
    def id(self) -> bytes:
        return sha256d(self.header)

    def encode(self) -> bytes:
        return b"".join((self.header, write_compact_size(len(self.transactions)), *self.transactions))

    @classmethod
    def decode(cls, raw: bytes) -> FlatBlock:
        """Splits, judges nothing. Linear in the bytes: offload large ones."""
        cursor = Cursor(raw, "block")
        header = cursor.take(HEADER_BYTES)
        count = cursor.size(max(0, len(raw) // 10))
        found: list[bytes] = []
        at = cursor.at
        for index in range(count):
            # The extended form is for wallets. Its id is that of the standard form, so it must not come in by this door.
            if raw[at + 4 : at + 10] == EXTENDED_MARK and len(raw) - at > 10:
                raise WireError(f"transaction {index} of a block is not in the standard form")
            try:
                end = transaction_end(raw, at)
            except IndexError:
                raise WireError(f"transaction {index} of a block is cut short") from None
            found.append(raw[at:end])
            at = end
        if at != len(raw):
            raise WireError(f"{len(raw) - at} bytes follow a block")
        return cls(header, tuple(found))
