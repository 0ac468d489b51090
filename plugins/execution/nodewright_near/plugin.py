"""Registers the execution ``near``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodewright.errors import MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import EXECUTION, KEY_VALUE, VERIFIER, Dependencies, ExecutionSpec, Requirement
from nodewright_near.config import NearConfig, check


@asynccontextmanager
async def open_near(config: NearConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    """Reads boundaries and rules from the genesis table ``execution``. wasmtime is imported here."""
    try:
        from nodewright_near.contracts.machine import WasmtimeMachine
    except ImportError as error:
        raise MissingDriver("wasmtime", "near") from error
    from nodewright_near.blocks import Rules
    from nodewright_near.config import parameters
    from nodewright_near.engine import NearEngine
    from nodewright_near.genesis import check_boundaries

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
    )
    await engine.open()
    yield engine


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
