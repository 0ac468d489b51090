"""Kernels compiled by numba: importing this package compiles them, or loads them from numba's cache on disk.

Import it through ``nodewright.kernels.warm_up`` only, off the event loop: without a cache it takes seconds.
"""

from nodewright.kernels.compiled.batches import (
    ecdsa,
    ed25519,
    hash160_list,
    hash160_ranges,
    merkle_levels,
    rows,
    sha256_list,
    sha256d_pairs,
)
from nodewright.kernels.compiled.sha256 import sha256_ranges

__all__ = [
    "ecdsa",
    "ed25519",
    "hash160_list",
    "hash160_ranges",
    "merkle_levels",
    "rows",
    "sha256_list",
    "sha256_ranges",
    "sha256d_pairs",
]
