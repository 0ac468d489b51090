"""Which part each transaction goes to, by the partitioner of the settings."""

from __future__ import annotations

from collections.abc import Sequence

from nodewright_aptos.functions import Accesses
from nodewright_aptos.shards.options import BY_SENDER
from nodewright_aptos.transactions import UserTransaction


def divide(
    partitioner: str, transactions: Sequence[UserTransaction], accesses: Sequence[Accesses], parts: int
) -> list[int]:
    """The block keeps its order. Without numpy, senders are dealt out in turn whatever ``partitioner`` says."""
    if parts == 1:
        return [0] * len(transactions)
    try:
        from nodewright_aptos import partition
        from nodewright_aptos.partition.model import Access
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        partitioner = BY_SENDER
    senders: dict[bytes, int] = {}
    own = [senders.setdefault(transaction.sender, len(senders)) for transaction in transactions]
    if partitioner == BY_SENDER:
        return [sender % parts for sender in own]
    keys: dict[bytes, int] = {}
    rows = [
        (
            sender,
            [keys.setdefault(key, len(keys)) for key in access.reads],
            [keys.setdefault(key, len(keys)) for key in access.writes],
        )
        for sender, access in zip(own, accesses, strict=True)
    ]
    made = partition.partition(Access.of(rows, len(senders), len(keys)), parts, partitioner, reorder=False)
    found: list[int] = made.shard.tolist()
    return found
