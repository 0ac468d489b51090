"""A workload through the columnar ledger, block after block.

In the time of one block run, side by side: its execution, and of the block before the tree above its changed leaves and
the commit. Then its value hashes and its record are made of the rows as it left them. Blocks are drawn while the clock
stands still. The time ends when the last block's root is there and, with a store, its commit has returned.
"""

from __future__ import annotations

from hashlib import sha3_256
from typing import Any, Final

import numpy as np
import trio
from attrs import define

from nodewright.environment import NodeEnvironment
from nodewright.errors import NodewrightError
from nodewright.interfaces.storage import WriteBatch
from nodewright.kernels import sha3
from nodewright.kernels.switch import warm_up
from nodewright_aptos.bench.plan import Clock, Plan, Progress, figures
from nodewright_aptos.bench.stores import opened

KERNELS: Final = (
    *(f"nodewright_aptos.columnar.{name}" for name in ("runkernels", "treekernels", "ledgerkernels")),
    "nodewright_aptos.blockstm.kernels",
)
_FOUNDING: Final = 250_000


@define
class _Waiting:
    """A block that has run and is not done."""

    number: int
    executed: Any
    batch: WriteBatch | None


def prepare() -> None:
    """Raises NodewrightError where there are no kernels."""
    reason = warm_up(sha3.KERNELS, *KERNELS)
    if reason is not None:
        raise NodewrightError(f"{reason}; install nodewright[kernels] to run this benchmark")


def runner(plan: Plan, environment: NodeEnvironment) -> Any:
    """What runs a block's table: one kernel in order, or Block-STM's threads. Settings of the executor: ``burden`` (rounds
    of arithmetic that each execution does besides, as if it were a heavier transaction); of block-stm also ``workers``,
    ``grain`` and ``presume`` (see ``blockstm.kernels``). Raises NodewrightError."""
    from nodewright_aptos.blockstm import kernels
    from nodewright_aptos.blockstm.arrays import GRAIN, Arena, Threads
    from nodewright_aptos.columnar import runkernels

    known = {"burden": 0}
    if plan.executor == "block-stm":
        known |= {"workers": plan.workers, "grain": GRAIN, "presume": 0}
    for name, value in plan.options.items():
        if name not in known or not isinstance(value, int) or value < (name in ("workers", "grain")):
            raise NodewrightError(
                f"--executor-set {name}={value}: with columns there are {', '.join(known)}, whole numbers"
            )
        known[name] = value
    rounds = known["burden"]
    if plan.executor == "block-stm":
        return Threads(environment, Arena(known["workers"], known["grain"], bool(known["presume"]), rounds))
    if not rounds:
        return runkernels.execute

    def burdened(table: Any, *arrays: Any) -> int:
        kernels.burdens(len(table), rounds)
        fees: int = runkernels.execute(table, *arrays)
        return fees

    return burdened


async def run_columns(plan: Plan, environment: NodeEnvironment, cores: int, progress: Progress) -> dict[str, Any]:
    """Raises NodewrightError."""
    from nodewright_aptos.bench import workloads
    from nodewright_aptos.blockstm.arrays import Threads
    from nodewright_aptos.columnar import layout
    from nodewright_aptos.columnar.durable import DurableLedger
    from nodewright_aptos.columnar.ledger import ONE_KEY, TWO_KEYS, ColumnarLedger

    workload = await environment.offload(workloads.make, plan.workload, plan.sizes, plan.seed)
    ledger = ColumnarLedger(ONE_KEY if plan.state_keys == 1 else TWO_KEYS, tree=plan.root)
    ledger.run = runner(plan, environment)
    accounts = len(workload.addresses)
    balances = np.full(accounts, workloads.BALANCE, np.uint64)
    progress("accounts", 0, accounts)
    if plan.root:
        await environment.offload(ledger.found, workload.addresses, balances)
    else:
        for at in range(0, accounts, _FOUNDING):
            own = slice(at, at + _FOUNDING)
            await environment.offload(ledger.found, workload.addresses[own], balances[own])
            progress("accounts", at, accounts)
    progress("accounts", accounts, accounts)
    clock = Clock()
    digest = sha3_256()
    submitted = committed = 0
    root = bytes(32) if ledger.tree is None else ledger.tree.root()
    async with opened(plan, environment) as store:
        durable = None if store is None else DurableLedger(ledger, store, environment)
        if durable is not None:
            await durable.found(0, root)
            durable.written_bytes = 0
        waiting: _Waiting | None = None

        async def finish(block: _Waiting) -> None:
            nonlocal root
            if ledger.tree is not None:
                with clock.stage("tree"):
                    root = await ledger.rehash(block.executed, environment, plan.workers)
            if durable is not None and block.batch is not None:
                with clock.stage("commit"):
                    await durable.commit(block.batch, root)

        for number in range(1, plan.blocks + 1):
            block, _, _ = await environment.offload(workload.block)
            executed: Any = None

            async def execute(columns: Any) -> None:
                nonlocal executed
                with clock.stage("execute"):
                    executed = await environment.offload(ledger.execute, columns)

            with clock.block():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(execute, block)
                    if waiting is not None:
                        nursery.start_soon(finish, waiting)
                batch = None
                with clock.stage("values"):
                    await ledger.hash_values(executed, environment, plan.workers)
                if durable is not None:
                    with clock.stage("record"):
                        batch = await environment.offload(durable.record, number, executed)
                waiting = _Waiting(number, executed, batch)
            kept = int((executed.results[:, layout.R_STATUS] < layout.REFUSED).sum())
            submitted, committed = submitted + len(block), committed + kept
            digest.update(executed.results.tobytes())
            progress("blocks", number, plan.blocks)
        if waiting is not None:
            with clock.block():
                await finish(waiting)
            last = clock.seconds.pop()  # of the last block, which had no other to run beside
            clock.seconds[-1] += last
        told = figures(plan, clock, submitted, committed, (root if plan.root else digest.digest()).hex(), cores)
        if isinstance(ledger.run, Threads):
            told.update(ledger.run.figures())
        if durable is not None:
            told["disk_bytes_per_tx"] = durable.written_bytes / max(committed, 1)
    told["supply"] = str(ledger.supply)
    return told
