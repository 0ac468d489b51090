"""Following one peer: the tip it claims, the headers up to it, the bodies under them. Each connected peer has a follower of
its own, so that what one withholds, delays or makes up costs the others nothing.

Invariants:
- a header is in the tree only after its checks; a body is asked for only under a header with more work than the best chain
  whose bodies are here;
- a peer brings at most MAX_AHEAD headers (and one reply) past the last body that is here. Only where its chain leaves ours
  so far down that these do not show more work, it may bring as many more as our chain has since: one peer at a time;
- headers without bodies leave the tree with the last follower whose chain they are on: when it goes, is found out, or its
  chain has no longer more work;
- a body that is being fetched from one peer is asked of a second one after PATIENCE_SECONDS, not before;
- nothing is marked invalid because it is missing. A peer that lacks what its own claim says it has, is slow to answer
  again and again, or claims more work than it can show is penalised, by name and with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import trio
from attrs import define, field

from nodewright_nakamoto import blockwire, messages
from nodewright_nakamoto.blockwire import MAX_WIRE_BYTES
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import BodyMismatch, Chain, InvalidHeader, MissingBundles, NotYet, display
from nodewright_nakamoto.chainindex import Node
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.fetch import MALFORMED_POINTS, PATIENCE_SECONDS, WRONG_BODY_POINTS, Fetcher, Unavailable
from nodewright_nakamoto.header import Header
from nodewright_nakamoto.messages import Tip

WINDOW = 64  # bodies wanted at a time
MAX_AHEAD = 4000
MAX_ATTEMPTS = 20
FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 30.0
NEW_CLAIM_SECONDS = 1.0  # a new claim of a peer that failed is looked at after this time, if its pause is longer
TIP_INTERVAL_SECONDS = 30.0
INVALID_POINTS = 100
WITHHELD_POINTS = 20
LACKING_POINTS = 10
LACKING_GRACE = 3  # failures in a row that a peer may have for want of what its own blocks name
EARLY_GRACE = 20  # headers of the future between two faults
EARLY_QUIET_SECONDS = 60.0
SHORTFALL_GRACE = 2  # claims in a row that a peer may have moved away from before it was asked

Step = Literal["idle", "again", "failed"]


@define
class Shared:
    """What the followers of one node share."""

    chain: Chain
    keeper: BundleKeeper
    fetcher: Fetcher
    parallel: int
    followers: dict[bytes, Follower] = field(factory=dict)
    standing: dict[Follower, None] = field(factory=dict)  # also those of peers that went, until they have let go
    flights: dict[bytes, float] = field(factory=dict)  # block -> when a peer was asked for it
    givers: dict[bytes, bytes] = field(factory=dict)  # block -> the peer whose bytes it was stored from
    deep: trio.Lock = field(factory=trio.Lock)
    due: trio.Event = field(factory=trio.Event)
    judged: trio.Event = field(factory=trio.Event)

    async def judge(self) -> None:
        """Waits until ``run_judge`` has moved the tip over what is stored now."""
        self.due.set()
        await self.judged.wait()

    async def run_judge(self) -> None:
        """A task of the node's own: no peer that goes ends a move of the tip midway."""
        while True:
            await self.due.wait()
            self.due, judged = trio.Event(), self.judged
            self.judged = trio.Event()
            await self.chain.activate()
            self.blame_invalid()
            judged.set()

    def free(self, node: Node) -> bool:
        """Whether nobody is fetching this body, or somebody has been for too long."""
        since = self.flights.get(node.id)
        return since is None or self.chain.environment.monotonic() - since >= PATIENCE_SECONDS

    def sources(self, node: Node, first: bytes) -> list[bytes]:
        """Who may have what this block names: its giver, those who claim as much work, the others."""
        claims = [peer for peer, one in self.followers.items() if one.claim is not None and one.claim.work >= node.work]
        return self.fetcher.sources([first, *(peer for peer in claims if peer != first)])

    def asked_for(self) -> set[bytes]:
        """Headers that a follower stands on: what it asks for leads there, so none of it may leave the tree."""
        return {one.best.id for one in self.standing if one.best is not None}

    def release(self, best: Node) -> None:
        """Forget the headers that only led here."""
        self.chain.index.discard(best, self.asked_for())

    def blame_invalid(self) -> None:
        for id in list(self.givers):
            stored = self.chain.index.get(id)
            if stored is not None and stored.mark == "invalid":
                reason = f"block {display(id)} is invalid: {stored.reason}"
                self.fetcher.blame(self.givers.pop(id), INVALID_POINTS, reason)
            elif stored is None or self.chain.index.on_active(stored):
                self.givers.pop(id)


