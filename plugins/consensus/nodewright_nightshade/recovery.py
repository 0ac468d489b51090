"""A start: the final chain, what stands on it, and the execution brought to it.

A crash may lie between any two steps of ``chain``: a block that is stored is run again, one that is in the final chain is
committed, what its transactions came to is told to the pool (``settle`` is idempotent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from nodewright.errors import StoreCorrupt
from nodewright_nightshade import blocks
from nodewright_nightshade.chain import Chain, Held, placed
from nodewright_nightshade.genesis import genesis_extra
from nodewright_nightshade.selection import Tally
from nodewright_nightshade.store import Run


class Prepared(Protocol):
    @property
    def roots(self) -> Sequence[bytes]: ...

    @property
    def supply(self) -> int: ...


@runtime_checkable
class Prepares(Protocol):
    """An execution that can make its genesis state before the block is known."""

    async def prepare_genesis(self, document: Mapping[str, Any]) -> Prepared: ...


async def recover(chain: Chain) -> None:
    """Genesis where the store is empty. Raises StoreCorrupt."""
    final = await chain.store.final()
    if final is None:
        await _begin(chain)
        return
    held = await chain.find(final)
    root_id = await chain.store.final_hash(genesis_height(chain))
    root = await chain.find(root_id) if root_id is not None else None
    if held is None or root is None:
        raise StoreCorrupt("stores.chain names a final block that it does not hold: restore it from a backup")
    held.tally = await chain.store.tally()
    chain.root = root
    chain.final = chain.head = held
    chain.held = {root.info.hash: root, held.info.hash: held}
    await _epochs(chain, held)
    await chain.execution.genesis(chain.genesis.document, root.info.ref)
    await _track(chain)
    await _catch_up(chain)
    for id in await chain.store.above():
        above = await chain.find(id)
        parent = chain.held.get(above.info.prev) if above is not None else None
        if above is None or parent is None or parent.info.height < chain.final.info.height:
            continue
        chunks = await chain.available(above.block, {})
        lacking = [shard for shard in chain.tracked - chunks.keys() if above.block.is_new(shard)]
        if lacking:
            raise StoreCorrupt(f"stores.chain: bodies of block {above.info.ref} are missing: restore it from a backup")
        above.placed = placed(chunks)
        await _epochs(chain, above)
        above.tally = chain.count(above.block, above.info, parent.info, parent.tally)
        await chain.stand(above, await chain.run(above, parent, chunks))


async def _epochs(chain: Chain, held: Held) -> None:
    """Those that its children may need are at hand."""
    info = held.info
    for id in (info.epoch_id, info.next_epoch_id):
        await chain.epoch_set(id)
    if blocks.ends_epoch(info, chain.genesis.network):
        await chain.epoch_set(info.hash)


def genesis_height(chain: Chain) -> int:
    return int(chain.genesis.document.get("consensus", {}).get("height", 0))


async def _track(chain: Chain) -> None:
    shards = range(chain.genesis.network.shards)
    chain.light, adopting = await chain.store.light(), await chain.store.adopting()
    here = [shard for shard in shards if await chain.execution.applied(shard) is not None]
    chain.tracked = frozenset() if chain.light else frozenset(here) - adopting


async def _begin(chain: Chain) -> None:
    if isinstance(chain.execution, Prepares):  # it makes its state in bounded memory, and once
        state = await chain.execution.prepare_genesis(chain.genesis.document)
        block, info = chain.genesis.build_on(state.roots, state.supply)
    else:
        block, info = await chain.environment.offload(chain.genesis.build)
    epochs = chain.genesis.first_epochs(info.hash)
    held = Held(block, info, tally=Tally.of(len(chain.genesis.validators)))
    assert held.tally is not None
    for epoch in epochs:
        chain.epochs.add(epoch)
    commitments = await chain.execution.genesis(chain.genesis.document, info.ref)
    assert commitments is not None
    runs = {}
    for shard, header in enumerate(block.body.chunks):
        extra = genesis_extra(header.inner.prev_state_root)
        if commitments[32 * shard : 32 * shard + 32] != extra.commitment():
            raise StoreCorrupt(f"the execution's genesis of shard {shard} is not the one of the genesis document")
        runs[shard] = Run(extra, ())
    await chain.store.put_block(block, info, [], runs, epochs)
    await chain.store.put_final(info, held.tally, [], [])
    chain.root = chain.final = chain.head = held
    chain.held = {info.hash: held}
    await _track(chain)


async def _catch_up(chain: Chain) -> None:
    """A crash between a block's place in the final chain and its commit: run and commit what lacks, and tell the pool."""
    final = chain.final.info
    for shard in sorted(chain.tracked):
        applied = await chain.execution.applied(shard)
        assert applied is not None  # it is tracked
        due = final.ran[shard].ref
        if applied.height > due.height:
            raise StoreCorrupt(
                f"shard {shard} of the execution is at block {applied}, above the final chain of stores.chain: the two "
                "stores are not from the same moment; restore both from one backup"
            )
        for height in range(applied.height + 1, due.height + 1):
            held = await chain.at(height)
            if held is not None and held.block.is_new(shard):
                await chain.run_again(held.info.ref, shard)
                if chain.before_commit is not None:
                    await chain.before_commit(held, shard)
                await chain.execution.commit(held.info.ref, shard)
    # Blocks become final one after the other, each settled before the next: at most the last one lacks that.
    if final.hash != chain.root.info.hash:
        chain.final.placed = placed(await chain.available(chain.final.block, {}))
        rejected = await chain.discarded(chain.final)
        ids = list(chain.final.placed)
        places = dict(zip(ids, await chain.store.places(ids), strict=True))
        here = {id for id, place in places.items() if place is not None and place.block.id == final.hash}
        gone = {id: reason for id, reason in rejected.items() if places.get(id) is None}
        await chain.pool.settle(dict.fromkeys(sorted(here), final.ref), gone)
        chain.final.placed = {}
