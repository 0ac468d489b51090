"""Compiles every kernel into numba's cache, once: else each worker, and each node that a test starts, would for itself."""

from nodewright.kernels import sha3, warm_up
from nodewright.kernels.signatures import ECDSA_LANES, LANES
from nodewright_aptos.bench.columns import KERNELS as APTOS
from nodewright_aptos.blockstm.native import KERNELS as BLOCK_STM
from nodewright_aptos.columnar.executor import KERNELS as COLUMNAR
from nodewright_aptos.partition import KERNELS as PARTITION
from nodewright_bitcoin.columns import KERNELS as BITCOIN
from nodewright_near.ways import KERNELS as NEAR

ALL = dict.fromkeys((BITCOIN, NEAR, LANES, ECDSA_LANES, sha3.KERNELS, *APTOS, *BLOCK_STM, COLUMNAR, PARTITION))
print(warm_up(*ALL) or "kernels are compiled")
