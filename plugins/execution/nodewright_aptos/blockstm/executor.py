"""The executor ``block-stm``: runs of native transfers by the kernel (``native``), all others by ``coordinator``, in
batches on threads or worker processes.

Python threads share one lock: threads run side by side what releases it (hashes, signatures, kernels), processes whatever
there is, for the price of carrying state and outputs over a pipe. docs/performance.md says what either is worth.

A block is taken in stretches of the one and of the other kind, each on the state that those before it left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from nodewright.interfaces.environment import Environment
from nodewright_aptos.blockstm.coordinator import Coordinator, Worker
from nodewright_aptos.blockstm.native import KERNELS, NativeRuns, Overlay, stretches_of
from nodewright_aptos.blockstm.options import Options, read_options
from nodewright_aptos.blockstm.speculate import Answer, Item, speculate
from nodewright_aptos.columnar.calls import read_call
from nodewright_aptos.columnar.executor import keys_of
from nodewright_aptos.executors import WORTH_A_HOP, Base, Executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.state import BlockEnvironment, Output
from nodewright_aptos.transactions import UserTransaction


class ThreadWorker:
    """Batches in threads of the environment; a short one inline, where a hop would cost more."""

    def __init__(self, functions: Functions, environment: Environment) -> None:
        self._functions = functions
        self._environment = environment

    async def run(self, block: BlockEnvironment, items: Sequence[Item]) -> list[Answer]:
        if len(items) < WORTH_A_HOP:
            return speculate(self._functions, block, items)
        return await self._environment.offload(speculate, self._functions, block, items)


class BlockStmExecutor:
    name = "block-stm"

    def __init__(
        self, functions: Functions, environment: Environment, options: Options, workers: Sequence[Worker] = ()
    ) -> None:
        """``workers``: those that are no threads of this process."""
        self._functions = functions
        self._environment = environment
        self._options = options
        self._local = ThreadWorker(functions, environment)
        self._workers: list[Worker] = list(workers) or [self._local] * options.workers
        self._native = NativeRuns(environment, options.workers) if options.native else None
        self.executions = self.aborts = self.suspensions = self.transactions = self.in_kernel = 0

    async def run(self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        self.transactions += len(transactions)
        native = self._native
        if native is None or not native.ready:
            return await self._general(base, transactions, block)
        calls = [read_call(transaction, self._functions) for transaction in transactions]
        stretches = stretches_of(calls)
        if not any(fits for fits, _, _ in stretches):
            return await self._general(base, transactions, block)
        await base.load(keys_of(self._functions, transactions, calls))
        run = native.begin(self._functions, base, block, calls)
        for fits, begin, end in stretches:
            if fits:
                self.in_kernel += await native.run(run, base, transactions[:end])
            else:
                run.accept(await self._general(Overlay(base, run.read), transactions[begin:end], block))
        return run.outputs

    async def _general(
        self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment
    ) -> Sequence[Output]:
        workers = self._workers if len(transactions) > WORTH_A_HOP else [self._local]
        batch = max(1, min(self._options.batch, len(transactions) // (2 * len(workers))))
        coordinator = Coordinator(self._functions, base, transactions, block, self._local, batch)
        try:
            return await coordinator.outputs(workers)
        finally:
            self._note(coordinator)

    def _note(self, coordinator: Coordinator) -> None:
        run = coordinator.run
        self.executions += run.executions
        self.aborts += run.aborts
        self.suspensions += run.suspensions
        for worker in coordinator.lost:
            if worker not in self._workers:
                continue  # a block beside this one has noticed it too
            self._workers.remove(worker)
            self._environment.logger.warning(
                "an execution worker is lost: its work is done by the others; restart the node to have it again",
                left=len(self._workers),
            )
        if not self._workers:
            self._workers = [self._local]

    def figures(self) -> dict[str, Any]:
        """For a benchmark: incarnations run, aborted and suspended, for each transaction; and the part of them that ran in
        the kernel."""
        count = max(self.transactions, 1)
        told = [self.executions, self.aborts, self.suspensions]
        if self._native is not None:
            told = [one + other for one, other in zip(told, self._native.told(), strict=True)]
        names = ("executions_per_tx", "aborts_per_tx", "suspensions_per_tx")
        figures = {name: one / count for name, one in zip(names, told, strict=True)}
        return {**figures, "in_kernel": self.in_kernel / count}


@asynccontextmanager
async def open_executor(
    functions: Functions, environment: Environment, options: Mapping[str, Any]
) -> AsyncIterator[Executor]:
    """Raises ConfigurationError. Yields at once: the kernel is used when it is compiled."""
    known, _ = read_options(options)
    async with AsyncExitStack() as stack:
        workers: Sequence[Worker] = ()
        if known.placement == "processes":
            from nodewright_aptos.blockstm.processes import open_processes

            workers = await stack.enter_async_context(open_processes(functions, environment, known.workers))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if known.native:
            from nodewright.kernels.plugin import warm_up_kernels

            nursery.start_soon(warm_up_kernels, environment, *KERNELS)
        yield BlockStmExecutor(functions, environment, known, workers)
        nursery.cancel_scope.cancel()
