"""What a failed write does to a node. Every store, and what consensus writes to the pool's journal, goes through here.

After a failed write memory and disk may differ, in the store and in whoever wrote, and some stores take nothing more until
they are opened again. So a node does with any failed write what it does with a power cut, only in order: it stops, and its
next start goes on from what is on the disk.

Invariants
- The first write that fails with StoreError is the node's failure: its sentence gets the slot in front, and ``failed`` is
  told once. The caller gets that error, and nobody can hide it from the node by swallowing it.
- From then on nothing more is written through here, to no store: what the node leaves is what it had written before.
- Damage met while reading is told once for each slot, by ``damaged``; it does not stop the node.
- Everything else of a store passes unchanged. Nothing here is called per transaction.

A full disk under the pool's journal is no failure: the pool keeps what it must and goes on by itself once there is room.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from nodewright.errors import StoreCorrupt, StoreError, StoreFull
from nodewright.interfaces.pool import TransactionPool

POOL = "pool"
WRITES = (
    *("commit", "delete_range", "compact"),
    *("put", "delete"),
    *("spend_and_create", "remove", "replace", "assign_bundle", "set_mined", "unset_mined", "prune"),
    *("freeze", "unfreeze", "reassign", "set_locked", "set_conflicting"),
)
READS = (
    *("get_many", "scan", "tables"),
    *("get", "read", "size", "exists", "kinds"),
    *("get_outputs", "known", "undo", "transactions", "bundle", "applied"),
)
POOL_WRITES = ("settle", "restore")

Told = Callable[[str, StoreError], None]
Call = Callable[..., Awaitable[Any]]


class StoreGuard:
    """``failed(slot, error)`` is called once for the node, ``damaged(slot, error)`` once for a slot."""

    def __init__(self, failed: Told, damaged: Told) -> None:
        self.failure: StoreError | None = None
        self._failed = failed
        self._damaged = damaged
        self._told: set[str] = set()

    def store(self, slot: str, opened: Any) -> Any:
        """The store as others shall have it."""
        guarded = _Guarded(opened, {name: self._writing(slot, call) for name, call in _calls(opened, WRITES)})
        guarded.__dict__.update({name: self._reading(slot, call) for name, call in _calls(opened, READS)})
        if hasattr(opened, "snapshot"):
            guarded.__dict__["snapshot"] = self._snapshot(slot, opened)
        return guarded

    def pool(self, pool: TransactionPool) -> TransactionPool:
        """The pool as consensus and services shall have it."""
        return _GuardedPool(pool, {name: self._writing(POOL, call) for name, call in _calls(pool, POOL_WRITES)})

    def _writing(self, slot: str, call: Call) -> Call:
        async def write(*arguments: Any, **named: Any) -> Any:
            if self.failure is not None:
                raise StoreError(str(self.failure))
            try:
                return await call(*arguments, **named)
            except StoreError as error:
                if self.failure is None and not (slot == POOL and isinstance(error, StoreFull)):
                    if not str(error).startswith(slot):
                        error.args = (f"{slot}: {error}",)
                    self.failure = error
                    self._failed(slot, error)
                raise

        return write

    def _reading(self, slot: str, call: Call) -> Call:
        async def read(*arguments: Any, **named: Any) -> Any:
            try:
                return await call(*arguments, **named)
            except StoreCorrupt as error:
                self._tell_damage(slot, error)
                raise

        return read

    def _tell_damage(self, slot: str, error: StoreCorrupt) -> None:
        if slot not in self._told:
            self._told.add(slot)
            self._damaged(slot, error)

    def _snapshot(self, slot: str, opened: Any) -> Callable[[], Any]:
        @asynccontextmanager
        async def snapshot() -> AsyncIterator[Any]:
            async with opened.snapshot() as reader:
                yield _Guarded(reader, {name: self._reading(slot, call) for name, call in _calls(reader, READS)})

        return snapshot


class _Guarded:
    """``opened`` with some of its calls replaced. They are attributes of the instance, where ``isinstance`` with a protocol
    looks for them too."""

    def __init__(self, opened: Any, calls: dict[str, Call]) -> None:
        self.__dict__.update(calls)
        self._opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


class _GuardedPool(_Guarded):
    def __len__(self) -> int:
        return len(self._opened)


def _calls(opened: Any, names: Iterable[str]) -> list[tuple[str, Call]]:
    return [(name, getattr(opened, name)) for name in names if hasattr(opened, name)]
