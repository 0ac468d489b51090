"""Subtrees of this node and of others on their way into the store.

Invariants:
- a subtree is stored only with all its bodies, each of which has the id of its leaf, under the root its leaves give;
- of stored subtrees that no block names at most ``max_unmined`` are kept, oldest dropped first, never one that stands in
  the assembly now (``pinned``);
- a bundle that is pinned (``in_use``) is not dropped. Pins are counted and exclude nobody: nothing waits on a peer that
  somebody else asks; two that fetch one bundle do so side by side after PATIENCE_SECONDS;
- what is offered (partial subtrees of the open run) is in memory only: the next one has it as a prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from nodewright_nakamoto import messages, subtree
from nodewright_nakamoto.assembler import Columns
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.fetch import PATIENCE_SECONDS, WRONG_BODY_POINTS, Fetcher, Unavailable
from nodewright_nakamoto.messages import SubtreeAnnouncement
from nodewright_nakamoto.subtree import RECORD, Subtree, split_ids

MAX_OFFERED = 8
BY_ID_LIMIT = 8192  # more unknown transactions than this, or half of the subtree, and its whole data is fetched


class NotPending(Exception):
    """Transactions of the assembly that are no longer pending."""

    def __init__(self, ids: Sequence[bytes]) -> None:
        super().__init__(f"{len(ids)} transactions are no longer pending")
        self.ids = ids


class BundleKeeper:
    def __init__(self, chain: Chain, max_unmined: int, max_data_bytes: int) -> None:
        self.chain = chain
        self.store = chain.store
        self.max_data_bytes = max_data_bytes
        self.fetcher: Fetcher | None = None
        self.offered: dict[bytes, Columns] = {}
        self.pinned: Callable[[], set[bytes]] = set
        self.announced: Callable[[], list[SubtreeAnnouncement]] = list  # of the assembly as it is now
        self._max_unmined = max_unmined
        self._unmined: dict[bytes, None] = {}
        self._pins: Counter[bytes] = Counter()
        self._dropping: dict[bytes, trio.Event] = {}
        self._fetching: dict[bytes, trio.Event] = {}

    async def open(self) -> None:
        self._unmined = dict.fromkeys(await self.store.unmined())

    # --- own ---

    def offer(self, root: bytes, columns: Columns) -> None:
        self.offered.pop(root, None)
        self.offered[root] = columns
        while len(self.offered) > MAX_OFFERED:
            del self.offered[next(iter(self.offered))]

    async def build(self, columns: Columns) -> Subtree:
        return await self.chain.environment.offload(subtree.build, columns.leaves, columns.fees, columns.sizes)

    async def keep_own(self, built: Subtree) -> None:
        """Store a subtree of the assembly. Raises NotPending where a transaction of it is neither pending nor stored."""
        if await self.store.has_bundle(built.root):
            return
        ids = split_ids(built.ids)
        bodies = await self.bodies(ids)
        gone = [id for id, body in zip(ids, bodies, strict=True) if body is None]
        if gone:
            raise NotPending(gone)
        await self.keep(built, [body for body in bodies if body is not None])

    # --- any ---

    async def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """From the pool, else from stored bundles."""
        found = self.chain.pool.bodies(ids)
        absent = [id for id, body in zip(ids, found, strict=True) if body is None]
        if absent:
            stored = iter(await self.store.transactions(absent))
            found = [body if body is not None else next(stored) for body in found]
        return found

    async def keep(self, built: Subtree, bodies: Sequence[bytes], fresh: bool = False) -> None:
        """Store a checked subtree. ``fresh``: the execution may not know its transactions."""
        await self.store.put_bundle(built, bodies)
        if fresh:
            self.chain.fresh_bundles.add(built.root)
        self._unmined[built.root] = None
        if len(self._unmined) > self._max_unmined:
            await self._drop_oldest()

    async def _drop_oldest(self) -> None:
        pinned = self.pinned()
        for id in list(self._unmined):
            if len(self._unmined) <= self._max_unmined // 2:
                break
            if id in pinned or self._pins[id] or id in self._dropping:
                continue
            dropped = self._dropping[id] = trio.Event()
            try:
                await self.store.drop_bundle(id)
                self._unmined.pop(id, None)
            finally:
                del self._dropping[id]
                dropped.set()

    @asynccontextmanager
    async def in_use(self, ids: Sequence[bytes]) -> AsyncIterator[None]:
        """Keep these from being dropped while a block that names them is on its way into the store."""
        pins = set(ids)
        self._pins.update(pins)
        try:
            for id in pins:
                while id in self._dropping:  # begun before
                    await self._dropping[id].wait()
            yield
        finally:
            self._pins.subtract(pins)
            for id in pins:
                if not self._pins[id]:
                    del self._pins[id]

    # --- from peers ---

    async def obtain(self, id: bytes, sources: Sequence[bytes]) -> None:
        """Have this bundle stored, whatever it takes; the caller holds ``in_use``. Raises Unavailable."""
        if await self.store.has_bundle(id):
            return
        if id in self.offered:
            try:
                await self.keep_own(await self.build(self.offered[id]))
                return
            except NotPending:
                pass
        if self.fetcher is None:
            raise Unavailable("this node has no network")
        before = self._fetching.get(id)
        if before is not None:
            with trio.move_on_after(PATIENCE_SECONDS):
                await before.wait()
            if await self.store.has_bundle(id):
                return
        fetched = self._fetching[id] = trio.Event()
        try:
            await self._fetch(id, sources)
        finally:
            fetched.set()
            if self._fetching.get(id) is fetched:
                del self._fetching[id]

    async def _fetch(self, id: bytes, sources: Sequence[bytes]) -> None:
        assert self.fetcher is not None
        absent: set[bytes] = set()
        first = self.fetcher.patience(sources)
        rounds = [(peer, first) for peer in sources] + [(peer, None) for peer in sources if first is not None]
        for peer, patience in rounds:
            if peer in absent:
                continue
            try:
                records, _ = await self.records(id, [peer], patience=patience)
                leaves, fees, sizes = await self.chain.environment.offload(messages.decode_records, records)
                others = [one for one in sources if one != peer]
                await self._complete(Subtree(id, leaves, fees, sizes), [peer, *others])
                return
            except Unavailable as error:
                absent |= error.absent
        raise Unavailable(f"no peer has all of subtree {display(id)}", absent)

    async def records(
        self,
        id: bytes,
        sources: Sequence[bytes],
        leaves: int = subtree.MAX_LEAVES,
        prefix: bytes = b"",
        patience: float | None = None,
    ) -> tuple[bytes, bytes]:
        """Leaf records whose ids have this root, and who gave them. Raises Unavailable."""
        assert self.fetcher is not None
        offload = self.chain.environment.offload

        def problem(data: bytes) -> str | None:
            try:
                return subtree.check_leaves(messages.decode_records(data)[0], id)
            except MalformedError as error:
                return str(error)

        async def check(data: bytes) -> str | None:
            return await offload(problem, data)

        fetch, size = self.fetcher.body, RECORD.size * leaves
        return await fetch(messages.BODY_SUBTREE, id, size, sources, check, prefix, patience=patience)

    async def _complete(self, stated: Subtree, sources: Sequence[bytes]) -> None:
        """Find the bodies of a subtree and store it. The peer's sizes are corrected, its fees kept as stated."""
        assert self.fetcher is not None
        ids = split_ids(stated.ids)
        bodies = await self.bodies(ids)
        absent = [id for id, body in zip(ids, bodies, strict=True) if body is None]
        if len(absent) > min(BY_ID_LIMIT, max(16, len(ids) // 2)):
            complete: Sequence[bytes] = await self._whole_data(stated, ids, sources)
        else:
            sent, without = await self.fetcher.transactions(absent, sources, self.max_data_bytes)
            found = await self.genuine(sent, sources)
            lacking = sum(id not in found for id in absent)
            if lacking:
                raise Unavailable(f"no peer has {lacking} transactions of subtree {display(stated.root)}", without)
            complete = [found[id] if body is None else body for id, body in zip(ids, bodies, strict=True)]
        first = [0] if stated.has_placeholder else []
        sizes = [*first, *map(len, complete)]
        await self.keep(Subtree(stated.root, stated.leaves, stated.fees, sizes), complete, fresh=bool(absent))

    async def genuine(self, found: dict[bytes, bytes], sources: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those whose body has the id it was asked by; a single source of another is blamed."""
        wanted = list(found)
        ids = await self.chain.execution.identify([found[id] for id in wanted])
        wrong = [id for id, is_ in zip(wanted, ids, strict=True) if id != is_]
        if wrong and self.fetcher is not None and len(sources) == 1:
            self.fetcher.blame(sources[0], WRONG_BODY_POINTS, f"{len(wrong)} transactions with other ids than asked for")
        refused = set(wrong)
        return {id: body for id, body in found.items() if id not in refused}

    async def _whole_data(self, stated: Subtree, ids: Sequence[bytes], sources: Sequence[bytes]) -> list[bytes]:
        assert self.fetcher is not None
        sizes = stated.body_sizes()
        total = sum(sizes)
        if total > self.max_data_bytes:
            raise Unavailable(f"subtree {display(stated.root)} is said to have {total} bytes, over the limit")
        execution, offload = self.chain.execution, self.chain.environment.offload

        async def check(data: bytes) -> str | None:
            try:
                bodies = await offload(subtree.split_data, data, sizes)
            except MalformedError as error:
                return str(error)
            return None if await execution.identify(bodies) == ids else "its transactions are not those of the leaves"

        # The sizes are the first source's word: only that one is to blame where they do not fit.
        fetch = self.fetcher.body
        data, _ = await fetch(messages.BODY_DATA, stated.root, total, sources, check, blamable=sources[0])
        return await offload(subtree.split_data, data, sizes)
