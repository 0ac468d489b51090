"""What nodes of one network say to each other, and following what the others have.

Channels: ``near.block`` (``B`` block, from who made it; ``N`` height u64 ‖ hash, from who accepted it), ``near.vote``
(approvals to the producer of their target, endorsements to the producers of the next heights), ``near.tx`` (transactions
on their way to who makes their chunk), ``near.request``:
  ``S`` → height u64 ‖ hash of the head, and for a validator its account and its signature over the node's key;
  ``B`` ‖ height u64 → blocks of the replier's chain above that height, each behind its length u32, as many as fit.
Chunks: see ``delivery``; witnesses: ``witnessing``. Every validator is to be connected to every other: what is meant for
one whose peer is not known is said to all.

Invariants:
- each peer is followed by a task of its own: what one withholds or delays costs the others nothing;
- a block or chunk is believed only after its checks; who sends one that breaks a rule is penalised, by name;
- how high a peer says to be is a claim: who has no blocks for it is not believed until it gives some, and this node gives
  up running blocks only where validators with more than a third of its epoch's stake are that far ahead;
- everything that waits for a peer is bounded: MAX_WAITING messages, one fetch of a block at a time, AT_WORK chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from attrs import define, field

from nodewright.errors import PeerGone, RequestTimeout
from nodewright.interfaces.common import Admitted
from nodewright.interfaces.execution import StateParts
from nodewright.interfaces.transport import Message, PeerUp, Transport
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.chunks import ChunkEndorsement
from nodewright_near.headers import Approval
from nodewright_near.primitives import hash256
from nodewright_nightshade.blocks import MAX_BLOCK_BYTES, Block, FutureBlock, InvalidBlock
from nodewright_nightshade.chain import Chain, MissingChunks, UnknownParent
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.delivery import Delivery, Unavailable
from nodewright_nightshade.keys import Signer, verify
from nodewright_nightshade.parts import Parts
from nodewright_nightshade.producer import Producer, Said
from nodewright_nightshade.statesync import StateSync, far_behind
from nodewright_nightshade.witnessing import Witnesses

MAX_WAITING = 128
MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = MAX_BLOCK_BYTES + 1024
MAX_TRANSACTIONS_BYTES = 2 * 1024 * 1024
MAX_HEARD = 1_000_000
INVALID_POINTS = 100
MALFORMED_POINTS = 20
WITHHELD_POINTS = 10
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
STATUS_SECONDS = 10.0
TOLD = 8  # peers that hear of a block from who only accepted it
GRACE_SECONDS = 0.3


@define(eq=False)
class Peer:
    id: bytes
    send: trio.MemorySendChannel[Block]
    receive: trio.MemoryReceiveChannel[Block]
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    height: int = 0
    account: str | None = None  # the validator that it has shown to be
    wake: trio.Event = field(factory=trio.Event)
    told: int = 0  # blocks of which it said that it has them, and that are waited for
    believed: bool = True  # whether it gave blocks when it last said to have some above this node's


def identity(node_id: bytes) -> bytes:
    """What a validator signs so that others know its node."""
    return b"nodewright near validator" + node_id


class Network:
    def __init__(self, chain: Chain, config: NightshadeConfig, transport: Transport, signer: Signer | None) -> None:
        self.chain = chain
        self.transport = transport
        self._timeout = config.request_timeout_seconds
        self._blocks = transport.channel("near.block", 64, "oldest", MAX_MESSAGE_BYTES)
        self._votes = transport.channel("near.vote", 4096, "oldest", 4096)
        self._txs = transport.channel("near.tx", 64, "block", MAX_TRANSACTIONS_BYTES + 65536)
        self._requests = transport.channel("near.request", 64, "block", MAX_REPLY_BYTES + MAX_MESSAGE_BYTES)
        self._peers: dict[bytes, Peer] = {}
        self._by_account: dict[str, bytes] = {}
        self._seen: dict[bytes, None] = {}
        self._heard: set[bytes] = set()  # transactions that came from a peer: not to be forwarded at once
        self._producer: Producer | None = None
        self._nursery: trio.Nursery | None = None
        self._shown = b""
        self._account = signer.account if signer is not None else None
        if signer is not None:
            account = signer.account.encode()
            self._shown = bytes([len(account)]) + account + signer.sign(identity(transport.node_id))
        self.delivery = Delivery(
            chain, transport, self._timeout, self._by_account.get, self._accuse, lambda: list(self._peers)
        )
        self.state_sync: StateSync | None = None
        if isinstance(chain.execution, StateParts):
            self.state_sync = StateSync(
                chain,
                chain.execution,
                transport,
                self._timeout,
                self.delivery,
                self._wanted,
                lambda: self.behind,
                self._accuse,
            )
        self._config = config
        self.witnesses = Witnesses(chain, transport, self._timeout, self._offered, self._accuse)

    def _wanted(self) -> set[int]:
        """The shards that this node is to keep: those that it makes chunks for, now or in the next epoch."""
        chain, shards = self.chain, range(self.chain.genesis.network.shards)
        if self._config.track == "all":
            return set(shards)
        ids = {chain.chunk_epoch(chain.head.info)}
        for info in (chain.final.info, chain.head.info):
            ids |= {info.epoch_id, info.next_epoch_id}
        epochs = [chain.epochs.of(id) for id in ids]
        return {
            shard
            for epoch in epochs
            for shard in shards
            if self._account is not None and epoch.places.get(self._account, -1) in epoch.chunk_producers[shard]
        }

    @property
    def peers_ahead(self) -> int:
        return sum(peer.believed and peer.height > self.chain.head.info.height + 1 for peer in self._peers.values())

    @property
    def behind(self) -> bool:
        return any(peer.believed and peer.height > self.chain.head.info.height + 3 for peer in self._peers.values())

    def _far_behind(self) -> bool:
        """More than a third of the stake: somebody honest is among them."""
        chain, epochs = self.chain, self._config.state_sync_epochs
        validators = chain.epochs.of(chain.head.info.epoch_id).validators
        ahead = 0
        for one in validators:
            peer = self._peers.get(self._by_account.get(one.account, b""))
            if peer is not None and far_behind(chain, peer.height, epochs):
                ahead += one.stake
        return 3 * ahead > sum(one.stake for one in validators)

    # --- saying ---

    async def say(self, said: Said, to: Sequence[str] = ()) -> None:
        """``to``: the validators it is for."""
        if isinstance(said, Block):
            raw = said.encode()
            self._has_seen(raw)
            await self._blocks.broadcast(b"B" + raw)
        elif isinstance(said, Chunk):
            parent = self.chain.held.get(said.header.inner.prev_block_hash)
            places = self.chain.epochs.of(self.chain.chunk_epoch(parent.info)).places if parent is not None else {}
            known = self._by_account.items()
            await self.delivery.push(said, {id: places[account] for account, id in known if account in places})
        else:
            vote = (b"A" if isinstance(said, Approval) else b"E") + encode(said)
            peers = {self._by_account.get(account) for account in to if account != self._account}
            if None in peers:
                await self._votes.broadcast(vote)
                return
            for peer in sorted(one for one in peers if one is not None):
                try:
                    await self._votes.send(peer, vote)
                except PeerGone:
                    continue

    async def forward(self, raws: Sequence[tuple[bytes, bytes]], again: bool = False) -> None:
        """Transactions (id, raw) that were posted here, to all: one of them makes the chunk. ``again``: also those that
        came from peers."""
        if not self.transport.peers():
            return
        batch: list[bytes] = []
        size = 0
        for id, raw in raws:
            if id in self._heard and not again:
                self._heard.discard(id)
                continue
            if size + len(raw) > MAX_TRANSACTIONS_BYTES and batch:
                await self._txs.broadcast(b"".join(batch))
                batch, size = [], 0
            batch.append(len(raw).to_bytes(4, "little") + raw)
            size += len(raw)
        if batch:
            await self._txs.broadcast(b"".join(batch))

    # --- hearing ---

    async def run(self, producer: Producer) -> None:
        self._producer = producer
        producer.waiting.forward = self.forward
        producer.shows = self._shows
        producer.prove = self._prove
        self.delivery.gathered = producer.offer
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._follow_peers, nursery)
            nursery.start_soon(self._hear_blocks)
            nursery.start_soon(self._hear_chunks, nursery)
            nursery.start_soon(self._hear_votes)
            nursery.start_soon(self._hear_transactions)
            nursery.start_soon(self._answer)
            nursery.start_soon(self._head_moves)
            if self.state_sync is not None:
                nursery.start_soon(self.state_sync.run)

    async def _follow_peers(self, nursery: trio.Nursery) -> None:
        async for event in self.transport.events():
            old = self._peers.pop(event.peer.id, None)
            if old is not None:
                old.scope.cancel()
                if old.account is not None and self._by_account.get(old.account) == old.id:
                    del self._by_account[old.account]
            if isinstance(event, PeerUp):
                send, receive = trio.open_memory_channel[Block](MAX_WAITING)
                peer = self._peers[event.peer.id] = Peer(event.peer.id, send, receive)
                nursery.start_soon(self._follow, peer)

    async def _follow(self, peer: Peer) -> None:
        with peer.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._catch_up, peer)
                async for block in peer.receive:
                    try:
                        await self._take_block(peer, block)
                    except Unavailable as error:
                        self.chain.environment.logger.debug("not had", peer=peer.id.hex()[:16], reason=str(error))

    def _blame(self, peer: bytes, points: int, reason: str) -> None:
        self.transport.penalise(peer, points, reason)

    def _accuse(self, peer: bytes, reason: str) -> None:
        self._blame(peer, INVALID_POINTS, reason)

    def _offered(self, id: bytes) -> Chunk | None:
        return self._producer.chunk(id) if self._producer is not None else None

    async def _shows(self, chunk: Chunk, producers: Sequence[str]) -> bool:
        known = self._by_account
        return await self.witnesses.shows(chunk, [known[one] for one in producers if one in known])

    async def _prove(self, chunk: Chunk) -> None:
        """At once, where some validator will ask for it."""
        if len(self._by_account) and len(self.chain.tracked) < self.chain.genesis.network.shards:
            await self.witnesses.size(chunk.hash)

    def _has_seen(self, raw: bytes) -> bool:
        key = hash256(raw)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > 1024:
            self._seen.pop(next(iter(self._seen)))
        return False

    async def _hear_blocks(self) -> None:
        while True:
            message = await self._blocks.receive()
            kind, raw = message.payload[:1], message.payload[1:]
            peer = self._peers.get(message.peer)
            if peer is None:
                continue
            if kind == b"N" and len(raw) == 40:
                assert self._nursery is not None
                height, id = int.from_bytes(raw[:8], "little"), raw[8:]
                if height > self.chain.final.info.height and id not in self.chain.held and peer.told < TOLD:
                    peer.told += 1
                    peer.height = max(peer.height, min(height, self.chain.head.info.height + 1_000_000))
                    self._nursery.start_soon(self._told, peer, id)
                continue
            if kind == b"B" and self._has_seen(raw):
                continue
            try:
                if kind != b"B":
                    raise Malformed("a message of no known kind")
                peer.send.send_nowait(Block.decode(raw))
            except Malformed as error:
                self._blame(message.peer, MALFORMED_POINTS, f"a block that cannot be read: {error}")
            except trio.WouldBlock:
                pass  # what is dropped is caught up with

    async def _told(self, peer: Peer, id: bytes) -> None:
        """A peer has a block: it is asked for unless it comes by itself."""
        with trio.move_on_after(GRACE_SECONDS):
            while id not in self.chain.held:
                await self.chain.moved()
        peer.told -= 1
        if id not in self.chain.held:
            peer.wake.set()

    async def _hear_chunks(self, nursery: trio.Nursery) -> None:
        while True:
            message = await self.delivery.channel.receive()
            if self._has_seen(message.payload):
                continue
            try:
                parts = decode(Parts, message.payload)
                nursery.start_soon(self.delivery.take, message.peer, parts, message.payload)
            except Malformed as error:
                self._blame(message.peer, MALFORMED_POINTS, f"parts of a chunk that cannot be read: {error}")

    async def _hear_votes(self) -> None:
        assert self._producer is not None
        while True:
            message = await self._votes.receive()
            kind, body = message.payload[:1], message.payload[1:]
            try:
                if kind == b"A":
                    good = self._producer.approved(decode(Approval, body))
                elif kind == b"E":
                    good = self._producer.endorsed(decode(ChunkEndorsement, body))
                else:
                    raise Malformed("a vote of no known kind")
            except Malformed as error:
                self._blame(message.peer, MALFORMED_POINTS, str(error))
                continue
            # Of a later epoch's validators a node that is behind does not know yet.
            if not good and not self.behind:
                self._blame(message.peer, MALFORMED_POINTS, "a vote that no validator signed")

    async def _hear_transactions(self) -> None:
        while True:
            message = await self._txs.receive()
            raws, at, data = [], 0, message.payload
            while at + 4 <= len(data):
                size = int.from_bytes(data[at : at + 4], "little")
                raws.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            if at != len(data):
                self._blame(message.peer, MALFORMED_POINTS, "transactions that cannot be read")
                continue
            answers = await self.chain.pool.submit(raws, f"peer:{message.peer.hex()}")
            new = [one.id for one in answers if isinstance(one, Admitted) and not one.known]
            if len(self._heard) + len(new) > MAX_HEARD:
                self._heard.clear()
            self._heard.update(new)

    async def _head_moves(self) -> None:
        assert self._producer is not None
        while True:
            await self.chain.moved()
            await self._producer.retry_endorsements()

    # --- blocks of one peer ---

    async def _take_block(self, peer: Peer, block: Block) -> None:
        peer.height = max(peer.height, min(block.height, self.chain.head.info.height + 1_000_000))
        bodies: dict[bytes, Chunk] = {}
        while True:
            try:
                if await self.chain.accept(block, bodies):
                    await self._tell(block, peer)
                return
            except UnknownParent:
                peer.wake.set()
                return
            except MissingChunks:
                before = len(bodies)
                for shard, header in enumerate(block.body.chunks):
                    if block.is_new(shard) and header.hash() not in bodies:
                        bodies[header.hash()] = await self.delivery.gather(header, peer.id)
                if len(bodies) == before:
                    raise Unavailable("bodies of a block") from None
            except FutureBlock as error:
                self._blame(peer.id, MALFORMED_POINTS, f"block {block.hash.hex()[:16]}: {error}")
                return
            except InvalidBlock as error:
                self._blame(peer.id, INVALID_POINTS, f"block {block.hash.hex()[:16]}: {error}")
                return

    async def _tell(self, block: Block, source: Peer) -> None:
        """Some others: for them it is not from who made it."""
        others = [one for one in self._peers if one != source.id]
        chosen = self.chain.environment.random.sample(others, min(TOLD, len(others)))
        for peer in chosen:
            try:
                await self._blocks.send(peer, b"N" + block.height.to_bytes(8, "little") + block.hash)
            except PeerGone:
                continue

    # --- catching up ---

    async def _ask(self, peer: bytes, payload: bytes) -> bytes | None:
        try:
            return await self._requests.request(peer, payload, self._timeout)
        except (PeerGone, RequestTimeout):
            return None

    async def _catch_up(self, peer: Peer) -> None:
        pause = RETRY_SECONDS
        while True:
            peer.wake = trio.Event()
            status = await self._ask(peer.id, b"S")
            if status is not None and not self._read_status(peer, status):
                self._blame(peer.id, MALFORMED_POINTS, "a status that cannot be read")
                status = None
            moved = False
            if self.state_sync is not None and self._far_behind():
                await self.state_sync.begin()
            if peer.height > self.chain.head.info.height or (status and await self.chain.find(status[8:40]) is None):
                moved = await self._blocks_from(peer)
                peer.believed = moved or peer.height <= self.chain.head.info.height
            pause = RETRY_SECONDS if moved else min(MAX_RETRY_SECONDS, 2 * pause)
            with trio.move_on_after(0.0 if moved else max(pause, STATUS_SECONDS)):
                await self.chain.environment.sleep(min(pause, RETRY_SECONDS))
                await peer.wake.wait()

    def _read_status(self, peer: Peer, status: bytes) -> bool:
        peer.height = int.from_bytes(status[:8], "little")
        shown = status[40:]
        if len(status) == 40 or peer.account is not None:
            return len(status) >= 40
        account, signature = shown[1 : 1 + shown[0]] if shown else b"", shown[1 + shown[0] :] if shown else b""
        name = account.decode("ascii", "replace")
        keys = self.chain.keys_of(name)
        if any(verify(key, identity(peer.id), signature) for key in keys):
            peer.account = name
            self._by_account[name] = peer.id
        # Who is no validator now may have been one, or may yet be.
        return len(signature) == 65

    async def _blocks_from(self, peer: Peer) -> bool:
        """Blocks above the final one, page by page; whether any was new."""
        after, moved = self.chain.final.info.height, False
        while True:
            reply = await self._ask(peer.id, b"B" + after.to_bytes(8, "little"))
            if not reply:
                return moved
            try:
                found = read_blocks(reply)
            except Malformed as error:
                self._blame(peer.id, MALFORMED_POINTS, f"blocks that cannot be read: {error}")
                return moved
            for block in found:
                if block.height <= after:
                    self._blame(peer.id, MALFORMED_POINTS, "blocks below what was asked for")
                    return moved
                after = block.height
                if await self.chain.find(block.hash) is not None:
                    continue
                before = len(self.chain.held)
                try:
                    await self._take_block(peer, block)
                except Unavailable:
                    self._blame(peer.id, WITHHELD_POINTS, f"it has not the chunks of its block {block.hash.hex()[:16]}")
                    return moved
                if await self.chain.find(block.hash) is None:
                    return moved
                moved = moved or len(self.chain.held) != before
            if not found:
                return moved

    async def _answer(self) -> None:
        async with trio.open_nursery() as nursery:
            limiters: dict[bytes, trio.CapacityLimiter] = {}
            waiting: dict[bytes, int] = {}

            async def one(message: Message) -> None:
                try:
                    async with limiters.setdefault(message.peer, trio.CapacityLimiter(2)):
                        reply = await self._reply(message.payload)
                        if message.reply is not None:
                            await message.reply(reply)
                except Malformed as error:
                    self._blame(message.peer, MALFORMED_POINTS, str(error))
                except PeerGone:
                    pass
                finally:
                    waiting[message.peer] -= 1
                    if not waiting[message.peer]:
                        del waiting[message.peer], limiters[message.peer]

            while True:
                message = await self._requests.receive()
                if waiting.get(message.peer, 0) < 32:
                    waiting[message.peer] = waiting.get(message.peer, 0) + 1
                    nursery.start_soon(one, message)

    async def _reply(self, payload: bytes) -> bytes:
        kind, body = payload[:1], payload[1:]
        if kind == b"S" and not body:
            head = self.chain.head.info
            return head.height.to_bytes(8, "little") + head.hash + self._shown
        if kind == b"B" and len(body) == 8:
            return await self._blocks_above(int.from_bytes(body, "little"))
        raise Malformed("a request of no known form")

    async def _blocks_above(self, after: int) -> bytes:
        out = bytearray()
        height, head = after + 1, self.chain.head.info.height
        while height <= head and len(out) < MAX_REPLY_BYTES:
            held: Any = await self.chain.at(height)
            if held is not None:
                raw = held.block.encode()
                out += len(raw).to_bytes(4, "little") + raw
            height += 1
        return bytes(out)


def read_blocks(data: bytes) -> list[Block]:
    """Raises Malformed."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise Malformed("a block is cut off")
        found.append(Block.decode(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found
