"""What a two-chain orders in the sharded shape: chunks, endorsed by validators that check them from a witness.

Nodes keep the state of some shards, or of none. A keeper runs its shard, publishes the outcome with the next chunk, and
sends along the witness; everybody else checks the outcome from that alone. Rules and formats are in ``chunk_rules``.

Invariants
- A validator endorses a chunk only once it re-ran the shard's previous chunk from the witness, with the same outcome, and
  has the chunk's bundle and the witness durable.
- A parcel is durable at its sender before the chunk that publishes it is sent.
- The transactions of a chunk are settled when the block that publishes their outcome is final, on every node alike.
- A transaction for a shard that is not kept here is told to keepers again until it is settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import trio
from attrs import define, evolve, field

from nodewright.errors import PeerGone, StoreCorrupt
from nodewright.interfaces import (
    HEAD,
    BlockContext,
    BlockRef,
    Bundle,
    BundleInvalid,
    BundleRef,
    ExecutionRequest,
    Incomplete,
    Message,
    Outcome,
    Parcel,
    TransactionPool,
    WriteBatch,
)
from nodewright.testing.shapes.bft import TwoChain
from nodewright.testing.shapes.bft_formats import BftBlock
from nodewright.testing.shapes.bodies import Bodies, decode, encode, fetch_all
from nodewright.testing.shapes.chain_log import Done
from nodewright.testing.shapes.chunk_rules import (
    NO_WITNESS,
    Chunk,
    Published,
    Ran,
    ShardView,
    View,
    decode_chunks,
    encode_chunks,
)
from nodewright.testing.shapes.codec import MAX_BLOB, Malformed, Reader, blob, u8, u32, vector
from nodewright.testing.shapes.keys import verify

CHUNK, ENDORSEMENT, FORWARD = 1, 2, 3
TAKE_SECONDS = 0.05
FORWARD_SECONDS = 2.0
MAX_TRANSACTIONS = 64
MAX_EARLY = 64
MAX_QUEUED = 4096
MAX_ATTEMPTS = 32
RUNS = "runs"


@define
class _Offer:
    """A chunk that is being endorsed."""

    chunk: Chunk
    given: dict[int, bytes] = field(factory=dict)


class Chunks:
    """Implements ``Payloads``: a payload is a list of chunks. ``genesis["consensus"]["keepers"]`` lists, for every shard,
    the validators that keep it."""

    def __init__(self, chain: TwoChain, bodies: Bodies, parcels: Bodies, witnesses: Bodies, pool: TransactionPool) -> None:
        self._chain = chain
        self._execution = chain.execution
        self._bodies = bodies
        self._parcels = parcels
        self._witnesses = witnesses
        self._pool = pool
        self._keepers: Sequence[Sequence[int]] = chain.document["consensus"]["keepers"]
        self._channel = chain.transport.channel("chunks", inbox=256)
        self._kept: tuple[int, ...] = ()
        self._views: dict[bytes, View] = {}
        self._offers: dict[tuple[bytes, int], dict[bytes, _Offer]] = {}
        self._early: dict[bytes, list[tuple[bytes, Chunk, bytes, bytes]]] = {}
        self._queues: dict[int, dict[bytes, bytes]] = {shard: {} for shard in range(len(self._keepers))}
        self._attempts: dict[bytes, int] = {}
        self._away: dict[bytes, int] = {}
        self._nursery: trio.Nursery | None = None

    # --- blocks ---

    async def recover(self, final: Sequence[BftBlock]) -> None:
        log, execution = self._chain.log, self._execution
        self._kept = await execution.query(HEAD, "kept")
        commitments = await execution.genesis(self._chain.document, log.genesis)
        assert commitments is not None
        shards = [commitments[at : at + 32] for at in range(0, len(commitments), 32)]
        view = View.genesis(log.genesis, shards)
        wanted = {block.id: block for block in final}
        for height in range(1, log.head.height + 1):
            ref = await log.at(height)
            raw = await log.block(ref.id) if ref is not None else None
            if raw is None:
                raise StoreCorrupt(f"the block of height {height} is missing")
            block = BftBlock.decode(raw)
            view = view.after(block)
            if block.id in wanted:
                await self._commit(block, view)
                await self._settle(block.ref, await log.done(block.id))
        self._views = {log.head.id: view}

    async def _commit(self, block: BftBlock, view: View) -> dict[bytes, bytes]:
        """Run and commit the kept shards of a final block that did not do so yet."""
        lost: dict[bytes, bytes] = {}
        for shard, state in view.shards.items():
            applied = await self._execution.applied(shard)
            if shard in self._kept and state.ran == block.ref and applied is not None and applied.height < block.ref.height:
                outcome = await self._execute(shard, state)
                late = await self._execution.commit(block.ref, shard)
                lost |= {**outcome.evicted, **(late or {})}
        return lost

    async def propose(self, chain: Sequence[BftBlock]) -> bytes:
        parent = chain[-1].id if chain else self._chain.rules.final.id
        chosen: list[Chunk] = []
        for shard in range(len(self._keepers)):
            for offer in self._offers.get((parent, shard), {}).values():
                if len(offer.given) >= self._chain.validators.quorum:
                    chosen.append(evolve(offer.chunk, endorsements=tuple(sorted(offer.given.items()))))
                    break
        return encode_chunks(chosen)

    async def fetch(self, block: BftBlock, peer: bytes | None) -> bool:
        view = self._views.get(block.parent.id)
        if view is None or view.problem(block, self._chain.validators) is not None:
            return False
        chunks = decode_chunks(block.payload)
        await fetch_all(self._bodies, [chunk.bundle.id for chunk in chunks], peer)
        await fetch_all(self._witnesses, [chunk.witness for chunk in chunks if chunk.witness != NO_WITNESS], peer)
        return True

    async def execute(self, block: BftBlock) -> bytes:
        """Agreed on before it is executed: votes say nothing of the outcome, the next chunks do."""
        self._views[block.id] = self._views[block.parent.id].after(block)
        if self._nursery is not None:
            self._nursery.start_soon(self._follow, block.ref)
        return b""

    async def finalise(self, block: BftBlock) -> None:
        before, view = self._views[block.parent.id], self._views[block.id]
        kept: dict[bytes, tuple[bytes, bytes, int]] = {}
        rejected: dict[bytes, str] = {}
        for chunk in decode_chunks(block.payload):
            state = before.shards[chunk.shard]
            if state.bundle is None:
                continue
            outcome = await self._outcome(chunk, state)
            bundle = await self._bodies.bundle(state.bundle, self._execution)
            for index in range(len(bundle)):
                id = bundle.id_at(index)
                if id in outcome.discarded:
                    rejected[id] = ": ".join(outcome.discarded[id])
                elif id not in outcome.retry:
                    kept.setdefault(id, (id, state.bundle.id, index))
                elif chunk.shard in self._kept and bundle.bodies is not None:
                    self._again(chunk.shard, id, bundle.bodies[index])
        for shard, state in view.shards.items():
            if shard in self._kept and state.ran == block.ref:
                await self._execute(shard, state)
        done = await self._chain.log.decide(block.ref, Done(b"", list(kept.values()), rejected))
        lost = await self._commit(block, view)
        await self._settle(block.ref, done, lost)
        height = block.ref.height
        self._views = {id: other for id, other in self._views.items() if other.height >= height}
        self._offers = {key: offers for key, offers in self._offers.items() if key[0] in self._views}
        self._early = {id: early for id, early in self._early.items() if early[0][1].parent.height >= height}

    async def _settle(self, block: BlockRef, done: Done, lost: Mapping[bytes, bytes] | None = None) -> None:
        final = [*(id for id, _, _ in done.kept), *done.rejected]
        for queue in (*self._queues.values(), self._attempts, self._away):
            for id in final:
                queue.pop(id, None)  # type: ignore[attr-defined]
        replaced = {id: winner for id, winner in (lost or {}).items() if id not in done.rejected}
        if lost:
            self._chain.events.publish("evicted", {id.hex(): winner.hex() for id, winner in lost.items()})
        if final or replaced:
            await self._pool.settle(dict.fromkeys((id for id, _, _ in done.kept), block), done.rejected, replaced)

    def _again(self, shard: int, id: bytes, raw: bytes) -> None:
        """Ordered before what it needs: to be ordered again. Given up here, it is still pending where it was submitted."""
        attempts = self._attempts[id] = self._attempts.get(id, 0) + 1
        if attempts < MAX_ATTEMPTS:
            self._queues[shard].setdefault(id, raw)
        else:
            self._queues[shard].pop(id, None)

    async def abandon(self, blocks: Sequence[BftBlock]) -> None:
        for block in blocks:
            self._views.pop(block.id, None)
            for shard in self._kept:
                await self._execution.abandon(block.ref, shard)

    def refs(self, block: BftBlock) -> tuple[BundleRef, ...]:
        return tuple(chunk.bundle for chunk in decode_chunks(block.payload))

    def detail(self) -> Mapping[str, Any]:
        tip = self._views.get(self._chain.log.head.id)
        shards = {shard: str(state.ran) for shard, state in tip.shards.items()} if tip is not None else {}
        return {"bundle": self._bundle, "shards": shards}

    async def _bundle(self, id: bytes) -> bytes | None:
        return await self._bodies.get(id)

    # --- outcomes ---

    async def _request(self, shard: int, state: ShardView) -> ExecutionRequest:
        """The run of ``shard`` in block ``state.ran``, with every parcel here."""
        assert state.bundle is not None
        context = BlockContext(
            state.ran.height,
            state.time,
            self._chain.validators.keys[state.author],
            randomness=state.before.id,
            parent_commitment=state.commitment,
        )
        return ExecutionRequest(
            state.before,
            state.ran,
            context,
            [await self._bodies.bundle(state.bundle, self._execution)],
            incoming=[await self._parcel(published) for published in state.taken],
            shard=shard,
            record_witness=True,
            invalid_transaction="discard",
        )

    async def _parcel(self, published: Published) -> Parcel:
        while True:
            await self._parcels.fetch(published.name)
            data = Reader(await self._parcels.get(published.name) or b"")
            try:
                parcel = published.parcel(data.blob(), data.blob())
                data.finish()
                return parcel
            except Malformed:
                await self._parcels.drop(published.name)

    async def _checked(self, shard: int, state: ShardView, witness: bytes | None) -> Outcome | None:
        """Executed, or re-run from a witness. A parcel that proves nothing is dropped and fetched anew."""
        while True:
            request = await self._request(shard, state)
            if witness is None:
                answer = await self._execution.execute(request)
            else:
                answer = await self._execution.verify_witness(request, witness)
            names = {published.root: published.name for published in state.taken}
            if isinstance(answer, Outcome):
                return answer
            if not isinstance(answer, Incomplete) or not any(id in names for id in answer.missing):
                return None
            for id in answer.missing:
                if id in names:
                    await self._parcels.drop(names[id])
            await self._chain.environment.sleep(0.1)

    async def _execute(self, shard: int, state: ShardView) -> Outcome:
        """On a keeper. What the next chunk must publish is durable before anything is committed, for an execution gives
        the outcome and the witness of a block only until it is applied."""
        parent = self._views.get(state.before.id)
        if parent is not None and state.before != await self._execution.applied(shard):
            await self._execute(shard, parent.shards[shard])
        outcome = await self._checked(shard, state, None)
        if outcome is None or outcome.witness is None or outcome.commitment is None:
            raise StoreCorrupt(f"shard {shard} of block {state.ran} cannot be executed")
        for parcel in outcome.outgoing.values():
            await self._parcels.keep(parcel.root + outcome.commitment, blob(parcel.payload) + blob(parcel.proof))
        ran = Ran(outcome.commitment, _sent(outcome), await self._witnesses.put(outcome.witness))
        batch = WriteBatch()
        batch.put(RUNS, state.ran.id + u8(shard), ran.encode())
        await self._chain.log.store.commit(batch)
        return outcome

    async def _ran(self, shard: int, state: ShardView) -> Ran:
        if state.bundle is None:
            return Ran(state.commitment, (), NO_WITNESS)
        if state.ran != await self._execution.applied(shard):
            with suppress(StoreCorrupt):  # committed meanwhile: then its row is there
                await self._execute(shard, state)
        (row,) = await self._chain.log.store.get_many(RUNS, [state.ran.id + u8(shard)])
        if row is None:
            raise StoreCorrupt(f"what shard {shard} did in block {state.ran} is not known here")
        return Ran.decode(row)

    async def _outcome(self, chunk: Chunk, state: ShardView) -> Outcome:
        """Of the run that ``chunk`` publishes, from its witness: also on a node that keeps no shard."""
        witness = await self._witnesses.get(chunk.witness)
        outcome = await self._checked(chunk.shard, state, witness or b"")
        if outcome is None or not _publishes(chunk, outcome):
            raise StoreCorrupt(f"a quorum endorsed another outcome of shard {chunk.shard} at block {state.ran}")
        return outcome

    # --- chunks ---

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._receive)
            nursery.start_soon(self._take)
            nursery.start_soon(self._forward)
            for block in [self._chain.rules.final, *(block.ref for block in self._chain.rules.blocks.values())]:
                nursery.start_soon(self._follow, block)

    async def _follow(self, block: BlockRef) -> None:
        """A block can be built upon: check the chunks that came for it already, and make those that fall to this node."""
        for peer, chunk, bundle, witness in self._early.pop(block.id, []):
            await self._endorse(peer, chunk, bundle, witness)
        me = self._chain.rules.me
        for shard in self._kept:
            keepers = self._keepers[shard]
            if me is not None and keepers[block.height % len(keepers)] == me:
                await self._produce(block, shard)

    async def _produce(self, block: BlockRef, shard: int) -> None:
        view = self._views.get(block.id)
        if view is None or not self._chain.rules.may_sign:
            return
        state = view.shards[shard]
        ran = await self._ran(shard, state)
        witness = await self._witnesses.get(ran.witness) or b""
        body = encode(await self._choose(block, shard))
        bundle = BundleRef(await self._bodies.put(body), len(decode(body)), len(body), shard)
        chunk = Chunk(shard, block, state.ran, ran.commitment, ran.outgoing, ran.witness, bundle)
        await self._channel.broadcast(u8(CHUNK) + chunk.encode() + blob(body) + blob(witness))
        await self._endorse(self._chain.transport.node_id, chunk, body, witness)

    async def _choose(self, block: BlockRef, shard: int) -> list[bytes]:
        """Queued transactions of the shard that no unsettled block on the way to ``block`` orders already."""
        chain = self._chain.rules.ancestors(block.id)
        ordered = [chunk.bundle for earlier in chain for chunk in decode_chunks(earlier.payload) if chunk.shard == shard]
        final = self._views.get(self._chain.rules.final.id)
        if final is not None and (unsettled := final.shards[shard].bundle) is not None:
            ordered.append(unsettled)
        taken: dict[bytes, None] = {}
        for ref in ordered:
            bundle = await self._bodies.bundle(ref, self._execution)
            taken.update(dict.fromkeys(bundle.id_at(index) for index in range(len(bundle))))
        return [raw for id, raw in self._queues[shard].items() if id not in taken][:MAX_TRANSACTIONS]

    async def _endorse(self, peer: bytes, chunk: Chunk, body: bytes, witness: bytes) -> None:
        chain = self._chain
        view = self._views.get(chunk.parent.id)
        if view is None:
            if chunk.parent.height > chain.rules.final.height and len(self._early) < MAX_EARLY:
                self._early.setdefault(chunk.parent.id, []).append((peer, chunk, body, witness))
            return
        state = view.shards.get(chunk.shard)
        if state is None or state.ran != chunk.ran:
            return
        if state.bundle is None:
            good = (chunk.commitment, chunk.outgoing, chunk.witness) == (state.commitment, (), NO_WITNESS)
        else:
            outcome = await self._checked(chunk.shard, state, witness)
            good = sha256(witness).digest() == chunk.witness and outcome is not None and _publishes(chunk, outcome)
        if not good or not await self._keep(chunk, body):
            chain.transport.penalise(peer, 20, f"a chunk of shard {chunk.shard} that its witness does not bear out")
            return
        if state.bundle is not None:
            await self._witnesses.put(witness)
        offer = self._offers.setdefault((chunk.parent.id, chunk.shard), {}).setdefault(chunk.message(), _Offer(chunk))
        if chain.rules.me is not None and chain.rules.may_sign:
            signature = chain.key.sign(chunk.message())
            offer.given[chain.rules.me] = signature
            await self._channel.broadcast(u8(ENDORSEMENT) + u32(chain.rules.me) + blob(chunk.body()) + signature)

    async def _keep(self, chunk: Chunk, body: bytes) -> bool:
        if sha256(body).digest() != chunk.bundle.id or len(body) != chunk.bundle.size:
            return False
        try:
            bodies = decode(body)
        except Malformed:
            return False
        ids = [id for id in await self._execution.identify(bodies) if id is not None]
        if len(ids) != chunk.bundle.count:
            return False
        bundle = Bundle(chunk.bundle, b"".join(ids), bodies)
        if isinstance(await self._execution.validate_bundle(bundle, chunk.parent), BundleInvalid):
            return False
        await self._bodies.put(body)
        return True

    # --- transactions and messages ---

    async def _take(self) -> None:
        while True:
            await self._chain.environment.sleep(TAKE_SECONDS)
            candidates = await self._pool.take(MAX_TRANSACTIONS)
            raws = self._pool.bodies([candidate.id for candidate in candidates])
            for candidate, raw in zip(candidates, raws, strict=True):
                if raw is None:
                    continue
                if candidate.shard not in self._kept:
                    self._away[candidate.id] = candidate.shard
                elif len(self._queues[candidate.shard]) < MAX_QUEUED:
                    self._queues[candidate.shard][candidate.id] = raw
                else:
                    self._pool.give_back([candidate.id])
            await self._tell(dict(self._away))

    async def _forward(self) -> None:
        while True:
            await self._chain.environment.sleep(FORWARD_SECONDS)
            await self._tell(dict(self._away))

    async def _tell(self, away: Mapping[bytes, int]) -> None:
        raws = self._pool.bodies(list(away))
        for shard, keepers in enumerate(self._keepers):
            mine = [raw for raw, to in zip(raws, away.values(), strict=True) if raw is not None and to == shard]
            for start in range(0, len(mine), MAX_TRANSACTIONS):
                for keeper in keepers:
                    try:
                        part = vector(mine[start : start + MAX_TRANSACTIONS], blob)
                        await self._channel.send(self._chain.node_of[keeper], u8(FORWARD) + part)
                    except PeerGone:
                        self._chain.environment.logger.debug("transactions not told", shard=shard, keeper=keeper)

    async def _receive(self) -> None:
        while True:
            message = await self._channel.receive()
            try:
                await self._on_message(message)
            except Malformed as error:
                self._chain.transport.penalise(message.peer, 20, f"chunks: {error}")

    async def _on_message(self, message: Message) -> None:
        kind, data = message.payload[:1], Reader(message.payload[1:])
        if kind == u8(CHUNK):
            chunk, body, witness = Chunk.decode(data), data.blob(MAX_BLOB), data.blob(MAX_BLOB)
            data.finish()
            assert self._nursery is not None
            self._nursery.start_soon(self._endorse, message.peer, chunk, body, witness)
        elif kind == u8(ENDORSEMENT):
            voter, body, signature = data.u32(), data.blob(), data.take(64)
            data.finish()
            self._endorsed(message.peer, voter, body, signature)
        elif kind == u8(FORWARD):
            raws = data.vector(data.blob, MAX_TRANSACTIONS)
            data.finish()
            await self._pool.submit(raws, "peer")
        else:
            raise Malformed("unknown kind of message")

    def _endorsed(self, peer: bytes, voter: int, body: bytes, signature: bytes) -> None:
        validators = self._chain.validators
        if voter >= len(validators.keys) or self._chain.node_of[voter] != peer:
            raise Malformed("it speaks for another validator")
        chunk = Chunk.decode(Reader(body + u32(0)))
        if not verify(validators.keys[voter], chunk.message(), signature):
            raise Malformed("the endorsement is not signed")
        if chunk.parent.height >= self._chain.rules.final.height and len(self._offers) < MAX_QUEUED:
            offers = self._offers.setdefault((chunk.parent.id, chunk.shard), {})
            offers.setdefault(chunk.message(), _Offer(chunk)).given[voter] = signature


def _sent(outcome: Outcome) -> tuple[tuple[int, bytes], ...]:
    return tuple((to, parcel.root) for to, parcel in sorted(outcome.outgoing.items()))


def _publishes(chunk: Chunk, outcome: Outcome) -> bool:
    return outcome.commitment == chunk.commitment and _sent(outcome) == chunk.outgoing
