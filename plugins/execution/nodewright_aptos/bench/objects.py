"""A workload through an executor of single transactions (``executors``): sequential, columnar, Block-STM, shards.

What is timed is ``Executor.run`` on transactions that were read already, and what is made of its outputs: rows of the same
ledger as ``columns`` has, and with ``--root`` its tree. An executor that has a method ``figures`` adds what it answers:
fanout, messages between shards, times of stages, imbalance.

One that takes partitions (``run_partitioned``) gets each block as whoever proposes it would make it: divided, and in the
order that goes with it. That is timed as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha3_256
from typing import Any, Final

import numpy as np

from nodewright.environment import NodeEnvironment
from nodewright_aptos.bench import workloads
from nodewright_aptos.bench.plan import Clock, Plan, Progress, figures
from nodewright_aptos.columnar import layout, ledgerkernels
from nodewright_aptos.columnar.ledger import TWO_KEYS, ColumnarLedger, Executed
from nodewright_aptos.executors import open_executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.partition import Access, Partition, declared_access, partition
from nodewright_aptos.partition import figures as partition_figures
from nodewright_aptos.resources import ACCOUNT_BYTES, SUPPLY_KEY, account_key, apt_store_key
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import UserTransaction

_SUFFIX_OF_ACCOUNT = account_key(bytes(32))[33:]
TOUCH_MODULE: Final = "nodewright_aptos.columnar.calls"
_STORE: Final = slice(layout.STORE_AT, layout.FLAGS_AT)


class LedgerBase:
    """``executors.Base`` over a ledger's rows: keys of accounts and their coins, and the supply."""

    def __init__(self, ledger: ColumnarLedger) -> None:
        self._ledger = ledger
        self._values: dict[bytes, bytes | None] = {}

    async def load(self, keys: Iterable[bytes]) -> None:
        ledger, values = self._ledger, self._values
        wanted = list(dict.fromkeys(key[1:33] for key in keys if key[0] == 0))
        if wanted:
            rows = ledger.rows_of(np.frombuffer(bytearray(b"".join(wanted)), np.uint8).reshape(-1, 32))
            for address, row in zip(wanted, ledger.rows[rows], strict=True):
                raw, flags = row.tobytes(), row[layout.FLAGS_AT]
                values[account_key(address)] = raw[:ACCOUNT_BYTES] if flags & layout.HAS_ACCOUNT else None
                values[apt_store_key(address)] = raw[_STORE] if flags & layout.HAS_STORE else None
        values[SUPPLY_KEY] = ledger.supply.to_bytes(16, "little")
        for key in keys:
            values.setdefault(key, None)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._values[key]
        except KeyError:
            raise Absent([key]) from None


def put_back(ledger: ColumnarLedger, outputs: Sequence[Output]) -> Executed:
    """The rows that the outputs leave, and what of them changed."""
    writes: dict[bytes, bytes | None] = {}
    for output in outputs:
        if output.kind == KEPT:
            writes.update(output.writes)
    own = [(key, value) for key, value in writes.items() if key[0] == 0 and value is not None]
    rows = ledger.rows_of(np.frombuffer(bytearray(b"".join([key[1:33] for key, _ in own])), np.uint8).reshape(-1, 32))
    changed = np.zeros(ledger.count, np.uint8)
    for (key, value), row in zip(own, rows.tolist(), strict=True):
        account = key[33:] == _SUFFIX_OF_ACCOUNT
        flag = layout.HAS_ACCOUNT if account else layout.HAS_STORE
        ledger.rows[row, slice(0, ACCOUNT_BYTES) if account else _STORE] = np.frombuffer(value or b"", np.uint8)
        changed[row] |= ledgerkernels.ACCOUNT_CHANGED if account else ledgerkernels.STORE_CHANGED
        if not ledger.rows[row, layout.FLAGS_AT] & flag:
            ledger.rows[row, layout.FLAGS_AT] |= flag
            changed[row] |= ledgerkernels.MADE
    fees = -sum(sum(output.deltas.values()) for output in outputs if output.kind == KEPT)
    ledger.supply -= fees
    return Executed(None, np.flatnonzero(changed).astype(np.int32), changed, fees)


def partitioned(
    functions: Functions, transactions: Sequence[UserTransaction], plan: Plan
) -> tuple[list[UserTransaction], list[int], Access, Partition]:
    """The block in its new order, the shard of each transaction in that order, and what they follow from."""
    declared = declared_access(functions, transactions)
    made = partition(declared.access, plan.options.get("shards", 2), plan.options.get("partitioner", "fanout"), plan.seed)
    order = made.order.tolist()
    return [transactions[one] for one in order], made.shard[made.order].tolist(), declared.access, made


async def run_objects(plan: Plan, environment: NodeEnvironment, cores: int, progress: Progress) -> dict[str, Any]:
    """Raises NodewrightError."""
    functions = installed_functions()
    functions.add_module(TOUCH_MODULE)
    workload = await environment.offload(workloads.make, plan.workload, plan.sizes, plan.seed)
    ledger = ColumnarLedger(TWO_KEYS, tree=plan.root)
    progress("accounts", 0, len(workload.addresses))
    balances = np.full(len(workload.addresses), workloads.BALANCE, np.uint64)
    await environment.offload(ledger.found, workload.addresses, balances)
    clock, digest = Clock(), sha3_256()
    submitted = committed = 0
    root = bytes(32)
    drawn_figures: list[dict[str, Any]] = []
    async with open_executor(plan.executor, functions, environment, plan.options) as executor:
        in_shards = getattr(executor, "run_partitioned", None)
        for number in range(1, plan.blocks + 1):
            drawn = await environment.offload(workload.block)
            transactions = await environment.offload(workload.transactions, drawn)
            block = BlockEnvironment(number, workloads.SECONDS * 1_000_000, 1, workloads.CHAIN_ID)
            with clock.block():
                base = LedgerBase(ledger)
                if in_shards is None:
                    with clock.stage("execute"):
                        outputs = await executor.run(base, transactions, block)
                else:
                    with clock.stage("partition"):
                        transactions, shard_of, access, made = await environment.offload(
                            partitioned, functions, transactions, plan
                        )
                    with clock.stage("execute"):
                        outputs = await in_shards(base, transactions, block, shard_of)
                with clock.stage("apply"):
                    executed = await environment.offload(put_back, ledger, outputs)
                if plan.root:
                    with clock.stage("values"):
                        await ledger.hash_values(executed, environment, plan.workers)
                    with clock.stage("tree"):
                        root = await ledger.rehash(executed, environment, plan.workers)
            if in_shards is not None:
                drawn_figures.append(partition_figures(access, made))
            submitted += len(transactions)
            committed += sum(output.kind == KEPT for output in outputs)
            digest.update(np.array([(one.gas_used, one.fee, one.kind) for one in outputs], np.uint64).tobytes())
            progress("blocks", number, plan.blocks)
        told = figures(plan, clock, submitted, committed, (root if plan.root else digest.digest()).hex(), cores)
        more = getattr(executor, "figures", None)
        if callable(more):
            told.update(more())
        for name in ("fanout", "message_chain", "imbalance") if drawn_figures else ():
            told[name] = sum(one[name] for one in drawn_figures) / len(drawn_figures)
    told["supply"] = str(ledger.supply)
    return told
