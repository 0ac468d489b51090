"""Transactions from and to one peer.

Invariants: what is on its way from the wire to the pool is at most MAX_INTAKE_BYTES and one message; orphans are at most
MAX_ORPHANS in MAX_ORPHAN_BYTES, oldest dropped first; nothing is announced to a peer that announced or sent it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from nodewright.interfaces.common import Admitted, Refused
from nodewright_bitcoin.encoding import sha256d
from nodewright_bsv_p2p import messages
from nodewright_bsv_p2p.messages import TX, Item, Reject
from nodewright_bsv_p2p.shared import Shared

BATCH = 1024
MAX_INTAKE_BYTES = 16 * 1024 * 1024
MAX_ORPHANS = 1000
MAX_ORPHAN_BYTES = 8 * 1024 * 1024
MAX_KNOWN = 50_000
MAX_BUSY_RETRIES = 5
MALFORMED_POINTS = 50
INVALID_POINTS = 10

_REJECTS = {
    "malformed": messages.REJECT_MALFORMED,
    "invalid": messages.REJECT_INVALID,
    "conflict": messages.REJECT_DUPLICATE,
    "policy": messages.REJECT_NONSTANDARD,
}


class Relay:
    def __init__(self, shared: Shared, peer: Any) -> None:
        self._shared = shared
        self._peer = peer
        self._intake: deque[bytes] = deque()
        self._intake_bytes = 0
        self._arrived = trio.Event()
        self._room = trio.Event()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._orphans: OrderedDict[bytes, tuple[bytes, frozenset[bytes]]] = OrderedDict()
        self._orphan_bytes = 0
        self.source = f"p2p:{peer.number}"

    # --- in ---

    async def on_announced(self, ids: Sequence[bytes]) -> None:
        self._remember(ids)
        wanted = await self._shared.unknown(ids)
        if wanted:
            self._ask(wanted)

    def _ask(self, ids: Sequence[bytes]) -> None:
        self._peer.send("getdata", messages.encode_inventory([Item(TX, id) for id in ids]))

    async def on_transaction(self, raw: bytes) -> None:
        """Waits while what this peer sent before is more than there is room for."""
        while self._intake_bytes and self._intake_bytes + len(raw) > MAX_INTAKE_BYTES:
            self._room = trio.Event()
            await self._room.wait()
        self._intake.append(raw)
        self._intake_bytes += len(raw)
        self._arrived.set()

    async def run(self) -> None:
        """What arrives goes to the pool in batches, for ever."""
        while True:
            while not self._intake:
                self._arrived = trio.Event()
                await self._arrived.wait()
            batch = [self._intake.popleft() for _ in range(min(BATCH, len(self._intake)))]
            self._intake_bytes -= sum(map(len, batch))
            self._room.set()
            while batch:
                accepted = await self._submit(batch)
                # Children that waited for these, then theirs.
                batch = [raw for raw, missing in self._orphans.values() if missing & accepted]
                for raw in batch:
                    self._drop_orphan(sha256d(raw))

    async def _submit(self, batch: list[bytes]) -> set[bytes]:
        """The ids of those that were accepted."""
        accepted: set[bytes] = set()
        for _ in range(MAX_BUSY_RETRIES):
            answers = await self._shared.node.pool.submit(batch, self.source)
            again: list[bytes] = []
            for raw, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Admitted):
                    accepted.add(answer.id)
                elif answer.kind == "busy":
                    again.append(raw)
                else:
                    self._refused(raw, answer)
            if not again:
                break
            batch = again
            await self._shared.environment.sleep(1.0)
        self._remember(accepted)
        return accepted

    def _refused(self, raw: bytes, answer: Refused) -> None:
        id = answer.id or sha256d(raw)
        if answer.kind == "missing":
            missing = [one for one in answer.data.get("missing", ()) if isinstance(one, bytes)]
            self._keep_orphan(sha256d(raw), raw, missing)
            return
        code = _REJECTS.get(answer.kind)
        if code is not None:
            self._peer.send("reject", Reject("tx", code, answer.code, id).encode())
        if answer.kind in ("malformed", "invalid"):
            points = MALFORMED_POINTS if answer.kind == "malformed" else INVALID_POINTS
            self._shared.blame(self._peer, points, f"transaction {id[::-1].hex()}: {answer.code}: {answer.message}")

    def _keep_orphan(self, id: bytes, raw: bytes, missing: Sequence[bytes]) -> None:
        if len(raw) > MAX_ORPHAN_BYTES // 8 or not missing:
            return
        self._drop_orphan(id)
        self._orphans[id] = (raw, frozenset(missing))
        self._orphan_bytes += len(raw)
        while len(self._orphans) > MAX_ORPHANS or self._orphan_bytes > MAX_ORPHAN_BYTES:
            self._drop_orphan(next(iter(self._orphans)))
        wanted = [one for one in missing if one not in self._orphans][: messages.MAX_INVENTORY]
        if wanted:
            self._ask(wanted)

    def _drop_orphan(self, id: bytes) -> None:
        raw, _ = self._orphans.pop(id, (b"", frozenset()))
        self._orphan_bytes -= len(raw)

    # --- out ---

    def _remember(self, ids: Iterable[bytes]) -> None:
        known = self._known
        for id in ids:
            known.pop(id, None)
            known[id] = None
        while len(known) > MAX_KNOWN:
            known.popitem(last=False)

    def announce(self, ids: Sequence[bytes]) -> None:
        """Those that this peer does not know, as far as is remembered."""
        fresh = [id for id in ids if id not in self._known]
        self._remember(fresh)
        for at in range(0, len(fresh), messages.MAX_INVENTORY // 2):
            part = fresh[at : at + messages.MAX_INVENTORY // 2]
            self._peer.send("inv", messages.encode_inventory([Item(TX, id) for id in part]))
