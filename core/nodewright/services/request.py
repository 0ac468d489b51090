"""HTTP/1.1 from bytes, strictly (RFC 9110, RFC 9112), without I/O: request heads and chunked bodies.

What two readers could take in two ways is refused, never guessed: a bare line feed, a folded line, a space before the
colon, a second Content-Length or Host, a length beside a transfer encoding, an encoding that is not exactly ``chunked``.
All sizes are bounded before anything is built from them.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MAX_CHUNK_LINE: Final = 256
MAX_TRAILER_BYTES: Final = 4096
# A chunk costs a few microseconds however small it is: beyond the free ones, they must hold this much on average.
FREE_CHUNKS: Final = 1024
LEAST_CHUNK_BYTES: Final = 32

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]{1,16384}) HTTP/1\.([01])\Z")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\Z")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}\Z")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")


class BadRequest(Exception):
    """``status`` and a sentence for whoever sent it. The connection ends: where a next request begins is unknown."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Head:
    """``length`` is the body's, None where it comes in chunks. ``path`` is percent-decoded, ``raw_path`` and ``query`` are
    as sent. ``headers`` are (lower-case name, value) in the order sent."""

    __slots__ = ("expects_continue", "headers", "keep_alive", "length", "method", "minor", "path", "query", "raw_path")

    def __init__(self, method: str, target: bytes, minor: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.minor = minor
        self.headers = headers
        self.raw_path, _, self.query = target.partition(b"?")
        path = self.raw_path.decode("ascii")
        self.path = unquote(path) if "%" in path else path
        self.length: int | None = 0
        self.keep_alive = minor == 1
        self.expects_continue = False


def parse_head(data: bytes) -> Head:
    """``data`` is everything before the blank line. Raises BadRequest."""
    lines = data.split(b"\r\n")
    if len(lines) > MAX_HEADERS + 1:
        raise BadRequest(431, f"more than {MAX_HEADERS} header fields")
    first = _REQUEST_LINE.match(lines[0])
    if first is None:
        if re.search(rb" HTTP/[0-9.]+\Z", lines[0]) and not re.search(rb" HTTP/1\.[01]\Z", lines[0]):
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise BadRequest(400, "the first line is no HTTP request")
    method, target, minor = first.groups()
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        field = _FIELD.match(line)
        if field is None:
            raise BadRequest(400, "a header line is malformed")
        name, value = field.groups()
        headers.append((name.lower(), value.rstrip(b" \t")))
    head = Head(method.decode("ascii"), _origin(target, method), 1 if minor == b"1" else 0, headers)
    _frame(head)
    return head


def _origin(target: bytes, method: bytes) -> bytes:
    """The target from the path on; ``*`` is for OPTIONS alone."""
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise BadRequest(400, "the request target is no path")
    rest = target[absolute.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest


def _frame(head: Head) -> None:
    """Where the body ends and whether the connection goes on after it."""
    length: bytes | None = None
    encoding: bytes | None = None
    hosts = 0
    for name, value in head.headers:
        if name == b"content-length":
            if length is not None or not _LENGTH.match(value):
                raise BadRequest(400, "Content-Length is not one number")
            length = value
        elif name == b"transfer-encoding":
            if encoding is not None or value.lower() != b"chunked":
                raise BadRequest(501, "the only transfer encoding taken is chunked")
            encoding = value
        elif name == b"host":
            hosts += 1
        elif name == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            if b"close" in options:
                head.keep_alive = False
            elif head.minor == 0 and b"keep-alive" in options:
                head.keep_alive = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise BadRequest(417, "the only expectation met is 100-continue")
            head.expects_continue = head.minor == 1
    if hosts > 1 or (hosts == 0 and head.minor == 1):
        raise BadRequest(400, "a request has one Host header")
    if encoding is not None:
        if length is not None or head.minor == 0:
            raise BadRequest(400, "Transfer-Encoding stands beside Content-Length, or in HTTP/1.0")
        head.length = None
    elif length is not None:
        head.length = int(length)


class ChunkedBody:
    """Decodes a chunked body piece by piece: ``take`` moves what is there from ``buffer`` into ``body``."""

    __slots__ = ("_chunks", "_left", "_state", "_trailer", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._state = "size"
        self._left = 0
        self._chunks = 0
        self._trailer = 0

    def take(self, buffer: bytearray, body: bytearray) -> bool:
        """True once the body has ended. Raises BadRequest: 413 over the limit, as soon as a chunk announces it."""
        while True:
            if self._state == "data":
                piece = buffer[: self._left]
                body += piece
                del buffer[: len(piece)]
                self._left -= len(piece)
                if self._left:
                    return False
                self._state = "end"
            elif self._state == "end":
                if len(buffer) < 2:
                    return False
                if buffer[:2] != b"\r\n":
                    raise BadRequest(400, "a chunk does not end where it said")
                del buffer[:2]
                self._state = "size"
            else:
                at = buffer.find(b"\r\n", 0, MAX_CHUNK_LINE + 2)
                if at < 0:
                    if len(buffer) > MAX_CHUNK_LINE:
                        raise BadRequest(400, "a line between chunks is too long")
                    return False
                line = bytes(buffer[:at])
                del buffer[: at + 2]
                if self._state == "size":
                    self._begin(line, len(body))
                elif not line:
                    return True
                else:
                    self._trailer += at + 2
                    if self._trailer > MAX_TRAILER_BYTES or _FIELD.match(line) is None:
                        raise BadRequest(400, "the trailer is malformed or too long")

    def _begin(self, line: bytes, received: int) -> None:
        size = _CHUNK_SIZE.match(line)
        if size is None:
            raise BadRequest(400, "a chunk's size is malformed")
        self._left = int(size.group(1), 16)
        self._chunks += 1
        if received + self._left > self.limit:
            raise BadRequest(413, f"the request body is larger than the {self.limit} bytes allowed here")
        if self._chunks > FREE_CHUNKS + received // LEAST_CHUNK_BYTES:
            raise BadRequest(400, "the chunks are too small: send larger ones")
        self._state = "data" if self._left else "trailer"
