"""RIPEMD-160 of many 32-byte messages (one padded block each): the second half of HASH160."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels import plain
from nodewright.kernels.compiled.tools import njit, types

_ORDER = np.array([plain.LEFT_WORDS, plain.RIGHT_WORDS], np.int64).reshape(2, 80)
_TURNS = np.array([plain.LEFT_TURNS, plain.RIGHT_TURNS], np.uint32).reshape(2, 80)
_ADDS = np.array([plain.LEFT_ADDS, plain.RIGHT_ADDS], np.uint32)
_START = np.array(plain.RIPEMD_START, np.uint32)


@njit(types.void(types.uint8[:, ::1], types.uint8[:, ::1]), nogil=True, cache=True)
def ripemd160_digests(messages: Any, out: Any) -> None:
    """(n, 32) -> (n, 20)."""
    words = np.empty(16, np.uint32)
    lines = np.empty((2, 5), np.uint32)
    for item in range(messages.shape[0]):
        words[:] = 0
        for i in range(32):
            words[i // 4] |= np.uint32(messages[item, i]) << np.uint32(8 * (i % 4))
        words[8], words[14] = 0x80, 256
        for side in range(2):
            a, b, c, d, e = _START[0], _START[1], _START[2], _START[3], _START[4]
            for step in range(80):
                turn = step // 16
                mix = turn if side == 0 else 4 - turn
                if mix == 0:
                    mixed = b ^ c ^ d
                elif mix == 1:
                    mixed = (b & c) | (~b & d)
                elif mix == 2:
                    mixed = (b | ~c) ^ d
                elif mix == 3:
                    mixed = (b & d) | (c & ~d)
                else:
                    mixed = b ^ (c | ~d)
                total = np.uint32(a + mixed + words[_ORDER[side, step]] + _ADDS[side, turn])
                by = _TURNS[side, step]
                turned = np.uint32((total << by) | (total >> (np.uint32(32) - by)))
                a, e, d, c, b = (
                    e,
                    d,
                    np.uint32((c << np.uint32(10)) | (c >> np.uint32(22))),
                    b,
                    np.uint32(turned + e),
                )
            lines[side, 0], lines[side, 1], lines[side, 2] = a, b, c
            lines[side, 3], lines[side, 4] = d, e
        for i in range(5):
            word = np.uint32(_START[(i + 1) % 5] + lines[0, (i + 2) % 5] + lines[1, (i + 3) % 5])
            for byte in range(4):
                out[item, 4 * i + byte] = (word >> np.uint32(8 * byte)) & np.uint32(255)
