"""What nodes of one network say to each other, and following what the others have.

Channels: ``near.block`` (blocks), ``near.vote`` (approvals and endorsements), ``near.chunk`` (chunk headers, whose bodies
are fetched), ``near.tx`` (transactions on their way to who makes their chunk), ``near.request``:
  ``S`` → height u64 ‖ hash of the head; ``B`` ‖ height u64 → blocks of the replier's chain above that height, in order,
  each behind its length u32, as many as fit.
Body ``near_chunk`` by chunk hash.

Invariants:
- each peer is followed by a task of its own: what one withholds or delays costs the others nothing;
- a block or chunk is believed only after its checks; who sends one that breaks a rule is penalised, by name;
- everything that waits for a peer is bounded: MAX_WAITING messages, one fetch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from attrs import define, field

from nodewright.errors import BodyTooLarge, NotHere, PeerGone, RequestTimeout
from nodewright.interfaces.transport import Message, PeerUp, Transport
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.chunks import MAX_CHUNK_BYTES, ChunkEndorsement
from nodewright_near.headers import CHUNK_HEADER, Approval, ChunkHeader
from nodewright_nightshade import chunking
from nodewright_nightshade.blocks import MAX_BLOCK_BYTES, Block, InvalidBlock, chunk_signing_message
from nodewright_nightshade.chain import Chain, MissingChunks, UnknownParent
from nodewright_nightshade.chunking import Chunk, InvalidChunk
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.keys import verify
from nodewright_nightshade.producer import Producer

MAX_WAITING = 128
MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = MAX_BLOCK_BYTES + 1024
MAX_TRANSACTIONS_BYTES = 2 * 1024 * 1024
BODY_CHUNK = "near_chunk"
INVALID_POINTS = 100
MALFORMED_POINTS = 20
WITHHELD_POINTS = 10
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
STATUS_SECONDS = 10.0


class Unavailable(Exception):
    pass


@define(eq=False)
class Peer:
    id: bytes
    send: trio.MemorySendChannel[Block | ChunkHeader]
    receive: trio.MemoryReceiveChannel[Block | ChunkHeader]
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    height: int = 0
    wake: trio.Event = field(factory=trio.Event)


class Bodies:
    """Chunk bodies for others: of blocks, and of chunks on offer."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def _body(self, id: bytes) -> bytes | None:
        chunk = self._network.recent.get(id) or await self._network.chain.store.chunk(id)
        return None if chunk is None else encode(chunk.body)

    async def size(self, id: bytes) -> int | None:
        body = await self._body(id)
        return None if body is None else len(body)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return (await self._body(id) or b"")[offset : offset + length]


