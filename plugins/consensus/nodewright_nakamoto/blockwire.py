"""A block on the wire. Pure.

header80 ‖ V txCount ‖ V sizeInBytes ‖ V nSubtrees ‖ n×subtree hash32 ‖ coinbase ‖ V height

``txCount`` counts the coinbase; ``sizeInBytes`` is that of the flat block (header80 ‖ V txCount ‖ transactions). The
coinbase is opaque here and carries no length of its own: it is what stands between the hashes and the closing height.
The height is read from the end. Its length is ambiguous by itself (the last bytes of a coinbase may look like a longer
form), so a reader says what it knows: the height due (a child of a known parent), or ``extent``, which gives the
length of the transaction at the start of some bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from nodewright_nakamoto import compact
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.header import HEADER_BYTES, Header

MAX_HEIGHT = 2**32 - 1
MAX_WIRE_BYTES = 8 * 1024 * 1024
MAX_SUBTREES = MAX_WIRE_BYTES // 32


@frozen
class Block:
    header: Header
    transaction_count: int
    size: int
    subtrees: tuple[bytes, ...]
    prologue: bytes
    height: int

    @property
    def id(self) -> bytes:
        return self.header.id

    def encode(self) -> bytes:
        return b"".join(
            (
                self.header.encode(),
                compact.encode(self.transaction_count),
                compact.encode(self.size),
                compact.encode(len(self.subtrees)),
                *self.subtrees,
                self.prologue,
                compact.encode(self.height),
            )
        )


def flat_size(transaction_count: int, prologue_bytes: int, body_bytes: int) -> int:
    """Bytes of the block in its flat form, which the wire states as ``sizeInBytes``."""
    return HEADER_BYTES + len(compact.encode(transaction_count)) + prologue_bytes + body_bytes


def _heights(tail: bytes) -> list[tuple[int, int]]:
    """(height, bytes it takes) for every canonical reading of the end of ``tail``, shortest first."""
    found = []
    for width in (1, 3, 5):
        if width <= len(tail):
            try:
                value, end = compact.decode(tail, len(tail) - width, MAX_HEIGHT)
            except MalformedError:
                continue
            if end == len(tail):
                found.append((value, width))
    return found


def decode(data: bytes, height: int | None = None, extent: Callable[[bytes], int] | None = None) -> Block:
    """Raises MalformedError, also where the end can be read in more than one way and neither hint decides."""
    if len(data) > MAX_WIRE_BYTES:
        raise MalformedError(f"a block of {len(data)} bytes is over the limit of {MAX_WIRE_BYTES}")
    header = Header.decode(data[:HEADER_BYTES])
    transactions, at = compact.decode(data, HEADER_BYTES)
    size, at = compact.decode(data, at)
    count, at = compact.decode(data, at, (len(data) - at) // 32)
    subtrees = tuple(data[i : i + 32] for i in range(at, at + 32 * count, 32))
    tail = data[at + 32 * count :]
    readings = _heights(tail)
    if height is not None:
        readings = [reading for reading in readings if reading[0] == height]
    if extent is not None:
        readings = [reading for reading in readings if extent(tail) == len(tail) - reading[1]]
    if len(readings) != 1:
        known = "the height due" if height is not None else "a height"
        raise MalformedError(f"a block's bytes do not end with {known} in exactly one way")
    value, width = readings[0]
    return Block(header, transactions, size, subtrees, tail[: len(tail) - width], value)
