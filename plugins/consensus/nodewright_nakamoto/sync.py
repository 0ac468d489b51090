"""Following the best chain that peers have: tips, headers first, then blocks side by side, in order.

Invariants:
- a header is in the tree only after its checks; a body is asked for only under a header with enough work;
- what cannot be had is asked for again, from every peer that is there, after a pause that doubles up to
  MAX_BACKOFF_SECONDS, at most MAX_ATTEMPTS times; a new tip or peer starts the count anew. It is never marked invalid;
- wrong headers, blocks and bodies are the fault of the peer they came from, which is named and penalised;
- all that is kept of a catch-up is in the store: after a restart it goes on where it was.
"""

from __future__ import annotations

import trio
from attrs import define

from nodewright.interfaces.transport import Channel, PeerUp
from nodewright_nakamoto import blockwire, messages
from nodewright_nakamoto.blockwire import MAX_WIRE_BYTES
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import BodyMismatch, Chain, InvalidHeader, MissingBundles, NotYet, display
from nodewright_nakamoto.chainindex import Node
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.fetch import MALFORMED_POINTS, WRONG_BODY_POINTS, Fetcher, Unavailable
from nodewright_nakamoto.header import Header
from nodewright_nakamoto.messages import SubtreeAnnouncement, Tip
from nodewright_nakamoto.relay import Relay
from nodewright_nakamoto.restore import Restorer
from nodewright_nakamoto.serve import tip_of

WINDOW = 64
MAX_ATTEMPTS = 20
FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 30.0
TIP_INTERVAL_SECONDS = 30.0
INVALID_POINTS = 100
GREETINGS = 3  # how often a peer that does not answer is greeted


@define
class Attempt:
    count: int = 0
    next_at: float = 0.0


