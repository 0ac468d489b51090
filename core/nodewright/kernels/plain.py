"""The reference every kernel is tested against, and what a node runs on while kernels compile or where numba is absent.

Pure functions over bytes, standard library only. Nothing here is fast on purpose; nothing here is wrong on purpose
either: a node that never gets its kernels stays correct.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32


def sha256d(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def sha256_many(messages: Sequence[bytes]) -> list[bytes]:
    sha256 = hashlib.sha256
    return [sha256(message).digest() for message in messages]


def sha256d_many(messages: Sequence[bytes]) -> list[bytes]:
    sha256 = hashlib.sha256
    return [sha256(sha256(message).digest()).digest() for message in messages]


def sha256d_pairs(pairs: bytes | bytearray | memoryview) -> bytes:
    """n messages of 64 bytes, concatenated -> n digests of 32 bytes, concatenated."""
    sha256 = hashlib.sha256
    view = memoryview(pairs)
    return b"".join(sha256(sha256(view[at : at + 64]).digest()).digest() for at in range(0, len(view), 64))


# --- RIPEMD-160 (ISO/IEC 10118-3), for an OpenSSL built without it ----------------------------------------------------

LEFT_WORDS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8),
    (3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5, 12),
    (1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2),
    (4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13),
)
RIGHT_WORDS = (
    (5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12),
    (6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2),
    (15, 5, 1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13),
    (8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14),
    (12, 15, 10, 4, 1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11),
)
LEFT_TURNS = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12),
    (11, 13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5),
    (11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12),
    (9, 15, 5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6),
)
RIGHT_TURNS = (
    (8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6),
    (9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11),
    (9, 7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5),
    (15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8),
    (8, 5, 12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11),
)
LEFT_ADDS = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
RIGHT_ADDS = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)
RIPEMD_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_MASK = 0xFFFFFFFF


def _ripemd_mix(which: int, x: int, y: int, z: int) -> int:
    if which == 0:
        return x ^ y ^ z
    if which == 1:
        return (x & y) | (~x & z)
    if which == 2:
        return (x | (~y & _MASK)) ^ z
    if which == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | (~z & _MASK))


def _ripemd_line(
    state: Sequence[int],
    words: Sequence[int],
    order: Sequence[Sequence[int]],
    turns: Sequence[Sequence[int]],
    adds: Sequence[int],
    mixes: Sequence[int],
) -> tuple[int, int, int, int, int]:
    a, b, c, d, e = state
    for turn in range(5):
        for word, by in zip(order[turn], turns[turn], strict=True):
            total = (a + _ripemd_mix(mixes[turn], b, c, d) + words[word] + adds[turn]) & _MASK
            a, e, d, c, b = (
                e,
                d,
                ((c << 10) | (c >> 22)) & _MASK,
                b,
                ((((total << by) | (total >> (32 - by))) & _MASK) + e) & _MASK,
            )
    return a, b, c, d, e


def ripemd160_reference(data: bytes) -> bytes:
    padded = data + b"\x80" + bytes(-(len(data) + 9) % 64) + (8 * len(data)).to_bytes(8, "little")
    state = list(RIPEMD_START)
    for at in range(0, len(padded), 64):
        words = [int.from_bytes(padded[at + 4 * i : at + 4 * i + 4], "little") for i in range(16)]
        left = _ripemd_line(state, words, LEFT_WORDS, LEFT_TURNS, LEFT_ADDS, (0, 1, 2, 3, 4))
        right = _ripemd_line(state, words, RIGHT_WORDS, RIGHT_TURNS, RIGHT_ADDS, (4, 3, 2, 1, 0))
        state = [(state[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5]) & _MASK for i in range(5)]
    return b"".join(word.to_bytes(4, "little") for word in state)


def _openssl_has_ripemd160() -> bool:
    try:
        hashlib.new("ripemd160")
    except ValueError:
        return False
    return True


_OPENSSL_RIPEMD160 = _openssl_has_ripemd160()


def ripemd160(data: bytes) -> bytes:
    return hashlib.new("ripemd160", data).digest() if _OPENSSL_RIPEMD160 else ripemd160_reference(data)


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256: 20 bytes."""
    return ripemd160(hashlib.sha256(data).digest())


# --- Merkle trees -----------------------------------------------------------------------------------------------------


def merkle_levels(leaves: bytes | bytearray | memoryview) -> list[bytes]:
    """32·n bytes of leaves -> every level from the leaves to the root, each concatenated.

    The rule is Bitcoin's: an odd level's last node is paired with itself. One leaf is its own root. Raises ValueError
    for no leaf or a length that is not a multiple of 32.
    """
    if not leaves or len(leaves) % HASH_BYTES:
        raise ValueError(f"a Merkle tree needs a positive multiple of 32 bytes, not {len(leaves)}")
    levels = [bytes(leaves)]
    while len(levels[-1]) > HASH_BYTES:
        level = levels[-1]
        if len(level) % 64:
            level += level[-HASH_BYTES:]
        levels.append(sha256d_pairs(level))
    return levels


def merkle_root(leaves: bytes | bytearray | memoryview) -> bytes:
    return merkle_levels(leaves)[-1]


def merkle_depth(count: int) -> int:
    """How many levels lie between ``count`` leaves and the root."""
    return (count - 1).bit_length()


def merkle_lift(root: bytes, levels: int) -> bytes:
    """Raise a short subtree's root by ``levels`` as if its last node were duplicated at each: r = sha256d(r ‖ r)."""
    for _ in range(levels):
        root = sha256d(root + root)
    return root
