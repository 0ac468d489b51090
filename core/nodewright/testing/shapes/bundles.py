"""What a two-chain orders in the BFT shape: bundles that a quorum certified to hold (proof of store), by reference.

A bundle's author sends its body to all; a validator that has made it durable signs; a quorum of signatures is a proof, and
any leader may order it. Nobody looks for conflicts between bundles: what is ordered first wins, and the execution discards.

Invariants
- A validator signs a bundle only once its body is durable here and well-formed; with a quorum of signatures one honest node
  has it, whoever dies.
- A bundle is ordered at most once on a chain.
- What an outcome asks to retry is ordered again first thing in the next block, by every node alike, ``MAX_ATTEMPTS`` times;
  then it is rejected. So a child ordered before its parent is not lost, whoever proposed it.
- An execution with a single head runs a block only when it is final; others before the vote, which then covers the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from nodewright.errors import PeerGone, StoreCorrupt
from nodewright.interfaces import (
    BlockContext,
    BlockRef,
    Bundle,
    BundleInvalid,
    BundleRef,
    Deferred,
    ExecutionRequest,
    Limits,
    Message,
    Outcome,
    TransactionPool,
)
from nodewright.testing.shapes.bft import TwoChain
from nodewright.testing.shapes.bft_formats import BftBlock, Validators, read_signatures, signatures
from nodewright.testing.shapes.bodies import Bodies, decode, encode, fetch_all
from nodewright.testing.shapes.chain_log import Carried, Done, bundle_refs, read_bundle_refs
from nodewright.testing.shapes.codec import Malformed, Reader, blob, digest, u8, u32, vector
from nodewright.testing.shapes.keys import verify

BATCH, STORED, PROVED = 1, 2, 3
BATCH_SECONDS = 0.05
RESEND_SECONDS = 1.0
MAX_TRANSACTIONS = 64
MAX_BYTES = 256 * 1024
MAX_PROOFS = 32
MAX_ATTEMPTS = 32


@frozen
class Proof:
    """A quorum holds this bundle."""

    bundle: BundleRef
    signatures: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        return bundle_refs([self.bundle]) + signatures(self.signatures)

    @classmethod
    def decode(cls, data: Reader) -> Proof:
        (bundle,) = read_bundle_refs(data, 1)
        return cls(bundle, read_signatures(data))

    def valid(self, validators: Validators) -> bool:
        return validators.signed(stored_message(self.bundle), self.signatures, validators.quorum)


def stored_message(bundle: BundleRef) -> bytes:
    return digest(b"stored", bundle.id, u32(bundle.count), u32(bundle.size))


@define
class _Open:
    """A bundle of this node's that is not proved yet."""

    bundle: BundleRef
    data: bytes
    given: dict[int, bytes] = field(factory=dict)


@frozen
class _Result:
    outcome: Outcome
    bundles: tuple[Bundle, ...]
    carried: tuple[Carried, ...]


