"""Answers to one peer: headers, blocks, transactions.

Invariants: at most MAX_WAITING things asked for wait; blocks are read one at a time, the next after the last has gone out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio

from nodewright_bitcoin.encoding import sha256d
from nodewright_bsv_p2p import messages
from nodewright_bsv_p2p.framing import EXTENDED_VERSION, LONGEST_PLAIN, WireError
from nodewright_bsv_p2p.messages import BLOCK, TX, GetHeaders, Item
from nodewright_bsv_p2p.shared import Shared

MAX_WAITING = 2 * messages.MAX_INVENTORY
MAX_BLOCKS_TOLD = 500
MIB = 1024 * 1024
TRANSACTIONS_AT_ONCE = 500


class Server:
    def __init__(self, shared: Shared, peer: Any) -> None:
        self._shared = shared
        self._peer = peer
        self._asked: deque[Item] = deque()
        self._came = trio.Event()

    async def on_get_headers(self, asked: GetHeaders) -> None:
        headers = await self._shared.query("headers_after", locator=asked.locator, stop=asked.stop)
        self._peer.send("headers", messages.encode_headers(headers))

    async def on_get_blocks(self, asked: GetHeaders) -> None:
        headers = await self._shared.query("headers_after", locator=asked.locator, stop=asked.stop, count=MAX_BLOCKS_TOLD)
        self._peer.send("inv", messages.encode_inventory([Item(BLOCK, sha256d(header)) for header in headers]))

    def on_get_data(self, items: Sequence[Item]) -> None:
        if len(self._asked) + len(items) > MAX_WAITING:
            raise WireError(f"more than {MAX_WAITING} things asked for at a time", 20)
        self._asked.extend(items)
        self._came.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            while not self._asked:
                self._came = trio.Event()
                await self._came.wait()
            item = self._asked.popleft()
            if item.kind == BLOCK:
                await self._block(item)
            elif item.kind == TX:
                await self._transactions(item)
            else:
                self._missing([item])

    async def _block(self, item: Item) -> None:
        most = self._shared.config.max_block_mib * MIB
        if self._peer.version.version < EXTENDED_VERSION:
            most = min(most, LONGEST_PLAIN)
        raw = await self._shared.query("flat_block", id=item.hash, max_bytes=most)
        if raw is None:
            self._missing([item])
        else:
            await self._peer.send_large("block", raw)

    async def _transactions(self, first: Item) -> None:
        items = [first]
        while self._asked and self._asked[0].kind == TX and len(items) < TRANSACTIONS_AT_ONCE:
            items.append(self._asked.popleft())
        bodies = self._shared.node.pool.bodies([item.hash for item in items])
        for body in bodies:
            if body is not None:
                await self._peer.send_large("tx", body)
        self._missing([item for item, body in zip(items, bodies, strict=True) if body is None])

    def _missing(self, items: Sequence[Item]) -> None:
        if items:
            self._peer.send("notfound", messages.encode_inventory(items))
