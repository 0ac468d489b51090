"""Power that goes: a node's stores and files stop at a commit, or a write, that a test names.

Invariant: once ``Power.off``, nothing reaches a disk any more, whatever is still running. What survives is what the disks
then keep (``nodewright_memory.disk.MemoryDisk.crash``: all that was synced, and as much of the rest as the test says).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import trio

from nodewright.interfaces.storage import WriteBatch
from nodewright.testing.simulation import SimulatedEnvironment


class PowerCut(BaseException):
    """Not an ``Exception``: no component may go on after it."""


class Power:
    """Counts in ``points`` what reaches a disk and goes before, in, or after the ``cut_at``-th."""

    def __init__(self, cut_at: int | None = None, how: Literal["before", "in", "after"] = "before") -> None:
        self.points = 0
        self.cut_at = cut_at
        self.how = how
        self.off = False
        self.went = trio.Event()

    def due(self) -> bool:
        """Count one. Raises PowerCut where the power is off."""
        if self.off:
            raise PowerCut
        self.points += 1
        return self.cut_at is not None and self.points >= self.cut_at

    def cut(self) -> None:
        self.off = True
        self.went.set()


class PoweredStore:
    """A store each of whose commits is such a point; a commit is atomic, so that ``in`` is ``before``."""

    def __init__(self, store: Any, power: Power) -> None:
        self._store = store
        self._power = power

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        due = self._power.due()
        if not due or self._power.how == "after":
            await self._store.commit(batch, durable)
        if due:
            self._power.cut()
            raise PowerCut


class PoweredEnvironment(SimulatedEnvironment):
    """For what keeps files in its folder: each offloaded call is taken for a write of them. One that is cut ``in`` the
    middle leaves every file that grew between its old and its new length."""

    power: Power

    async def offload(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self.power.due():
            return await super().offload(function, *arguments)
        before = {path: path.stat().st_size for path in self.data_dir.rglob("*") if path.is_file()}
        if self.power.how != "before":
            await super().offload(function, *arguments)
        if self.power.how == "in":
            for path in self.data_dir.rglob("*"):
                if path.is_file() and path.stat().st_size > before.get(path, 0):
                    with path.open("r+b") as file:
                        file.truncate(self.random.randint(before.get(path, 0), path.stat().st_size))
        self.power.cut()
        raise PowerCut