class Network:
    def __init__(self, chain: Chain, config: NightshadeConfig, transport: Transport) -> None:
        self.chain = chain
        self.transport = transport
        self.recent: dict[bytes, Chunk] = {}
        self._timeout = config.request_timeout_seconds
        self._blocks = transport.channel("near.block", 64, "oldest", MAX_MESSAGE_BYTES)
        self._votes = transport.channel("near.vote", 4096, "oldest", 4096)
        self._chunks = transport.channel("near.chunk", 256, "oldest", 64 * 1024)
        self._txs = transport.channel("near.tx", 64, "block", MAX_TRANSACTIONS_BYTES + 65536)
        self._requests = transport.channel("near.request", 64, "block", MAX_REPLY_BYTES + MAX_MESSAGE_BYTES)
        self._peers: dict[bytes, Peer] = {}
        self._producer: Producer | None = None
        transport.provide(BODY_CHUNK, Bodies(self))

    @property
    def peers_ahead(self) -> int:
        return sum(peer.height > self.chain.head.info.height + 1 for peer in self._peers.values())

    @property
    def behind(self) -> bool:
        return any(peer.height > self.chain.head.info.height + 3 for peer in self._peers.values())

    # --- saying ---

    async def say(self, said: Approval | ChunkEndorsement | Block | Chunk) -> None:
        if isinstance(said, Block):
            await self._blocks.broadcast(said.encode())
        elif isinstance(said, Chunk):
            self._remember(said)
            await self._chunks.broadcast(encode(said.header, CHUNK_HEADER))
        elif isinstance(said, Approval):
            await self._votes.broadcast(b"A" + encode(said))
        else:
            await self._votes.broadcast(b"E" + encode(said))

    def _remember(self, chunk: Chunk) -> None:
        self.recent[chunk.hash] = chunk
        while len(self.recent) > MAX_WAITING:
            self.recent.pop(next(iter(self.recent)))

    async def forward(self, raws: Sequence[bytes]) -> None:
        """Transactions that were posted here, to all: one of them makes the chunk."""
        batch: list[bytes] = []
        size = 0
        for raw in raws:
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
        producer.forward = self.forward
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_peers, nursery)
            nursery.start_soon(self._hear_blocks)
            nursery.start_soon(self._hear_chunks)
            nursery.start_soon(self._hear_votes)
            nursery.start_soon(self._hear_transactions)
            nursery.start_soon(self._answer)
            nursery.start_soon(self._head_moves)

    async def _follow_peers(self, nursery: trio.Nursery) -> None:
        async for event in self.transport.events():
            old = self._peers.pop(event.peer.id, None)
            if old is not None:
                old.scope.cancel()
            if isinstance(event, PeerUp):
                send, receive = trio.open_memory_channel[Block | ChunkHeader](MAX_WAITING)
                peer = self._peers[event.peer.id] = Peer(event.peer.id, send, receive)
                nursery.start_soon(self._follow, peer)

    async def _follow(self, peer: Peer) -> None:
        with peer.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._catch_up, peer)
                async for said in peer.receive:
                    try:
                        if isinstance(said, Block):
                            await self._take_block(peer, said)
                        else:
                            await self._take_chunk(peer, said)
                    except Unavailable as error:
                        self.chain.environment.logger.debug("not had", peer=peer.id.hex()[:16], reason=str(error))

    def _blame(self, peer: bytes, points: int, reason: str) -> None:
        self.transport.penalise(peer, points, reason)

    def _push(self, peer: bytes, said: Block | ChunkHeader) -> None:
        known = self._peers.get(peer)
        if known is not None:
            try:
                known.send.send_nowait(said)
            except trio.WouldBlock:
                pass  # what is dropped is caught up with

    async def _hear_blocks(self) -> None:
        while True:
            message = await self._blocks.receive()
            try:
                self._push(message.peer, Block.decode(message.payload))
            except Malformed as error:
                self._blame(message.peer, MALFORMED_POINTS, f"a block that cannot be read: {error}")

    async def _hear_chunks(self) -> None:
        while True:
            message = await self._chunks.receive()
            try:
                self._push(message.peer, decode(CHUNK_HEADER, message.payload))
            except Malformed as error:
                self._blame(message.peer, MALFORMED_POINTS, f"a chunk header that cannot be read: {error}")

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
            if not good:
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
            await self.chain.pool.submit(raws, f"peer:{message.peer.hex()}")

    async def _head_moves(self) -> None:
        assert self._producer is not None
        while True:
            await self.chain.moved()
            await self._producer.retry_endorsements()

    # --- blocks and chunks of one peer ---

    async def _fetch(self, peer: bytes, header: ChunkHeader) -> Chunk:
        id = header.hash()
        known = self.recent.get(id) or await self.chain.store.chunk(id)
        if known is not None:
            return Chunk(header, known.body)
        others = [one.id for one in self.transport.peers() if one.id != peer]
        self.chain.environment.random.shuffle(others)
        limit = min(MAX_CHUNK_BYTES, header.inner.encoded_length)
        for source in [peer, *others]:
            data = bytearray()
            try:
                async for piece in self.transport.fetch(source, BODY_CHUNK, id, limit, timeout_seconds=self._timeout):
                    data += piece
            except (PeerGone, RequestTimeout, NotHere, BodyTooLarge):
                continue
            try:
                chunk = await self.chain.environment.offload(
                    chunking.read,
                    header,
                    bytes(data),
                    len(self.chain.genesis.validators),
                    self.chain.genesis.boundaries,
                )
            except InvalidChunk as error:
                self._blame(source, MALFORMED_POINTS, f"its body of chunk {id.hex()[:16]}: {error}")
                continue
            self._remember(chunk)
            return chunk
        raise Unavailable(f"no peer has the body of chunk {id.hex()}")

    async def _take_chunk(self, peer: Peer, header: ChunkHeader) -> None:
        """A chunk for the next block: its producer's signature, then its body."""
        assert self._producer is not None
        inner = header.inner
        if header.height_included or not 0 <= inner.shard_id < self.chain.genesis.network.shards:
            self._blame(peer.id, MALFORMED_POINTS, "a chunk header of no place")
            return
        if inner.height_created <= self.chain.final.info.height:
            return
        if inner.prev_block_hash not in self.chain.held:
            await self._wait_for(inner.prev_block_hash)
        parent = self.chain.held.get(inner.prev_block_hash)
        if parent is None or inner.height_created != parent.info.height + 1:
            return
        grandparent = await self.chain.parent(parent.info)
        epoch_id = self.chain.chunk_epoch(parent.info, grandparent.info if grandparent is not None else None)
        epoch = self.chain.epochs.of(epoch_id)
        key = epoch.validators[epoch.chunk_producer(inner.height_created, inner.shard_id)].key
        if not verify(key, chunk_signing_message(inner), header.signature):
            self._blame(peer.id, INVALID_POINTS, f"a chunk of shard {inner.shard_id} that its producer did not sign")
            return
        await self._producer.offer(await self._fetch(peer.id, header))

    async def _wait_for(self, id: bytes) -> None:
        """A chunk may come just before the block it stands on."""
        with trio.move_on_after(RETRY_SECONDS):
            while id not in self.chain.held:
                await self.chain.moved()

    async def _take_block(self, peer: Peer, block: Block) -> None:
        peer.height = max(peer.height, min(block.height, self.chain.head.info.height + 1_000_000))
        bodies: dict[bytes, Chunk] = {}
        while True:
            try:
                if await self.chain.accept(block, bodies):
                    await self._blocks.broadcast(block.encode(), exclude=[peer.id])
                return
            except UnknownParent:
                peer.wake.set()
                return
            except MissingChunks:
                before = len(bodies)
                for shard, header in enumerate(block.body.chunks):
                    if block.is_new(shard) and header.hash() not in bodies:
                        bodies[header.hash()] = await self._fetch(peer.id, header)
                if len(bodies) == before:
                    raise Unavailable("bodies of a block") from None
            except InvalidBlock as error:
                self._blame(peer.id, INVALID_POINTS, f"block {block.hash.hex()[:16]}: {error}")
                return

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
            if status is not None and len(status) == 40:
                peer.height = int.from_bytes(status[:8], "little")
            elif status is not None:
                self._blame(peer.id, MALFORMED_POINTS, "a status that cannot be read")
            moved = False
            if peer.height > self.chain.head.info.height or (status and await self.chain.find(status[8:]) is None):
                moved = await self._blocks_from(peer)
            pause = RETRY_SECONDS if moved else min(MAX_RETRY_SECONDS, 2 * pause)
            with trio.move_on_after(0.0 if moved else max(pause, STATUS_SECONDS)):
                await self.chain.environment.sleep(min(pause, RETRY_SECONDS))
                await peer.wake.wait()

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
            return head.height.to_bytes(8, "little") + head.hash
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
