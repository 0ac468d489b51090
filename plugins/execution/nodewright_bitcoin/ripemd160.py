"""RIPEMD-160 in plain Python, for an OpenSSL built without it.

The algorithm: H. Dobbertin, A. Bosselaers, B. Preneel, "RIPEMD-160: A Strengthened Version of RIPEMD" (1996). Two lines of
80 steps over each 64-byte block, their results added crosswise. The message orders are generated from the paper's two
permutations rather than written out.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack

_MASK = 0xFFFFFFFF
_RHO = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)
_LEFT_CONSTANTS = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT_CONSTANTS = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)
_SHIFTS = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)
_Mix = Callable[[int, int, int], int]
_FUNCTIONS: tuple[_Mix, ...] = (
    lambda x, y, z: x ^ y ^ z,
    lambda x, y, z: (x & y) | (~x & z),
    lambda x, y, z: (x | ~y) ^ z,
    lambda x, y, z: (x & z) | (y & ~z),
    lambda x, y, z: x ^ (y | ~z),
)


def _schedule(
    first: list[int], constants: tuple[int, ...], functions: tuple[_Mix, ...]
) -> list[tuple[_Mix, int, int, int]]:
    """Per step: mixing function, constant, message word, rotation."""
    order = first
    steps: list[tuple[_Mix, int, int, int]] = []
    for turn in range(5):
        steps += [(functions[turn], constants[turn], word, _SHIFTS[turn][word]) for word in order]
        order = [_RHO[word] for word in order]
    return steps


_LEFT = _schedule(list(range(16)), _LEFT_CONSTANTS, _FUNCTIONS)
_RIGHT = _schedule([(9 * i + 5) % 16 for i in range(16)], _RIGHT_CONSTANTS, _FUNCTIONS[::-1])


def _line(steps: list[tuple[_Mix, int, int, int]], state: tuple[int, ...], words: tuple[int, ...]) -> tuple[int, ...]:
    a, b, c, d, e = state
    for mix, constant, word, shift in steps:
        t = (a + mix(b, c, d) + words[word] + constant) & _MASK
        t = ((t << shift | t >> (32 - shift)) + e) & _MASK
        a, e, d, c, b = e, d, (c << 10 | c >> 22) & _MASK, b, t
    return a, b, c, d, e


def ripemd160(data: bytes) -> bytes:
    """20 bytes."""
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + pack("<Q", 8 * len(data))
    h: tuple[int, ...] = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
    for at in range(0, len(padded), 64):
        words = unpack("<16I", padded[at : at + 64])
        left, right = _line(_LEFT, h, words), _line(_RIGHT, h, words)
        h = tuple((h[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5]) & _MASK for i in range(5))
    return pack("<5I", *h)
