"""The frames of a session: how they are laid out, and their bounds.

A link message is a batch: frames one after another. A frame is ``<u32 length of the body> <u8 kind> <body>``, little
endian. Parsing is strict: an unknown kind, a body cut short or too long for its kind is ``FrameError``, after which the
stream cannot be trusted.

==========  ====================================================================================================
kind        body
==========  ====================================================================================================
HELLO       u16 count, then per channel: u32 channel, u32 window messages, u64 window bytes, u32 max message bytes
DATA        u32 channel, payload
REQUEST     u32 channel, u32 request, payload
RESPONSE    u32 channel, u32 request, payload
WINDOW      u32 channel, u32 messages, u64 bytes: the receiver consumed this much, as much more may come
FETCH       u32 fetch, u64 offset, u64 max bytes, u32 credit, u8 kind length, kind, u8 id length, id
OPEN        u32 fetch, u64 size of the whole body
PIECE       u32 fetch, bytes
END         u32 fetch, u8 outcome
CREDIT      u32 fetch, u32 bytes
STOP        u32 fetch: the reader wants no more
PING, PONG  u64
BYE         UTF-8 reason, 200 bytes at most
==========  ====================================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b

from attrs import frozen

from nodewright.errors import TransportError

HELLO, DATA, REQUEST, RESPONSE, WINDOW, FETCH, OPEN, PIECE, END, CREDIT, STOP, PING, PONG, BYE = range(1, 15)

END_DONE, END_NOT_HERE, END_TOO_LARGE, END_FAILED, END_BUSY = range(5)

HEADER = struct.Struct("<IB")
U32 = struct.Struct("<I")
CHANNEL_REQUEST = struct.Struct("<II")
WINDOW_BODY = struct.Struct("<IIQ")
DECLARATION = struct.Struct("<IIQI")
FETCH_HEAD = struct.Struct("<IQQI")
OPEN_BODY = struct.Struct("<IQ")
END_BODY = struct.Struct("<IB")
U64 = struct.Struct("<Q")

DATA_OVERHEAD = HEADER.size + U32.size
REQUEST_OVERHEAD = HEADER.size + CHANNEL_REQUEST.size
UNMETERED = 0xFFFFFFFF
MAX_CHANNELS = 256
MAX_REASON_BYTES = 200
BATCH_BYTES = 256 * 1024  # no frame of a channel is added to a batch that has reached this
PIECE_BYTES = 512 * 1024  # of a body, at most

# Bodies of a fixed size; a kind in neither this nor _LEAST is unknown.
_EXACT = {
    WINDOW: WINDOW_BODY.size,
    OPEN: OPEN_BODY.size,
    END: END_BODY.size,
    CREDIT: CHANNEL_REQUEST.size,
    STOP: U32.size,
    PING: U64.size,
    PONG: U64.size,
}
_LEAST = {HELLO: 2, DATA: 4, REQUEST: 8, RESPONSE: 8, FETCH: FETCH_HEAD.size + 2, PIECE: 5, BYE: 0}


class FrameError(TransportError):
    """The peer sent what no frame is."""


@frozen
class Declaration:
    """A channel as a peer declares it. ``window_messages`` UNMETERED: the peer drops by policy and never stops reading."""

    channel: int
    window_messages: int
    window_bytes: int
    max_message_bytes: int


def channel_id(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=4, person=b"nw-channel").digest(), "little")


def frame(kind: int, body: bytes) -> bytes:
    return HEADER.pack(len(body), kind) + body


def data(channel: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload) + 4, DATA) + U32.pack(channel) + payload


def request(kind: int, channel: int, number: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload) + 8, kind) + CHANNEL_REQUEST.pack(channel, number) + payload


def piece(fetch: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload) + 4, PIECE) + U32.pack(fetch) + payload


def hello(declarations: list[Declaration]) -> bytes:
    body = bytearray(struct.pack("<H", len(declarations)))
    for d in declarations:
        body += DECLARATION.pack(d.channel, d.window_messages, d.window_bytes, d.max_message_bytes)
    return frame(HELLO, bytes(body))


def parse_hello(body: bytes) -> list[Declaration]:
    (count,) = struct.unpack_from("<H", body)
    if count > MAX_CHANNELS or len(body) != 2 + count * DECLARATION.size:
        raise FrameError(f"a HELLO of {count} channels in {len(body)} bytes")
    declarations = [Declaration(*DECLARATION.unpack_from(body, 2 + i * DECLARATION.size)) for i in range(count)]
    if len({d.channel for d in declarations}) != count:
        raise FrameError("a HELLO that names a channel twice")
    return declarations


def fetch(number: int, offset: int, max_bytes: int, credit: int, kind: str, id: bytes) -> bytes:
    name = kind.encode()
    if not 0 < len(name) < 256 or len(id) > 255:
        raise ValueError("a body's kind is 1 to 255 bytes, its id at most 255")
    head = FETCH_HEAD.pack(number, offset, max_bytes, credit)
    return frame(FETCH, head + bytes([len(name)]) + name + bytes([len(id)]) + id)


def parse_fetch(body: bytes) -> tuple[int, int, int, int, str, bytes]:
    """Fetch number, offset, max bytes, credit, kind, id."""
    number, offset, max_bytes, credit = FETCH_HEAD.unpack_from(body)
    at = FETCH_HEAD.size
    name = body[at + 1 : at + 1 + body[at]]
    at += 1 + body[at]
    if at >= len(body) or len(body) != at + 1 + body[at]:
        raise FrameError("a FETCH cut short")
    try:
        return number, offset, max_bytes, credit, name.decode(), body[at + 1 :]
    except UnicodeDecodeError as error:
        raise FrameError("a FETCH whose kind is not UTF-8") from error


def bye(reason: str) -> bytes:
    return frame(BYE, reason.encode()[:MAX_REASON_BYTES])


def parse(batch: bytes) -> Iterator[tuple[int, int, int]]:
    """Each frame as (kind, start of its body, end of its body) in ``batch``."""
    at, end, header = 0, len(batch), HEADER
    while at < end:
        if end - at < 5:
            raise FrameError("a frame header cut short")
        length, kind = header.unpack_from(batch, at)
        start = at + 5
        at = start + length
        if at > end:
            raise FrameError(f"a frame of {length} bytes in {end - start}")
        exact = _EXACT.get(kind)
        if length != exact if exact is not None else length < _LEAST.get(kind, length + 1):
            raise FrameError(f"a frame of kind {kind} with {length} bytes")
        yield kind, start, at
