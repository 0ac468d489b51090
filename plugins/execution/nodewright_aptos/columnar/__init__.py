"""The columnar path of the Aptos-shaped node: transfers executed as arrays in kernels, and the state tree over arrays.

``executor`` is the node's (setting ``executor = "columnar"``), ``ledger`` a whole state in arrays, ``tree`` its Jellyfish
Merkle tree. Beside ``executor``, which runs one by one until it has its kernels, these need numba and numpy.
"""

from nodewright_aptos.columnar.executor import open_executor

__all__ = ["open_executor"]
