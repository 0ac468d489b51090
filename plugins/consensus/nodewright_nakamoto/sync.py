"""Following the best chain that peers have: who is there, what they say, and a ``Follower`` for each of them.

Invariants:
- what a peer says reaches its own follower and relay only; both end with its connection;
- what could not be judged is judged again, after a pause that doubles, as long as it stands;
- all that is kept of a catch-up is in the store: after a restart it goes on where it was.
"""

from __future__ import annotations

import trio

from nodewright.interfaces.transport import Channel, PeerUp
from nodewright_nakamoto import messages
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.fetch import MALFORMED_POINTS, Fetcher
from nodewright_nakamoto.follow import Follower, Shared
from nodewright_nakamoto.messages import SubtreeAnnouncement, Tip
from nodewright_nakamoto.relay import Relay, Turns
from nodewright_nakamoto.restore import Restorer
from nodewright_nakamoto.serve import tip_of

GREETINGS = 3  # how often a peer that does not answer is greeted
RETRY_SECONDS = 3.0
MAX_RETRY_SECONDS = 60.0


class Synchroniser:
    def __init__(self, chain: Chain, keeper: BundleKeeper, fetcher: Fetcher, announcements: Channel, parallel: int) -> None:
        self.chain = chain
        self.keeper = keeper
        self.fetcher = fetcher
        self._announcements = announcements
        self._shared = Shared(chain, keeper, fetcher, parallel)
        self._relays: dict[bytes, Relay] = {}
        self._restorer = Restorer(chain)
        self._turns = Turns()

    @property
    def followers(self) -> list[Follower]:
        return list(self._shared.followers.values())

    def asked_for(self) -> set[bytes]:
        return self._shared.asked_for()

    @property
    def peers_ahead(self) -> int:
        return sum(one.claim is not None and one.claim.work > self.chain.tip.work for one in self.followers)

    @property
    def syncing(self) -> bool:
        return any(one.missing > 1 for one in self.followers)

    @property
    def headers(self) -> int:
        """The height of the best chain of headers known."""
        return max([self.chain.tip.height, *(one.best.height for one in self.followers if one.best and one.heavier)])

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._shared.run_judge)
            nursery.start_soon(self._peers, nursery)
            nursery.start_soon(self._listen)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._retry)

    # --- peers and what they say ---

    async def _peers(self, nursery: trio.Nursery) -> None:
        async for event in self.fetcher.transport.events():
            peer = event.peer.id
            old = self._relays.pop(peer, None)
            self._shared.followers.pop(peer, None)
            if old is not None:
                old.cancel_scope.cancel()
            if isinstance(event, PeerUp):
                relay = Relay(peer, self.chain, self.keeper, self.fetcher, self._restorer, self._turns)
                follower = Follower(peer, self._shared)
                self._relays[peer] = relay
                self._shared.followers[peer] = follower
                nursery.start_soon(self._attend, relay, follower)
            else:
                self.fetcher.forget(peer)

    async def _attend(self, relay: Relay, follower: Follower) -> None:
        """All that is done for one peer while it is connected."""
        with relay.cancel_scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                nursery.start_soon(self._greet, relay, follower)
                await relay.run()

    async def _greet(self, relay: Relay, follower: Follower) -> None:
        """A peer that came: ask for its tip, and once this node stands there for what is pending with it. Announcements
        that a peer made before it was connected, or that were of no use before its blocks were here, are not made again."""
        for _ in range(GREETINGS):
            if not await follower.ask_tip():
                continue
            while follower.claim is not None and follower.claim.work > self.chain.tip.work:
                await self.chain.moved()
            reply = await self.fetcher.ask(relay.peer, b"A")
            if reply is not None:
                try:
                    await relay.offer(messages.decode_announced(reply))
                except MalformedError as error:
                    self.fetcher.blame(relay.peer, MALFORMED_POINTS, str(error))
                return

    async def _listen(self) -> None:
        while True:
            message = await self._announcements.receive()
            try:
                said = messages.decode_announcement(message.payload)
            except MalformedError as error:
                self.fetcher.blame(message.peer, MALFORMED_POINTS, str(error))
                continue
            if isinstance(said, Tip):
                follower = self._shared.followers.get(message.peer)
                if follower is not None:
                    follower.claimed(said)
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

    # --- this node's own chain ---

    async def _watch(self) -> None:
        """A tip that moved back (a block found invalid, the operator's word) makes claims worth following again."""
        while True:
            work = self.chain.index.best.work
            await self.chain.moved()
            if self.chain.index.best.work < work:
                for follower in self.followers:
                    follower.wake()

    async def _retry(self) -> None:
        """Blocks that could not be judged."""
        pause, before = RETRY_SECONDS, set[bytes]()
        while True:
            await self.chain.environment.sleep(pause)
            now = {node.id for node in self.chain.index.marked.values() if node.mark == "incomplete"}
            pause = min(2 * pause, MAX_RETRY_SECONDS) if now and now == before else RETRY_SECONDS
            before = now
            if now:
                await self.chain.retry_incomplete()
