"""Old bodies of chunks, and what running them came to, are deleted; blocks themselves stay, for those who follow them.

Invariants: what a run or a witness above the final block may need stays, whatever its age: everything from the last run
of the shard that missed its chunks longest; deleting is done as epochs end, in pieces, MAX_BLOCKS at most at a time, and
goes on after a crash where it was.
"""

from __future__ import annotations

from nodewright_nightshade.chain import Chain, Held

PIECE = 64  # blocks whose rows go in one batch
MAX_BLOCKS = 20_000


async def prune(chain: Chain, held: Held, epochs: int) -> None:
    """``held``: a final block that ends its epoch. Keeps what that one and those before it, ``epochs`` in all, brought."""
    oldest = await chain.epoch_start(held, epochs - 1)
    height = await chain.store.pruned()
    below = min([oldest, height + MAX_BLOCKS, *(ran.height for ran in held.info.ran)])
    while height < below:
        end = min(below, height + PIECE)
        blocks = [await chain.at(one) for one in range(height, end)]
        await chain.store.prune([one.block for one in blocks if one is not None], end)
        height = end
