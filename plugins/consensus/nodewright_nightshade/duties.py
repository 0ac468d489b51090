"""When a validator has nothing to make: pure, from what an epoch says of its heights."""

from __future__ import annotations

from nodewright_nightshade.sampling import Epoch


def idle(epoch: Epoch, account: str, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of heights from ``start`` to below ``end``, as (first, beyond the last), at which the account is to make neither
    the block nor a chunk. All of them for one that is no validator."""
    place = next((at for at, one in enumerate(epoch.validators) if one.account == account), None)
    shards = range(len(epoch.chunk_producers))
    found: list[tuple[int, int]] = []
    first: int | None = None
    for height in range(start, end):
        if place is not None and (
            epoch.block_producer(height) == place or any(epoch.chunk_producer(height, shard) == place for shard in shards)
        ):
            if first is not None:
                found.append((first, height))
            first = None
        elif first is None:
            first = height
    if first is not None:
        found.append((first, end))
    return found
