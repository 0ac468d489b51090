"""The trio shell of the two-chain protocol: carries out what ``bft_rules`` decides. Capability: instant finality.

What a block orders and how it is executed is its ``Payloads``' business (``bundles``, ``chunks``).

Invariants
- One task (``_core``) changes the rules' state; everything else sends it facts.
- A block enters the rules only when its parent and its payload are here and it is durable in the chain store.
- What is signed was written to the safety file and synced before. With a chain store that has blocks and no safety file
  (a copy, a restore), the node follows and signs nothing until ``control("allow_voting")``.
- A final block becomes durable in the order: bodies (before), block and decision in the chain store, execution state. State
  never leads the chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio
from attrs import evolve

from nodewright.errors import ControlRefused, PeerGone, TransportError, UnknownControl, UnknownQuery
from nodewright.interfaces import (
    HEAD,
    BlockRecord,
    BlockRef,
    BundleRef,
    Environment,
    EventLog,
    Execution,
    Location,
    Message,
    PeerUp,
    Transport,
)
from nodewright.storage.synced import write_synced
from nodewright.testing.shapes.bft_formats import (
    BftBlock,
    Certificate,
    TimeoutCertificate,
    Validators,
    timeout_message,
    vote_message,
)
from nodewright.testing.shapes.bft_rules import Effect, EnterRound, Finalise, Persist, Rules, Safety, SendTimeout, SendVote
from nodewright.testing.shapes.chain_log import ChainLog
from nodewright.testing.shapes.codec import Malformed, Reader, blob, digest, ref, u8, u32, u64, vector
from nodewright.testing.shapes.keys import Key, verify

BLOCK_SECONDS = 0.2
ROUND_SECONDS = 1.0
MAX_BACKOFF = 6
PAGE = 24
MAX_HELD = 256
MAX_WAITING_FACTS = 4096
PROPOSAL, VOTE, TIMEOUT = 1, 2, 3


class Payloads(Protocol):
    """What the blocks of a two-chain order, and what becomes of it."""

    async def recover(self, final: Sequence[BftBlock]) -> None:
        """``final`` are the final blocks that the execution may not have applied yet, oldest first."""

    async def run(self) -> None: ...

    async def propose(self, chain: Sequence[BftBlock]) -> bytes:
        """On top of ``chain``: the blocks above the final one, oldest first."""

    async def fetch(self, block: BftBlock, peer: bytes | None) -> bool:
        """Wait until all that the payload names is here and durable. False if it breaks a rule."""

    async def execute(self, block: BftBlock) -> bytes:
        """What a vote for the block says of its outcome (empty where it says nothing). The parent was executed."""

    async def finalise(self, block: BftBlock) -> None:
        """Decide in the chain store, then commit the execution, then settle the pool."""

    async def abandon(self, blocks: Sequence[BftBlock]) -> None:
        """These can never be final."""

    def refs(self, block: BftBlock) -> tuple[BundleRef, ...]: ...

    def detail(self) -> Mapping[str, Any]: ...


class TwoChain:
    """Implements ``Consensus`` together with a ``Payloads``."""

    capabilities = frozenset({"finality"})
    format = "two-chain/1"
    invalid_transaction = "discard"

    def __init__(
        self,
        validators: Validators,
        key: Key,
        log: ChainLog,
        execution: Execution,
        transport: Transport,
        events: EventLog,
        environment: Environment,
        document: Mapping[str, Any],
        peers: Mapping[int, bytes],
    ) -> None:
        self.validators = validators
        self.key = key
        self.log = log
        self.execution = execution
        self.transport = transport
        self.events = events
        self.environment = environment
        self.document = document
        self.node_of = peers  # validator index to node id
        self.payloads: Payloads
        self.rules = Rules(validators, validators.index(key.public), log.genesis, Safety())
        self._send, self._facts = trio.open_memory_channel[tuple[Any, ...]](math.inf)
        self._votes = transport.channel("two_chain", inbox=1024)
        self._sync = transport.channel("two_chain_sync", inbox=64)
        self._held: dict[bytes, dict[bytes, tuple[BftBlock, bytes | None]]] = {}
        self._fetching: dict[bytes, None] = {}
        self._unfinished: dict[bytes, BftBlock] = {}
        self._deadline = (0, 0.0)
        self._since_progress = 0
        self._syncing: dict[bytes, None] = {}
        self._state = "idle"
        self._nursery: trio.Nursery

    @property
    def _safety_file(self) -> Path:
        return self.environment.data_dir / "safety"

    # --- recovery ---

    async def recover(self) -> None:
        log, rules = self.log, self.rules
        await self.execution.genesis(self.document, log.genesis)
        safety = await self.environment.offload(_read_safety, self._safety_file)
        rules.may_sign = safety is not None or await log.is_empty()
        first = Certificate(0, log.genesis)
        rules.safety = safety or Safety(0, first)
        if rules.safety.highest.round == 0:
            rules.safety = evolve(rules.safety, highest=first)
        rules.final = log.head
        pending: list[BftBlock] = []
        head = log.head
        while head.height > 0:
            raw = await log.block(head.id)
            assert raw is not None
            pending.append(BftBlock.decode(raw))
            if head.height <= await self._lowest_applied():
                break  # the last applied one too: its transactions may not have been settled
            head = pending[-1].parent
        await self.payloads.recover(pending[::-1])
        for raw in await log.blocks_above(log.head.height):
            block = BftBlock.decode(raw)
            if block.parent.id == rules.final.id or block.parent.id in rules.blocks:
                rules.blocks[block.id] = block
        self._unfinished = dict(rules.blocks)
        for block in self._unfinished.values():
            await self.payloads.execute(block)

    async def _lowest_applied(self) -> int:
        kept = await self.execution.query(HEAD, "kept") if "sharded" in self.execution.capabilities else (0,)
        applied = [await self.execution.applied(shard) for shard in kept]
        return min((block.height for block in applied if block is not None), default=self.log.head.height)

    # --- running ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._receive)
            nursery.start_soon(self._serve)
            nursery.start_soon(self._greet)
            nursery.start_soon(self._timer)
            nursery.start_soon(self.payloads.run)
            self._send.send_nowait(("start",))
            self._state = "running"
            task_status.started()
            await self._core()

    async def _core(self) -> None:
        async for kind, *fact in self._facts:
            if kind == "start":
                await self._perform(self.rules.start())
            elif kind == "block":
                await self._on_block(*fact)
            elif kind == "ready":
                await self._insert(*fact)
            elif kind == "vote":
                await self._perform(self.rules.voted(*fact))
            elif kind == "timeout":
                certificate, *timeout = fact
                await self._perform(self.rules.certified(certificate) + self.rules.timed_out(*timeout))
            elif kind == "timer":
                await self._perform(self.rules.timer(*fact))
            elif kind == "propose":
                await self._propose(*fact)

    async def _on_block(self, block: BftBlock, peer: bytes | None) -> None:
        rules = self.rules
        if block.id in rules.blocks or block.ref.height <= rules.final.height or block.id in self._fetching:
            return
        if not block.valid(self.validators):
            if peer is not None:
                self.transport.penalise(peer, 50, "a block that its validators did not sign")
            return
        if block.parent.id != rules.final.id and block.parent.id not in rules.blocks:
            if len(self._held) < MAX_HELD:
                self._held.setdefault(block.parent.id, {})[block.id] = (block, peer)
            if block.parent.id not in self._fetching and peer is not None:
                self._ask(peer)
            return
        self._fetching[block.id] = None
        self._nursery.start_soon(self._fetch, block, peer)

    async def _fetch(self, block: BftBlock, peer: bytes | None) -> None:
        good = await self.payloads.fetch(block, peer)
        self._send.send_nowait(("ready", block, peer, good))

    async def _insert(self, block: BftBlock, peer: bytes | None, good: bool) -> None:
        self._fetching.pop(block.id, None)
        rules = self.rules
        waiting = self._held.pop(block.id, {})
        if not good:
            if peer is not None:
                self.transport.penalise(peer, 50, "a block whose payload breaks a rule")
            return
        if block.ref.height > rules.final.height and (block.parent.id == rules.final.id or block.parent.id in rules.blocks):
            await self.log.put_block(block.ref, block.encode())
            await self._perform(rules.insert(block))
            if block.id in rules.blocks:
                self._unfinished[block.id] = block
                commitment = await self.payloads.execute(block)
                self.events.publish("block_accepted", {"block": str(block.ref), "round": block.round})
                await self._perform(rules.vote(block, commitment))
        for held, source in waiting.values():
            self._send.send_nowait(("block", held, source))

    async def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                await self.environment.offload(_write_safety, self._safety_file, effect.safety)
            elif isinstance(effect, SendVote):
                await self._vote(effect)
            elif isinstance(effect, SendTimeout):
                await self._time_out(effect)
            elif isinstance(effect, EnterRound):
                self._enter(effect)
            elif isinstance(effect, Finalise):
                await self._finalise(effect)

    async def _finalise(self, effect: Finalise) -> None:
        self._since_progress = 0
        for block in effect.blocks:
            await self.payloads.finalise(block)
            self.events.publish("finalised", {"block": str(block.ref), "round": block.round})
        final = dict.fromkeys(block.id for block in effect.blocks)
        kept = self.rules.blocks
        await self.payloads.abandon([b for b in self._unfinished.values() if b.id not in kept and b.id not in final])
        self._unfinished = dict(kept)

    async def _vote(self, effect: SendVote) -> None:
        me, block = self.rules.me, effect.block
        assert me is not None
        signature = self.key.sign(vote_message(block.round, block.ref, effect.commitment))
        self.events.publish("vote", {"block": str(block.ref), "round": block.round})
        if effect.to == me:
            self._send.send_nowait(("vote", block.round, block.ref, effect.commitment, me, signature))
            return
        body = u8(VOTE) + u32(me) + u64(block.round) + ref(block.ref) + blob(effect.commitment) + signature
        try:
            await self._votes.send(self.node_of[effect.to], body)
        except PeerGone:
            self.environment.logger.debug("vote not sent", round=block.round, to=effect.to)

    async def _time_out(self, effect: SendTimeout) -> None:
        me, certificate = self.rules.me, effect.certificate
        assert me is not None
        signature = self.key.sign(timeout_message(effect.round, certificate.round))
        self._send.send_nowait(("timeout", certificate, effect.round, certificate.round, me, signature))
        await self._votes.broadcast(u8(TIMEOUT) + u32(me) + u64(effect.round) + certificate.encode() + signature)

    def _enter(self, effect: EnterRound) -> None:
        backoff = 1.2 ** min(self._since_progress, MAX_BACKOFF)
        self._since_progress += 1
        self._deadline = (effect.round, self.environment.monotonic() + ROUND_SECONDS * backoff)
        if effect.lead:
            self._nursery.start_soon(self._propose_later, effect.round, effect.timeout)

    async def _propose_later(self, round: int, timeout: TimeoutCertificate | None) -> None:
        await self.environment.sleep(BLOCK_SECONDS)
        self._send.send_nowait(("propose", round, timeout))

    async def _propose(self, round: int, timeout: TimeoutCertificate | None) -> None:
        rules = self.rules
        if rules.round != round or not rules.may_sign or rules.me is None:
            return
        certificate = rules.safety.highest
        chain = rules.ancestors(certificate.block.id)
        if not chain and certificate.block.id != rules.final.id:
            return  # the certified block is not here yet: let the round pass
        payload = await self.payloads.propose(chain)
        time = int(self.environment.now())
        block = BftBlock.make(self.key, round, rules.me, time, certificate, timeout, payload)
        await self._votes.broadcast(u8(PROPOSAL) + block.encode())
        self._send.send_nowait(("block", block, None))

    async def _timer(self) -> None:
        while True:
            round, at = self._deadline
            await self.environment.sleep(max(at - self.environment.monotonic(), 0.05))
            if self._deadline[0] == round and round > 0 and self.environment.monotonic() >= self._deadline[1]:
                self._deadline = (round, self.environment.monotonic() + ROUND_SECONDS)
                self._send.send_nowait(("timer", round))

    # --- messages ---

    async def _receive(self) -> None:
        while True:
            message = await self._votes.receive()
            if self._facts.statistics().current_buffer_used > MAX_WAITING_FACTS:
                continue  # blocks are asked for again, timeouts said again: what is dropped here costs time only
            try:
                self._on_message(message)
            except Malformed as error:
                self.transport.penalise(message.peer, 20, f"two_chain: {error}")

    def _on_message(self, message: Message) -> None:
        kind, body = message.payload[:1], Reader(message.payload[1:])
        if kind == u8(PROPOSAL):
            self._send.send_nowait(("block", BftBlock.decode(message.payload[1:]), message.peer))
            return
        voter = body.u32()
        if voter >= len(self.validators.keys) or self.node_of[voter] != message.peer:
            raise Malformed("it speaks for another validator")
        round, key = body.u64(), self.validators.keys[voter]
        if kind == u8(VOTE):
            block, commitment, signature = body.ref(), body.blob(1024), body.take(64)
            body.finish()
            if not verify(key, vote_message(round, block, commitment), signature):
                raise Malformed("the vote is not signed")
            self._send.send_nowait(("vote", round, block, commitment, voter, signature))
        elif kind == u8(TIMEOUT):
            certificate, signature = Certificate.decode(body), body.take(64)
            body.finish()
            signed = certificate.round == 0 or self.validators.signed(
                certificate.message(), certificate.signatures, self.validators.quorum
            )
            if not signed or not verify(key, timeout_message(round, certificate.round), signature):
                raise Malformed("the timeout is not signed")
            self._send.send_nowait(("timeout", certificate, round, certificate.round, voter, signature))
            if certificate.block.id not in self.rules.blocks and certificate.block.height > self.rules.final.height:
                self._ask(message.peer)
        else:
            raise Malformed("unknown kind of message")

    async def _greet(self) -> None:
        async for event in self.transport.events():
            if isinstance(event, PeerUp):
                self._ask(event.peer.id)

    def _ask(self, peer: bytes) -> None:
        if peer not in self._syncing:
            self._syncing[peer] = None
            self._nursery.start_soon(self._catch_up, peer)

    async def _catch_up(self, peer: bytes) -> None:
        """Blocks above the final one from this peer, page by page until it has no more that are new."""
        after = 0
        try:
            while True:
                after = max(after, self.rules.final.height)
                answer = Reader(await self._sync.request(peer, u64(after), timeout_seconds=2.0))
                blocks = [BftBlock.decode(raw) for raw in answer.vector(answer.blob, PAGE)]
                for block in blocks:
                    self._send.send_nowait(("block", block, peer))
                if len(blocks) < PAGE:
                    return
                after = blocks[-1].ref.height
        except TransportError:
            return
        except Malformed as error:
            self.transport.penalise(peer, 20, f"two_chain_sync: {error}")
        finally:
            self._syncing.pop(peer, None)

    async def _serve(self) -> None:
        while True:
            message = await self._sync.receive()
            if message.reply is None or len(message.payload) != 8:
                self.transport.penalise(message.peer, 10, "two_chain_sync: not a request for blocks")
                continue
            height = int.from_bytes(message.payload, "big")
            page: list[bytes] = []
            while len(page) < PAGE and height < self.log.head.height:
                height += 1
                block = await self.log.at(height)
                raw = await self.log.block(block.id) if block is not None else None
                if raw is not None:
                    page.append(raw)
            if len(page) < PAGE:
                unfinished = sorted(self.rules.blocks.values(), key=lambda block: block.round)
                page += [block.encode() for block in unfinished if block.ref.height > height][: PAGE - len(page)]
            await message.reply(vector(page, blob))

    # --- reads and control ---

    def head(self) -> BlockRef:
        return self.log.head

    def final(self) -> BlockRef:
        return self.log.head

    async def block(self, id: bytes) -> BlockRecord | None:
        raw = await self.log.block(id)
        if raw is None:
            return None
        block, done = BftBlock.decode(raw), await self.log.done(id)
        return BlockRecord(
            block.ref,
            block.parent.id,
            block.time,
            raw,
            raw,
            self.payloads.refs(block),
            transactions=len(done.kept),
            size=len(raw),
            detail={"round": block.round, "author": block.author, "commitment": done.commitment.hex()},
        )

    async def block_at(self, height: int) -> BlockRecord | None:
        block = await self.log.at(height)
        return await self.block(block.id) if block is not None else None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        return await self.log.locate(ids)

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for place in await self.log.locate(ids):
            data = await self.bundle(place.bundle) if place is not None else None
            reader = Reader(data) if data is not None else None
            found.append(reader.vector(reader.blob)[place.index] if reader is not None and place is not None else None)
        return found

    async def bundle(self, id: bytes) -> bytes | None:
        found = await self.query("bundle", id=id)
        return found if isinstance(found, bytes) else None

    async def query(self, kind: str, **arguments: Any) -> Any:
        """``validators``: their keys. Others are the payloads'."""
        if kind == "validators":
            return self.validators.keys
        known = self.payloads.detail()
        if kind not in known:
            raise UnknownQuery(f"a two-chain answers 'validators', {', '.join(map(repr, known))}, not {kind!r}")
        answer = known[kind]
        return await answer(**arguments) if callable(answer) else answer

    async def control(self, command: str, **arguments: Any) -> Any:
        """``allow_voting``: the operator vouches that this node signed nothing beyond what its peers show."""
        if command != "allow_voting":
            raise UnknownControl(f"a two-chain knows 'allow_voting', not {command!r}")
        if self.rules.me is None:
            raise ControlRefused("this node is not a validator")
        self.rules.may_sign = True

    def status(self) -> Mapping[str, Any]:
        return {"state": self._state, "head": str(self.log.head), "peers_ahead": 0, "round": self.rules.round}


def genesis_ref(document: Mapping[str, Any]) -> BlockRef:
    return BlockRef(0, digest(b"genesis", document["hash"]))


def _read_safety(path: Path) -> Safety | None:
    try:
        data = Reader(path.read_bytes())
    except FileNotFoundError:
        return None
    return Safety(data.u64(), Certificate.decode(data))


def _write_safety(path: Path, safety: Safety) -> None:
    write_synced(path, u64(safety.voted) + safety.highest.encode())
