"""Chunks on their way: cut into parts for their owners, gathered from whoever has them, checked.

Channel ``near.chunk``: ``Parts``, a new chunk's header with what the receiver is to hold of its body; who hears of a chunk
passes what it got on to PASSED_TO others, once. Bodies ``near_part``
by chunk hash ‖ index u16, and ``near_chunk`` (the whole body, for who catches up) by chunk hash.

Invariants:
- a part is held only if its path leads to the header's root, and the header is signed by who was drawn to make that chunk;
- a chunk leaves here only with a body that its header commits to, byte for byte: encoded again, all parts are those of the
  root; where they are not, its producer is at fault and its parts are dropped;
- memory is bounded: PENDING_BYTES of parts, RECENT_BYTES of whole chunks, AT_WORK headers of one peer at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio
from attrs import define, field

from nodewright.errors import PeerGone
from nodewright.interfaces.transport import Transport
from nodewright.transport.fetch import whole_body
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.chunks import MAX_CHUNK_BYTES
from nodewright_near.headers import ChunkHeader
from nodewright_nightshade import chunking, erasure
from nodewright_nightshade.blocks import chunk_signing_message
from nodewright_nightshade.chain import Chain
from nodewright_nightshade.chunking import Chunk, InvalidChunk
from nodewright_nightshade.keys import verify
from nodewright_nightshade.parts import MAX_PARTS_BYTES, SMALL_BODY, Part, Parts, cut, proves, pushed, rebuild
from nodewright_nightshade.sampling import Epoch

BODY_PART = "near_part"
BODY_CHUNK = "near_chunk"
RECENT_BYTES = 64 * 1024 * 1024
PENDING_BYTES = 64 * 1024 * 1024
MAX_PENDING = 2048
AT_ONCE = 8  # parts asked for at the same time, of one chunk
ROUNDS = 5
ROUND_SECONDS = 0.15
PARENT_SECONDS = 1.0
MAX_AHEAD = 64
PASSED_TO = 3  # peers that hear of a chunk from who only heard of it


class Unavailable(Exception):
    """Nobody has it now."""


class Forged(Exception):
    """Whoever sent it is at fault."""


@define
class Pending:
    header: ChunkHeader
    parts: dict[int, Part] = field(factory=dict)
    size: int = 0


class Bodies:
    """Whole bodies for others: of blocks, and of chunks on offer."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._last = (b"", b"")  # a body is read piece by piece

    async def _body(self, id: bytes) -> bytes | None:
        chunk = await self._delivery.known(id)
        return None if chunk is None else encode(chunk.body)

    async def size(self, id: bytes) -> int | None:
        body = await self._body(id)
        return None if body is None else len(body)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        if self._last[0] != id:
            self._last = (id, await self._body(id) or b"")
        return self._last[1][offset : offset + length]


class PartBodies(Bodies):
    """Single parts: those held, or cut from a whole body."""

    async def _body(self, id: bytes) -> bytes | None:
        part = await self._delivery.part(id[:32], int.from_bytes(id[32:], "little")) if len(id) == 34 else None
        return None if part is None else encode(part)


