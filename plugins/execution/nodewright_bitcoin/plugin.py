"""Registers the execution ``bitcoin``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nodewright.interfaces.audit import StateAudit
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import EXECUTION, UTXO, VERIFIER, Dependencies, ExecutionSpec, Requirement
from nodewright_bitcoin.config import BitcoinConfig, check


@asynccontextmanager
async def open_bitcoin(
    config: BitcoinConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Execution]:
    """Serves at once on plain code; batch kernels are compiled behind it."""
    from nodewright.kernels.plugin import warm_up_kernels
    from nodewright.kernels.signatures import ECDSA_LANES
    from nodewright_bitcoin.columns import KERNELS
    from nodewright_bitcoin.engine import BitcoinEngine

    parameters = config.parameters()
    engine = BitcoinEngine(
        dependencies["stores.utxo"],
        dependencies["verifier"],
        environment,
        parameters,
        config.policy(),
        config.payout(parameters),
        config.verify_cache_bytes,
    )
    await engine.load()
    async with trio.open_nursery() as nursery:
        if config.kernels == "auto":
            nursery.start_soon(warm_up_kernels, environment, KERNELS, ECDSA_LANES)
        nursery.start_soon(engine.keep_pruned, config.retention_blocks)
        yield engine
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_audit(
    config: BitcoinConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[StateAudit]:
    """The unspent outputs of a stopped node computed anew."""
    from nodewright_bitcoin import coinbase
    from nodewright_bitcoin.audit import BitcoinAudit

    table = dependencies["genesis"]["execution"]
    yield BitcoinAudit(dependencies["stores.utxo"], coinbase.allocation(table, config.parameters()))


@hookimpl
def register_execution() -> list[ExecutionSpec]:
    return [
        ExecutionSpec(
            name="bitcoin",
            summary="Bitcoin transactions and scripts of every era over unspent outputs, admitted in columnar batches",
            open=open_bitcoin,
            config=BitcoinConfig,
            check=check,
            audit=open_audit,
            provides=frozenset({EXECUTION, "undo", "single-head"}),
            requires=(Requirement("stores.utxo", UTXO), Requirement("verifier", VERIFIER)),
        )
    ]
