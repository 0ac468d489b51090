"""Bytes in, bytes out, around the compiled hash kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from nodewright.kernels.compiled.ripemd160 import ripemd160_digests
from nodewright.kernels.compiled.sha256 import sha256_ranges
from nodewright.kernels.compiled.signatures import ecdsa_batch, ed25519_batch


def sha256_list(messages: Sequence[bytes], double: bool) -> list[bytes]:
    count = len(messages)
    data = np.frombuffer(b"".join(messages) or b"\0", np.uint8)
    ends = np.fromiter(accumulate(map(len, messages)), np.int64, count)
    starts = np.zeros(count, np.int64)
    starts[1:] = ends[:-1]
    out = np.empty((count, 32), np.uint8)
    sha256_ranges(data, starts, ends, double, out)
    return rows(out)


def rows(digests: Any) -> list[bytes]:
    """An (n, 32) array -> n bytes objects."""
    joined: bytes = digests.tobytes()
    width: int = digests.shape[1]
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def _pairs(data: Any) -> Any:
    count = data.shape[0] // 64
    starts = np.arange(count, dtype=np.int64) * 64
    out = np.empty((count, 32), np.uint8)
    sha256_ranges(data, starts, starts + 64, True, out)
    return out


def sha256d_pairs(pairs: bytes | bytearray | memoryview) -> bytes:
    digests: bytes = _pairs(np.frombuffer(pairs, np.uint8)).tobytes()
    return digests


def merkle_levels(leaves: bytes | bytearray | memoryview) -> list[bytes]:
    levels = [bytes(leaves)]
    while len(levels[-1]) > 32:
        level = levels[-1]
        if len(level) % 64:
            level += level[-32:]
        levels.append(sha256d_pairs(level))
    return levels


def _column(items: Sequence[bytes]) -> tuple[Any, Any, Any]:
    """(data, starts, ends) of n items."""
    ends = np.fromiter(accumulate(map(len, items)), np.int64, len(items))
    return np.frombuffer(b"".join(items) or b"\0", np.uint8), np.concatenate((_ZERO, ends[:-1])), ends


_ZERO = np.zeros(1, np.int64)


def ecdsa(
    library: Sequence[int], keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]
) -> bytearray:
    """At least one item; every digest of 32 bytes. See ``signatures.ecdsa_batch`` for ``library``."""
    out = bytearray(len(keys))
    joined = np.frombuffer(b"".join(digests), np.uint8)
    addresses = np.array(library, np.uint64)
    ecdsa_batch(addresses, *_column(keys), joined, *_column(signatures), np.frombuffer(out, np.uint8))
    return out


def ed25519(sign_open: int, keys: bytes, signed: bytes, ends: Sequence[int]) -> bytearray:
    """``keys`` 32·n bytes, ``signed`` signature ‖ message for each, ``ends`` where each of those ends."""
    out = bytearray(len(ends))
    after = np.array(ends, np.int64)
    starts = np.concatenate((_ZERO, after[:-1]))
    answers = np.frombuffer(out, np.uint8)
    ed25519_batch(sign_open, np.frombuffer(keys, np.uint8), np.frombuffer(signed, np.uint8), starts, after, answers)
    return out


def hash160_ranges(data: Any, starts: Any, ends: Any) -> Any:
    """HASH160 of each range: (n, 20) uint8."""
    inner = np.empty((len(starts), 32), np.uint8)
    sha256_ranges(data, starts, ends, False, inner)
    out = np.empty((len(starts), 20), np.uint8)
    ripemd160_digests(inner, out)
    return out


def hash160_list(messages: Sequence[bytes]) -> list[bytes]:
    return rows(hash160_ranges(*_column(messages)))