class Delivery:
    """``peer_of`` gives a validator's peer, where it is known; ``peers``: all of them. ``blame`` (peer, reason) names a
    liar."""

    def __init__(
        self,
        chain: Chain,
        transport: Transport,
        timeout_seconds: float,
        peer_of: Callable[[str], bytes | None],
        blame: Callable[[bytes, str], None],
        peers: Callable[[], list[bytes]],
    ) -> None:
        self.chain = chain
        self.transport = transport
        self.channel = transport.channel("near.chunk", 1024, "oldest", MAX_PARTS_BYTES)
        self.recent: dict[bytes, Chunk] = {}
        self.pending: dict[bytes, Pending] = {}
        self.gathered: Callable[[Chunk], Awaitable[None]] | None = None
        self._timeout = timeout_seconds
        self._peer_of = peer_of
        self._blame = blame
        self._peers = peers
        self._recent_bytes = 0
        self._pending_bytes = 0
        self._cuts: dict[bytes, list[Part]] = {}
        self._gathering: dict[bytes, trio.Event] = {}
        self._at_work: dict[bytes, int] = {}
        transport.provide(BODY_PART, PartBodies(self))
        transport.provide(BODY_CHUNK, Bodies(self))

    # --- what is here ---

    async def known(self, id: bytes) -> Chunk | None:
        return self.recent.get(id) or await self.chain.store.chunk(id)

    def remember(self, chunk: Chunk) -> None:
        if chunk.hash in self.recent:
            return
        self.recent[chunk.hash] = chunk
        self._recent_bytes += chunk.header.inner.encoded_length
        self._drop_pending(chunk.hash)
        while self._recent_bytes > RECENT_BYTES and len(self.recent) > 1:
            old = self.recent.pop(next(iter(self.recent)))
            self._recent_bytes -= old.header.inner.encoded_length

    async def part(self, id: bytes, index: int) -> Part | None:
        pending = self.pending.get(id)
        if pending is not None:
            return pending.parts.get(index)
        found = self._cuts.get(id)
        if found is None:
            chunk = await self.known(id)
            if chunk is None:
                return None
            producers = await self._producers(chunk.header)
            if producers is None:
                return None
            found = await self.chain.environment.offload(cut, encode(chunk.body), producers)
            self._cuts[id] = found
            while len(self._cuts) > 2:
                self._cuts.pop(next(iter(self._cuts)))
        return found[index] if index < len(found) else None

    async def _producers(self, header: ChunkHeader) -> int | None:
        """How many validators its epoch has: into so many parts the body is cut. None where its parent is not here."""
        parent = await self.chain.find(header.inner.prev_block_hash)
        if parent is None:
            return None
        return len((await self.chain.epoch_set(self.chain.chunk_epoch(parent.info))).validators)

    def _hold(self, header: ChunkHeader, parts: Sequence[Part]) -> Pending:
        id = header.hash()
        pending = self.pending.get(id)
        if pending is None:
            pending = self.pending[id] = Pending(header)
        for part in parts:
            if part.index not in pending.parts:
                pending.parts[part.index] = part
                pending.size += len(part.data)
                self._pending_bytes += len(part.data)
        while (self._pending_bytes > PENDING_BYTES or len(self.pending) > MAX_PENDING) and len(self.pending) > 1:
            self._drop_pending(next(iter(self.pending)))
        return pending

    def _drop_pending(self, id: bytes) -> None:
        pending = self.pending.pop(id, None)
        if pending is not None:
            self._pending_bytes -= pending.size

    # --- out ---

    async def push(self, chunk: Chunk, places: dict[bytes, int]) -> None:
        """A chunk made here, to all peers; ``places``: which of them are validators of its epoch."""
        self.remember(chunk)
        producers, peers = await self._producers(chunk.header), self._peers()
        if producers is None or not peers:
            return
        if chunk.header.inner.encoded_length <= SMALL_BODY:
            await self.channel.broadcast(encode(Parts(chunk.header, (), encode(chunk.body))))
            return
        parts = await self.chain.environment.offload(cut, encode(chunk.body), producers)
        for peer in peers:
            message = pushed(chunk.header, parts, producers, places.get(peer))
            try:
                await self.channel.send(peer, encode(message))
            except PeerGone:
                continue

    # --- in ---

    async def take(self, peer: bytes, parts: Parts, raw: bytes) -> None:
        """From a peer: a new chunk's header and parts, and their bytes. Gathers the rest and hands the chunk on."""
        if self._at_work.get(peer, 0) >= 2 * self.chain.genesis.network.shards + 16:
            return
        self._at_work[peer] = self._at_work.get(peer, 0) + 1
        try:
            if await self._check(parts):
                if parts.body is not None:
                    await self._take_body(parts.header, parts.body)
                await self._pass_on(peer, raw)
                chunk = await self.gather(parts.header, peer)
                if self.gathered is not None:
                    await self.gathered(chunk)
        except Forged as error:
            self._blame(peer, str(error))
        except Unavailable as error:
            self.chain.environment.logger.debug("not had", peer=peer.hex()[:16], reason=str(error))
        finally:
            self._at_work[peer] -= 1
            if not self._at_work[peer]:
                del self._at_work[peer]

    async def _take_body(self, header: ChunkHeader, body: bytes) -> None:
        """Raises Forged: nobody passes a body on that he has not read."""
        producers = await self._producers(header)
        if producers is not None:
            try:
                self.remember(await self._read(header, body, producers))
            except InvalidChunk as error:
                raise Forged(f"chunk {header.hash().hex()[:16]}: {error}") from error

    async def _check(self, message: Parts) -> bool:
        """Whether it is worth gathering. Raises Forged."""
        header, inner = message.header, message.header.inner
        id = header.hash()
        if header.height_included or not 0 <= inner.shard_id < self.chain.genesis.network.shards:
            raise Forged("a chunk header of no place")
        if id in self.recent:
            return False
        if not self.chain.final.info.height < inner.height_created <= self.chain.head.info.height + MAX_AHEAD:
            return False
        with trio.move_on_after(PARENT_SECONDS):  # a chunk may come just before the block it stands on
            while inner.prev_block_hash not in self.chain.held:
                await self.chain.moved()
        parent = self.chain.held.get(inner.prev_block_hash)
        if parent is None or inner.height_created != parent.info.height + 1:
            return False
        if inner.encoded_length > MAX_CHUNK_BYTES:
            raise Forged(f"a chunk of shard {inner.shard_id} with a body of {inner.encoded_length} bytes")
        epoch = self.chain.epochs.of(self.chain.chunk_epoch(parent.info))
        producers = len(epoch.validators)
        # The chunk's hash does not cover its signature: a header is as good as checked only if it is the same.
        pending = self.pending.get(id)
        if pending is None or pending.header != header:
            producer = epoch.validators[epoch.chunk_producer(inner.height_created, inner.shard_id)]
            if not verify(producer.key, chunk_signing_message(inner), header.signature):
                raise Forged(f"a chunk of shard {inner.shard_id} that its producer {producer.account} did not sign")
        if not all(proves(header, part, producers) for part in message.parts):
            raise Forged(f"a part of chunk {id.hex()[:16]} that is not of it")
        if id not in self.recent:
            self._hold(header, message.parts)
        return True

    async def _pass_on(self, peer: bytes, raw: bytes) -> None:
        """Its producer may have died, or have told only some."""
        others = [one for one in self._peers() if one != peer]
        for other in self.chain.environment.random.sample(others, min(PASSED_TO, len(others))):
            try:
                await self.channel.send(other, raw)
            except PeerGone:
                continue

    # --- gathering ---

    async def gather(self, header: ChunkHeader, peer: bytes) -> Chunk:
        """The body of a header whose signature was checked: here, or from parts, or whole. Raises Unavailable, Forged."""
        id = header.hash()
        while True:
            known = await self.known(id)
            if known is not None:
                return Chunk(header, known.body)
            if id not in self._gathering:
                break
            await self._gathering[id].wait()
        done = self._gathering[id] = trio.Event()
        try:
            producers = await self._producers(header)
            if producers is None:
                raise Unavailable(f"the block that chunk {id.hex()} stands on is not here")
            chunk = await self._from_parts(header, peer, producers) or await self._whole(header, peer, producers)
        finally:
            del self._gathering[id]
            done.set()
        if chunk is None:
            raise Unavailable(f"no peer has the body of chunk {id.hex()}")
        self.remember(chunk)
        return chunk

    async def _from_parts(self, header: ChunkHeader, peer: bytes, producers: int) -> Chunk | None:
        needed, total = erasure.counts(producers)
        id = header.hash()
        if id not in self.pending:
            return None  # nobody is just handing it round: who has the block has the body
        for attempt in range(ROUNDS):
            pending = self._hold(header, ())
            missing = [index for index in range(total) if index not in pending.parts]
            self.chain.environment.random.shuffle(missing)
            queue = iter(missing)
            async with trio.open_nursery() as nursery:
                for _ in range(min(AT_ONCE, needed - len(pending.parts))):
                    nursery.start_soon(self._ask_for_parts, header, peer, queue, needed, producers)
            pending = self._hold(header, ())
            if len(pending.parts) >= needed:
                try:
                    body = rebuild(header, pending.parts, producers)
                    return await self._read(header, body, producers)
                except (InvalidChunk, ValueError) as error:
                    self._drop_pending(id)
                    author = self._author(header)
                    source = self._peer_of(author) if author is not None else None
                    if source is not None:
                        self._blame(source, f"the parts of its chunk {id.hex()[:16]} make no body: {error}")
                    raise Unavailable(f"chunk {id.hex()[:16]} has no body: {error}") from error
            await self.chain.environment.sleep(ROUND_SECONDS * (attempt + 1))
        return None

    def _epoch(self, header: ChunkHeader) -> Epoch | None:
        parent = self.chain.held.get(header.inner.prev_block_hash)
        return None if parent is None else self.chain.epochs.of(self.chain.chunk_epoch(parent.info))

    def _author(self, header: ChunkHeader) -> str | None:
        epoch = self._epoch(header)
        if epoch is None:
            return None
        return epoch.validators[epoch.chunk_producer(header.inner.height_created, header.inner.shard_id)].account

    async def _ask_for_parts(
        self, header: ChunkHeader, peer: bytes, queue: Iterator[int], needed: int, producers: int
    ) -> None:
        id, epoch = header.hash(), self._epoch(header)
        for index in queue:
            known = epoch is not None and index < len(epoch.validators)
            owner = self._peer_of(epoch.validators[index].account) if epoch is not None and known else None
            for source in [owner, peer] if owner is not None and owner != peer else [peer]:
                part = await self._fetch_part(source, header, index, producers)
                if part is not None:
                    self._hold(header, [part])
                    break
            pending = self.pending.get(id)
            if pending is None or len(pending.parts) >= needed:
                return

    async def _fetch_part(self, source: bytes, header: ChunkHeader, index: int, producers: int) -> Part | None:
        id = header.hash()
        data = await self._fetch(source, BODY_PART, id + index.to_bytes(2, "little"), MAX_PARTS_BYTES)
        if data is None:
            return None
        try:
            part: Part = decode(Part, data)
        except Malformed:
            self._blame(source, f"a part of chunk {id.hex()[:16]} that cannot be read")
            return None
        if part.index != index or not proves(header, part, producers):
            self._blame(source, f"a part of chunk {id.hex()[:16]} that is not of it")
            return None
        return part

    async def _whole(self, header: ChunkHeader, peer: bytes, producers: int) -> Chunk | None:
        id = header.hash()
        others = [one for one in self._peers() if one != peer]
        self.chain.environment.random.shuffle(others)
        for source in [peer, *others]:
            data = await self._fetch(source, BODY_CHUNK, id, min(MAX_CHUNK_BYTES, header.inner.encoded_length))
            if data is not None:
                try:
                    return await self._read(header, data, producers)
                except InvalidChunk as error:
                    self._blame(source, f"its body of chunk {id.hex()[:16]}: {error}")
        return None

    async def _fetch(self, source: bytes, kind: str, id: bytes, limit: int) -> bytes | None:
        return await whole_body(self.transport, source, kind, id, limit, self._timeout)

    async def _read(self, header: ChunkHeader, body: bytes, producers: int) -> Chunk:
        boundaries = self.chain.genesis.boundaries
        return await self.chain.environment.offload(chunking.read, header, body, producers, boundaries)
