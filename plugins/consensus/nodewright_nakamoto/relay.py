"""Transactions of announced subtrees: fetched, admitted through the pool, and the sealed subtree stored before any block
names it.

Each peer's announcements are taken one after the other, so that parents come before children. Nothing of this is needed for
a block to be judged: what could not be had here is fetched again when a block names it. So every failure is logged and
dropped, and only wrong bytes are a fault. What the pool admits enters this node's own assembly and is announced on by it,
which is how a transaction crosses a network in which not everyone is connected with everyone.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from nodewright.interfaces.common import Bundle, BundleRef, Refused
from nodewright.interfaces.execution import BundleInvalid, BundleValid
from nodewright_nakamoto import messages
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.fetch import WRONG_BODY_POINTS, Fetcher, Unavailable
from nodewright_nakamoto.messages import SubtreeAnnouncement
from nodewright_nakamoto.restore import Restorer
from nodewright_nakamoto.subtree import RECORD, Subtree, split_ids

SUBMIT_BATCH = 1024
MAX_WAITING = 64
MAX_PARENT_ROUNDS = 4
MAX_BUSY_RETRIES = 5


class Relay:
    """One per connected peer."""

    def __init__(self, peer: bytes, chain: Chain, keeper: BundleKeeper, fetcher: Fetcher, restorer: Restorer) -> None:
        self.peer = peer
        self._chain = chain
        self._keeper = keeper
        self._fetcher = fetcher
        self._restorer = restorer
        self._send, self._receive = trio.open_memory_channel[SubtreeAnnouncement](MAX_WAITING)
        self._series = (-1, b"")  # the last series seen and the leaf records known of it
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
        async for announcement in self._receive:
            try:
                await self._follow(announcement)
            except Unavailable as error:
                self._chain.environment.logger.debug("subtree not followed", reason=str(error))

    async def _follow(self, announcement: SubtreeAnnouncement) -> None:
        if await self._keeper.store.has_bundle(announcement.id):
            return
        series, known = self._series
        prefix = known if series == announcement.series and len(known) < RECORD.size * announcement.leaves else b""
        id = announcement.id
        records, _ = await self._keeper.records(id, [self.peer], announcement.leaves, prefix)
        self._series = (announcement.series, records)
        leaves, fees, sizes = await self._chain.environment.offload(messages.decode_records, records)
        stated = Subtree(id, leaves, fees, sizes)
        refused = await self._admit_unknown(split_ids(stated.ids))
        if announcement.sealed:
            await self._store_sealed(stated, refused)

    async def _admit_unknown(self, ids: list[bytes]) -> dict[bytes, bytes]:
        """Bring every transaction that is neither pending nor mined here to the pool; returns the bodies of those it
        refused."""
        held = self._chain.pool.bodies(ids)
        unknown = [id for id, body in zip(ids, held, strict=True) if body is None]
        if unknown:
            mined = await self._restorer.on_chain(unknown)
            unknown = [id for id, is_mined in zip(unknown, mined, strict=True) if not is_mined]
        refused: dict[bytes, bytes] = {}
        for start in range(0, len(unknown), messages.MAX_IDS):
            batch = unknown[start : start + messages.MAX_IDS]
            found = await self._bodies(batch)
            await self._submit([(id, found[id]) for id in batch if id in found], refused)
            if len(found) < len(batch):
                raise Unavailable(f"{len(batch) - len(found)} announced transactions could not be had")
        return refused

    async def _bodies(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """By id, from stored bundles, then from this peer."""
        stored = await self._keeper.store.transactions(ids)
        found = {id: body for id, body in zip(ids, stored, strict=True) if body is not None}
        absent = [id for id in ids if id not in found]
        if absent:
            limit = self._keeper.max_data_bytes
            sent, _ = await self._fetcher.transactions(absent, [self.peer], limit)
            found.update(await self._keeper.genuine(sent, [self.peer]))
        return found

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
        found = await self._bodies(wanted)
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
