"""Brings commits from the journal to the server, in the background, and finds out when the server has them for good.

Invariants:

- only what is in the journal and synced is written to the server; commits are written in groups, in order, and a group is
  begun when every record of the one before was confirmed: a record never goes back to an older commit;
- within a group the last write to a row wins, so that a transaction that is created and soon spent is one write;
- a commit is *retired* (leaves memory, and the journal in time) once the server confirmed it, several flush intervals have
  passed, nothing waits for the device, and the server is still the process that confirmed it. A server that was started
  anew is given all commits again that are not retired, in order;
- before each group the epoch is looked at: a stale owner's backlog stays where it is;
- a failure that no repetition can mend stops the store: what is acknowledged stays in the journal for the next start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import trio
from attrs import define

from nodewright.errors import NodewrightError, StoreCorrupt, StoreError, StoreFull
from nodewright.interfaces.environment import Environment
from nodewright.node.journal import SegmentLog
from nodewright.storage.utxo_records import SPENT, TX
from nodewright_aerospike.entry import Tables, decode
from nodewright_aerospike.layout import PART_BYTES, SPENDERS, STORE_BYTES, Layout, parts_of, spender_place
from nodewright_aerospike.overlay import Commit, Overlay
from nodewright_aerospike.owner import Ownership
from nodewright_aerospike.problems import FULL, ServerAway, away, final
from nodewright_aerospike.server import Key, Server

MIB = 1024 * 1024
_GROUP_ROWS = 30_000
_GROUP_COMMITS = 12
_GATHER_SECONDS = 0.25  # how long a commit may wait for others to share a group with
_GROUP_BYTES = 16 * MIB
_PAUSE_SECONDS = 0.2
_FULL_PAUSE_SECONDS = 1.0


@define(slots=True)
class Group:
    """Commits whose rows the process ``incarnation`` of the server confirmed at ``time`` (monotonic seconds)."""

    commits: list[Commit]
    incarnation: str
    time: float


class Applier:
    def __init__(
        self, server: Server, layout: Layout, ownership: Ownership, log: SegmentLog, environment: Environment
    ) -> None:
        self.server = server
        self.layout = layout
        self.ownership = ownership
        self.log = log
        self.overlay = Overlay()
        self.stopped: NodewrightError | None = None
        self.full = False
        self.done = ownership.done
        self._environment = environment
        self._waiting: deque[Commit] = deque()
        self._applied: deque[Group] = deque()
        self._incarnation = ""
        self._told = ""  # which incarnation has the whole of the owner's record
        self._doubt = False  # somebody has seen the server as another process
        self._group: list[Commit] = []  # begun, and not confirmed
        self._wake = trio.Event()
        self._hurry = trio.Event()  # somebody waits, or there is enough to write
        self._changed = trio.Event()

    # --- for the store -----------------------------------------------------------------------------------------------

    def add(self, commit: Commit) -> None:
        """A commit that is in the journal: seen by readers from now on."""
        self.overlay.add(commit)
        self._waiting.append(commit)
        self._wake.set()
        if len(self._waiting) >= _GROUP_COMMITS:
            self._hurry.set()

    def check(self) -> None:
        """Raises what stopped the store, or that the server is full."""
        if self.stopped is not None:
            raise type(self.stopped)(str(self.stopped))
        if self.full:
            raise final(FULL, "", self.server.place)

    def stop(self, error: NodewrightError) -> None:
        self.stopped = error
        self._wake.set()
        self._hurry.set()
        self._tell()

    async def room(self) -> None:
        """Wait until less than ``pending_mib`` of commits are not retired."""
        limit = self.server.config.pending_mib * MIB
        await self._until(lambda: self.overlay.size <= limit)

    async def written(self) -> str:
        """Wait until the server confirmed every commit made so far, so that a scan shows them. Returns which incarnation of
        the server that is: one that is started later may lack some."""
        last = self._waiting[-1].number if self._waiting else 0
        while True:
            await self._until(lambda: not self._doubt and (not self._waiting or self._waiting[0].number > last))
            incarnation = await self.server.patiently(self.server.incarnation)
            if incarnation == self._incarnation or not (self._waiting or self._applied):
                return incarnation
            self._doubt = True
            self._wake.set()
            self._hurry.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        seconds = self.server.config.retry_seconds
        end = self._environment.monotonic() + seconds
        while not condition():
            self.check()
            left = end - self._environment.monotonic()
            self._hurry.set()
            if left <= 0:
                raise away(ServerAway(0, "commits wait in the journal"), self.server.place, seconds)
            with trio.move_on_after(left):
                await self._changed.wait()

    async def finished(self, seconds: float) -> bool:
        """Wait until all is retired, ``seconds`` at most; whether it is."""
        with trio.move_on_after(seconds):
            while self.stopped is None and (self._waiting or self._applied):
                self._hurry.set()
                await self._changed.wait()
        return self.stopped is None and not self._waiting and not self._applied

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- at the start ------------------------------------------------------------------------------------------------

    async def redo(self) -> None:
        """Bring what the journal holds to the server, and wait until it is there for good."""
        if self.log.next_sequence <= max(self.log.first_sequence, self.done + 1):
            return
        server = self.server
        while True:
            incarnation = await server.patiently(server.incarnation)
            group: list[Commit] = []
            async for number, payload in self.log.iterate(self.done + 1):
                tables = decode(payload)
                await self._note(tables)
                group.append(Commit(number, tables, len(payload)))
                if sum(commit.size for commit in group) >= _GROUP_BYTES:
                    await self._write_patiently(group)
                    group = []
            if group:
                await self._write_patiently(group)
            await self._environment.sleep(server.settle_seconds)
            if incarnation == await server.patiently(self._settled):
                self.done = self.ownership.done = self.log.next_sequence - 1
                await self.log.drop_before(self.done + 1)
                return

    async def _note(self, tables: Tables) -> None:
        """The owner's record may have lost which tables there are."""
        large = large_tables(tables)
        if not tables.keys() <= self.ownership.tables or not large <= self.ownership.large:
            await self.server.patiently(self.ownership.start, self.ownership.number, set(tables), large)

    async def _write_patiently(self, commits: Sequence[Commit]) -> None:
        seconds = self.server.config.retry_seconds
        end = self._environment.monotonic() + seconds
        while True:
            try:
                return await self._write(commits, True)
            except ServerAway as error:
                if self._environment.monotonic() >= end:
                    raise away(error, self.server.place, seconds) from error
                await self._environment.sleep(_PAUSE_SECONDS)

    # --- in the background -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, or stopped."""
        while self.stopped is None:
            try:
                await self._step()
                self.server.tell_back()
            except ServerAway as error:
                self.server.tell_away(error)
                await self._environment.sleep(_PAUSE_SECONDS)
            except StoreFull as error:
                if not self.full:
                    self.full = True
                    self._environment.logger.warning("aerospike_full", error=str(error))
                self._tell()
                await self._environment.sleep(_FULL_PAUSE_SECONDS)
            except NodewrightError as error:
                self._environment.logger.error("aerospike_stopped", error=str(error))
                self.stop(error)
            except Exception as error:
                self.stop(StoreError(f"{self.server.place}: {type(error).__name__}: {error}; start the node again"))
                raise

    async def _step(self) -> None:
        if not self._waiting and not self._doubt:
            with trio.move_on_after(max(0.0, self._until_retired())):
                await self._wake.wait()
        self._wake = trio.Event()
        if self._waiting and not self._group:
            with trio.move_on_after(_GATHER_SECONDS):
                await self._hurry.wait()
            self._hurry = trio.Event()
        if self._waiting or self._doubt:
            incarnation = await self._environment.offload(self._look)
            restarted = self._restarted(incarnation)
            if incarnation != self._told:
                await self._environment.offload(self.ownership.again)
                self._told = incarnation
            if self._doubt:
                self._doubt = False
                self._tell()
            if restarted or not self._waiting:
                return
            await self._next(incarnation)
        if self._until_retired() <= 0:
            await self._retire()

    async def _next(self, incarnation: str) -> None:
        """Write the next group. One that failed is tried as it was: what it puts is confirmed before anything takes it
        back."""
        self._group = self._group or self._next_group()
        await self._write(self._group, False)
        self.full = False
        for _ in self._group:
            self._waiting.popleft()
        self._applied.append(Group(self._group, incarnation, self._environment.monotonic()))
        self._group = []
        self._tell()

    def _look(self) -> str:
        self.ownership.still()
        return self.server.incarnation()

    def _settled(self) -> str:
        """The server's incarnation, once nothing waits for its device."""
        if not self.server.flushed():
            raise ServerAway(18, "the device does not keep up")
        return self.server.incarnation()

    def _until_retired(self) -> float:
        """Seconds until the oldest group may be retired."""
        if not self._applied:
            return float("inf")
        return self._applied[0].time + self.server.settle_seconds - self._environment.monotonic()

    def _restarted(self, incarnation: str) -> bool:
        """Whether the server is another process than the one that confirmed what is not retired: all is given again."""
        before, self._incarnation = self._incarnation, incarnation
        if incarnation == before or not self._applied:
            return False
        again = [commit for group in self._applied for commit in group.commits]
        self._applied.clear()
        self._group = []
        self._waiting.extendleft(reversed(again))
        self._wake.set()
        self._environment.logger.warning("aerospike_server_restarted", again=len(again), server=self.server.place.server)
        return True

    async def _retire(self) -> None:
        now = self._environment.monotonic()
        incarnation = await self._environment.offload(self._settled)
        if self._restarted(incarnation):
            return
        while self._applied and self._applied[0].time + self.server.settle_seconds <= now:
            for commit in self._applied.popleft().commits:
                self.overlay.retire(commit)
                self.done = self.ownership.done = commit.number
        await self.log.drop_before(self.done + 1)
        self._tell()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _next_group(self) -> list[Commit]:
        group: list[Commit] = []
        rows = size = 0
        for commit in self._waiting:
            rows += sum(map(len, commit.tables.values()))
            size += commit.size
            if group and (rows > _GROUP_ROWS or size > _GROUP_BYTES):
                break
            group.append(commit)
        return group

    async def _write(self, commits: Sequence[Commit], redo: bool) -> None:
        """Returns once every record of the commits is confirmed; raises what the first request that failed raised."""
        offload = self._environment.offload
        number = commits[-1].number
        tables, respent = merge(commits)
        surplus = await offload(self._surplus_parts, tables) if self.ownership.large else []
        condition = self.server.newer_than(number)
        refused = await self._send(self.layout.writes(tables, respent, number, redo), condition)
        if refused:
            again = await offload(self._look_into, refused, tables, number)
            if await self._send(again, condition):
                raise StoreCorrupt(self._foreign())
        if surplus:
            with suppress(ServerAway):
                await offload(self.server.remove_all, surplus, condition)

    async def _send(self, writes: Iterator[Any], condition: Any) -> list[Any]:
        """Make and send the writes, some at a time. Returns those refused because of an element that is there already."""
        offload = self._environment.offload
        making = trio.Lock()
        refused: list[Any] = []
        errors: list[Exception] = []

        async def send() -> None:
            while not errors:
                async with making:
                    part: list[Any] = await offload(list, islice(writes, self.server.config.batch_records))
                if not part:
                    return
                try:
                    refused.extend(await offload(self.server.write_all, part, condition))
                except (NodewrightError, ServerAway) as error:
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(self.server.config.writers):
                nursery.start_soon(send)
        if errors:
            raise errors[0]
        return refused

    def _look_into(self, refused: Sequence[Any], tables: Tables, number: int) -> Iterator[Any]:
        """Of writes refused because an output has a spender: raises StoreCorrupt if it is another one. It is the same where
        an answer was lost: what else such a write brings is written again."""
        keys: list[Key] = [write.key for write in refused]
        held = {
            bytes(key[2][STORE_BYTES:]): (bins or {}).get(SPENDERS) or {}
            for key, bins in zip(keys, self.server.read(keys, [SPENDERS]), strict=True)
        }
        spent = tables.get(SPENT, {})
        left: dict[bytes, bytes | None] = {}
        for outpoint, spender in spent.items():
            key, index = spender_place(outpoint)
            if key not in held:
                continue
            there = held[key].get(index)
            if spender is None or there is None:
                left[outpoint] = spender
            elif there != spender:
                raise StoreCorrupt(self._foreign())
        rows = {key: row for key, row in tables.get(TX, {}).items() if key in held}
        return self.layout.writes({TX: rows, SPENT: left}, set(), number, True)

    def _foreign(self) -> str:
        return (
            f"{self.server.place}: an output has a spender on the server that this node did not write; let nothing else "
            "write to the store, and restore it from a copy"
        )

    def _surplus_parts(self, tables: Tables) -> list[Key]:
        """Parts of large values that the rows will not name any more."""
        found: list[Key] = []
        for table in tables.keys() & self.ownership.large:
            rows = tables[table]
            keys = [key for key, row in rows.items() if row is None] if table == TX else list(rows)
            name = self.layout.bin_of(table)
            for key, bins in zip(keys, self.server.read(self.layout.keys(table, keys), [name]), strict=True):
                held = (bins or {}).get(name)
                if isinstance(held, int):
                    row = rows[key]
                    left = parts_of(len(row)) if row is not None and len(row) > PART_BYTES else 0
                    found += self.layout.part_keys(table, key, left, parts_of(held))
        return found


def large_tables(tables: Tables) -> set[str]:
    """Those with a value that is kept in parts."""
    return {
        name
        for name, rows in tables.items()
        if max((len(value) for value in rows.values() if value is not None), default=0) > PART_BYTES
    }


def merge(commits: Sequence[Commit]) -> tuple[Tables, set[bytes]]:
    """The newest value of each row, and the outpoints that lose a spender before they get another one."""
    if len(commits) == 1:
        return commits[0].tables, set()
    merged: Tables = {}
    unspent: set[bytes] = set()
    respent: set[bytes] = set()
    for commit in commits:
        for table, rows in commit.tables.items():
            merged.setdefault(table, {}).update(rows)
        spent = commit.tables.get(SPENT)
        if spent and unspent:
            respent.update(outpoint for outpoint, spender in spent.items() if spender is not None and outpoint in unspent)
        if spent and None in spent.values():
            unspent.update(outpoint for outpoint, spender in spent.items() if spender is None)
    return merged, respent
