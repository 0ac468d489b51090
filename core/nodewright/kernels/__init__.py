"""Shared kernels: batch hashing, Merkle roots, batch signature checks. Each has a plain reference (``kernels.plain``).

The functions here choose: compiled code once ``warm_up`` has finished, the plain path until then and where numba or numpy
is absent. Both give the same bytes, so that when the switch happens is never visible in a result. All are synchronous;
the compiled ones release the GIL: callers offload whole batches.
"""

from nodewright.kernels.hashes import (
    hash160,
    hash160_many,
    merkle_depth,
    merkle_levels,
    merkle_lift,
    merkle_root,
    ripemd160,
    sha256_many,
    sha256d,
    sha256d_many,
    sha256d_pairs,
)
from nodewright.kernels.switch import disable, ready, warm_up

__all__ = [
    "disable",
    "hash160",
    "hash160_many",
    "merkle_depth",
    "merkle_levels",
    "merkle_lift",
    "merkle_root",
    "ready",
    "ripemd160",
    "sha256_many",
    "sha256d",
    "sha256d_many",
    "sha256d_pairs",
    "warm_up",
]
