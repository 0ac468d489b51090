"""Compiles every kernel into numba's cache, once: else each worker, and each node that a test starts, would for itself."""

from nodewright.kernels import sha3, warm_up
from nodewright.kernels.signatures import LANES
from nodewright_aptos.bench.columns import KERNELS as APTOS
from nodewright_bitcoin.columns import KERNELS as BITCOIN

print(warm_up(BITCOIN, LANES, sha3.KERNELS, *APTOS) or "kernels are compiled")
