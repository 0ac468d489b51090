"""A write cache in front of any key-value store: commits that need not be durable are held in memory and handed on
together.

Invariants:

- what is held is the end of the order of commits, whole commits only: ``_front`` holds the newest, ``_behind`` those before
  them that are being handed on now, the store behind has all earlier ones;
- held commits go to the store behind in ONE commit, so that a crash keeps a prefix of the commits, as of one of them;
- a durable commit is handed on with all that is held, in one durable commit, before it returns. One that fails leaves
  what is held as it was, and nothing of its own to be seen;
- what is held takes at most the budget (a commit that would go over it is handed on at once, with all of it), ``ROW_BYTES``
  counted for each row beside its key and value;
- after rows could not be handed on in the background, every commit hands on at once until one succeeds, so that whoever
  commits is told; nothing held is given up;
- a scan, a snapshot and a range are of the store behind, after what is held was handed on.

A process that is killed loses what is held, also where the store behind would have kept it: up to ``max_seconds`` of
commits that were not durable. That the lease was lost is told when rows are handed on, not before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import trio

from nodewright.errors import StoreError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import KeyValueReader, KeyValueStore, Page, WriteBatch
from nodewright.storage.limits import check_batch, check_keys, check_scan, check_table
from nodewright_wrappers.base import ROW_BYTES, Changes, Layer, Wrapper, filled, look_up


class WriteBehindStore(Wrapper):
    """Implements ``nodewright.interfaces.KeyValueStore``. ``count(hits, misses)`` is told of every ``get_many``,
    ``flushed()`` of every commit to the store behind. ``run`` has to run beside it."""

    def __init__(
        self,
        inner: KeyValueStore,
        environment: Environment,
        *,
        max_bytes: int,
        max_seconds: float,
        count: Callable[[int, int], None] = lambda hits, misses: None,
        flushed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(inner, environment.slot)
        self._environment = environment
        self._budget = max_bytes
        self._seconds = max_seconds
        self._count = count
        self._flushed = flushed
        self._front = Layer()
        self._behind: Layer | None = None
        self._turn = trio.Lock()  # of whoever changes what is held, in the order of commits
        self._flushing = trio.Lock()  # of whoever hands on; taken inside the turn, or without it by ``run``
        self._held = trio.Event()
        self._pressed = trio.Event()
        self._failed = False
        self._closed = False

    @property
    def held_bytes(self) -> int:
        return self._front.size + (self._behind.size if self._behind is not None else 0)

    # --- reads -------------------------------------------------------------------------------------------------------

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        self._check_open()
        found, missing = look_up(table, keys, self._layers())
        self._count(len(keys) - len(missing), len(missing))
        if not missing:
            await trio.lowlevel.checkpoint()
            return found
        return filled(found, await self.inner.get_many(table, missing))

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        self._check_open()
        if any(table in layer.tables for layer in self._layers()):
            async with self._turn:
                await self._hand_on({}, durable=False)
        return await self.inner.scan(table, prefix, after, limit)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        async with AsyncExitStack() as stack:
            async with self._turn:  # no commit between what was handed on and the view of it
                self._check_open()
                await self._hand_on({}, durable=False)
                view = await stack.enter_async_context(self.inner.snapshot())
            yield view

    async def tables(self) -> list[str]:
        async with self._turn:
            self._check_open()
            await self._hand_on({}, durable=False)
        return await super().tables()

    def _layers(self) -> list[Layer]:
        return [self._front] if self._behind is None else [self._front, self._behind]

    # --- changes -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        size = check_batch(batch) + ROW_BYTES * len(batch)
        async with self._turn:
            self._check_open()
            if durable or self._failed or self.held_bytes + size > self._budget:
                await self._hand_on(batch.tables, durable)
                return
            self._front.apply(batch.tables)
            if self._front:
                self._held.set()
            if 2 * self._front.size > self._budget:
                self._pressed.set()

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        check_table(table)
        check_keys([start, end])
        async with self._turn:
            self._check_open()
            await self._hand_on({}, durable=False)
        return await self.inner.delete_range(table, start, end)

    async def _hand_on(self, changes: Changes, durable: bool) -> None:
        """All that is held, with ``changes`` after it, in one commit. The caller has the turn."""
        async with self._flushing:
            if not (self._front or durable or any(changes.values())):
                return
            batch = WriteBatch()
            batch.tables = self._front.with_(changes) if any(changes.values()) else self._front.tables
            with trio.CancelScope(shield=True):  # cancelled in the middle, nobody would know what is held still
                await self.inner.commit(batch, durable)
            self._front = Layer()
            self._handed_on()

    def _handed_on(self) -> None:
        self._failed = False
        self._flushed()
        if not self._front and self._held.is_set():  # one that is not set may be waited for
            self._held = trio.Event()
        if self._pressed.is_set():
            self._pressed = trio.Event()

    # --- in the background -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hands on what is held when it has been for ``max_seconds``, or takes half of the budget. Does not end."""
        while True:
            await self._held.wait()
            with trio.move_on_after(self._seconds):
                await self._pressed.wait()
            async with self._flushing:
                await self._flush_beside()
            if self._failed:
                await self._environment.sleep(self._seconds)

    async def _flush_beside(self) -> None:
        """Hand on what is held now, while commits go on."""
        if not self._front:
            return
        behind = self._behind = self._front
        self._front = Layer()
        batch = WriteBatch()
        batch.tables = behind.tables
        try:
            with trio.CancelScope(shield=True):
                await self.inner.commit(batch, durable=False)
        except Exception as error:  # whatever it is, the next commit meets it too and tells its caller
            self._failed = True
            self._environment.logger.warning(
                "held rows could not be handed on, and stay held", reason=str(error), bytes=behind.size
            )
            behind.apply(self._front.tables)
            self._front, self._behind = behind, None
        else:
            self._behind = None
            self._handed_on()

    async def aclose(self) -> None:
        """Hands on what is held. Raises what the store behind raises."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                self._closed = True
                await self._hand_on({}, durable=False)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.slot}: this store is closed")