class Synchroniser:
    def __init__(self, chain: Chain, keeper: BundleKeeper, fetcher: Fetcher, announcements: Channel, parallel: int) -> None:
        self.chain = chain
        self.keeper = keeper
        self.fetcher = fetcher
        self.claims: dict[bytes, Tip] = {}
        self.syncing = False
        self._announcements = announcements
        self._parallel = parallel
        self._attempts: dict[bytes, Attempt] = {}
        self._wake = trio.Event()
        self._relays: dict[bytes, Relay] = {}
        self._restorer = Restorer(chain)
        self._givers: dict[bytes, bytes] = {}  # block -> the peer whose bytes it was stored from

    @property
    def peers_ahead(self) -> int:
        return sum(claim.work > self.chain.tip.work for claim in self.claims.values())

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._peers, nursery)
            nursery.start_soon(self._listen)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._follow)

    def wake(self) -> None:
        self._wake.set()

    # --- peers and what they say ---

    async def _peers(self, nursery: trio.Nursery) -> None:
        async for event in self.fetcher.transport.events():
            peer = event.peer.id
            old = self._relays.pop(peer, None)
            if old is not None:
                old.cancel_scope.cancel()
            if isinstance(event, PeerUp):
                relay = Relay(peer, self.chain, self.keeper, self.fetcher, self._restorer)
                self._relays[peer] = relay
                nursery.start_soon(relay.run, self._greet)
            else:
                self.claims.pop(peer, None)

    async def _greet(self, relay: Relay) -> None:
        """A peer that came: ask for its tip, and once this node stands there for what is pending with it. Announcements
        that a peer made before it was connected, or that were of no use before its blocks were here, are not made again."""
        peer = relay.peer
        for _ in range(GREETINGS):
            await self._ask_tip(peer)
            while (claim := self.claims.get(peer)) is not None and claim.work > self.chain.tip.work:
                await self.chain.moved()
            reply = await self.fetcher.ask(peer, b"A") if claim is not None else None
            if reply is not None:
                try:
                    await relay.offer(messages.decode_announced(reply))
                except MalformedError as error:
                    self.fetcher.blame(peer, MALFORMED_POINTS, str(error))
                return

    async def _ask_tip(self, peer: bytes) -> None:
        reply = await self.fetcher.ask(peer, b"T")
        if reply is None:
            return
        try:
            self._claimed(peer, Tip.decode(reply))
        except MalformedError as error:
            self.fetcher.blame(peer, MALFORMED_POINTS, str(error))

    def _claimed(self, peer: bytes, tip: Tip) -> None:
        self.claims[peer] = tip
        self._attempts.clear()
        self.wake()

    async def _listen(self) -> None:
        while True:
            message = await self._announcements.receive()
            try:
                said = messages.decode_announcement(message.payload)
            except MalformedError as error:
                self.fetcher.blame(message.peer, MALFORMED_POINTS, str(error))
                continue
            if isinstance(said, Tip):
                self._claimed(message.peer, said)
            else:
                relay = self._relays.get(message.peer)
                if relay is not None:
                    relay.push(said)

    async def _tell(self) -> None:
        """Announces the tip whenever it moves."""
        told = self.chain.tip
        while True:
            while self.chain.tip is told:
                await self.chain.moved()
            told = self.chain.tip
            await self._announcements.broadcast(b"B" + tip_of(told).encode())

    async def announce_subtree(self, announcement: SubtreeAnnouncement) -> None:
        await self._announcements.broadcast(announcement.encode())

    # --- following ---

    async def _follow(self) -> None:
        while True:
            self._wake = trio.Event()
            await self.chain.retry_incomplete()
            await self._headers()
            await self._download()
            self.syncing = bool(self.chain.index.candidates(2))
            with trio.move_on_after(self._pause()):
                await self._wake.wait()

    def _pause(self) -> float:
        """Seconds until something is due to be tried again."""
        now = self.chain.environment.monotonic()
        due = [attempt.next_at - now for attempt in self._attempts.values() if attempt.count < MAX_ATTEMPTS]
        if any(node.mark == "incomplete" for node in self.chain.index.tips()):
            due.append(MAX_BACKOFF_SECONDS / 10)
        return max(0.01, min(due, default=TIP_INTERVAL_SECONDS))

    async def _headers(self) -> None:
        """Ask peers that claim more work than any header chain known, most work first."""
        for peer, tip in sorted(self.claims.items(), key=lambda item: -item[1].work):
            known = self.chain.index.get(tip.header.id)
            if known is None and tip.work >= self.chain.index.best.work and self.claims.get(peer) is tip:
                await self._headers_from(peer, tip)

    async def _headers_from(self, peer: bytes, tip: Tip) -> None:
        index = self.chain.index
        if tip.header.previous in index and self._take_headers(peer, [tip.header]):
            return  # the common case: one new block on a known one
        start = index.best_header
        while tip.header.id not in index:
            reply = await self.fetcher.ask(peer, b"H" + b"".join(index.locator(start)))
            if reply is None:
                return
            try:
                headers = messages.decode_headers(reply)
            except MalformedError as error:
                self.fetcher.blame(peer, MALFORMED_POINTS, str(error))
                return
            before = len(index)
            if not self._take_headers(peer, headers):
                break
            start = index.nodes[headers[-1].id]
            if len(index) == before and len(headers) < messages.MAX_HEADERS:
                break
        if tip.header.id not in index and self.claims.get(peer) is tip:
            del self.claims[peer]  # it moved on, or said more than it has; it will tell its next tip

    def _take_headers(self, peer: bytes, headers: list[Header]) -> bool:
        """Whether all of them (at least one) are in the tree now."""
        for header in headers:
            if header.previous not in self.chain.index:
                # An answer begins at a block that the question named, genesis at the least.
                self.fetcher.blame(
                    peer, MALFORMED_POINTS, f"header {display(header.id)} attaches to nothing that was asked for"
                )
                self.claims.pop(peer, None)
                return False
            try:
                self.chain.add_header(header)
            except InvalidHeader as error:
                self.fetcher.blame(peer, INVALID_POINTS, f"header {display(header.id)}: {error}")
                self.claims.pop(peer, None)
                return False
            except NotYet as error:
                self.chain.environment.logger.info("header set aside", hash=display(header.id), reason=str(error))
                return False
        return bool(headers)

    async def _download(self) -> None:
        """Fetch wanted blocks side by side and connect them in order, until nothing more can be had now."""
        while True:
            now = self.chain.environment.monotonic()
            wanted = [node for node in self.chain.index.candidates(WINDOW) if self._due(node, now)]
            if not wanted or not self.fetcher.sources():
                break
            self.syncing = len(wanted) > 1
            limiter = trio.CapacityLimiter(self._parallel)
            async with trio.open_nursery() as nursery:
                for node in wanted:
                    nursery.start_soon(self._get, node, limiter)
            if not any(node.have for node in wanted):
                break

    def _due(self, node: Node, now: float) -> bool:
        attempt = self._attempts.get(node.id)
        return attempt is None or (attempt.count < MAX_ATTEMPTS and attempt.next_at <= now)

    async def _get(self, node: Node, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            if node.bad:
                return
            try:
                await self._get_block(node)
            except (Unavailable, MissingBundles) as error:
                attempt = self._attempts.setdefault(node.id, Attempt())
                pause = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**attempt.count)
                attempt.count += 1
                attempt.next_at = self.chain.environment.monotonic() + pause
                reason = f"{error}; tried {attempt.count} times"
                self.chain.environment.logger.info("block incomplete", hash=display(node.id), reason=reason)
                return
            self._attempts.pop(node.id, None)
        if node.connected:
            await self.chain.activate()
            self._blame_invalid(node)

    async def _get_block(self, node: Node) -> None:
        def decoded(data: bytes) -> blockwire.Block:
            return blockwire.decode(data, height=node.height)

        async def check(data: bytes) -> str | None:
            try:
                block = decoded(data)
            except MalformedError as error:
                return str(error)
            return None if block.header == node.header else "it has another header"

        claimants = [peer for peer, tip in self.claims.items() if tip.work >= node.work]
        sources = self.fetcher.sources(claimants)
        while sources:
            wire, giver = await self.fetcher.body(messages.BODY_BLOCK, node.id, MAX_WIRE_BYTES, sources, check)
            block = decoded(wire)
            async with self.keeper.in_use(block.subtrees):
                for bundle in block.subtrees:
                    await self.keeper.obtain(bundle, [giver, *(peer for peer in sources if peer != giver)])
                try:
                    await self.chain.store_block(node, block)
                    self._givers[node.id] = giver
                    return
                except BodyMismatch as error:
                    self.fetcher.blame(giver, WRONG_BODY_POINTS, f"block {display(node.id)}: {error}")
            sources = [peer for peer in sources if peer != giver]
        raise Unavailable(f"no peer has block {display(node.id)} as its header commits to it")

    def _blame_invalid(self, node: Node) -> None:
        for id in list(self._givers):
            stored = self.chain.index.get(id)
            if stored is not None and stored.mark == "invalid":
                self.fetcher.blame(self._givers[id], INVALID_POINTS, f"block {display(id)} is invalid: {stored.reason}")
                self._givers.pop(id)
            elif stored is None or self.chain.index.on_active(stored):
                self._givers.pop(id)
