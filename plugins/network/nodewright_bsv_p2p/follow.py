"""Following one peer: the headers it shows, the blocks under them.

Invariants:
- headers are judged by the consensus beside its tree; at most MAX_RUN of one peer are held, and only as long as they may
  lead to a chain with more work than ours;
- blocks are asked for only under such headers, lowest first, from one peer at a time (``Shared.baton``), and one that sends
  less than STALL_BYTES in ``stall_seconds`` gives the baton away: who withholds costs the others that time and no more;
- of a peer at most two blocks are in memory: one that arrives, and one that is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from nodewright.errors import ControlRefused
from nodewright_bitcoin.encoding import sha256d
from nodewright_bsv_p2p import messages
from nodewright_bsv_p2p.framing import WireError
from nodewright_bsv_p2p.messages import BLOCK, MAX_HEADERS, FlatBlock, GetHeaders, Item
from nodewright_bsv_p2p.shared import Shared

MAX_RUN = 50_000
WINDOW = 32
STALL_BYTES = 64 * 1024
SMALL_BLOCK_BYTES = 64 * 1024
INVALID_POINTS = 100
WITHHELD_POINTS = 34
UNASKED_POINTS = 20
MAX_UNATTACHED = 8


class Follower:
    """``send`` pushes a message to the peer, ``bytes_in`` counts what it has sent."""

    def __init__(self, shared: Shared, peer: Any) -> None:
        self._shared = shared
        self._peer = peer
        self._run: list[bytes] = []
        self._more = False
        self._unattached = 0
        self._failures = 0
        self._wake = trio.Event()
        self._expected: dict[bytes, None] = {}
        self._given_up: frozenset[bytes] = frozenset()
        self._delivered: tuple[bytes, bytes | None] | None = None
        self._changed = trio.Event()
        self.known_tip = b""
        self.fetching = False

    # --- what the peer says ---

    def on_headers(self, headers: list[bytes]) -> None:
        self._more = len(headers) == MAX_HEADERS
        if headers:
            self.known_tip = sha256d(headers[-1])
            if self._run and headers[0][4:36] == sha256d(self._run[-1]):
                self._run += headers
            else:
                self._run = headers
            if len(self._run) > MAX_RUN:
                self._run = []
                self._shared.blame(self._peer, INVALID_POINTS, f"{MAX_RUN} headers that lead to no better chain")
            self._wake.set()

    async def on_announced(self, ids: Sequence[bytes]) -> None:
        """Block ids in an inventory: their headers are asked for where one is unknown."""
        for id in ids[-1:]:
            if await self._shared.node.consensus.block(id) is None:
                await self.ask_headers(id)
            else:
                self.known_tip = id

    @property
    def waits_for_blocks(self) -> bool:
        return bool(self._expected)

    @property
    def is_late(self) -> bool:
        """It was asked for blocks that nobody waits for any more: if they come still, they are passed over."""
        return not self._expected and bool(self._given_up)

    async def on_block(self, raw: bytes) -> None:
        """Waits until the block before it is taken."""
        id = sha256d(raw[:80])
        if id in self._expected:
            await self._deliver(id, raw)
        elif id not in self._given_up:
            self._shared.blame(self._peer, UNASKED_POINTS, "a block that it was not asked for")

    async def on_missing(self, ids: Sequence[bytes]) -> None:
        for id in ids:
            if id in self._expected:
                await self._deliver(id, None)
                return

    async def _deliver(self, id: bytes, raw: bytes | None) -> None:
        while self._delivered is not None and id in self._expected:
            await self._changed.wait()
        if id in self._expected:
            self._delivered = (id, raw)
            self._signal()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- the loop ---

    async def ask_headers(self, stop: bytes = bytes(32)) -> None:
        locator = await self._shared.query("locator")
        self._peer.send("getheaders", GetHeaders(tuple(locator), stop).encode())

    async def run(self) -> None:
        await self.ask_headers()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if await self._follow():
                self._failures = 0
                continue
            self._run, self._more = [], False
            self._failures += 1
            pause = min(30.0, 0.5 * 2**self._failures)
            await self._shared.environment.sleep(pause)
            await self.ask_headers()

    async def _follow(self) -> bool:
        """As far as the headers at hand lead; False where it should be tried again from the start."""
        while self._run:
            judged = await self._judge()
            if judged is None:
                return True
            if judged["heavier"] and judged["missing"]:
                async with self._shared.baton:
                    # Another peer may have brought them meanwhile.
                    judged = await self._judge()
                    if judged is None or not (judged["heavier"] and judged["missing"]):
                        continue
                    if not await self._download(judged["missing"][:WINDOW]):
                        return False
                continue
            if self._more and not judged["early"]:
                self._more = False
                last = sha256d(self._run[-1])
                self._peer.send("getheaders", GetHeaders((last, *await self._shared.query("locator"))).encode())
                if not judged["missing"]:
                    self._run = []
                return True
            self._run = []
        return True

    async def _judge(self) -> dict[str, Any] | None:
        """None where the headers are of no use; they are dropped then."""
        judged: dict[str, Any] = await self._shared.query("judge_headers", headers=self._run)
        if judged["bad"]:
            self._run = []
            if judged["broken"]:
                self._shared.blame(self._peer, INVALID_POINTS, judged["bad"])
            return None
        if not judged["known"]:
            self._run = []
            self._unattached += 1
            if self._unattached > MAX_UNATTACHED:
                self._unattached = 0
                self._shared.blame(self._peer, UNASKED_POINTS, "headers that attach to nothing, again and again")
            await self.ask_headers()
            return None
        self._unattached = 0
        return judged

    # --- blocks ---

    async def _download(self, ids: Sequence[bytes]) -> bool:
        self._expected = dict.fromkeys(ids)
        self.fetching = True
        try:
            self._peer.send("getdata", messages.encode_inventory([Item(BLOCK, id) for id in ids]))
            for id in ids:
                raw = await self._next(id)
                if raw is None:
                    what = f"block {id[::-1].hex()}, which is on the chain it shows"
                    self._shared.blame(self._peer, WITHHELD_POINTS, f"it does not send {what}")
                    return False
                if not await self._take(id, raw):
                    return False
        finally:
            self._given_up = frozenset(self._expected)
            self._expected = {}
            self._delivered = None
            self._signal()
            self.fetching = False
        return True

    async def _next(self, wanted: bytes) -> bytes | None:
        """This block; None where it does not come, another comes before it, or the peer says that it has none."""
        while True:
            before = self._peer.bytes_in
            with trio.move_on_after(self._shared.config.stall_seconds):
                while self._delivered is None:
                    await self._changed.wait()
            if self._delivered is not None:
                id, raw = self._delivered
                self._delivered = None
                self._expected.pop(id, None)
                self._signal()
                return raw if id == wanted else None
            if self._peer.bytes_in - before < STALL_BYTES:
                return None

    async def _take(self, id: bytes, raw: bytes) -> bool:
        environment = self._shared.environment
        try:
            large = len(raw) > SMALL_BLOCK_BYTES
            block = await environment.offload(FlatBlock.decode, raw) if large else FlatBlock.decode(raw)
            answer = await self._shared.node.consensus.control(
                "submit_block", header=block.header, transactions=block.transactions
            )
        except WireError as error:
            self._shared.blame(self._peer, error.points, str(error))
            return False
        except ControlRefused as error:
            code, _, reason = str(error).partition(": ")
            if code in ("bad-body", "bad-header"):
                self._shared.blame(self._peer, INVALID_POINTS, reason)
            environment.logger.info("block not taken", hash=id[::-1].hex(), peer=self._peer.address, reason=str(error))
            return False
        if not answer["accepted"]:
            self._shared.blame(self._peer, INVALID_POINTS, f"block {answer['hash']} is refused: {answer['reason']}")
            return False
        return True
