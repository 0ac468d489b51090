"""Runs of native transfers in a block of the node: laid out as arrays as the columnar executor does, run by the kernel of
Block-STM in several threads, outputs made of what it left.

Invariants: one stretch at a time is in the kernel (it holds a thread and asks for others); what does not fit (an account
of another layout) is run by ``runtime`` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Final

import trio

from nodewright.interfaces.environment import Environment, Reentrant
from nodewright.kernels.switch import compiled
from nodewright_aptos.columnar.calls import Read
from nodewright_aptos.columnar.executor import KERNELS as RULES
from nodewright_aptos.columnar.executor import ColumnarRun
from nodewright_aptos.executors import Base
from nodewright_aptos.functions import Functions
from nodewright_aptos.ledger import ExecutionStatus
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output, aggregate
from nodewright_aptos.transactions import UserTransaction

KERNELS: Final = (RULES, "nodewright_aptos.blockstm.kernels")
# Fewer native transactions in a row are run with their neighbours.
WORTH_A_STRETCH: Final = 64


def stretches_of(calls: Sequence[Read | None]) -> list[tuple[bool, int, int]]:
    """(whether it is for the kernel, begin, end) of the stretches of a block, in order, without gaps."""
    found: list[tuple[bool, int, int]] = []
    begin = 0
    while begin < len(calls):
        fits, end = calls[begin] is not None, begin + 1
        while end < len(calls) and (calls[end] is not None) == fits:
            end += 1
        fits = fits and end - begin >= WORTH_A_STRETCH
        if found and found[-1][0] == fits:
            found[-1] = (fits, found[-1][1], end)
        else:
            found.append((fits, begin, end))
        begin = end
    return found


class Overlay:
    """A ``Base`` with what earlier stretches left over it."""

    def __init__(self, base: Base, read: Callable[[bytes], bytes | None]) -> None:
        self._base = base
        self._read = read

    async def load(self, keys: Iterable[bytes]) -> None:
        await self._base.load(keys)

    def get(self, key: bytes) -> bytes | None:
        return self._read(key)


class NativeRun(ColumnarRun):
    """A block under way. ``in_parallel`` runs arrays as ``runkernels.execute`` does, or answers False."""

    def __init__(
        self,
        functions: Functions,
        read: Any,
        block: BlockEnvironment,
        statuses: dict[int, ExecutionStatus],
        calls: Sequence[Read | None],
        in_parallel: Callable[..., bool],
    ) -> None:
        super().__init__(functions, read, block, statuses, calls)
        self._in_parallel = in_parallel
        self.in_kernel = 0

    def accept(self, outputs: Sequence[Output]) -> None:
        """Of a stretch that others ran."""
        changed = self._changed
        for output in outputs:
            if output.kind == KEPT:
                changed.update(output.writes)
                for key, delta in output.deltas.items():
                    changed[key] = aggregate(self.read(key), delta)
            self.outputs.append(output)

    def _execute(self, kernels: ModuleType, table: Any, states: Any, addresses: Any, results: Any, snapshots: Any) -> None:
        if self._in_parallel(table, states, max(self._block.seconds, 0), addresses, results, snapshots):
            self.in_kernel += len(table)
        else:
            super()._execute(kernels, table, states, addresses, results, snapshots)


class NativeRuns:
    def __init__(self, environment: Environment, workers: int) -> None:
        self._environment = environment
        self._workers = workers
        self._threads: Any = None
        self._statuses: dict[int, ExecutionStatus] = {}
        self._lock = trio.Lock()

    @property
    def ready(self) -> bool:
        return all(compiled(name) is not None for name in KERNELS)

    def begin(self, functions: Functions, base: Base, block: BlockEnvironment, calls: Sequence[Read | None]) -> NativeRun:
        return NativeRun(functions, base.get, block, self._statuses, calls, self._in_parallel)

    async def run(self, run: NativeRun, base: Base, transactions: Sequence[UserTransaction]) -> int:
        """To the end of ``transactions``, which begin where the block does. How many the kernel ran."""
        before = run.in_kernel
        async with self._lock:
            while len(run.outputs) < len(transactions):
                try:
                    await self._environment.offload(run.all, transactions)
                except Absent as absent:
                    await base.load(absent.keys)
        return run.in_kernel - before

    def told(self) -> tuple[int, int, int]:
        """Incarnations run, aborted, suspended."""
        if self._threads is None:
            return 0, 0, 0
        arena = self._threads.arena
        return arena.executions, arena.aborts, arena.suspensions

    def _in_parallel(self, table: Any, rows: Any, seconds: int, addresses: Any, results: Any, snapshots: Any) -> bool:
        """In a thread of the environment. False where no other can be had from there: who calls runs it alone."""
        from nodewright_aptos.blockstm.arrays import Arena, Threads

        if not isinstance(self._environment, Reentrant):
            return False
        if self._threads is None:
            self._threads = Threads(self._environment, Arena(self._workers))
        self._threads(table, rows, seconds, addresses, results, snapshots)
        return True
