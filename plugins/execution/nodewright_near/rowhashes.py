"""SHA-256 of rows of one width, without an object for each: the compiled kernel, or plain until it is there."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Final

from nodewright.kernels.switch import compiled

WORTH_A_CALL: Final = 8


def sha256_rows(data: bytes, width: int) -> bytes:
    """n rows of ``width`` bytes, one behind the other -> their n digests, likewise."""
    kernels = compiled()
    if kernels is None or len(data) < WORTH_A_CALL * width:
        return b"".join([sha256(data[at : at + width]).digest() for at in range(0, len(data), width)])
    import numpy as np

    starts = np.arange(0, len(data), width, dtype=np.int64)
    out = np.empty((len(starts), 32), np.uint8)
    kernels.sha256_ranges(np.frombuffer(data, np.uint8), starts, starts + width, False, out)
    digests: bytes = out.tobytes()
    return digests


def joined_digests(prefix: bytes, ids: Sequence[bytes], messages: Sequence[bytes]) -> bytes:
    """Of each: prefix ‖ id (32 bytes) ‖ digest of the message; one behind the other."""
    kernels, count = compiled(), len(ids)
    if kernels is None or count < WORTH_A_CALL:
        return b"".join([prefix + id + sha256(one).digest() for id, one in zip(ids, messages, strict=True)])
    import numpy as np

    ends = np.fromiter(accumulate(map(len, messages)), np.int64, count)
    starts = np.zeros(count, np.int64)
    starts[1:] = ends[:-1]
    digests = np.empty((count, 32), np.uint8)
    kernels.sha256_ranges(np.frombuffer(b"".join(messages) or b"\0", np.uint8), starts, ends, False, digests)
    wide = len(prefix)
    rows = np.empty((count, wide + 64), np.uint8)
    rows[:, :wide] = np.frombuffer(prefix, np.uint8)
    rows[:, wide : wide + 32] = np.frombuffer(b"".join(ids), np.uint8).reshape(count, 32)
    rows[:, wide + 32 :] = digests
    joined: bytes = rows.tobytes()
    return joined
