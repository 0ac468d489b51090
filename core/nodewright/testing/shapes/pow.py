"""The trio shell of the proof-of-work chain: carries out what ``pow_rules`` decides.

It drives both kinds of execution. One with ``undo`` stands at the head and is reverted at a reorganisation; one without
executes every block on its parent and commits only what lies ``DEPTH`` below the head, so its state lags the chain.

Invariants
- ``_lock`` is held while the head moves; everything else reads.
- A block enters the tree only when its parent is known, its bundles are here and durable, and it is in the chain store.
- State never leads the chain: a block is the chain store's head before the execution commits it, and is reverted before the
  chain store forgets it. Blocks being undone are named in the store until their transactions are back in the pool.
- ``reject_block``: a block with a transaction that cannot run is invalid for good. A body that is not here is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from nodewright.errors import Pruned, StoreCorrupt, TransportError, UnknownControl, UnknownQuery
from nodewright.interfaces import (
    BlockContext,
    BlockRecord,
    BlockRef,
    Bundle,
    BundleInvalid,
    BundleRef,
    Candidate,
    Environment,
    EventLog,
    Execution,
    ExecutionRequest,
    Invalid,
    Limits,
    Location,
    Outcome,
    PeerUp,
    TransactionPool,
    Transport,
    WriteBatch,
)
from nodewright.testing.shapes.bodies import Bodies, decode, encode, fetch_all
from nodewright.testing.shapes.chain_log import ChainLog, Done
from nodewright.testing.shapes.codec import Malformed, Reader, blob, digest, ref, u8, vector
from nodewright.testing.shapes.pow_rules import ZERO_BITS, BlockTree, PowBlock, Switch, header, solve

DEPTH = 6
MINE_SECONDS = 2.0
MAX_TRANSACTIONS = 64
MAX_BYTES = 256 * 1024
MAX_HELD = 256
PAGE = 32
INVALID = "invalid"
LOOSE = "loose"
BLOCK, BUNDLE = 1, 2


class ProofOfWork:
    """Implements ``Consensus``."""

    capabilities = frozenset({"proof-of-work", "reorganise"})
    format = "pow/1"
    invalid_transaction = "reject_block"

    def __init__(
        self,
        log: ChainLog,
        bodies: Bodies,
        execution: Execution,
        transport: Transport,
        pool: TransactionPool,
        events: EventLog,
        environment: Environment,
        document: Mapping[str, Any],
        mine: bool = False,
    ) -> None:
        self.log = log
        self.tree = BlockTree(log.genesis)
        self.execution = execution
        self.transport = transport
        self.events = events
        self.environment = environment
        self.document = document
        self._bodies = bodies
        self._pool = pool
        self._mine = mine
        self._undoes = "undo" in execution.capabilities
        self._proposer = digest(b"proposer", transport.node_id)
        self._channel = transport.channel("pow", inbox=256)
        self._sync = transport.channel("pow_sync", inbox=64)
        self._lock = trio.Lock()
        self._held: dict[bytes, dict[bytes, tuple[PowBlock, bytes]]] = {}
        self._arriving: dict[bytes, None] = {}
        self._queue: dict[bytes, Candidate] = {}
        self._sealed: dict[bytes, tuple[bytes, ...]] = {}
        self._outcomes: dict[bytes, Outcome] = {}
        self._state = "idle"
        self._nursery: trio.Nursery

    # --- recovery ---

    async def recover(self) -> None:
        log, tree = self.log, self.tree
        await self.execution.genesis(self.document, log.genesis)
        for raw in await log.blocks_above(0):
            tree.insert(PowBlock.decode(raw))
        for id in await self._rows(INVALID):
            tree.invalidate(id)
        tree.head = log.head
        on_chain = {block.id: block for block in tree.path(log.head.id)}
        applied = await self._applied()
        while applied.height > 0 and applied.id not in on_chain:  # the common ancestor
            await self.execution.revert(applied)
            applied = await self._applied()
        for block in on_chain.values():
            if block.ref.height <= applied.height:
                continue
            answer = await self._execute(block)
            if not isinstance(answer, Outcome):
                raise StoreCorrupt(f"block {block.ref} of the best chain cannot be replayed: {answer}")
            await self._commit_down_to(block.ref)
        if on_chain:
            await self._settle(log.head, await log.done(log.head.id), {})

    async def _applied(self) -> BlockRef:
        applied = await self.execution.applied()
        assert applied is not None
        return applied

    async def _rows(self, table: str) -> list[bytes]:
        return [key for key, _ in (await self.log.store.scan(table, limit=10_000)).items]

    # --- running ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._bring_back()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for task in (self._receive, self._serve, self._greet, self._take):
                nursery.start_soon(task)
            if self._mine:
                nursery.start_soon(self._miner)
            self._state = "running"
            task_status.started()
            await self._advance()

    async def _advance(self) -> None:
        """Move the state to the best tip, as long as there is a better one."""
        async with self._lock:
            while (switch := self.tree.switch()) is not None:
                if not await self._follow(switch):
                    break
            await self._bring_back()

    async def _follow(self, switch: Switch) -> bool:
        if not self._undoes and switch.back and switch.back[-1].height <= (await self._applied()).height:
            raise Pruned(f"a reorganisation below {DEPTH} blocks: this execution cannot undo block {switch.back[-1]}")
        old = self.tree.head
        for block in switch.back:
            await self._undo(block)
        for forward in switch.forward:
            answer = await self._execute(forward)
            if isinstance(answer, Invalid):
                batch = WriteBatch()
                batch.put(INVALID, forward.id, f"{answer.code}: {answer.message}".encode())
                await self.log.store.commit(batch)
                self.tree.invalidate(forward.id)
                self.events.publish(
                    "block_refused", {"block": str(forward.ref), "code": answer.code, "why": answer.message}
                )
                return True  # to the best of what is left
            if not isinstance(answer, Outcome):
                raise StoreCorrupt(f"block {forward.ref} cannot be executed: {answer}")
            await self._accept(forward, answer)
        if switch.back:
            self.events.publish("reorganised", {"from": str(old), "to": str(self.tree.head), "depth": len(switch.back)})
        return True

    async def _accept(self, block: PowBlock, outcome: Outcome) -> None:
        kept: dict[bytes, tuple[bytes, bytes, int]] = {}
        for bundle in await self._bundles(block):
            for index in range(len(bundle)):
                kept[bundle.id_at(index)] = (bundle.id_at(index), bundle.ref.id, index)
        done = await self.log.decide(block.ref, Done(outcome.commitment or b"", list(kept.values())))
        self.tree.head = block.ref
        late = await self._commit_down_to(block.ref)
        self.events.publish("block_accepted", {"block": str(block.ref), "transactions": len(kept)})
        await self._settle(block.ref, done, {**outcome.evicted, **late})

    async def _commit_down_to(self, head: BlockRef) -> dict[bytes, bytes]:
        lost: dict[bytes, bytes] = {}
        depth = 0 if self._undoes else DEPTH
        for block in self.tree.path(head.id):
            if (await self._applied()).height < block.ref.height <= head.height - depth:
                lost |= await self.execution.commit(block.ref) or {}
                self._outcomes.pop(block.id, None)
        return lost

    async def _settle(self, block: BlockRef, done: Done, lost: Mapping[bytes, bytes]) -> None:
        for id in (*(id for id, _, _ in done.kept), *lost):
            self._queue.pop(id, None)
        if lost:
            self.events.publish("evicted", {id.hex(): winner.hex() for id, winner in lost.items()})
        if done.kept or lost:
            await self._pool.settle(dict.fromkeys((id for id, _, _ in done.kept), block), None, lost)

    async def _undo(self, block: BlockRef) -> None:
        found = self.tree.get(block.id)
        assert found is not None
        batch = WriteBatch()
        batch.put(LOOSE, block.id, ref(block))
        await self.log.store.commit(batch)
        if self._undoes:
            reverted = await self.execution.revert(block)
            if reverted.removed:
                await self._pool.settle(rejected=dict.fromkeys(reverted.removed, "the block that created it was undone"))
        await self.log.retract(block, found.parent)
        self.tree.head = found.parent

    async def _bring_back(self) -> None:
        """Transactions of undone blocks that the chain does not hold become pending again, parents first."""
        loose = [block for id in await self._rows(LOOSE) if (block := self.tree.get(id)) is not None]
        if not loose:
            return
        back: dict[bytes, bytes] = {}
        for block in sorted(loose, key=lambda block: (block.ref.height, block.id)):
            for bundle in await self._bundles(block):
                back.update((bundle.id_at(index), raw) for index, raw in enumerate(bundle.bodies or ()))
        places = await self.log.locate(list(back))
        again = [(id, raw) for (id, raw), place in zip(back.items(), places, strict=True) if place is None]
        answers = await self._pool.restore(again)
        refused = {
            id: f"{answer.code}: {answer.message}"
            for (id, _), answer in zip(again, answers, strict=True)
            if not hasattr(answer, "raw")
        }
        if refused:
            await self._pool.settle(rejected=refused)
        batch = WriteBatch()
        batch.delete_many(LOOSE, [block.id for block in loose])
        await self.log.store.commit(batch)

    async def _bundles(self, block: PowBlock) -> list[Bundle]:
        return [await self._bodies.bundle(bundle, self.execution) for bundle in block.bundles]

    async def _execute(self, block: PowBlock) -> Outcome | object:
        """Its parent is the head, or executed."""
        context = BlockContext(block.ref.height, block.time, block.proposer, randomness=block.parent.id)
        request = ExecutionRequest(block.parent, block.ref, context, await self._bundles(block), block.prologue)
        if not self._undoes and block.parent.id != (await self._applied()).id and block.parent.id not in self._outcomes:
            parent = self.tree.get(block.parent.id)
            assert parent is not None
            answer = await self._execute(parent)
            if not isinstance(answer, Outcome):
                return answer
        result = await self.execution.execute(request)
        if isinstance(result, Outcome):
            self._outcomes[block.id] = result
        return result

    # --- making blocks ---

    async def _take(self) -> None:
        while True:
            for candidate in await self._pool.take(MAX_TRANSACTIONS):
                self._queue[candidate.id] = candidate

    async def _miner(self) -> None:
        while True:
            await self.environment.sleep(self.environment.random.expovariate(1 / MINE_SECONDS))
            await self.generate()

    async def seal(self) -> BundleRef | None:
        """A bundle of what waits, announced ahead of any block; None if nothing does."""
        taken = {id: None for ids in self._sealed.values() for id in ids}
        waiting = [candidate for id, candidate in self._queue.items() if id not in taken]
        selection = await self.execution.select(self.tree.head, waiting, Limits(MAX_TRANSACTIONS, MAX_BYTES))
        for id in selection.rejected:
            self._queue.pop(id, None)
        ids = [candidate.id for candidate in selection.chosen]
        bodies = [raw for raw in self._pool.bodies(ids) if raw is not None]
        if not bodies or len(bodies) != len(ids):
            for id, raw in zip(ids, self._pool.bodies(ids), strict=True):
                if raw is None:
                    self._queue.pop(id, None)
            return None
        data = encode(bodies)
        bundle = BundleRef(await self._bodies.put(data), len(bodies), len(data))
        self._sealed[bundle.id] = tuple(ids)
        self.events.publish("bundle_sealed", {"bundle": bundle.id.hex(), "count": bundle.count})
        await self._channel.broadcast(u8(BUNDLE) + data)
        return bundle

    async def generate(self, bundles: Sequence[BundleRef] | None = None) -> BlockRef:
        """Mine one block on the head, of what waits or of ``bundles``."""
        if bundles is None:
            bundle = await self.seal()
            bundles = [bundle] if bundle is not None else []
        parent, time = self.tree.head, int(self.environment.now())
        context = BlockContext(parent.height + 1, time, self._proposer, randomness=parent.id)
        prologue = await self.execution.prologue(context)
        body = PowBlock(parent, parent, time, ZERO_BITS, self._proposer, tuple(bundles), prologue.raw, 0).body()
        start = self.environment.random.getrandbits(32)
        nonce = await self.environment.offload(solve, header(parent, time, ZERO_BITS, body), ZERO_BITS, start)
        raw = header(parent, time, ZERO_BITS, body) + nonce.to_bytes(8, "big") + body
        block = PowBlock.decode(raw)
        self._sealed = {id: ids for id, ids in self._sealed.items() if id not in {item.id for item in bundles}}
        await self._admit(block)
        await self._channel.broadcast(u8(BLOCK) + raw)
        return block.ref

    # --- blocks of others ---

    async def _admit(self, block: PowBlock) -> None:
        """Parent known, bundles here: into the store, the tree, and perhaps the chain; then those that waited for it."""
        await self.log.put_block(block.ref, block.encode())
        self.tree.insert(block)
        await self._advance()
        for held, peer in self._held.pop(block.id, {}).values():
            self._nursery.start_soon(self._on_block, held, peer)

    async def _on_block(self, block: PowBlock, peer: bytes) -> None:
        if self.tree.knows(block.id) or block.id in self._arriving:
            return
        if not self.tree.knows(block.parent.id):
            if len(self._held) < MAX_HELD:
                self._held.setdefault(block.parent.id, {})[block.id] = (block, peer)
            if block.parent.id not in self._arriving:
                await self._catch_up(peer)
            return
        self._arriving[block.id] = None
        try:
            await fetch_all(self._bodies, [bundle.id for bundle in block.bundles], peer)
            await self._admit(block)
        finally:
            del self._arriving[block.id]
        await self._channel.broadcast(u8(BLOCK) + block.encode(), exclude=[peer])

    async def _receive(self) -> None:
        while True:
            message = await self._channel.receive()
            kind, body = message.payload[:1], message.payload[1:]
            try:
                if kind == u8(BLOCK):
                    self._nursery.start_soon(self._on_block, PowBlock.decode(body), message.peer)
                elif kind == u8(BUNDLE):
                    await self._on_bundle(message.peer, body)
                else:
                    raise Malformed("unknown kind of message")
            except Malformed as error:
                self.transport.penalise(message.peer, 20, f"pow: {error}")

    async def _on_bundle(self, peer: bytes, data: bytes) -> None:
        """Checked and kept before any block names it. What cannot be judged yet is kept too: incomplete is not invalid."""
        if len(data) > MAX_BYTES:
            raise Malformed("the bundle is too large")
        bodies = decode(data)
        ids = [id for id in await self.execution.identify(bodies) if id is not None]
        if len(ids) != len(bodies):
            raise Malformed("a bundle with a transaction that is none")
        bundle = Bundle(BundleRef(digest(b"unnamed"), len(ids), len(data)), b"".join(ids), bodies)
        verdict = await self.execution.validate_bundle(bundle, self.tree.head)
        if isinstance(verdict, BundleInvalid):
            raise Malformed(f"transaction {verdict.index} of a bundle: {verdict.message}")
        await self._bodies.put(data)

    async def _greet(self) -> None:
        async for event in self.transport.events():
            if isinstance(event, PeerUp):
                self._nursery.start_soon(self._catch_up, event.peer.id)

    async def _catch_up(self, peer: bytes) -> None:
        """Blocks of the peer's best chain above what is shared, page by page, parents first."""
        try:
            locator = list(self.tree.locator())
            while True:
                request = vector(locator, lambda id: id)
                answer = Reader(await self._sync.request(peer, request, timeout_seconds=2.0))
                blocks = [PowBlock.decode(raw) for raw in answer.vector(answer.blob, PAGE)]
                for block in blocks:
                    if self.tree.knows(block.parent.id):
                        await self._on_block(block, peer)
                if len(blocks) < PAGE:
                    return
                locator = [blocks[-1].id]
        except TransportError:
            return
        except Malformed as error:
            self.transport.penalise(peer, 20, f"pow_sync: {error}")

    async def _serve(self) -> None:
        while True:
            message = await self._sync.receive()
            if message.reply is None:
                continue
            try:
                data = Reader(message.payload)
                locator = data.vector(data.hash, 256)
            except Malformed as error:
                self.transport.penalise(message.peer, 20, f"pow_sync: {error}")
                continue
            page = [block.encode() for block in self.tree.after(locator, PAGE)]
            await message.reply(vector(page, blob))

    # --- reads and control ---

    def head(self) -> BlockRef:
        return self.log.head

    def final(self) -> BlockRef:
        return self.log.genesis

    async def block(self, id: bytes) -> BlockRecord | None:
        block = self.tree.get(id)
        if block is None:
            return None
        raw, done = block.encode(), await self.log.done(id)
        return BlockRecord(
            block.ref,
            block.parent.id,
            block.time,
            header(block.parent, block.time, block.bits, block.body()),
            raw,
            block.bundles,
            block.prologue,
            transactions=len(done.kept) + bool(block.prologue),
            size=len(raw),
            detail={"bits": block.bits, "chain_work": self.tree.work(id), "invalid": self.tree.invalid(id)},
        )

    async def block_at(self, height: int) -> BlockRecord | None:
        block = await self.log.at(height)
        return await self.block(block.id) if block is not None else None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        return await self.log.locate(ids)

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for place in await self.log.locate(ids):
            data = await self._bodies.get(place.bundle) if place is not None else None
            found.append(decode(data)[place.index] if data is not None and place is not None else None)
        return found

    async def bundle(self, id: bytes) -> bytes | None:
        return await self._bodies.get(id)

    async def query(self, kind: str, **arguments: Any) -> Any:
        """``refused``: {block id: why} of invalid blocks."""
        if kind != "refused":
            raise UnknownQuery(f"a proof-of-work chain answers 'refused', not {kind!r}")
        rows = (await self.log.store.scan(INVALID, limit=10_000)).items
        return {id: why.decode() for id, why in rows}

    async def control(self, command: str, **arguments: Any) -> Any:
        """``seal``: a bundle of what waits. ``generate`` (bundles): mine a block; returns its reference."""
        if command == "seal":
            return await self.seal()
        if command == "generate":
            return await self.generate(**arguments)
        raise UnknownControl(f"a proof-of-work chain knows 'seal' and 'generate', not {command!r}")

    def status(self) -> Mapping[str, Any]:
        return {"state": self._state, "head": str(self.log.head), "peers_ahead": 0}
