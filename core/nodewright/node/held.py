"""What the pool holds in memory: pending transactions, those in limbo, those displaced, final statuses, and the order in
which pending ones are handed out and expire. No I/O; no method awaits, so a caller never sees half a change.

Invariants
- An id is pending, in limbo, or has a final status, and at most one of the first two.
- ``bytes_used`` is the sum over pending.
- What leaves through ``drop`` leaves every place, also the batch that is being journalled: it never becomes pending then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import trio

from nodewright.interfaces.common import Admitted
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.pool import TransactionStatus
from nodewright.node.displaced import Displaced
from nodewright.node.expiry import ExpiryQueue
from nodewright.node.limbo import Limbo
from nodewright.node.ready import ReadyQueue
from nodewright.node.statuses import FinalStatuses
from nodewright.storage.prefix import in_parts, take_all, take_leading

EXPIRY_SECONDS = 1.0


class Held:
    """``readied`` is set when something may have become ready, ``expires`` when something may expire."""

    def __init__(self, environment: Environment, final: FinalStatuses) -> None:
        self.final = final
        self.pending: dict[bytes, Admitted] = {}
        self.ready = ReadyQueue(self.pending)
        self.limbo = Limbo(environment)
        self.displaced = Displaced()
        self.expiry = ExpiryQueue(EXPIRY_SECONDS)
        self.in_journal: dict[bytes, Admitted] = {}
        # Restored while the disk was full: pending, and not in the journal until they are restored again.
        self.unjournalled: set[bytes] = set()
        self.bytes_used = 0
        self.readied = trio.Event()
        self.expires = trio.Event()

    def __len__(self) -> int:
        return len(self.pending) + len(self.limbo)

    def waits(self, id: bytes) -> bool:
        """Accepted, without a final status."""
        return id in self.pending or id in self.limbo or id in self.in_journal

    def status(self, id: bytes) -> TransactionStatus | None:
        if id in self.pending or id in self.limbo:
            return TransactionStatus(id, "pending")
        return self.final.get(id)

    def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        pending, limbo = self.pending, self.limbo
        found: list[bytes | None] = []
        for id in ids:
            item = pending.get(id)
            found.append(item.raw if item is not None else limbo.raw(id))
        return found

    def hold(self, items: Sequence[Admitted], first: bool = False) -> None:
        """Pending from now on. ``first``: these are older than all that is pending, and may be parents of it."""
        held = [(item.id, item) for item in items]
        if first:
            held += self.pending.items()
            self.pending.clear()
        self.pending.update(held)
        for item in items:
            self.bytes_used += len(item.raw)
            if item.expires_at is not None:
                self.expiry.add(item.expires_at, item)
        if len(self.final):
            for item in items:
                self.final.forget(item.id)
        if len(self.limbo):
            for item in items:
                self.limbo.drop(item.id)
        if len(self.displaced):
            self.displaced.forget([item.id for item in items])
        if first:
            self.ready.add_first(items)
        else:
            self.ready.add(items)
        if self.expiry:
            self.expires.set()
        self.readied.set()

    def drop(self, ids: Sequence[bytes], leading: bool = False) -> None:
        """Pending no longer: they are about to get a final status. ``leading``: they are the first of those pending, in
        order."""
        limbo = self.limbo
        absent: set[bytes] = set()
        at = 0
        values = take_leading(self.pending, len(ids)) if leading else take_all(self.pending, ids)
        for part in in_parts(cast("list[Admitted | None]", values)):
            sizes = [len(item.raw) if item is not None else -1 for item in part]
            if missing := sizes.count(-1):
                absent.update([ids[at + place] for place, size in enumerate(sizes) if size < 0])
            self.bytes_used -= sum(sizes) + missing
            at += len(part)
            del part
        were = [id for id in ids if id not in absent] if absent else ids
        if self.in_journal:
            for id in ids:
                self.in_journal.pop(id, None)
        if len(limbo):
            were = [*were, *(id for id in ids if limbo.drop(id))]
        if self.unjournalled:
            self.unjournalled.difference_update(ids)
        self.ready.drop(were)
        self.ready.compact()

    def set_aside(self, ids: Sequence[bytes]) -> int:
        """From pending into limbo, in the order that they are pending in; how many."""
        gone = set(ids)
        back = [item for id, item in self.pending.items() if id in gone]
        for item in back:
            del self.pending[item.id]
            self.bytes_used -= len(item.raw)
        self.limbo.put((item.id, item.raw) for item in back)
        return len(back)

    def displace(self, winners: Mapping[bytes, str], raws: Mapping[bytes, bytes]) -> None:
        """These give way; ``raws`` has those that are not pending."""
        ids = list(winners)
        for id, body in zip(ids, self.bodies(ids), strict=True):
            raw = body if body is not None else raws.get(id)
            if raw is not None:
                self.displaced.put(id, raw, winners[id])
