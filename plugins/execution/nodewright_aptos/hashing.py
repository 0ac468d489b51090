"""Hashes of Aptos: SHA3-256 with a seed for each kind of value, H_T(x) = sha3_256(sha3_256("APTOS::" + T) ‖ x).

Batches go to the core's kernel, which is as good as hashlib where it is not compiled.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha3_256
from typing import Final

from nodewright.kernels.sha3 import sha3_256_many, sha3_256_pairs

EMPTY_TREE: Final = b"SPARSE_MERKLE_PLACEHOLDER_HASH".ljust(32, b"\0")
EMPTY_ACCUMULATOR: Final = b"ACCUMULATOR_PLACEHOLDER_HASH".ljust(32, b"\0")


@cache
def seed(name: str) -> bytes:
    """32 bytes that stand before what is hashed as a ``name``."""
    return sha3_256(b"APTOS::" + name.encode()).digest()


TRANSACTION: Final = seed("Transaction")
TRANSACTION_INFO: Final = seed("TransactionInfo")
RAW_TRANSACTION: Final = seed("RawTransaction")
RAW_TRANSACTION_WITH_DATA: Final = seed("RawTransactionWithData")
CONTRACT_EVENT: Final = seed("ContractEvent")
WRITE_SET: Final = seed("WriteSet")
STATE_KEY: Final = seed("StateKey")
STATE_VALUE: Final = seed("StateValue")
TREE_LEAF: Final = seed("SparseMerkleLeafNode")
TREE_INTERNAL: Final = seed("SparseMerkleInternal")
TRANSACTION_ACCUMULATOR: Final = seed("TransactionAccumulator")
EVENT_ACCUMULATOR: Final = seed("EventAccumulator")
LEDGER_INFO: Final = seed("LedgerInfo")


def digest(prefix: bytes, data: bytes) -> bytes:
    return sha3_256(prefix + data).digest()


def digests(prefix: bytes, items: list[bytes]) -> list[bytes]:
    """One digest for each item, in order."""
    return sha3_256_many(items, prefix)


def pairs(prefix: bytes, data: bytes) -> bytes:
    """64·n bytes -> n digests, side by side: nodes of a tree from their children, or leaves from key ‖ value."""
    return sha3_256_pairs(data, prefix)
