"""Running a shard's chunk: what a run depends on, put together from the chain alone, the same on every node.

A run is named by (block, shard): the shard's new chunk in that block, on the state after the shard's last run below it,
with the receipts that all chunks since then bring along. The commitment that it starts from stands in the chunk's header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any, Protocol

from attrs import frozen

from nodewright.interfaces.common import BlockContext, BlockRef, Bundle, BundleRef, Parcel
from nodewright.interfaces.execution import ExecutionRequest, Incomplete, Invalid, Outcome
from nodewright_near.borsh import decode, encode
from nodewright_near.chunks import Locked, RunContext, ShardLoad
from nodewright_near.headers import ChunkHeader
from nodewright_near.receipts import RECEIPTS, Receipt
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade.blocks import Block, Info, Network, extra_of
from nodewright_nightshade.mandates import shuffle, words
from nodewright_nightshade.store import Discarded, Run


class Place(Protocol):
    """An accepted block."""

    @property
    def block(self) -> Block: ...

    @property
    def info(self) -> Info: ...


@frozen
class Source:
    """A chunk whose receipts a run takes in: its header, and the block in which its shard ran before it."""

    header: ChunkHeader
    ran: BlockRef

    @property
    def shard(self) -> int:
        return self.header.inner.shard_id


@lru_cache(maxsize=256)  # asked for by every shard's run and witness
def arrival(before: bytes, shards: tuple[int, ...]) -> tuple[int, ...]:
    order = list(shards)
    shuffle(order, words(sha256(before).digest()))
    return tuple(order)


def sources(path: Sequence[Place], shards: Iterable[int]) -> list[Source]:
    """The new chunks of ``path`` (blocks in a row, lowest first, each above the first with its parent in front of it), in
    the order in which their receipts arrive: by height, those of one height shuffled by the hash of the block before."""
    found = []
    for before, at in pairwise(path):
        new = tuple(shard for shard in shards if at.block.is_new(shard))
        order = arrival(before.info.hash, new)
        found += [Source(at.block.body.chunks[shard], before.info.ran[shard].ref) for shard in order]
    return found


def request(
    network: Network,
    at: Place,
    parent: Place,
    header: ChunkHeader,
    transactions: Sequence[SignedTransaction],
    refused: tuple[int, ...],
    incoming: Sequence[Parcel],
    version: int,
    locks: tuple[Locked, ...] = (),
    record_witness: bool = False,
) -> ExecutionRequest:
    """``header``: the shard's new chunk in the block ``at``. ``refused``: places of transactions that name a block that is
    too old, or of another chain. ``version``: the protocol of the block's epoch. ``locks``: in the shard's first run of an
    epoch, what its accounts have to leave at stake."""
    shard, info = header.inner.shard_id, at.info
    loads: tuple[ShardLoad, ...] = ()
    if network.shards > 1:
        loads = tuple(
            ShardLoad(number, other.inner.congestion_info, info.ran[number].missed)
            for number, other in enumerate(at.block.body.chunks)
        )
    lite, rest = at.block.header.inner_lite, at.block.header.inner_rest
    context = BlockContext(
        info.height,
        lite.timestamp // 10**9,
        randomness=rest.random_value,
        epoch=info.epoch,
        protocol_version=version,
        gas_price=parent.block.header.inner_rest.next_gas_price,
        extra=encode(RunContext(lite.timestamp, refused, loads, locks)),
        parent_commitment=extra_of(header.inner).commitment(),
    )
    raws = [signed.raw for signed in transactions]
    reference = BundleRef(header.hash(), len(raws), sum(map(len, raws)), shard)
    bundle = Bundle(reference, b"".join(signed.id for signed in transactions), raws)
    return ExecutionRequest(
        parent.info.ran[shard].ref,
        info.ref,
        context,
        [bundle],
        incoming=incoming,
        shard=shard,
        record_witness=record_witness,
        invalid_transaction="discard",
    )


def out_of_date(transactions: Sequence[SignedTransaction], recent: Mapping[bytes, bool]) -> tuple[int, ...]:
    """Places of transactions whose block is not ``recent`` (by its hash; every one named is in there)."""
    return tuple(at for at, signed in enumerate(transactions) if not recent[signed.transaction.block_hash])


def run_of_outcome(outcome: Outcome, shards: int) -> Run:
    receipts: Sequence[Receipt] | None = outcome.detail.get("sent")
    if receipts is None:
        parcels = [outcome.outgoing[shard] for shard in range(shards) if shard in outcome.outgoing]
        receipts = [receipt for parcel in parcels for receipt in decode(RECEIPTS, parcel.payload)]
    discarded = tuple(Discarded(id, f"{code}: {why}"[:1000]) for id, (code, why) in outcome.discarded.items())
    return Run(outcome.detail["extra"], tuple(receipts), discarded)


def describe(result: Any) -> str:
    if isinstance(result, Invalid):
        return f"{result.code}: {result.message}"
    if isinstance(result, Incomplete):
        return f"{len(result.missing)} things it needs are not here"
    return str(result)
