"""The kit on the ledger that the stories of ``nakamoto`` are told over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nodewright.interfaces import Environment, Execution
from nodewright.plugins.specs import EXECUTION, KEY_VALUE, Dependencies, ExecutionSpec, NoConfig, Requirement
from nodewright.testing.execution import ExecutionTests, Sample
from nodewright_nakamoto.testing.ledger import Ledger, allocation, pay


@asynccontextmanager
async def open_ledger(config: NoConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    ledger = Ledger(dependencies["stores.state"])
    await ledger.open()
    yield ledger


class TestLedger(ExecutionTests):
    spec = ExecutionSpec(
        name="ledger",
        summary="unspent outputs without scripts",
        open=open_ledger,
        provides=Ledger.capabilities | {EXECUTION},
        requires=(Requirement("stores.state", KEY_VALUE),),
    )
    genesis: dict[str, Any] = {}  # noqa: RUF012 (it has money of its own)
    policies = ("reject_block",)

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        made, outpoint, left = [], allocation(purse), 1000
        for _ in range(length):
            left -= 5 + variant
            tx = pay([outpoint], [left, 5])
            made.append(Sample(tx.id, tx.raw))
            outpoint = tx.output(0)
        return made

    def invalid(self, purse: int) -> Sample:
        """It pays more than it has."""
        tx = pay([allocation(purse)], [5000])
        return Sample(tx.id, tx.raw)

    async def state(self, execution: Execution) -> Any:
        assert isinstance(execution, Ledger)
        return dict(sorted(execution.unspent.items()))
