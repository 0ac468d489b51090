"""Transactions of announced subtrees: fetched, admitted through the pool, and the sealed subtree stored before any block
names it.

Each peer's announcements are taken one after the other, so that parents come before children. Nothing of this is needed for
a block to be judged: what could not be had here is fetched again when a block names it. So every failure is logged and
dropped; wrong bytes are a fault, and so is announcing what one does not have. What the pool admits enters this node's own
assembly and is announced on by it, which is how a transaction crosses a network in which not everyone is connected with
everyone.

Invariants:
- of large subtrees at most LARGE_AT_ONCE are in memory over all peers, small ones never wait for them (``Turns``);
- who has a turn keeps it only while it sends at LEAST_RATE.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from nodewright.interfaces.common import Bundle, BundleRef, Refused
from nodewright.interfaces.execution import BundleInvalid, BundleValid
from nodewright_nakamoto import messages
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.fetch import WRONG_BODY_POINTS, Fetcher, Unavailable
from nodewright_nakamoto.messages import SubtreeAnnouncement
from nodewright_nakamoto.restore import Restorer
from nodewright_nakamoto.subtree import MAX_LEAVES, RECORD, Subtree, split_ids

SUBMIT_BATCH = 1024
MAX_WAITING = 64
MAX_PARENT_ROUNDS = 4
MAX_BUSY_RETRIES = 5
SMALL_LEAVES = 4096  # up to here a subtree waits for no other
MIDDLE_LEAVES = 65536
MIDDLE_AT_ONCE = 8
LARGE_AT_ONCE = 2
SERIES_BYTES = 96 * 1024 * 1024
GRACE_SECONDS = 15.0  # before a peer that has the turn is held to LEAST_RATE
LEAST_RATE = 256 * 1024  # bytes a second
MOST_SECONDS = 300.0
VAIN_POINTS = 4
VAIN_POINTS_LARGEST = 32  # more, for a subtree of POINTS_LEAVES of which nothing is there
POINTS_LEAVES = MAX_LEAVES
TELL_SECONDS = 60.0


class Turns:
    """What the relays of all peers share: turns at large subtrees, so that LARGE_AT_ONCE of them and MIDDLE_AT_ONCE of
    middle size are in memory, whoever announces them; and the records of open series, SERIES_BYTES in all."""

    def __init__(self) -> None:
        self._middle = trio.CapacityLimiter(MIDDLE_AT_ONCE)
        self._large = trio.CapacityLimiter(LARGE_AT_ONCE)
        self._series: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()  # by peer, the newest last
        self.kept = 0  # bytes

    @asynccontextmanager
    async def turn(self, leaves: int) -> AsyncIterator[None]:
        """First come, first served."""
        if leaves <= SMALL_LEAVES:
            yield
            return
        async with self._middle if leaves <= MIDDLE_LEAVES else self._large:
            yield

    def known(self, peer: bytes, series: int) -> bytes:
        """The records that a subtree of this series begins with, as far as they are kept."""
        its, records = self._series.get(peer, (series, b""))
        return records if its == series else b""

    def keep(self, peer: bytes, series: int, records: bytes) -> None:
        self.forget(peer)
        self._series[peer] = series, records
        self.kept += len(records)
        while self.kept > SERIES_BYTES:
            self.forget(next(iter(self._series)))

    def forget(self, peer: bytes) -> None:
        _, records = self._series.pop(peer, (0, b""))
        self.kept -= len(records)


class Relay:
    """One per connected peer."""

    def __init__(
        self, peer: bytes, chain: Chain, keeper: BundleKeeper, fetcher: Fetcher, restorer: Restorer, turns: Turns
    ) -> None:
        self.peer = peer
        self._chain = chain
        self._keeper = keeper
        self._fetcher = fetcher
        self._restorer = restorer
        self._turns = turns
        self._send, self._receive = trio.open_memory_channel[SubtreeAnnouncement](MAX_WAITING)
        self._told = -math.inf  # when a failure was last told
        self.cancel_scope = trio.CancelScope()

    def push(self, announcement: SubtreeAnnouncement) -> None:
        """Never waits; when this peer announces faster than can be followed, its newest are dropped."""
        try:
            self._send.send_nowait(announcement)
        except trio.WouldBlock:
            self._chain.environment.logger.debug("subtree announcement dropped", peer=self.peer.hex()[:16])

    async def offer(self, announcements: Sequence[SubtreeAnnouncement]) -> None:
        """Waits until each is taken: for what this peer was asked for."""
        for announcement in announcements:
            await self._send.send(announcement)

    async def run(self) -> None:
        """Follows what is announced, for ever."""
        try:
            async for announcement in self._receive:
                try:
                    await self._follow(announcement)
                except Unavailable as error:
                    self._tell(str(error))
        finally:
            self._turns.forget(self.peer)

    def _tell(self, reason: str) -> None:
        """Once in TELL_SECONDS where an operator reads it."""
        now, logger = self._chain.environment.monotonic(), self._chain.environment.logger
        first = now - self._told >= TELL_SECONDS
        if first:
            self._told = now
        (logger.info if first else logger.debug)("subtree not followed", peer=self.peer.hex()[:16], reason=reason)

    def _in_vain(self, leaves: int, share: float, reason: str) -> None:
        """It announced what it does not give. An honest node may have lost some by a reorganisation: so a few points, and
        more by how much was done for nothing."""
        points = VAIN_POINTS + round(VAIN_POINTS_LARGEST * share * min(1.0, leaves / POINTS_LEAVES))
        self._fetcher.blame(self.peer, points, reason)

    def _seconds(self, leaves: int, size: int) -> float:
        """How long a peer may take to send ``size`` bytes while others wait for their turn."""
        return math.inf if leaves <= SMALL_LEAVES else min(MOST_SECONDS, GRACE_SECONDS + size / LEAST_RATE)

    async def _follow(self, announcement: SubtreeAnnouncement) -> None:
        if await self._keeper.store.has_bundle(announcement.id):
            return
        async with self._turns.turn(announcement.leaves):
            records = await self._records(announcement)
            columns = await self._chain.environment.offload(messages.decode_records, records)
            stated = Subtree(announcement.id, *columns)
            refused = await self._admit_unknown(stated)
            if announcement.sealed:
                await self._store_sealed(stated, refused)
            else:  # only what was of use is kept for the next of the series
                self._turns.keep(self.peer, announcement.series, records)

    async def _records(self, announcement: SubtreeAnnouncement) -> bytes:
        id, leaves = announcement.id, announcement.leaves
        known = self._turns.known(self.peer, announcement.series)
        prefix = known if len(known) < RECORD.size * leaves else b""
        self._turns.forget(self.peer)
        del known
        records = b""
        with trio.move_on_after(self._seconds(leaves, RECORD.size * leaves - len(prefix))):
            records, _ = await self._keeper.records(id, [self.peer], leaves, prefix)
        if not records:
            reason = f"it announced subtree {display(id)} and was too slow to send its {leaves} leaves"
            self._in_vain(leaves, 0.5, reason)
            raise Unavailable(reason)
        return records

    async def _admit_unknown(self, stated: Subtree) -> dict[bytes, bytes]:
        """Bring every transaction that is neither pending nor mined here to the pool; returns the bodies of those it
        refused. Piece by piece, so that a subtree of which nothing is there is given up at its beginning."""
        refused: dict[bytes, bytes] = {}
        column, sizes = stated.ids, stated.body_sizes()
        unknown: dict[bytes, int] = {}  # with the sizes that the peer states
        for start in range(0, stated.count, messages.MAX_IDS):
            ids = split_ids(column[32 * start : 32 * (start + messages.MAX_IDS)])
            held = self._chain.pool.bodies(ids)
            absent = {id: sizes[start + at] for at, (id, body) in enumerate(zip(ids, held, strict=True)) if body is None}
            if absent:
                mined = await self._restorer.on_chain(list(absent))
                unknown |= {id: size for (id, size), is_mined in zip(absent.items(), mined, strict=True) if not is_mined}
            last = start + messages.MAX_IDS >= stated.count
            while len(unknown) >= messages.MAX_IDS or (last and unknown):
                batch = list(unknown)[: messages.MAX_IDS]
                size = sum(unknown.pop(id) for id in batch)
                await self._admit(stated, batch, size, refused)
        return refused

    async def _admit(self, stated: Subtree, batch: list[bytes], size: int, refused: dict[bytes, bytes]) -> None:
        found: dict[bytes, bytes] = {}
        lacking: set[bytes] = set()
        with trio.move_on_after(self._seconds(len(stated), size)) as scope:
            found, lacking = await self._bodies(batch)
        absent = len(batch) - len(found)
        if absent:
            late = scope.cancelled_caught
            if late or self.peer in lacking:
                what = f"it announced subtree {display(stated.root)} and "
                what += "was too slow to send its transactions" if late else f"has not {absent} transactions of it"
                self._in_vain(len(stated), 0.5 if late else absent / len(batch), what)
        await self._submit([(id, found[id]) for id in batch if id in found], refused)
        if absent:
            raise Unavailable(f"{absent} announced transactions could not be had")

    async def _bodies(self, ids: Sequence[bytes]) -> tuple[dict[bytes, bytes], set[bytes]]:
        """By id, from stored bundles, then from this peer; and whether that had not all."""
        stored = await self._keeper.store.transactions(ids)
        found = {id: body for id, body in zip(ids, stored, strict=True) if body is not None}
        absent = [id for id in ids if id not in found]
        lacking: set[bytes] = set()
        if absent:
            limit = self._keeper.max_data_bytes
            sent, lacking = await self._fetcher.transactions(absent, [self.peer], limit)
            found.update(await self._keeper.genuine(sent, [self.peer]))
        return found, lacking

    async def _submit(self, transactions: list[tuple[bytes, bytes]], refused: dict[bytes, bytes], depth: int = 0) -> None:
        pool, source = self._chain.pool, f"peer:{self.peer.hex()}"
        for start in range(0, len(transactions), SUBMIT_BATCH):
            batch = transactions[start : start + SUBMIT_BATCH]
            for _ in range(MAX_BUSY_RETRIES):
                answers = await pool.submit([raw for _, raw in batch], source)
                pairs = [(pair, one) for pair, one in zip(batch, answers, strict=True) if isinstance(one, Refused)]
                await self._sort_out([pair for pair in pairs if pair[1].kind != "busy"], refused, depth)
                batch = [pair for pair, one in pairs if one.kind == "busy"]
                if not batch:
                    break
                await self._chain.environment.sleep(self._retry_after(pairs))
            refused.update(batch)

    @staticmethod
    def _retry_after(pairs: Sequence[tuple[tuple[bytes, bytes], Refused]]) -> float:
        waits = [one.data.get("retry_after_seconds", 1.0) for _, one in pairs if one.kind == "busy"]
        return min(10.0, max(0.05, *waits)) if waits else 0.05

    async def _sort_out(
        self, pairs: Sequence[tuple[tuple[bytes, bytes], Refused]], refused: dict[bytes, bytes], depth: int
    ) -> None:
        """Refusals: a missing parent is fetched and the child tried again, a conflict is told, the rest is kept aside."""
        orphans: list[tuple[bytes, bytes]] = []
        parents: dict[bytes, None] = {}
        for (id, raw), answer in pairs:
            missing = [one for one in answer.data.get("missing", ()) if isinstance(one, bytes) and len(one) == 32]
            if answer.kind == "missing" and missing and depth < MAX_PARENT_ROUNDS:
                orphans.append((id, raw))
                parents.update(dict.fromkeys(missing))
                continue
            refused[id] = raw
            winner = answer.data.get("winner")
            if answer.kind == "conflict" and isinstance(winner, bytes):
                pair = {"id": display(id), "winner": display(winner)}
                reason = "first seen wins until a block decides"
                self._chain.events.publish("double_spend", {"transactions": [pair], "reason": reason})
        if not orphans:
            return
        own = {id for id, _ in orphans}
        wanted = [id for id in parents if id not in own][: messages.MAX_IDS]
        found, _ = await self._bodies(wanted)
        if not found and not own.intersection(parents):
            refused.update(orphans)
            return
        await self._submit([*found.items(), *orphans], refused, depth + 1)

    async def _store_sealed(self, stated: Subtree, refused: dict[bytes, bytes]) -> None:
        """Check and store a sealed subtree. One with mined transactions is left to the block that names it."""
        ids = split_ids(stated.ids)
        held = self._chain.pool.bodies(ids)
        bodies = [body if body is not None else refused.get(id) for id, body in zip(ids, held, strict=True)]
        complete = [body for body in bodies if body is not None]
        if len(complete) != len(ids):
            return
        reference = BundleRef(stated.root, len(ids), sum(map(len, complete)))
        bundle = Bundle(reference, stated.ids, complete if refused else None)
        verdict = await self._chain.execution.validate_bundle(bundle, self._chain.tip.ref)
        if isinstance(verdict, BundleInvalid):
            reason = f"subtree {display(stated.root)} is invalid at {verdict.index}: {verdict.code}: {verdict.message}"
            self._fetcher.blame(self.peer, WRONG_BODY_POINTS, reason)
        elif isinstance(verdict, BundleValid):
            first = [0] if stated.has_placeholder else []
            fees = [*first, *verdict.each_fee] if len(verdict.each_fee) == len(ids) else stated.fees
            sizes = [*first, *map(len, complete)]
            built = Subtree(stated.root, stated.leaves, fees, sizes, tuple(verdict.conflicts))
            await self._keeper.keep(built, complete, fresh=bool(refused))
            data = {"hash": display(stated.root), "transactions": len(ids), "peer": self.peer.hex()}
            self._chain.events.publish("bundle_accepted", data | {"conflicts": len(verdict.conflicts)})
