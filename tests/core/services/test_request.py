"""HTTP/1.1 heads and chunked bodies: what is taken agrees with another implementation, what is ambiguous is refused."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodewright.services.request import MAX_HEADERS, BadRequest, ChunkedBody, parse_head

LINES = st.sampled_from(
    [
        b"Host: x",
        b"host:\ty ",
        b"Content-Length: 5",
        b"content-length: 05",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length : 5",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: CHUNKED",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: xchunked",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Expect: 100-continue",
        b" folded",
        b"X: a\nb",
        b"X: a\rb",
        b"X: \xff\x80",
        b"X: \x00",
        b"X:",
        b": no name",
        b"no colon",
    ]
)
FIRST = st.sampled_from(
    [
        b"POST /tx HTTP/1.1",
        b"GET /a%20b?q=%ff#f HTTP/1.1",
        b"GET http://x/y HTTP/1.1",
        b"POST /tx HTTP/1.0",
        b"GET  /two HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/2.0",
        b"GE T / HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET nothing HTTP/1.1",
        b"",
    ]
)


def _peer(data: bytes) -> Any:
    """What h11 makes of it: its request, or None where it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data + b"\r\n\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


@settings(max_examples=500)
@given(FIRST, st.lists(LINES, max_size=6))
@example(b"POST /tx HTTP/1.1", [b"Host: x", b"Content-Length: 5"])
@example(b"POST /tx HTTP/1.1", [b"Host: x", b"transfer-encoding: CHUNKED"])
@example(b"POST /tx HTTP/1.1", [b"Host: x", b"Content-Length: 05"])
@example(b"POST /tx HTTP/1.1", [b"Host: x", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_what_is_taken_another_implementation_reads_alike(first: bytes, lines: list[bytes]) -> None:
    data = b"\r\n".join([first, *lines])
    try:
        head = parse_head(data)
    except BadRequest as bad:
        assert 400 <= bad.status < 600
        return
    other = _peer(data)
    assert other is not None, data
    assert head.method.encode() == other.method
    given = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.headers]
    assert given == [(bytes(name), bytes(value)) for name, value in other.headers]
    names = [name for name, _ in head.headers]
    assert (head.length is None) == (b"transfer-encoding" in names)
    if head.length:
        assert names.count(b"content-length") == 1
        assert b"transfer-encoding" not in names


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_a_sentence(data: bytes) -> None:
    try:
        parse_head(data)
    except BadRequest as bad:
        assert bad.sentence


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"GET / HTTP/2.0\r\nHost: a", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea", 417),
        (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nx: y" * MAX_HEADERS, 431),
    ],
)
def test_the_ambiguous_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(data)
    assert caught.value.status == status


def test_connections_go_on_as_their_version_says() -> None:
    assert parse_head(b"GET / HTTP/1.1\r\nHost: a").keep_alive
    assert not parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close").keep_alive
    assert not parse_head(b"GET / HTTP/1.0").keep_alive
    assert parse_head(b"GET / HTTP/1.0\r\nConnection: keep-alive").keep_alive


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_chunks_decode_however_they_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"%X;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\nnext"
    decoder, buffer, body = ChunkedBody(10_000), bytearray(), bytearray()
    at = turn = 0
    while True:
        if decoder.take(buffer, body):
            break
        step = cuts[turn % len(cuts)]
        buffer += wire[at : at + step]
        at, turn = at + step, turn + 1
    assert bytes(body) == b"".join(pieces)
    assert b"next".startswith(buffer)


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"FFFFFFFF\r\n", 413),
        (b"FFFFFFFFF\r\n", 400),
        (b"-1\r\n", 400),
        (b"0x1\r\n", 400),
        (b"\r\n", 400),
        (b"1\nx\r\n", 400),
        (b"1\r\nxyz", 400),
        (b"5" * 300, 400),
        (b"0\r\n" + b"a: b\r\n" * 2000, 400),
        (b"1\r\nx\r\n" * 5000, 400),
    ],
)
def test_bad_chunks_are_refused(wire: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        ChunkedBody(1_000_000).take(bytearray(wire), bytearray())
    assert caught.value.status == status