class Follower:
    def __init__(self, peer: bytes, shared: Shared) -> None:
        self.peer = peer
        self.claim: Tip | None = None
        self.best: Node | None = None  # the last header of its chain that is in the tree
        self._shared = shared
        self._chain = shared.chain
        self._wake = trio.Event()
        self._failures = 0
        self._shortfalls = 0
        self._holds_deep = False
        self._early, self._early_told = 0, -EARLY_QUIET_SECONDS
        self._withheld = ""
        self._fetching = trio.CancelScope()

    @property
    def heavier(self) -> bool:
        """Whether the headers it has shown make a better chain than the best whose bodies are here."""
        return self.best is not None and not self.best.bad and self.best.work > self._chain.index.best.work

    @property
    def missing(self) -> int:
        return len(self._missing()) if self.heavier else 0

    def claimed(self, tip: Tip) -> None:
        self.claim = tip
        self._failures = min(self._failures, MAX_ATTEMPTS - 1)
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        self._shared.standing[self] = None
        try:
            while True:
                self._wake = trio.Event()
                step = await self._step()
                if step == "again":
                    self._failures = 0
                    continue
                await self._rest(step)
        finally:
            self._let_go()
            del self._shared.standing[self]

    async def _rest(self, step: Step) -> None:
        if step == "idle":
            self._failures = 0
            with trio.move_on_after(NEW_CLAIM_SECONDS if self._shortfalls else TIP_INTERVAL_SECONDS):
                await self._wake.wait()
                return
            await self.ask_tip()  # an announcement may have been dropped
            return
        pause = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**self._failures)
        self._failures += 1
        if self._failures >= MAX_ATTEMPTS:
            self._drop()
        with trio.move_on_after(pause):
            await self._chain.environment.sleep(min(pause, NEW_CLAIM_SECONDS))
            await self._wake.wait()

    async def ask_tip(self) -> bool:
        """Whether it answered."""
        reply = await self._shared.fetcher.ask(self.peer, b"T")
        if reply is None:
            return False
        try:
            self.claimed(Tip.decode(reply))
        except MalformedError as error:
            self._shared.fetcher.blame(self.peer, MALFORMED_POINTS, str(error))
        return True

    def _blame(self, points: int, reason: str) -> None:
        """What it claims is not followed any further."""
        self._drop()
        self._shared.fetcher.blame(self.peer, points, reason)

    def _drop(self) -> None:
        self.claim = None
        self._let_go()

    def _let_go(self) -> None:
        best, self.best = self.best, None
        if best is not None:
            self._shared.release(best)
        if self._holds_deep:
            self._holds_deep = False
            self._shared.deep.release()

    async def _step(self) -> Step:
        claim, index = self.claim, self._chain.index
        if claim is not None and claim.work > index.best.work and not await self._headers(claim):
            return "failed"
        if not self.heavier:
            self._let_go()
            return "idle"
        return await self._bodies()

    # --- headers ---

    async def _headers(self, claim: Tip) -> bool:
        """Bring the headers of what it claims into the tree, as far as they may go; False where it does not answer."""
        index, fetcher = self._chain.index, self._shared.fetcher
        known = index.get(claim.header.id)
        if known is None and claim.header.previous in index:
            if not self._take([claim.header]):
                return True
            known = index.get(claim.header.id)  # the common case: one new block on a known one
        elif known is not None:
            self._stand_on(known)
        while known is None and await self._may_go_on():
            locator = index.locator(self.best or index.best)
            reply = await fetcher.ask(self.peer, b"H" + b"".join(locator))
            if reply is None:
                return False
            try:
                headers = messages.decode_headers(reply)
            except MalformedError as error:
                self._blame(MALFORMED_POINTS, str(error))
                return True
            if self.claim is not claim:
                return True  # it has moved on meanwhile
            before = self.best
            if headers and not self._take(headers):
                return True
            known = index.get(claim.header.id)
            if known is None and (len(headers) < messages.MAX_HEADERS or self.best is before):
                self._fell_short(claim)
                return True
        if known is not None:
            self._shortfalls = 0
            if known.work != claim.work:
                self._blame(MALFORMED_POINTS, f"it claims work {claim.work:x} for a chain of {known.work:x}")
        return True

    async def _may_go_on(self) -> bool:
        """Whether more of its headers may come into the tree now."""
        index, best = self._chain.index, self.best
        if best is None or best.connected:
            return True
        missing = self._missing()
        if len(missing) < MAX_AHEAD:
            return True
        if self.heavier or not missing:
            return False
        if not self._holds_deep:
            await self._shared.deep.acquire()
            self._holds_deep = True
        fork = missing[0].height - 1
        if len(missing) >= MAX_AHEAD + index.best.height - fork:
            self._blame(WITHHELD_POINTS, f"its {len(missing)} headers from height {fork} have less work than ours")
            return False
        return True

    def _fell_short(self, claim: Tip) -> None:
        """It has no header of what it claimed: it moved on and will tell its next tip, or it lied."""
        self._shortfalls += 1
        if self._shortfalls > SHORTFALL_GRACE:
            self._blame(MALFORMED_POINTS, f"it has not shown the chain of {display(claim.header.id)} that it claims")
        else:
            self.claim = None

    def _take(self, headers: Iterable[Header]) -> bool:
        """Whether all of them are in the tree now, and its chain stands on the last."""
        node: Node | None = None
        problem = ""
        points = MALFORMED_POINTS
        for header in headers:
            if header.previous not in self._chain.index:
                # An answer begins at a block that the question named, genesis at the least.
                problem = f"header {display(header.id)} attaches to nothing that was asked for"
                break
            try:
                node = self._chain.add_header(header)
            except InvalidHeader as error:
                problem, points = f"header {display(header.id)}: {error}", INVALID_POINTS
                break
            except NotYet as error:
                self._set_aside(header, str(error))
                self.claim = None
                break
            if node.bad:
                break  # its chain holds a block that is refused here: what follows is of no use
        if node is not None:
            self._stand_on(node)
        if problem:
            self._blame(points, problem)
        return node is not None and not node.bad and self.claim is not None

    def _set_aside(self, header: Header, reason: str) -> None:
        """Once a minute in the log; a clock that is wrong is a fault only if it goes on and on."""
        now = self._chain.environment.monotonic()
        self._early += 1
        if now >= self._early_told + EARLY_QUIET_SECONDS:
            self._early_told = now
            peer = self.peer.hex()[:16]
            self._chain.environment.logger.info("header set aside", hash=display(header.id), peer=peer, reason=reason)
        if self._early % EARLY_GRACE == 0:
            what = f"{self._early} of its headers are dated in the future"
            self._shared.fetcher.blame(self.peer, MALFORMED_POINTS, what)

    def _stand_on(self, node: Node) -> None:
        before, self.best = self.best, node
        if before is not None and before is not node:
            self._shared.release(before)

    def _missing(self) -> list[Node]:
        """The nodes of its chain whose bodies are not here, lowest first."""
        found: list[Node] = []
        if self.best is not None:
            for node in self._chain.index.back(self.best):
                if node.connected:
                    break
                if not node.have:
                    found.append(node)
        found.reverse()
        return found

    # --- bodies ---

    async def _bodies(self) -> Step:
        missing = self._missing()[:WINDOW]
        wanted = [node for node in missing if self._shared.free(node)]
        if not wanted:
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._chain.moved()
            return "again"
        limiter = trio.CapacityLimiter(self._shared.parallel)
        got: list[bool] = []
        async with trio.open_nursery() as nursery:
            self._fetching = nursery.cancel_scope
            for node in wanted:
                nursery.start_soon(self._get, node, limiter, got)
        if self._withheld:
            reason, self._withheld = self._withheld, ""
            self._blame(WITHHELD_POINTS, reason)
        return "again" if all(got) else "failed"

    async def _get(self, node: Node, limiter: trio.CapacityLimiter, got: list[bool]) -> None:
        shared = self._shared
        async with limiter:
            if node.bad or node.have or not all(got) or not shared.free(node):
                return
            shared.flights[node.id] = self._chain.environment.monotonic()
            try:
                await self._get_block(node)
            except (Unavailable, MissingBundles, BodyMismatch) as error:
                got.append(False)
                self._could_not(node, error)
                return
            finally:
                shared.flights.pop(node.id, None)
        got.append(True)
        if node.connected:
            await shared.judge()

    def _could_not(self, node: Node, error: Exception) -> None:
        reason = f"{error}; {self._failures + 1} in a row"
        log = self._chain.environment.logger
        log.info("block incomplete", hash=display(node.id), peer=self.peer.hex()[:16], reason=reason)
        if isinstance(error, Unavailable) and self.peer in error.absent and self._failures >= LACKING_GRACE:
            what = f"it has no subtree or transaction that block {display(node.id)} of its chain names"
            self._shared.fetcher.blame(self.peer, LACKING_POINTS, what)

    async def _get_block(self, node: Node) -> None:
        """From this peer, whose chain it is on; what the block names comes from any."""
        shared = self._shared

        def decoded(data: bytes) -> blockwire.Block:
            return blockwire.decode(data, height=node.height)

        async def check(data: bytes) -> str | None:
            try:
                block = decoded(data)
            except MalformedError as error:
                return str(error)
            return None if block.header == node.header else "it has another header"

        try:
            wire, _ = await shared.fetcher.body(messages.BODY_BLOCK, node.id, MAX_WIRE_BYTES, [self.peer], check)
        except Unavailable as error:
            if self.peer in error.absent:
                self._withheld = f"it has no block {display(node.id)}, which is on the chain it claims"
                self._fetching.cancel()  # the tree is not to change under the others
            raise
        block = decoded(wire)
        async with shared.keeper.in_use(block.subtrees):
            for bundle in block.subtrees:
                await shared.keeper.obtain(bundle, shared.sources(node, self.peer))
            try:
                await self._chain.store_block(node, block)
                shared.givers[node.id] = self.peer
            except BodyMismatch as error:
                shared.fetcher.blame(self.peer, WRONG_BODY_POINTS, f"block {display(node.id)}: {error}")
                raise
