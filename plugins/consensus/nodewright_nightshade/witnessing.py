"""Witnesses between nodes: made when asked for, fetched and judged, each off the path on which blocks are made.

Body ``near_witness`` by chunk hash. Whoever keeps a shard's state can make one; only validators without that state ask, so
that a network in which everybody keeps everything makes none.

Invariants: what is served was made here, or judged here and found good; one is made at a time, and MADE_BYTES of them are
kept; a witness that does not hold is the fault of who served it, and another peer is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from nodewright.interfaces.transport import Transport
from nodewright.transport.fetch import whole_body
from nodewright_nightshade import witness
from nodewright_nightshade.blocks import extra_of
from nodewright_nightshade.chain import Chain
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.witness import MAX_WITNESS_BYTES, BadWitness

BODY_WITNESS = "near_witness"
MADE_BYTES = 64 * 1024 * 1024
ROUNDS = 4
ROUND_SECONDS = 0.2


class Witnesses:
    """``offered`` gives a chunk that may be endorsed now, by its hash. ``blame`` (peer, reason) names a liar."""

    def __init__(
        self,
        chain: Chain,
        transport: Transport,
        timeout_seconds: float,
        offered: Callable[[bytes], Chunk | None],
        blame: Callable[[bytes, str], None],
    ) -> None:
        self.chain = chain
        self.transport = transport
        self.bytes_made = 0
        self.judged = 0
        self._timeout = timeout_seconds
        self._offered = offered
        self._blame = blame
        self._made: dict[bytes, bytes] = {}
        self._one = trio.Lock()
        transport.provide(BODY_WITNESS, self)

    # --- for others ---

    async def _get(self, id: bytes) -> bytes | None:
        chunk = self._offered(id)
        if id in self._made or chunk is None or chunk.shard not in self.chain.tracked:
            return self._made.get(id)
        async with self._one:
            if id not in self._made:
                try:
                    made = await witness.make(self.chain, chunk.header)
                except BadWitness as error:
                    self.chain.environment.logger.debug("no witness", chunk=id.hex()[:16], reason=str(error))
                    return None
                self.bytes_made += len(made)
                self._keep(id, made)
        return self._made.get(id)

    def _keep(self, id: bytes, made: bytes) -> None:
        self._made[id] = made
        while len(self._made) > 1 and sum(map(len, self._made.values())) > MADE_BYTES:
            self._made.pop(next(iter(self._made)))

    async def size(self, id: bytes) -> int | None:
        made = await self._get(id)
        return None if made is None else len(made)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return (self._made.get(id) or b"")[offset : offset + length]

    # --- for this validator ---

    async def shows(self, chunk: Chunk, sources: Sequence[bytes]) -> bool:
        """Whether a chunk of a shard that is not kept here says the truth; ``sources``: who to ask first."""
        try:
            ran = await witness.last_run(self.chain, chunk.header)
        except BadWitness:
            return False
        if ran is None:
            extra = (await self.chain.run_of(self.chain.root.info, chunk.shard)).extra
            return extra == extra_of(chunk.header.inner)
        for attempt in range(ROUNDS):
            others = [one.id for one in self.transport.peers() if one.id not in sources]
            self.chain.environment.random.shuffle(others)
            for source in [*sources, *others]:
                raw = await self._fetch(source, chunk.hash)
                if raw is None:
                    continue
                try:
                    await witness.judge(self.chain, chunk, raw)
                except BadWitness as error:
                    self._blame(source, f"its witness of chunk {chunk.hash.hex()[:16]}: {error}")
                    continue
                self.judged += 1
                self._keep(chunk.hash, raw)
                return True
            if chunk.header.inner.height_created <= self.chain.head.info.height:
                break  # too late
            await self.chain.environment.sleep(ROUND_SECONDS * (attempt + 1))
        return False

    async def _fetch(self, source: bytes, id: bytes) -> bytes | None:
        return await whole_body(self.transport, source, BODY_WITNESS, id, MAX_WITNESS_BYTES, self._timeout)
