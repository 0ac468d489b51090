"""A start: the committed chain, the execution brought to it, and the stored blocks above it.

A crash may lie between any two durable steps: a block that is decided is run and committed again, and its transactions'
statuses are told to the pool again (``settle`` is idempotent); one that is stored and not decided is back in the rules.
"""

from __future__ import annotations

from nodewright.errors import StoreCorrupt
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.leaders import Leaders
from nodewright_jolteon.ledger import Ledger
from nodewright_jolteon.orderer import Orderer
from nodewright_jolteon.safety import SafetyFile


async def recover(chain: Chain, orderer: Orderer) -> None:
    """Genesis where the store is empty. Raises StoreCorrupt."""
    store, genesis, execution = chain.store, chain.genesis, chain.execution
    head = await store.head()
    chain.safety = await SafetyFile.open(chain.environment, await store.is_empty())
    commitment = await execution.genesis(genesis.document, genesis.block)
    if head is None:
        chain.done = genesis.done(commitment)
        await store.begin(chain.done, genesis.epoch())
        head = genesis.block
    await _bring_up(chain)
    done = await store.done(head.id)
    if done is None:
        raise StoreCorrupt("stores.chain names a head whose outcome it does not hold: restore it from a backup")
    chain.done = done
    number = done.info.epoch + 1 if done.info.next is not None or done.info.epoch == 0 else done.info.epoch
    epoch = await store.epoch(number)
    if epoch is None:
        raise StoreCorrupt(f"stores.chain does not hold epoch {number}: restore it from a backup")
    chain.epoch, chain.ledger = epoch, Ledger(epoch, head.height)
    chain.quorum.time = done.info.time
    await orderer.begin(await _history(chain))
    await _recent_batches(chain)
    await orderer.restore(await store.blocks_above(head.height))


async def _bring_up(chain: Chain) -> None:
    """What the chain decided and the execution did not commit."""
    store = chain.store
    head = await store.head()
    applied = await chain.execution.applied()
    assert head is not None and applied is not None
    if applied.height > head.height or await store.id_at(applied.height) != applied.id:
        raise StoreCorrupt(
            f"the execution stands at block {applied}, which is not on the chain up to {head} of stores.chain: the two are "
            "not from one moment; restore both from one backup"
        )
    for height in range(applied.height + 1, head.height + 1):
        id = await store.id_at(height)
        block = await store.block(id) if id is not None else None
        if block is None:
            raise StoreCorrupt(f"stores.chain does not hold block {height}, which it decided: restore it from a backup")
        await chain.replay(block)
    last = await store.block(head.id) if head.height else None
    if last is not None:
        await chain.settle_again(last)


async def _history(chain: Chain) -> Leaders:
    """The records of this epoch that leaders follow from."""
    leaders = Leaders(chain.epoch)
    start, height = chain.epoch.start.height, chain.head().height
    first = max(start + 1, height - leaders.window - 64)
    ids = [id for id in await chain.store.ids_at(range(first, height + 1)) if id is not None]
    for id in ids:
        done = await chain.store.done(id)
        if done is not None:
            leaders.ordered(done.record)
    return leaders


async def _recent_batches(chain: Chain) -> None:
    """Those of committed blocks that a block could still name."""
    height = chain.head().height
    oldest = chain.done.info.time
    while height > chain.epoch.start.height:
        id = await chain.store.id_at(height)
        block = await chain.store.block(id) if id is not None else None
        if block is None or block.time < oldest - 2 * chain.genesis.parameters.expiry_seconds * 1_000_000:
            return
        chain.quorum.proofs.committed([proof.info for proof in block.proofs], chain.done.info.time)
        height -= 1
