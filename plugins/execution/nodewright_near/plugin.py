"""Registers the execution ``near``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nodewright.errors import MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import EXECUTION, KEY_VALUE, VERIFIER, Dependencies, ExecutionSpec, Requirement
from nodewright_near.config import NearConfig, check

MIB = 1024 * 1024


@asynccontextmanager
async def open_near(config: NearConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    """Reads boundaries and rules from the genesis table ``execution``. wasmtime is imported here. Serves at once on plain
    code; batch kernels are compiled behind it."""
    try:
        from nodewright_near.contracts.machine import WasmtimeMachine
    except ImportError as error:
        raise MissingDriver("wasmtime", "near") from error
    from nodewright.kernels.plugin import warm_up_kernels
    from nodewright.kernels.signatures import LANES
    from nodewright_near.blocks import Rules
    from nodewright_near.config import parameters
    from nodewright_near.engine import NearEngine
    from nodewright_near.genesis import check_boundaries
    from nodewright_near.ways import KERNELS

    table = dependencies["genesis"].get("execution", {})
    boundaries = check_boundaries(table.get("boundary_accounts", ()))
    verifier = dependencies["verifier"]
    rules = Rules(parameters(table), boundaries, verifier, WasmtimeMachine(verifier, config.compiled_contracts))
    engine = NearEngine(
        dependencies["stores.state"],
        environment,
        rules,
        config.kept,
        config.cache_bytes,
        config.save_tx_outcomes,
        config.view_calls,
        config.view_seconds,
        config.save_state_changes,
        config.sync_mib * MIB,
        config.trie_mib * MIB,
    )
    await engine.open()
    async with trio.open_nursery() as nursery:
        if config.kernels == "auto":
            nursery.start_soon(warm_up_kernels, environment, LANES, KERNELS)
        try:
            yield engine
        finally:
            await engine.aclose()
        nursery.cancel_scope.cancel()


@hookimpl
def register_execution() -> list[ExecutionSpec]:
    return [
        ExecutionSpec(
            name="near",
            summary="NEAR accounts, receipts and contracts over shards, checked by others from state witnesses",
            open=open_near,
            config=NearConfig,
            check=check,
            provides=frozenset({EXECUTION, "sharded", "witness"}),
            requires=(Requirement("stores.state", KEY_VALUE), Requirement("verifier", VERIFIER)),
            extra="near",
        )
    ]