class Bundles:
    """Implements ``Payloads``: a payload is a list of proofs."""

    def __init__(self, chain: TwoChain, bodies: Bodies, pool: TransactionPool) -> None:
        self._chain = chain
        self._bodies = bodies
        self._pool = pool
        self._lazy = "single-head" in chain.execution.capabilities
        self._channel = chain.transport.channel("bundles", inbox=1024)
        self._open: dict[bytes, _Open] = {}
        self._proved: dict[bytes, Proof] = {}
        self._ordered: dict[bytes, None] = {}
        self._results: dict[bytes, _Result] = {}
        self._carried: dict[bytes, tuple[Carried, ...]] = {}

    # --- blocks ---

    async def recover(self, final: Sequence[BftBlock]) -> None:
        applied = await self._chain.execution.applied()
        assert applied is not None
        for height in range(1, self._chain.log.head.height + 1):
            ref = await self._chain.log.at(height)
            raw = await self._chain.log.block(ref.id) if ref is not None else None
            if raw is not None:
                self._ordered.update(dict.fromkeys(proof.bundle.id for proof in _proofs(BftBlock.decode(raw))))
        for block in final:
            done = await self._chain.log.done(block.id)
            self._carried[block.id] = tuple(done.carried)
            if block.ref.height > applied.height:
                self._carried[block.parent.id] = tuple((await self._chain.log.done(block.parent.id)).carried)
                await self._run(block)
                await self._chain.execution.commit(block.ref)
            await self._settle(block.ref, done, {})

    async def propose(self, chain: Sequence[BftBlock]) -> bytes:
        taken = {proof.bundle.id: None for block in chain for proof in _proofs(block)} | self._ordered
        free = [proof for id, proof in self._proved.items() if id not in taken]
        return vector(free[:MAX_PROOFS], Proof.encode)

    async def fetch(self, block: BftBlock, peer: bytes | None) -> bool:
        try:
            proofs = _proofs(block)
        except Malformed:
            return False
        chain = self._chain.rules.ancestors(block.parent.id)
        taken = {proof.bundle.id: None for earlier in chain for proof in _proofs(earlier)} | self._ordered
        ids = dict.fromkeys(proof.bundle.id for proof in proofs)
        if len(ids) != len(proofs) or any(id in taken for id in ids):
            return False
        if not all(proof.valid(self._chain.validators) for proof in proofs):
            return False
        await fetch_all(self._bodies, list(ids), peer)
        return True

    async def execute(self, block: BftBlock) -> bytes:
        if self._lazy:
            return b""
        return (await self._run(block)).outcome.commitment or b""

    async def _run(self, block: BftBlock) -> _Result:
        execution = self._chain.execution
        known = self._results.get(block.id)
        if known is not None:
            return known
        bundles = [await self._bodies.bundle(proof.bundle, execution) for proof in _proofs(block)]
        carried = self._carried.get(block.parent.id, ())
        if carried:
            data = encode([item.raw for item in carried])
            again = BundleRef(digest(b"again", data), len(carried), len(data))
            bundles.insert(0, Bundle(again, b"".join(item.id for item in carried), [item.raw for item in carried]))
        context = BlockContext(
            block.ref.height, block.time, self._chain.validators.keys[block.author], randomness=block.parent.id
        )
        prologue = await execution.prologue(context)
        request = ExecutionRequest(block.parent, block.ref, context, bundles, prologue.raw, invalid_transaction="discard")
        outcome = await execution.execute(request)
        if not isinstance(outcome, Outcome):
            raise StoreCorrupt(_refused(block, outcome))
        attempts = {item.id: item.attempts for item in carried}
        bodies = {bundle.id_at(i): raw for bundle in bundles for i, raw in enumerate(bundle.bodies or ())}
        again_next = tuple(
            Carried(id, attempts.get(id, 0) + 1, bodies[id]) for id in outcome.retry if attempts.get(id, 0) < MAX_ATTEMPTS
        )
        self._carried[block.id] = again_next
        self._results[block.id] = _Result(outcome, tuple(bundles), again_next)
        return self._results[block.id]

    async def finalise(self, block: BftBlock) -> None:
        result = await self._run(block)
        outcome = result.outcome
        again = {item.id for item in result.carried}
        rejected = {id: f"{code}: {message}" for id, (code, message) in outcome.discarded.items()}
        rejected |= {id: f"given up: {reason}" for id, reason in outcome.retry.items() if id not in again}
        kept: dict[bytes, tuple[bytes, bytes, int]] = {}
        for bundle in result.bundles:
            for index in range(len(bundle)):
                id = bundle.id_at(index)
                if id not in outcome.discarded and id not in outcome.retry:
                    kept.setdefault(id, (id, bundle.ref.id, index))
        if result.bundles:
            await self._keep_again(result.bundles[0])
        done = Done(outcome.commitment or b"", list(kept.values()), rejected, result.carried)
        done = await self._chain.log.decide(block.ref, done)
        late = await self._chain.execution.commit(block.ref)
        await self._settle(block.ref, done, {**outcome.evicted, **(late or {})})
        for proof in _proofs(block):
            self._ordered[proof.bundle.id] = None
            self._proved.pop(proof.bundle.id, None)
            self._open.pop(proof.bundle.id, None)
        self._results.pop(block.id, None)
        self._carried = {id: items for id, items in self._carried.items() if id == block.id or id in self._results}

    async def _keep_again(self, bundle: Bundle) -> None:
        """A bundle of retried transactions has no author: every node keeps its body under its own name."""
        if not await self._bodies.have(bundle.ref.id):
            await self._bodies.keep(bundle.ref.id, encode(bundle.bodies or ()))

    async def _settle(self, block: BlockRef, done: Done, evicted: Mapping[bytes, bytes]) -> None:
        committed = {id: block for id, _, _ in done.kept}
        replaced = {id: winner for id, winner in evicted.items() if id not in done.rejected}
        if evicted:
            self._chain.events.publish("evicted", {id.hex(): winner.hex() for id, winner in evicted.items()})
        if committed or done.rejected or replaced:
            await self._pool.settle(committed, done.rejected, replaced)

    async def abandon(self, blocks: Sequence[BftBlock]) -> None:
        for block in blocks:
            self._results.pop(block.id, None)
            self._carried.pop(block.id, None)
            await self._chain.execution.abandon(block.ref)

    def refs(self, block: BftBlock) -> tuple[BundleRef, ...]:
        return tuple(proof.bundle for proof in _proofs(block))

    def detail(self) -> Mapping[str, Any]:
        return {"bundle": self._bundle, "proved": list(self._proved)}

    async def _bundle(self, id: bytes) -> bytes | None:
        return await self._bodies.get(id)

    # --- bundles ---

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make)
            nursery.start_soon(self._resend)
            nursery.start_soon(self._receive)

    async def _make(self) -> None:
        chain = self._chain
        while True:
            await chain.environment.sleep(BATCH_SECONDS)
            candidates = await self._pool.take(MAX_TRANSACTIONS)
            limits = Limits(MAX_TRANSACTIONS, MAX_BYTES)
            selection = await chain.execution.select(chain.head(), candidates, limits)
            if selection.deferred:
                self._pool.give_back([candidate.id for candidate in selection.deferred])
            raws = self._pool.bodies([candidate.id for candidate in selection.chosen])
            bodies = [raw for raw in raws if raw is not None]
            if bodies:
                await self.seal(bodies)

    async def seal(self, bodies: Sequence[bytes]) -> BundleRef:
        """Make a bundle, durable here, and ask everybody to certify it."""
        data = encode(bodies)
        bundle = BundleRef(await self._bodies.put(data), len(bodies), len(data))
        self._open[bundle.id] = _Open(bundle, data)
        self._chain.events.publish("bundle_sealed", {"bundle": bundle.id.hex(), "count": bundle.count})
        await self._send(self._open[bundle.id])
        me = self._chain.rules.me
        if me is not None and self._chain.rules.may_sign:
            await self._stored(me, bundle.id, self._chain.key.sign(stored_message(bundle)))
        return bundle

    async def _send(self, open: _Open) -> None:
        await self._channel.broadcast(u8(BATCH) + bundle_refs([open.bundle]) + blob(open.data))

    async def _resend(self) -> None:
        """Messages get lost: until a bundle is proved it is sent again, and a proof until it is ordered."""
        while True:
            await self._chain.environment.sleep(RESEND_SECONDS)
            for open in list(self._open.values()):
                proof = self._proved.get(open.bundle.id)
                if proof is None:
                    await self._send(open)
                else:
                    await self._channel.broadcast(u8(PROVED) + proof.encode())

    async def _receive(self) -> None:
        while True:
            message = await self._channel.receive()
            try:
                await self._on_message(message)
            except Malformed as error:
                self._chain.transport.penalise(message.peer, 20, f"bundles: {error}")
            except PeerGone:
                self._chain.environment.logger.debug("bundle not acknowledged: its author is gone")

    async def _on_message(self, message: Message) -> None:
        chain, data = self._chain, Reader(message.payload[1:])
        kind = message.payload[:1]
        if kind == u8(BATCH):
            (bundle,), body = read_bundle_refs(data, 1), data.blob(MAX_BYTES)
            data.finish()
            await self._on_batch(message.peer, bundle, body)
        elif kind == u8(STORED):
            id, voter, signature = data.hash(), data.u32(), data.take(64)
            data.finish()
            if voter >= len(chain.validators.keys) or chain.node_of[voter] != message.peer:
                raise Malformed("it speaks for another validator")
            await self._stored(voter, id, signature)
        elif kind == u8(PROVED):
            proof = Proof.decode(data)
            data.finish()
            if not proof.valid(chain.validators):
                raise Malformed("the proof is not signed by a quorum")
            if proof.bundle.id not in self._ordered:
                self._proved.setdefault(proof.bundle.id, proof)
        else:
            raise Malformed("unknown kind of message")

    async def _on_batch(self, peer: bytes, bundle: BundleRef, body: bytes) -> None:
        chain = self._chain
        bodies = decode(body)
        ids = await chain.execution.identify(bodies)
        if len(body) != bundle.size or len(bodies) != bundle.count or not all(ids):
            raise Malformed("the bundle is not what its reference says")
        whole = Bundle(bundle, b"".join(id for id in ids if id is not None), bodies)
        verdict = await chain.execution.validate_bundle(whole, chain.head())
        if isinstance(verdict, BundleInvalid):
            raise Malformed(f"transaction {verdict.index} of a bundle: {verdict.message}")
        # Bodies are here, so what an incomplete bundle misses are parents: they may be ordered later, and are no reason
        # to refuse to keep it.
        if await self._bodies.put(body) != bundle.id:
            raise Malformed("the body does not hash to the bundle's name")
        if chain.rules.me is not None and chain.rules.may_sign:
            signature = chain.key.sign(stored_message(bundle))
            await self._channel.send(peer, u8(STORED) + bundle.id + u32(chain.rules.me) + signature)

    async def _stored(self, voter: int, id: bytes, signature: bytes) -> None:
        open, validators = self._open.get(id), self._chain.validators
        if open is None or id in self._proved or not verify(validators.keys[voter], stored_message(open.bundle), signature):
            return
        open.given[voter] = signature
        if len(open.given) >= validators.quorum:
            proof = Proof(open.bundle, tuple(sorted(open.given.items())))
            self._proved[id] = proof
            self._chain.events.publish("bundle_accepted", {"bundle": id.hex()})
            await self._channel.broadcast(u8(PROVED) + proof.encode())


def _proofs(block: BftBlock) -> tuple[Proof, ...]:
    """Raises Malformed."""
    data = Reader(block.payload)
    proofs = data.vector(lambda: Proof.decode(data), MAX_PROOFS)
    data.finish()
    return proofs


def _refused(block: BftBlock, answer: object) -> str:
    if isinstance(answer, Deferred):
        return f"block {block.ref} cannot be executed: the state is at {answer.have}, not {answer.need}"
    return f"block {block.ref} cannot be executed: {answer}"
