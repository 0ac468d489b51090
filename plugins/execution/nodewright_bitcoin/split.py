"""Cut concatenated transactions apart without building objects: only lengths are read, no content is copied but the slices.

Both forms are cut: standard, and extended (BRC-30: six bytes ``00 00 00 00 00 EF`` after the version, and per input the
spent output's satoshis and locking script).

Where kernels are ready they find the ends, as far as all is plainly whole; the plain loop goes on from there, and says what
is wrong.
"""

from __future__ import annotations

from itertools import pairwise

from nodewright.kernels.switch import compiled
from nodewright_bitcoin.columns import KERNELS

EXTENDED_MARK = b"\x00\x00\x00\x00\x00\xef"
WORTH_A_CALL = 1024  # bytes
LEAST_BYTES = 10


class SplitError(ValueError):
    """The bytes are no sequence of transactions; the message names the transaction and the offset."""


def _compact(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    width = 1 << (first - 0xFC)
    end = at + 1 + width
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at + 1 : end], "little"), end


def transaction_end(data: bytes, start: int = 0) -> int:
    """Offset after the transaction that begins at ``start``. Raises IndexError where the data ends too early."""
    at = start + 4
    extended = data[at : at + 6] == EXTENDED_MARK
    if extended:
        at += 6
    size = len(data)
    count, at = _compact(data, at)
    if count > (size - at) // 41:
        raise IndexError
    for _ in range(count):
        length, at = _compact(data, at + 36)
        at += length + 4
        if extended:
            length, at = _compact(data, at + 8)
            at += length
    count, at = _compact(data, at)
    if count > (size - at) // 9:
        raise IndexError
    for _ in range(count):
        length, at = _compact(data, at + 8)
        at += length
    at += 4
    if at > size:
        raise IndexError
    return at


def split_transactions(data: bytes, limit: int) -> list[bytes]:
    """The transactions of ``data`` in order, at most ``limit``. Raises SplitError."""
    out = _split_plain(data, limit)
    at = sum(map(len, out))
    while at < len(data):
        if len(out) == limit:
            raise SplitError(f"more than {limit} transactions in one request")
        try:
            end = transaction_end(data, at)
        except IndexError:
            raise SplitError(f"transaction #{len(out)} at offset {at} is cut short or no transaction") from None
        out.append(data[at:end])
        at = end
    return out


def _split_plain(data: bytes, limit: int) -> list[bytes]:
    """The transactions that ``data`` begins with, as far as the kernel reads them."""
    kernels = compiled(KERNELS)
    if kernels is None or len(data) < WORTH_A_CALL or limit < 1:
        return []
    import numpy as np

    ends = np.zeros(min(limit, len(data) // LEAST_BYTES) + 1, np.int64)
    count = kernels.split(np.frombuffer(data, np.uint8), ends[1:])
    return [data[start:end] for start, end in pairwise(ends[: count + 1].tolist())]
