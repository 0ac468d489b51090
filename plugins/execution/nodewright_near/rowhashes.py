"""SHA-256 of rows of one width, without an object for each: the compiled kernel, or plain until it is there."""

from __future__ import annotations

from hashlib import sha256
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
