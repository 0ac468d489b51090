"""Reed–Solomon parts of a chunk: any ``data`` of ``total`` parts rebuild it. Systematic (the first parts are the bytes
themselves), over GF(2⁸) with the polynomial x⁸ + x⁴ + x³ + x² + 1, so at most 256 parts. Pure.

The code's matrix is a Vandermonde matrix made systematic: row i of it is i⁰, i¹, … times the inverse of its own first
``data`` rows; every ``data`` rows of it can be inverted. A part is a row times the data parts, done for whole columns of
bytes at once by table look-ups in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

MAX_PARTS = 256
_POLYNOMIAL = 0x11D


def _tables() -> tuple[list[int], list[int]]:
    exponents, logarithms = [0] * 510, [0] * 256
    value = 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return exponents, logarithms


EXP, LOG = _tables()
# PRODUCTS[a, b] = a × b
PRODUCTS = np.array(
    [[EXP[LOG[a] + LOG[b]] if a and b else 0 for b in range(256)] for a in range(256)],
    dtype=np.uint8,
)


def _inverse(value: int) -> int:
    return EXP[255 - LOG[value]]


def _power(base: int, exponent: int) -> int:
    if exponent == 0:
        return 1
    return EXP[LOG[base] * exponent % 255] if base else 0


def multiply(left: Any, right: Any) -> Any:
    """Matrix times matrix, uint8 arrays of shapes (n, k) and (k, m)."""
    return np.stack([_row(factors, right) for factors in left])


def inverted(matrix: Any) -> Any:
    """Gauss–Jordan. Raises ValueError for a singular one."""
    size = matrix.shape[0]
    work = np.concatenate([matrix.copy(), np.eye(size, dtype=np.uint8)], axis=1)
    for at in range(size):
        pivots = np.nonzero(work[at:, at])[0]
        if not len(pivots):
            raise ValueError("the matrix cannot be inverted")
        pivot = at + int(pivots[0])
        if pivot != at:
            work[[at, pivot]] = work[[pivot, at]]
        work[at] = PRODUCTS[_inverse(int(work[at, at]))][work[at]]
        for other in range(size):
            if other != at and work[other, at]:
                work[other] ^= PRODUCTS[int(work[other, at])][work[at]]
    return work[:, size:]


@lru_cache(maxsize=64)
def matrix(data: int, total: int) -> Any:
    """Shape (total, data), its first rows the identity."""
    if not 0 < data <= total <= MAX_PARTS:
        raise ValueError(f"{data} of {total} parts: at least one, and at most {MAX_PARTS} in all")
    full = np.array([[_power(row, column) for column in range(data)] for row in range(total)], np.uint8)
    return multiply(full, inverted(full[:data]))


def counts(producers: int) -> tuple[int, int]:
    """(data, total) parts of a chunk among this many block producers: a third of them is enough."""
    total = max(1, min(producers, MAX_PARTS))
    return max(1, (total - 1) // 3), total


def part_size(length: int, data: int) -> int:
    return max(1, -(-length // data))


def encode(body: bytes, data: int, total: int) -> list[bytes]:
    """``total`` parts of one size each; the body is filled up with zeros."""
    size = part_size(len(body), data)
    shards = np.frombuffer(body.ljust(size * data, b"\0"), np.uint8).reshape(data, size)
    parity = [_row(matrix(data, total)[at], shards) for at in range(data, total)]
    return [shard.tobytes() for shard in (*shards, *parity)]


def _row(factors: Sequence[int], shards: Any) -> Any:
    found = np.zeros(shards.shape[1], np.uint8)
    for factor, shard in zip(factors, shards, strict=True):
        if factor:
            found ^= PRODUCTS[int(factor)][shard]
    return found


def rebuild(parts: Mapping[int, bytes], data: int, total: int, length: int) -> bytes:
    """The body of ``length`` bytes from at least ``data`` parts by their number. Raises ValueError where they are too few
    or not of one size; whether they were genuine is for the caller's Merkle proofs to say."""
    size = part_size(length, data)
    chosen = sorted(at for at in parts if 0 <= at < total)[:data]
    if len(chosen) < data or any(len(parts[at]) != size for at in chosen):
        raise ValueError(
            f"a body of {length} bytes needs {data} parts of {size} bytes; there are {len(chosen)} of its kind"
        )
    given = [np.frombuffer(parts[at], np.uint8) for at in chosen]
    if chosen == list(range(data)):
        return b"".join(parts[at] for at in chosen)[:length]
    back, shards = inverted(matrix(data, total)[chosen]), np.stack(given)
    return b"".join(_row(back[at], shards).tobytes() for at in range(data))[:length]
