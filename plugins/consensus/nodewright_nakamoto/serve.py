"""Answers to peers: tips, headers, transactions by id, bodies.

Invariants: everything asked is bounded before it is looked up; of each peer MAX_CONCURRENT requests are answered at a time,
so that one that does not read its answers holds up nobody else; MAX_WAITING more wait, what is beyond has no answer.
"""

from __future__ import annotations

import trio

from nodewright.errors import PeerGone
from nodewright.interfaces.transport import BodyProvider, Message
from nodewright_nakamoto import messages
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain
from nodewright_nakamoto.chainindex import Node
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.fetch import MALFORMED_POINTS, Fetcher
from nodewright_nakamoto.messages import Tip
from nodewright_nakamoto.store import RECORDS_AT, SUBTREE, SUBTREE_DATA
from nodewright_nakamoto.subtree import RECORD

MAX_CONCURRENT = 4
MAX_WAITING = 64


def tip_of(node: Node) -> Tip:
    return Tip(node.header, node.height, node.work)


class SubtreeBodies:
    """Leaf records, of stored subtrees and of partial ones on offer."""

    def __init__(self, keeper: BundleKeeper) -> None:
        self._keeper = keeper

    async def size(self, id: bytes) -> int | None:
        columns = self._keeper.offered.get(id)
        if columns is not None:
            return RECORD.size * len(columns)
        (row,) = await self._keeper.store.bundle_rows([id])
        return RECORD.size * row.leaves if row is not None else None

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        columns = self._keeper.offered.get(id)
        if columns is not None:
            # Only the leaves the piece touches are encoded.
            start, end = offset // RECORD.size, -(-(offset + length) // RECORD.size)
            leaves = columns.leaves[32 * start : 32 * end]
            piece = messages.encode_records(leaves, columns.fees[start:end], columns.sizes[start:end])
            return piece[offset - RECORD.size * start :][:length]
        size = await self.size(id) or 0
        length = max(0, min(length, size - offset))
        return await self._keeper.store.blobs.read(SUBTREE, id, RECORDS_AT + offset, length) or b""


class DataBodies:
    def __init__(self, keeper: BundleKeeper) -> None:
        self._blobs = keeper.store.blobs

    async def size(self, id: bytes) -> int | None:
        return await self._blobs.size(SUBTREE_DATA, id)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return await self._blobs.read(SUBTREE_DATA, id, offset, length) or b""


class BlockBodies:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def _block(self, id: bytes) -> bytes | None:
        return await self._chain.store.block(id)

    async def size(self, id: bytes) -> int | None:
        block = await self._block(id)
        return None if block is None else len(block)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return (await self._block(id) or b"")[offset : offset + length]


class TransactionBodies:
    def __init__(self, keeper: BundleKeeper) -> None:
        self._keeper = keeper

    async def size(self, id: bytes) -> int | None:
        (body,) = await self._keeper.bodies([id])
        return None if body is None else len(body)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        (body,) = await self._keeper.bodies([id])
        return (body or b"")[offset : offset + length]


class Server:
    def __init__(self, chain: Chain, keeper: BundleKeeper, fetcher: Fetcher) -> None:
        self._chain = chain
        self._keeper = keeper
        self._fetcher = fetcher
        self._taken: dict[bytes, int] = {}  # peer -> its requests that are answered or wait
        self._limiters: dict[bytes, trio.CapacityLimiter] = {}
        providers: dict[str, BodyProvider] = {
            messages.BODY_SUBTREE: SubtreeBodies(keeper),
            messages.BODY_DATA: DataBodies(keeper),
            messages.BODY_BLOCK: BlockBodies(chain),
            messages.BODY_TRANSACTION: TransactionBodies(keeper),
        }
        for kind, provider in providers.items():
            fetcher.transport.provide(kind, provider)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                message = await self._fetcher.requests.receive()
                taken = self._taken.get(message.peer, 0)
                if taken < MAX_CONCURRENT + MAX_WAITING:
                    self._taken[message.peer] = taken + 1
                    nursery.start_soon(self._answer, message)

    async def _answer(self, message: Message) -> None:
        peer = message.peer
        limiter = self._limiters.setdefault(peer, trio.CapacityLimiter(MAX_CONCURRENT))
        try:
            async with limiter:
                await self._answer_now(message)
        finally:
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer], self._limiters[peer]

    async def _answer_now(self, message: Message) -> None:
        try:
            reply = await self._reply(message.payload)
        except MalformedError as error:
            self._fetcher.blame(message.peer, MALFORMED_POINTS, str(error))
            return
        if message.reply is not None:
            try:
                await message.reply(reply)
            except PeerGone:
                pass

    async def _reply(self, payload: bytes) -> bytes:
        kind, rest = payload[:1], payload[1:]
        if kind == b"T" and not rest:
            return tip_of(self._chain.tip).encode()
        if kind == b"H":
            locator = messages.decode_ids(rest, messages.MAX_LOCATOR)
            nodes = self._chain.index.after_locator(locator, messages.MAX_HEADERS)
            return b"".join([node.header.encode() for node in nodes])
        if kind == b"A" and not rest:
            return b"".join([one.encode() for one in self._keeper.announced()[-messages.MAX_ANNOUNCED :]])
        if kind == b"X" and rest:
            ids = messages.decode_ids(rest, messages.MAX_IDS)
            return messages.encode_transactions(await self._keeper.bodies(ids))
        raise MalformedError("a request of no known form")
