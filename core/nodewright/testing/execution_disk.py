"""What the ``execution`` kit opens executions on: stores over disks that outlive them, lose power, and interrupt a caller.

Invariants
- A disk's ``live`` rows are every commit so far; what survives a crash is every durable commit, those before it, and as
  many of the commits after the last durable one, oldest first, as the test says.
- Every commit and every deleted range is a point of the machine's ``Power``; once that is off nothing is written.
- A cancelled commit is whole or not there, and its caller may be told so after it is: both happen to real stores.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio
from attrs import define, field

from nodewright.errors import StoreError
from nodewright.interfaces.storage import KeyValueReader, Page, WriteBatch
from nodewright.storage.limits import MAX_PAGE_BYTES, check_batch, check_keys, check_scan, check_table
from nodewright.testing.power import Power, PowerCut
from nodewright.testing.simulation import SimulatedEnvironment

T = TypeVar("T")
Tables = dict[str, dict[bytes, bytes]]
Changes = Mapping[str, Mapping[bytes, bytes | None]]


@define
class Interruption:
    """Cancels ``scope`` at the ``at``-th time (from 1) that the execution calls a store or hands work away."""

    at: int
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    seen: int = 0

    def step(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.scope.cancel()


@define
class Gate:
    """What a running instance's stores and environment pass at every call."""

    power: Power = field(factory=Power)
    interruption: Interruption | None = None

    def step(self) -> None:
        if self.interruption is not None:
            self.interruption.step()


@define
class Disk:
    live: Tables = field(factory=dict)
    base: Tables = field(factory=dict)
    unsynced: list[Changes] = field(factory=list)
    epoch: int = 0

    def commit(self, changes: Changes, durable: bool) -> None:
        apply(self.live, changes)
        self.unsynced.append({table: dict(rows) for table, rows in changes.items()})
        if durable:
            for earlier in self.unsynced:
                apply(self.base, earlier)
            self.unsynced.clear()

    def crash(self, keep: int) -> None:
        """The power went: ``keep`` of the unsynced commits (at most all of them) had reached the disk."""
        for survived in self.unsynced[:keep]:
            apply(self.base, survived)
        self.unsynced.clear()
        self.live = {name: dict(rows) for name, rows in self.base.items()}
        self.epoch += 1


def apply(tables: Tables, changes: Changes) -> None:
    for name, rows in changes.items():
        table = tables.setdefault(name, {})
        for key, value in rows.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value


class DiskReader:
    def __init__(self, tables: Tables, gate: Gate) -> None:
        self._fixed = tables
        self.gate = gate

    def _tables(self) -> Tables:
        return self._fixed

    async def _pass(self) -> None:
        self.gate.step()
        await trio.lowlevel.checkpoint()

    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        check_table(table)
        check_keys(keys)
        await self._pass()
        rows = self._tables().get(table, {})
        return [rows.get(key) for key in keys]

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        check_scan(table, prefix, after, limit)
        await self._pass()
        rows = self._tables().get(table, {})
        keys = sorted(rows)
        start = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
        items: list[tuple[bytes, bytes]] = []
        size = 0
        for key in keys[start:]:
            if not key.startswith(prefix):
                break
            if len(items) == limit or size >= MAX_PAGE_BYTES:
                return Page(items, items[-1][0])
            items.append((key, rows[key]))
            size += len(rows[key])
        return Page(items, None)


class DiskStore(DiskReader):
    """Implements ``nodewright.interfaces.KeyValueStore``."""

    capabilities = frozenset({"ordered", "snapshot"})

    def __init__(self, disk: Disk, gate: Gate) -> None:
        super().__init__({}, gate)
        self.disk = disk
        self._epoch = disk.epoch

    def _tables(self) -> Tables:
        if self._epoch != self.disk.epoch:
            raise StoreError("this disk was crashed since the store was opened")
        return self.disk.live

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        check_batch(batch)
        await self._write(batch.tables, durable)

    async def _write(self, changes: Changes, durable: bool) -> None:
        await self._pass()
        self._tables()
        power = self.gate.power
        due = power.due()
        if not due or power.how == "after":
            self.disk.commit(changes, durable)
        if due:
            power.cut()
            raise PowerCut
        await self._pass()

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        check_table(table)
        check_keys([start, end])
        gone = [key for key in self._tables().get(table, {}) if start <= key < end]
        if gone:
            await self._write({table: dict.fromkeys(gone)}, True)
        return len(gone)

    async def tables(self) -> list[str]:
        await self._pass()
        return sorted(name for name, rows in self._tables().items() if rows)

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        return self._snapshot()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[KeyValueReader]:
        reader = DiskReader({name: dict(rows) for name, rows in self._tables().items()}, self.gate)
        await self._pass()
        yield reader


class GatedEnvironment(SimulatedEnvironment):
    """Virtual entropy, inline work; what is handed away passes the gate too."""

    gate: Gate

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        self.gate.step()
        result = await super().offload(function, *arguments)
        await trio.lowlevel.checkpoint()
        return result

    def for_slot(self, slot: str) -> GatedEnvironment:
        made = GatedEnvironment(self._seed, self.node_name, self.data_dir / slot if slot else self.data_dir, slot=slot)
        made.gate = self.gate
        return made
