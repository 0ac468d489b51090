"""The arrays of ``kernels`` for a piece of a block, and the threads that run it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import trio

from nodewright.interfaces.environment import Environment, Reentrant
from nodewright_aptos.blockstm import kernels
from nodewright_aptos.columnar import layout

Array = Any
PIECE: Final = 16_384  # transactions: bounds the versions to 8 MiB
GRAIN: Final = 16
_NO_SNAPSHOTS: Final = np.zeros((0, 2 * layout.ROW_BYTES), np.uint8)


class Arena:
    """Kept from piece to piece. One block at a time uses it."""

    def __init__(self, workers: int, grain: int = GRAIN, presume: bool = False, burden: int = 0, size: int = PIECE) -> None:
        self.workers = workers
        self.size = size
        self.presume = presume
        self.executions = self.aborts = self.suspensions = 0
        self.versions = np.empty((2 * size, layout.ROW_BYTES), np.uint8)
        self.previous = np.empty(2 * size, np.uint64)
        self.states = np.empty(2 * size, np.uint64)
        self.reads = np.empty(2 * size, np.uint64)
        self.words = np.empty((4, size), np.uint64)  # status, heads, next, passed
        self.begun = np.empty(size + 1, np.uint64)
        self.control = np.empty(kernels.CONTROL, np.uint64)
        self.local = np.empty((workers, kernels.LOCAL), np.uint64)
        self.scratch = np.empty((workers, 2 * layout.ROW_BYTES), np.uint8)
        self.last = np.zeros(0, np.int32)
        self.book = np.zeros(kernels.BOOK, np.uint64)
        self.book[kernels.B_GRAIN] = grain
        self.book[kernels.B_BURDEN] = burden
        self._held: tuple[Array, ...] = ()

    def prepare(self, table: Array, rows: Array, seconds: int, addresses: Array, results: Array) -> None:
        """At most ``size`` transactions, in tables as ``layout`` has them. ``results`` are written."""
        count = len(table)
        if len(self.last) < len(rows):
            self.last = np.zeros(len(rows), np.int32)
        self._held = (table, rows, addresses, results)
        kernels.link(table, self.last, self.previous[: 2 * count])
        self.states[: 2 * count] = kernels.ESTIMATE if self.presume else 0
        self.words[:, :count] = 0
        self.begun[: count + 1] = 0
        self.control[:] = 0
        self.local[:] = 0
        status, heads, links, passed = (one.ctypes.data for one in self.words)
        told = {
            kernels.B_COUNT: count,
            kernels.B_TABLE: table.ctypes.data,
            kernels.B_ROWS: rows.ctypes.data,
            kernels.B_NAMES: addresses.ctypes.data,
            kernels.B_RESULTS: results.ctypes.data,
            kernels.B_VERSIONS: self.versions.ctypes.data,
            kernels.B_PREVIOUS: self.previous.ctypes.data,
            kernels.B_STATES: self.states.ctypes.data,
            kernels.B_READS: self.reads.ctypes.data,
            kernels.B_STATUS: status,
            kernels.B_HEADS: heads,
            kernels.B_NEXT: links,
            kernels.B_PASSED: passed,
            kernels.B_BEGUN: self.begun.ctypes.data,
            kernels.B_CONTROL: self.control.ctypes.data,
            kernels.B_LOCAL: self.local.ctypes.data,
            kernels.B_SCRATCH: self.scratch.ctypes.data,
            kernels.B_SECONDS: seconds,
        }
        for number, value in told.items():
            self.book[number] = value

    def settle(self, snapshots: Array = _NO_SNAPSHOTS) -> int:
        """When all are committed: rows and snapshots as after the piece; the sum of its fees."""
        table, rows, _, results = self._held
        self._held = ()
        for number, name in ((kernels.L_EXECUTIONS, "executions"), (kernels.L_ABORTS, "aborts")):
            setattr(self, name, getattr(self, name) + int(self.local[:, number].sum()))
        self.suspensions += int(self.local[:, kernels.L_SUSPENSIONS].sum())
        fees: int = kernels.settle(table, rows, self.versions, self.states, results, snapshots)
        return fees


class Threads:
    """Runs tables in pieces, as ``runkernels.execute`` does: called in a thread of an environment that is Reentrant, which
    it holds while others work."""

    def __init__(self, environment: Environment, arena: Arena) -> None:
        self._environment = environment
        self.arena = arena
        self.transactions = 0

    def __call__(
        self, table: Array, rows: Array, seconds: int, addresses: Array, results: Array, snapshots: Array = _NO_SNAPSHOTS
    ) -> int:
        """The sum of all fees."""
        environment, arena, fees = self._environment, self.arena, 0
        assert isinstance(environment, Reentrant)
        self.transactions += len(table)
        for at in range(0, len(table), arena.size):
            own = slice(at, at + arena.size)
            arena.prepare(table[own], rows, seconds, addresses, results[own])
            environment.reenter(run_threads, arena, environment)
            fees += arena.settle(snapshots[own])
        return fees

    def figures(self) -> dict[str, float]:
        """Incarnations run, aborted, suspended, for each transaction."""
        arena, count = self.arena, max(self.transactions, 1)
        return {
            "executions_per_tx": arena.executions / count,
            "aborts_per_tx": arena.aborts / count,
            "suspensions_per_tx": arena.suspensions / count,
        }


async def run_threads(arena: Arena, environment: Environment) -> None:
    """What was prepared, by as many threads as the arena has workers."""

    async def one(worker: int) -> None:
        await environment.offload(kernels.work, arena.book, worker)

    async with trio.open_nursery() as nursery:
        for worker in range(arena.workers):
            nursery.start_soon(one, worker)
