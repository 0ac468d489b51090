"""The chain as this node holds it: blocks accepted, run, and made final.

The order in which a block becomes durable, each step after the one before has returned:
1. the block, its info and its chunks in ``stores.chain``;
2. what running its chunks came to (``Run``), which the next chunks publish;
3. once it is final: its place in the final chain, ``execution.commit`` of each shard, ``pool.settle``, events.
Invariants:
- a block is accepted only when its parent was, its signatures and roots hold, the bodies of its new chunks are here, and
  what they say of the state is what running it here came to;
- ``head`` is the highest accepted block on the final one (the first of a height stays);
- the execution's applied block of a shard is the last one at or below the final block where the shard ran: it may lag after
  a crash (``recover`` catches it up) and never leads the final chain;
- everything that changes the chain holds ``lock``, and is cancelled only between two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import trio
from attrs import define, field

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.common import BlockContext, BlockRef, Parcel
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Deferred, Execution, ExecutionRequest, Incomplete, Invalid, Outcome
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright.interfaces.verifier import Verifier
from nodewright_near.borsh import decode, encode
from nodewright_near.chunks import RunContext, ShardLoad
from nodewright_near.headers import approval_message, approval_of, endorsement_message
from nodewright_near.receipts import RECEIPTS, Receipt
from nodewright_nightshade import blocks
from nodewright_nightshade.blocks import Block, Info, InvalidBlock, chunk_signing_message, extra_of
from nodewright_nightshade.chunking import Chunk, parcel
from nodewright_nightshade.epochs import Epochs
from nodewright_nightshade.genesis import Genesis, genesis_extra
from nodewright_nightshade.mandates import endorsed, shuffle, words
from nodewright_nightshade.store import ChainStore, Run

REMEMBERED = 512  # blocks that stay in memory below the final one


class MissingChunks(Exception):
    def __init__(self, ids: Sequence[bytes]) -> None:
        super().__init__(f"{len(ids)} chunk bodies are not here")
        self.ids = ids


class UnknownParent(Exception):
    pass


@define
class Held:
    """An accepted block in memory. ``ids``: the transactions of its new chunks."""

    block: Block
    info: Info
    ids: frozenset[bytes] = frozenset()


@define
class Chain:
    genesis: Genesis
    epochs: Epochs
    store: ChainStore
    execution: Execution
    pool: TransactionPool
    events: EventLog
    verifier: Verifier
    environment: Environment
    held: dict[bytes, Held] = field(factory=dict)
    lock: trio.Lock = field(factory=trio.Lock)
    refused: dict[bytes, str] = field(factory=dict)
    runs: dict[tuple[bytes, int], Run] = field(factory=dict)
    _moved: trio.Event = field(factory=trio.Event)
    head: Held = field(init=False)
    final: Held = field(init=False)
    root: Held = field(init=False)

    async def moved(self) -> None:
        await self._moved.wait()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # --- looking ---

    async def find(self, id: bytes) -> Held | None:
        held = self.held.get(id)
        if held is not None:
            return held
        block, info = await self.store.block(id), await self.store.info(id)
        if block is None or info is None:
            return None
        return Held(block, info)

    async def parent(self, info: Info) -> Held | None:
        return await self.find(info.prev)

    async def at(self, height: int) -> Held | None:
        """The block of that height on the chain of the head."""
        if height > self.final.info.height:
            held: Held | None = self.head
            while held is not None and held.info.height > height:
                held = await self.parent(held.info)
            return held if held is not None and held.info.height == height else None
        id = await self.store.final_hash(height)
        return await self.find(id) if id is not None else None

    async def above_final(self, tip: Held) -> list[Held]:
        """The blocks of the tip's chain above the final one, lowest first."""
        found: list[Held] = []
        held: Held | None = tip
        while held is not None and held.info.height > self.final.info.height:
            found.append(held)
            held = await self.parent(held.info)
        return found[::-1]

    async def used(self, tip: Held) -> set[bytes]:
        """Transactions in chunks of the tip's chain above the final block."""
        return {id for held in await self.above_final(tip) for id in held.ids}

    async def is_on_chain(self, id: bytes, tip: Held) -> int | None:
        """The height of a block at or below the tip on its chain."""
        held = await self.find(id)
        if held is None or held.info.height > tip.info.height:
            return None
        height = held.info.height
        if height <= self.final.info.height:
            return height if await self.store.final_hash(height) == id else None
        return height if any(one.info.hash == id for one in await self.above_final(tip)) else None

    async def run_of(self, info: Info, shard: int) -> Run:
        """What the shard's last run at or below this block came to."""
        ran = info.ran[shard]
        run = self.runs.get((ran.block, shard))
        if run is None:
            run = await self.store.run(ran.block, shard)
        if run is None:
            raise StoreError(f"what shard {shard} came to in block {ran.ref} is not stored")
        return run

    # --- accepting ---

    async def accept(self, block: Block, bodies: Mapping[bytes, Chunk]) -> bool:
        """Check, store and run a block whose new chunks' bodies are given (or stored); whether it was new. Raises
        InvalidBlock, UnknownParent, MissingChunks."""
        async with self.lock:
            id = block.hash
            if id in self.held or await self.store.info(id) is not None:
                return False
            if id in self.refused:
                raise InvalidBlock(self.refused[id])
            parent = await self.find(block.header.prev_hash)
            if parent is None:
                raise UnknownParent(block.header.prev_hash.hex())
            if parent.info.height < self.final.info.height or block.height <= self.final.info.height:
                raise InvalidBlock("it does not stand on the final block")
            grandparent = await self.parent(parent.info)
            before = grandparent.info if grandparent is not None else None
            try:
                blocks.check(
                    block,
                    parent.block,
                    parent.info,
                    before,
                    self.genesis.producers_hash,
                    self.genesis.network,
                    self.environment.now(),
                )
                info = blocks.info_of(block, parent.info, before, self.genesis.network)
                await self._check_signatures(block, parent, before, info)
                chunks = await self._chunks(block, bodies)
                await self._check_claims(block, parent.info)
            except InvalidBlock as error:
                if len(self.refused) < 10_000:
                    self.refused[id] = str(error)
                self.events.publish("block_refused", {"hash": id.hex(), "height": block.height, "reason": str(error)})
                raise
            with trio.CancelScope(shield=True):
                await self.store.put_block(block, info, list(chunks.values()))
                held = Held(block, info, frozenset(id for chunk in chunks.values() for id in chunk.ids))
                await self._run(held, parent, chunks)
                self.held[id] = held
                if info.height > self.head.info.height:
                    self.head = held
                await self._finalise(held)
            self._notify()
            return True

    async def _chunks(self, block: Block, bodies: Mapping[bytes, Chunk]) -> dict[int, Chunk]:
        found: dict[int, Chunk] = {}
        missing: list[bytes] = []
        for shard, header in enumerate(block.body.chunks):
            if block.is_new(shard):
                id = header.hash()
                chunk = bodies.get(id) or await self.store.chunk(id)
                if chunk is None:
                    missing.append(id)
                else:
                    found[shard] = chunk
        if missing:
            raise MissingChunks(missing)
        return found

    def chunk_epoch(self, parent: Info, grandparent: Info | None) -> bytes:
        """The epoch by which the chunks on this parent are made and checked."""
        return blocks.place_of(parent, grandparent, parent.height + 1, self.genesis.network).epoch_id

    async def _check_signatures(self, block: Block, parent: Held, grandparent: Info | None, info: Info) -> None:
        """The producer's, approvals of more than two thirds, each new chunk's producer and endorsements; in one batch."""
        epoch = self.epochs.of(info.epoch_id)
        validators = epoch.validators
        keys: list[bytes] = []
        messages: list[bytes] = []
        signatures: list[bytes] = []

        def add(at: int, message: bytes, signature: bytes) -> None:
            keys.append(validators[at].key[1:])
            messages.append(message)
            signatures.append(signature[1:] if signature[0] == 0 else bytes(64))

        add(epoch.block_producer(info.height), info.hash, block.header.signature)
        before = parent.block.header.inner_rest.random_value
        add(epoch.block_producer(info.height), before, b"\0" + block.body.vrf_proof)
        approvals = block.header.inner_rest.approvals
        if len(approvals) > len(validators):
            raise InvalidBlock("it has approvals of more than there are validators")
        message = approval_message(approval_of(parent.info.hash, parent.info.height, info.height), info.height)
        stake = 0
        for at, signature in enumerate(approvals):
            if signature is not None:
                add(at, message, signature)
                stake += validators[at].stake
        if 3 * stake <= 2 * epoch.total_stake:
            raise InvalidBlock("its approvals are not of more than two thirds of the stake")
        chunk_epoch, made = self.chunk_epoch(parent.info, grandparent), parent.info.height + 1
        for shard, header in enumerate(block.body.chunks):
            if not block.is_new(shard):
                continue
            producer = self.epochs.of(chunk_epoch).chunk_producer(made, shard)
            add(producer, chunk_signing_message(header.inner), header.signature)
            assignment = self.epochs.assignment(chunk_epoch, made, shard)
            members = sorted(assignment)
            given = block.body.endorsements[shard]
            if len(given) != len(members):
                raise InvalidBlock(f"the chunk of shard {shard} has not one place for each of its validators")
            signers = [at for at, signature in zip(members, given, strict=True) if signature is not None]
            if not endorsed(assignment, signers):
                raise InvalidBlock(f"the chunk of shard {shard} is not endorsed by two thirds of its validators' stake")
            said = endorsement_message(header.hash())
            for at, signature in zip(members, given, strict=True):
                if signature is not None:
                    add(at, said, signature)
        good = await self.environment.offload(self.verifier.ed25519, keys, messages, signatures)
        if not all(good):
            raise InvalidBlock(f"{list(good).count(0)} of its signatures are wrong")

    async def _check_claims(self, block: Block, parent: Info) -> None:
        """What its new chunks say of the state is what this node came to."""
        for shard, header in enumerate(block.body.chunks):
            if block.is_new(shard) and extra_of(header.inner) != (await self.run_of(parent, shard)).extra:
                raise InvalidBlock(
                    f"the chunk of shard {shard} says of the state what running the last one did not come to"
                )

    # --- running ---

    async def _run(self, held: Held, parent: Held, chunks: Mapping[int, Chunk]) -> None:
        for shard in chunks:
            request = await self.request(held, parent, shard, chunks)
            outcome = await self.execution.execute(request)
            if isinstance(outcome, Deferred):
                await self._run_again(outcome.need, shard)
                outcome = await self.execution.execute(request)
            if not isinstance(outcome, Outcome):
                raise StoreError(f"shard {shard} of block {held.info.ref} cannot be run: {describe(outcome)}")
            run = run_of_outcome(outcome, self.genesis.network.shards)
            await self.store.put_run(held.info.hash, shard, run)
            self.runs[held.info.hash, shard] = run

    async def _run_again(self, block: BlockRef, shard: int) -> None:
        """Bring the state of an accepted block back that only the execution's memory held (after a start)."""
        held = await self.find(block.id)
        parent = await self.parent(held.info) if held is not None else None
        if held is None or parent is None:
            raise StoreError(f"the execution needs block {block}, which is not stored")
        chunks = await self._chunks(held.block, {})
        request = await self.request(held, parent, shard, chunks)
        outcome = await self.execution.execute(request)
        if isinstance(outcome, Deferred) and outcome.need != block:
            await self._run_again(outcome.need, shard)
            outcome = await self.execution.execute(request)
        if not isinstance(outcome, Outcome):
            raise StoreError(f"shard {shard} of block {block} cannot be run again: {describe(outcome)}")

    async def request(self, held: Held, parent: Held, shard: int, chunks: Mapping[int, Chunk]) -> ExecutionRequest:
        """What running a shard's new chunk in a block depends on; the same on every node."""
        info, chunk = held.info, chunks[shard]
        ran = parent.info.ran[shard]
        extra = (await self.run_of(parent.info, shard)).extra
        loads: tuple[ShardLoad, ...] = ()
        if self.genesis.network.shards > 1:
            loads = tuple(
                ShardLoad(number, header.inner.congestion_info, info.ran[number].missed)
                for number, header in enumerate(held.block.body.chunks)
            )
        refused = await self._out_of_date(chunk, parent)
        lite, rest = held.block.header.inner_lite, held.block.header.inner_rest
        context = BlockContext(
            info.height,
            lite.timestamp // 10**9,
            randomness=rest.random_value,
            epoch=info.epoch,
            protocol_version=self.genesis.network.protocol_version,
            gas_price=parent.block.header.inner_rest.next_gas_price,
            extra=encode(RunContext(lite.timestamp, refused, loads)),
            parent_commitment=extra.commitment(),
        )
        return ExecutionRequest(
            ran.ref,
            info.ref,
            context,
            [chunk.bundle()],
            incoming=await self._incoming(held, parent, shard, ran.height, chunks),
            shard=shard,
            invalid_transaction="discard",
        )

    async def _out_of_date(self, chunk: Chunk, parent: Held) -> tuple[int, ...]:
        """Places of transactions that name a block which is not on this chain, or too far back."""
        known: dict[bytes, bool] = {}
        found = []
        for at, signed in enumerate(chunk.body.transactions):
            id = signed.transaction.block_hash
            if id not in known:
                known[id] = await self.is_recent(id, parent)
            if not known[id]:
                found.append(at)
        return tuple(found)

    async def is_recent(self, id: bytes, tip: Held) -> bool:
        height = await self.is_on_chain(id, tip)
        return height is not None and tip.info.height - height < self.genesis.validity

    async def _incoming(
        self, held: Held, parent: Held, shard: int, since: int, chunks: Mapping[int, Chunk]
    ) -> list[Parcel]:
        """The receipts for a shard in all new chunks above its last run, by height, the shards of one height shuffled."""
        found: list[Parcel] = []
        lower: list[tuple[Held, Info]] = []
        at: Held | None = parent
        while at is not None and at.info.height > since:
            before = await self.parent(at.info)
            assert before is not None  # genesis is not above anything
            lower.append((at, before.info))
            at = before
        for block, before_info in [*lower[::-1], (held, parent.info)]:
            bodies = chunks if block is held else await self._chunks(block.block, {})
            order = sorted(bodies)
            shuffle(order, words(sha256(before_info.hash).digest()))
            for source in order:
                one = parcel(bodies[source], shard, before_info.ran[source].ref, self.genesis.boundaries)
                if one is not None:
                    found.append(one)
        return found

    # --- finality ---

    async def _finalise(self, held: Held) -> None:
        target = held.info.last_final_height
        if target <= self.final.info.height:
            return
        path = [one for one in await self.above_final(held) if one.info.height <= target]
        for one in path:
            await self._make_final(one)

    async def _make_final(self, held: Held) -> None:
        info = held.info
        chunks = await self._chunks(held.block, {})
        places = [(id, shard, index) for shard, chunk in chunks.items() for index, id in enumerate(chunk.ids)]
        kept = await self.store.places([id for id, _, _ in places])
        # The first place of a transaction counts: the second time it is refused by its nonce.
        places = [place for place, known in zip(places, kept, strict=True) if known is None]
        dropped = [
            one.info
            for one in self.held.values()
            if one.info.height <= info.height and one.info.hash != info.hash and one.info.height > self.final.info.height
        ]
        await self.store.put_final(info, places, dropped)
        for shard in chunks:
            for other in dropped:
                await self.execution.abandon(other.ref, shard)
            await self.execution.commit(info.ref, shard)
        await self.pool.settle(committed={id: info.ref for id, _, _ in places})
        self.final = held
        for other in dropped:
            self._forget(other.hash)
        self._forget_old()
        self.events.publish(
            "finalised",
            {"hash": info.hash.hex(), "height": info.height, "transactions": len(places), "chunks": len(chunks)},
        )

    def _forget(self, id: bytes) -> None:
        self.held.pop(id, None)
        for shard in range(self.genesis.network.shards):
            self.runs.pop((id, shard), None)

    def _forget_old(self) -> None:
        if len(self.held) > 2 * REMEMBERED:
            for id in [
                one.info.hash for one in self.held.values() if one.info.height < self.final.info.height - REMEMBERED
            ]:
                self._forget(id)

    # --- recovery ---

    async def recover(self) -> None:
        """Genesis where the store is empty; else the final chain, what stands on it, and the execution brought to it."""
        final = await self.store.final()
        if final is None:
            await self._begin()
            return
        held = await self.find(final)
        root_id = await self.store.final_hash(self.genesis_height)
        root = await self.find(root_id) if root_id is not None else None
        if held is None or root is None:
            raise StoreCorrupt("stores.chain names a final block that it does not hold: restore it from a backup")
        self.root = root
        self.final = self.head = held
        self.held = {root.info.hash: root, held.info.hash: held}
        await self._catch_up_execution()
        for id in await self.store.above():
            above = await self.find(id)
            parent = await self.find(above.info.prev) if above is not None else None
            if above is None or parent is None or above.info.height <= self.final.info.height:
                continue
            if parent.info.hash not in self.held:
                continue
            chunks = await self._chunks(above.block, {})
            above.ids = frozenset(id for chunk in chunks.values() for id in chunk.ids)
            await self._run(above, parent, chunks)
            self.held[id] = above
            if above.info.height > self.head.info.height:
                self.head = above
            await self._finalise(above)

    @property
    def genesis_height(self) -> int:
        table = self.genesis.document.get("consensus", {})
        return int(table.get("height", 0))

    async def _begin(self) -> None:
        block, info = await self.environment.offload(self.genesis.build)
        held = Held(block, info)
        commitments = await self.execution.genesis(self.genesis.document, info.ref)
        assert commitments is not None
        await self.store.put_block(block, info, [])
        for shard, header in enumerate(block.body.chunks):
            extra = genesis_extra(header.inner.prev_state_root)
            if commitments[32 * shard : 32 * shard + 32] != extra.commitment():
                raise StoreCorrupt(f"the execution's genesis of shard {shard} is not the one of the genesis document")
            await self.store.put_run(info.hash, shard, Run(extra, ()))
        await self.store.put_final(info, [], [])
        self.root = self.final = self.head = held
        self.held = {info.hash: held}

    async def _catch_up_execution(self) -> None:
        """A crash between a block's place in the final chain and its commit: run and commit what lacks."""
        await self.execution.genesis(self.genesis.document, self.root.info.ref)
        for shard in range(self.genesis.network.shards):
            applied = await self.execution.applied(shard)
            if applied is None:
                continue
            due = self.final.info.ran[shard].ref
            if applied.height > due.height:
                raise StoreCorrupt(
                    f"shard {shard} of the execution is at block {applied}, above the final chain of stores.chain: the two "
                    "stores are not from the same moment; restore both from one backup"
                )
            height = applied.height + 1
            while height <= due.height:
                held = await self.at(height)
                if held is not None and held.block.is_new(shard) and held.info.hash != self.root.info.hash:
                    await self._run_again(held.info.ref, shard)
                    await self.execution.commit(held.info.ref, shard)
                height += 1
        final = self.final.info
        if final.hash == self.root.info.hash:
            return
        ids = [id for chunk in (await self._chunks(self.final.block, {})).values() for id in chunk.ids]
        if ids:
            await self.pool.settle(committed=dict.fromkeys(ids, final.ref))


def run_of_outcome(outcome: Outcome, shards: int) -> Run:
    receipts: list[Receipt] = []
    for shard in range(shards):
        sent = outcome.outgoing.get(shard)
        if sent is not None:
            receipts += decode(RECEIPTS, sent.payload)
    return Run(outcome.detail["extra"], tuple(receipts))


def describe(result: Any) -> str:
    if isinstance(result, Invalid):
        return f"{result.code}: {result.message}"
    if isinstance(result, Incomplete):
        return f"{len(result.missing)} things it needs are not here"
    return str(result)
