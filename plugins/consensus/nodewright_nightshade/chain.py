"""The chain as this node holds it: blocks accepted, run, and made final.

The order in which a block becomes durable, each step after the one before has returned:
1. the block, its info, its chunks and what running them came to (``Run``, which the next chunks publish), in one batch of
   ``stores.chain``;
2. once it is final: its place in the final chain, ``execution.commit`` of each shard, ``pool.settle``, events.
Invariants:
- a block is accepted only when its parent was, its signatures and roots hold, the bodies of its new chunks are here, and,
  for shards whose state is kept here (``tracked``), what they say of the state is what running it here came to; for the
  others, two thirds of the chunk's validators have said so;
- ``head`` is the highest accepted block on the final one (the first of a height stays);
- ``held`` has every accepted block that stands on the final one, the final one, and some below it;
- the execution's applied block of a tracked shard is the last one at or below the final block where the shard ran: it may
  lag after a crash (``recovery`` catches it up) and never leads the final chain;
- while ``light`` nothing is tracked, and blocks are accepted without bodies: all else of them is checked;
- a block is refused for ever only by the hash of all its bytes: the hash in its header does not cover its signature;
- everything that changes the chain holds ``lock``, and is cancelled only between two blocks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise

import trio
from attrs import define, field

from nodewright.errors import StoreError
from nodewright.interfaces.common import BlockRef, Parcel
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Deferred, Execution, ExecutionRequest, Outcome
from nodewright.interfaces.pool import InBlock, TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright.interfaces.verifier import Verifier
from nodewright_near.headers import ChunkHeader
from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade import blocks, running, signatures, vrf
from nodewright_nightshade.blocks import Block, Info, InvalidBlock, extra_of
from nodewright_nightshade.chainepochs import ChainEpochs
from nodewright_nightshade.chunking import Chunk, parcel
from nodewright_nightshade.running import describe, out_of_date, run_of_outcome
from nodewright_nightshade.selection import Tally
from nodewright_nightshade.store import Run

REMEMBERED = 256  # blocks that stay in memory below the final one
MAX_REFUSED = 4096


class MissingChunks(Exception):
    def __init__(self, ids: Sequence[bytes]) -> None:
        super().__init__(f"{len(ids)} chunk bodies are not here")
        self.ids = ids


class UnknownParent(Exception):
    pass


@define
class Held:
    """An accepted block in memory. ``placed``: the transactions of its new chunks, by id, with shard and place; empty once
    it is final. ``evicted``: transactions that were reserved here and lost to it, with the winner. ``tally``: what its
    epoch has counted up to it; there for every block that a child may stand on."""

    block: Block
    info: Info
    placed: dict[bytes, tuple[int, int]] = field(factory=dict)
    evicted: dict[bytes, bytes] = field(factory=dict)
    tally: Tally | None = None


def placed(chunks: Mapping[int, Chunk]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for shard, chunk in chunks.items():
        for index, id in enumerate(chunk.ids):
            found.setdefault(id, (shard, index))
    return found


@define
class Chain(ChainEpochs):
    execution: Execution
    pool: TransactionPool
    events: EventLog
    verifier: Verifier
    environment: Environment
    held: dict[bytes, Held] = field(factory=dict)
    lock: trio.Lock = field(factory=trio.Lock)
    refused: dict[bytes, str] = field(factory=dict)
    runs: dict[tuple[bytes, int], Run] = field(factory=dict)
    tracked: frozenset[int] = frozenset()
    # Called for a tracked shard before its run in a block that became final is committed.
    before_commit: Callable[[Held, int], Awaitable[None]] | None = None
    # Called once a block that ends its epoch is final, and the state here is that after it.
    epoch_ended: list[Callable[[Held], Awaitable[None]]] = field(factory=list)
    # Blocks are taken without the bodies of their chunks, while nothing is tracked: see ``statesync``.
    light: bool = False
    _moved: trio.Event = field(factory=trio.Event)
    _used: tuple[tuple[bytes, bytes], frozenset[bytes]] = ((b"", b""), frozenset())
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

    async def used(self, tip: Held) -> frozenset[bytes]:
        """Transactions in chunks of the tip's chain above the final block."""
        between = tip.info.hash, self.final.info.hash
        if self._used[0] != between:
            self._used = between, frozenset().union(*[held.placed for held in await self.above_final(tip)])
        return self._used[1]

    async def recent(self, ids: Iterable[bytes], tip: Held) -> dict[bytes, bool]:
        """Which of these are hashes of blocks on the tip's chain, at most the network's validity below it."""
        wanted = set(ids)
        above = {one.info.hash: one.info.height for one in await self.above_final(tip)}
        heights = {id: above[id] for id in wanted if id in above}
        below = sorted(id for id in wanted if id not in above)
        infos = dict(zip(below, await self.store.infos(below), strict=True))
        known = [info for info in infos.values() if info is not None and info.height <= self.final.info.height]
        finals = await self.store.final_hashes([info.height for info in known])
        heights.update({one.hash: one.height for one, hash_ in zip(known, finals, strict=True) if one.hash == hash_})
        low = tip.info.height - self.genesis.validity
        return {id: heights.get(id, -1) > low and id in heights for id in wanted}

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
        """Check, run and store a block whose new chunks' bodies are given (or stored); whether it was new. One that cannot
        stand on the final block any more is passed over. Raises InvalidBlock, UnknownParent, MissingChunks."""
        async with self.lock:
            id = block.hash
            if block.height <= self.final.info.height or id in self.held:
                return False
            network = self.genesis.network
            key = sha256(block.encode()).digest()
            if key in self.refused:
                raise InvalidBlock(self.refused[key])
            parent = self.held.get(block.header.prev_hash)
            if parent is None or parent.info.height < self.final.info.height:
                if parent is None and await self.store.info(block.header.prev_hash) is None:
                    raise UnknownParent(block.header.prev_hash.hex())
                return False
            grandparent = await self.parent(parent.info)
            before = grandparent.info if grandparent is not None else None
            try:
                place = blocks.place_of(parent.info, before, block.height, network)
                epoch, after = await self.epoch_set(place.epoch_id), await self.epoch_set(place.next_epoch_id)
                self.check_version(epoch)
                after_hash = self.epochs.producers_hash(after.id)
                now = self.environment.now()
                blocks.check(block, parent.block, parent.info, before, after_hash, epoch.version, network, now)
                info = blocks.info_of(block, parent.info, before, network)
                await self._check_signatures(block, parent, info)
                chunks = await (self.available if self.light else self.chunks_of)(block, bodies)
                await self._check_claims(block, parent.info)
            except InvalidBlock as error:
                if not isinstance(error, blocks.FutureBlock):
                    self._refuse(key, str(error))
                self.events.publish("block_refused", {"hash": id.hex(), "height": block.height, "reason": str(error)})
                raise
            with trio.CancelScope(shield=True):
                held = Held(block, info, placed(chunks), tally=self.count(block, info, parent.info, parent.tally))
                assert held.tally is not None
                fixed = self.fixed(info, held.tally, epoch, after)
                runs = await self.run(held, parent, chunks)
                await self.store.put_block(block, info, list(chunks.values()), runs, fixed)
                await self.stand(held, runs)
                accepted = {"hash": id.hex(), "height": block.height, "previous": info.prev.hex()}
                self.events.publish("block_accepted", accepted | {"transactions": len(held.placed)})
            self._notify()
            return True

    def _refuse(self, key: bytes, reason: str) -> None:
        if len(self.refused) >= MAX_REFUSED:
            self.refused.pop(next(iter(self.refused)))
        self.refused[key] = reason

    async def stand(self, held: Held, runs: Mapping[int, Run]) -> None:
        """A block that was run and stored is on the chain now; what it makes final is."""
        self.runs.update({(held.info.hash, shard): run for shard, run in runs.items()})
        self.held[held.info.hash] = held
        if held.info.height > self.head.info.height:
            self.head = held
        await self._finalise(held)

    async def chunks_of(self, block: Block, bodies: Mapping[bytes, Chunk]) -> dict[int, Chunk]:
        """The new chunks of a block, given or stored. Raises MissingChunks."""
        found: dict[int, Chunk] = {}
        missing: list[bytes] = []
        for shard, header in enumerate(block.body.chunks):
            if block.is_new(shard):
                id = header.hash()
                chunk = bodies.get(id) or await self.store.chunk(id)
                if chunk is None and shard not in self.tracked:
                    chunk = await self.store.part(id)
                if chunk is None:
                    missing.append(id)
                else:
                    found[shard] = chunk
        if missing:
            raise MissingChunks(missing)
        return found

    async def available(self, block: Block, bodies: Mapping[bytes, Chunk]) -> dict[int, Chunk]:
        """As ``chunks_of``, those that are here."""
        found: dict[int, Chunk] = {}
        for shard, header in enumerate(block.body.chunks):
            if block.is_new(shard):
                id = header.hash()
                chunk = bodies.get(id) or await self.store.chunk(id) or await self.store.part(id)
                if chunk is not None:
                    found[shard] = chunk
        return found

    # --- epochs ---

    async def epoch_start(self, held: Held, before: int) -> int:
        """The first height of the epoch so many before that of a final block."""
        start = held.info.epoch_start
        for _ in range(before):
            last: Held | None = None
            for height in range(start - 1, self.root.info.height, -1):
                last = await self.at(height)
                if last is not None:
                    break
            if last is None:
                return self.root.info.height
            start = last.info.epoch_start
        return start

    def keys_of(self, account: str) -> set[bytes]:
        """The keys that a validator of the head's epoch, or of the next one, signs with."""
        info = self.head.info
        epochs = {info.epoch_id, info.next_epoch_id, self.chunk_epoch(info)}
        found = [(epoch, epoch.place(account)) for epoch in map(self.epochs.of, epochs)]
        return {epoch.validators[at].key for epoch, at in found if at is not None}

    async def _check_signatures(self, block: Block, parent: Held, info: Info) -> None:
        """All of a block's, in one batch."""
        approvers = self.approvers(parent.info)
        told = signatures.collect(block, parent.info, info, self.epochs, approvers)
        producer = told.keys[0]
        before, proof = parent.block.header.inner_rest.random_value, block.body.vrf_proof
        if not await self.environment.offload(vrf.verified, producer, before, proof):
            raise InvalidBlock("its random value is not its producer's")
        good = await self.environment.offload(self.verifier.ed25519, told.keys, told.messages, told.signatures)
        if not all(good):
            raise InvalidBlock(f"{list(good).count(0)} of its signatures are wrong")

    async def _check_claims(self, block: Block, parent: Info) -> None:
        """What its new chunks say of the state of shards kept here is what this node came to."""
        for shard, header in enumerate(block.body.chunks):
            # Of a shard that is not kept only the state before its first chunk is known here: that of the genesis.
            if not block.is_new(shard) or (shard not in self.tracked and parent.ran[shard].block != self.root.info.hash):
                continue
            if extra_of(header.inner) != (await self.run_of(parent, shard)).extra:
                raise InvalidBlock(
                    f"the chunk of shard {shard} says of the state what running the last one did not come to"
                )

    # --- running ---

    async def run(self, held: Held, parent: Held, chunks: Mapping[int, Chunk]) -> dict[int, Run]:
        """Run its new chunks of shards kept here."""
        found = {}
        for shard in sorted(self.tracked & chunks.keys()):
            outcome = await self._execute(await self.request(held, parent, shard, chunks))
            held.evicted.update(outcome.evicted)
            found[shard] = run_of_outcome(outcome, self.genesis.network.shards)
        return found

    async def _execute(self, request: ExecutionRequest) -> Outcome:
        outcome = await self.execution.execute(request)
        if isinstance(outcome, Deferred):
            await self.run_again(outcome.need, request.shard)
            outcome = await self.execution.execute(request)
        if not isinstance(outcome, Outcome):
            raise StoreError(f"shard {request.shard} of block {request.block} cannot be run: {describe(outcome)}")
        return outcome

    async def run_again(self, block: BlockRef, shard: int) -> Outcome:
        """Bring the state of an accepted block back that only the execution's memory held (after a start)."""
        held = await self.find(block.id)
        parent = await self.parent(held.info) if held is not None else None
        if held is None or parent is None:
            raise StoreError(f"the execution needs block {block}, which is not stored")
        chunks = await self.chunks_of(held.block, {})
        return await self._execute(await self.request(held, parent, shard, chunks))

    async def request(
        self, held: Held, parent: Held, shard: int, chunks: Mapping[int, Chunk], record_witness: bool = False
    ) -> ExecutionRequest:
        """What running a shard's new chunk in a block depends on; the same on every node."""
        transactions = chunks[shard].body.transactions
        refused = await self.refused_in(transactions, parent)
        incoming = await self._incoming(held, parent, shard, chunks)
        header = held.block.body.chunks[shard]
        return await self.request_on(held, parent, header, transactions, refused, incoming, record_witness)

    async def request_on(
        self,
        held: Held,
        parent: Held,
        header: ChunkHeader,
        transactions: Sequence[SignedTransaction],
        refused: tuple[int, ...],
        incoming: Sequence[Parcel],
        record_witness: bool = False,
    ) -> ExecutionRequest:
        """With what the block's epoch says of it."""
        version = (await self.epoch_set(held.info.epoch_id)).version
        locks = await self.locks(held.info, parent.info, header.inner.shard_id)
        network = self.genesis.network
        return running.request(
            network, held, parent, header, transactions, refused, incoming, version, locks, record_witness
        )

    async def refused_in(self, transactions: Sequence[SignedTransaction], parent: Held) -> tuple[int, ...]:
        """Places of transactions of a chunk in a child of ``parent`` that name a block too old, or of another chain."""
        recent = await self.recent((signed.transaction.block_hash for signed in transactions), parent)
        return out_of_date(transactions, recent)

    async def path_since(self, held: Held, parent: Held, shard: int) -> list[Held]:
        """From the block of the shard's last run below ``held`` up to ``held``, lowest first."""
        path = [held, parent]
        while path[-1].info.height > parent.info.ran[shard].height:
            below = await self.parent(path[-1].info)
            assert below is not None  # nothing ran below the genesis
            path.append(below)
        return path[::-1]

    async def _incoming(self, held: Held, parent: Held, shard: int, chunks: Mapping[int, Chunk]) -> list[Parcel]:
        """The receipts for a shard in all new chunks above its last run."""
        path = await self.path_since(held, parent, shard)
        found: list[Parcel] = []
        for before, at in pairwise(path):
            bodies = chunks if at is held else await self.chunks_of(at.block, {})
            for source in running.sources([before, at], range(self.genesis.network.shards)):
                one = parcel(bodies[source.shard], shard, source.ran, self.genesis.boundaries)
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

    def _dead(self, final: Held) -> list[Held]:
        """Blocks above the old final one that do not stand on the new one."""
        alive = {final.info.hash}
        dead = []
        for one in sorted(self.held.values(), key=lambda one: one.info.height):
            if one.info.height <= self.final.info.height or one is final:
                continue
            if one.info.height > final.info.height and one.info.prev in alive:
                alive.add(one.info.hash)
            else:
                dead.append(one)
        return dead

    async def _make_final(self, held: Held) -> None:
        info = held.info
        if not held.placed:
            held.placed = placed(await self.available(held.block, {}))
        rejected = await self.discarded(held)
        # Where what ran is not known here, a transaction that stands in the chain already keeps its place.
        others = [id for id, (shard, _) in held.placed.items() if shard not in self.tracked]
        doubtful = [*others, *rejected]
        known = {id for id, place in zip(doubtful, await self.store.places(doubtful), strict=True) if place is not None}
        places = [
            (id, shard, index) for id, (shard, index) in held.placed.items() if id not in known and id not in rejected
        ]
        dead = self._dead(held)
        assert held.tally is not None
        await self.store.put_final(info, held.tally, places, [one.info for one in dead])
        ran = [shard for shard in sorted(self.tracked) if held.block.is_new(shard)]
        replaced = dict(held.evicted)
        for shard in ran:
            for other in dead:
                await self.execution.abandon(other.info.ref, shard)
            if self.before_commit is not None:
                await self.before_commit(held, shard)
            replaced.update(await self.execution.commit(info.ref, shard) or {})
        ref = info.ref
        await self.pool.settle(
            InBlock([id for id, _, _ in places], ref),
            {id: reason for id, reason in rejected.items() if id not in known},
            replaced,
        )
        self.final = held
        for other in dead:
            self._forget(other.info.hash)
        if self.head.info.hash not in self.held:
            self.head = max((one for one in self.held.values()), key=lambda one: one.info.height)
        held.placed, held.evicted = {}, {}
        self._forget_old()
        if blocks.ends_epoch(info, self.genesis.network):
            for tell in self.epoch_ended:
                await tell(held)
        self.events.publish(
            "finalised",
            {
                "hash": info.hash.hex(),
                "height": info.height,
                "transactions": len(places),
                "chunks": sum(map(held.block.is_new, range(self.genesis.network.shards))),
            },
        )

    async def discarded(self, held: Held) -> dict[bytes, str]:
        """The transactions of its chunks that had no effect, with the reason; as far as their shards are kept here."""
        found = {}
        for shard in sorted(self.tracked):
            if held.block.is_new(shard):
                found.update({one.id: one.reason for one in (await self.run_of(held.info, shard)).discarded})
        return found

    def _forget(self, id: bytes) -> None:
        self.held.pop(id, None)
        for shard in self.tracked:
            self.runs.pop((id, shard), None)

    def _forget_old(self) -> None:
        """Runs that no new chunk can publish, and blocks far below."""
        last = {(one.block, shard) for shard, one in enumerate(self.final.info.ran)}
        above = {id for id, one in self.held.items() if one.info.height > self.final.info.height}
        self.runs = {key: run for key, run in self.runs.items() if key in last or key[0] in above}
        if len(self.held) > 2 * REMEMBERED:
            low = self.final.info.height - REMEMBERED
            for id in [one.info.hash for one in self.held.values() if one.info.height < low]:
                self._forget(id)
