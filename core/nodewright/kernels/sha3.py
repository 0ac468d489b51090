"""SHA3-256 (FIPS 202) of many messages: the compiled kernel where it is ready and worth its call, else hashlib.

A family that hashes with SHA3 names ``KERNELS`` to ``warm_up`` beside its own modules; other nodes never compile it.
``prefix`` is what every message of a batch begins with (a domain separator of at most MAX_PREFIX_BYTES, else ValueError),
hashed as if it were part of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nodewright.kernels.switch import compiled

__all__ = ["KERNELS", "sha3_256_many", "sha3_256_pairs"]

KERNELS = "nodewright.kernels.compiled.sha3"
# Below this many messages the arrays cost more than hashlib does.
WORTH_A_CALL = 8
MAX_PREFIX_BYTES = 135


def sha3_256_many(messages: Sequence[bytes], prefix: bytes = b"") -> list[bytes]:
    """n messages of any length -> n digests of 32 bytes, in order."""
    _check(prefix)
    kernels = compiled(KERNELS)
    if kernels is None or len(messages) < WORTH_A_CALL:
        return plain_many(messages, prefix)
    digests: list[bytes] = kernels.sha3_list(messages, prefix)
    return digests


def sha3_256_pairs(pairs: bytes | bytearray | memoryview, prefix: bytes = b"") -> bytes:
    """n messages of 64 bytes, concatenated -> n digests, concatenated. ValueError for another length."""
    if len(pairs) % 64:
        raise ValueError(f"pairs come as multiples of 64 bytes, not {len(pairs)}")
    _check(prefix)
    kernels = compiled(KERNELS)
    if kernels is None or len(pairs) < 64 * WORTH_A_CALL:
        return plain_pairs(pairs, prefix)
    digests: bytes = kernels.pairs(pairs, prefix)
    return digests


def _check(prefix: bytes) -> None:
    if len(prefix) > MAX_PREFIX_BYTES:
        raise ValueError(f"a prefix has at most {MAX_PREFIX_BYTES} bytes, not {len(prefix)}")


def plain_many(messages: Sequence[bytes], prefix: bytes = b"") -> list[bytes]:
    """The reference that the kernel is tested against."""
    sha3_256 = hashlib.sha3_256
    return [sha3_256(prefix + message).digest() for message in messages]


def plain_pairs(pairs: bytes | bytearray | memoryview, prefix: bytes = b"") -> bytes:
    """As ``plain_many``, of messages of 64 bytes laid side by side."""
    view = memoryview(pairs)
    return b"".join(plain_many([bytes(view[at : at + 64]) for at in range(0, len(view), 64)], prefix))
