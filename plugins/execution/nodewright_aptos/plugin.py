"""Registers the execution ``aptos``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import trio

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import EXECUTION, KEY_VALUE, VERIFIER, Dependencies, ExecutionSpec, Requirement
from nodewright_aptos.config import AptosConfig, check


@asynccontextmanager
async def open_aptos(config: AptosConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    """Reads the chain id from the genesis table ``execution``. Serves at once on plain code; batch kernels are compiled
    behind it."""
    from nodewright.kernels import sha3
    from nodewright.kernels.plugin import warm_up_kernels
    from nodewright.kernels.signatures import LANES
    from nodewright_aptos.blocks import Saved
    from nodewright_aptos.engine import AptosEngine
    from nodewright_aptos.executors import open_executor
    from nodewright_aptos.genesis import chain_id_of
    from nodewright_aptos.installed import installed_functions

    functions = installed_functions()
    for name in config.functions:
        try:
            functions.add_module(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"execution.functions: {name} adds no transaction functions: {error}") from error
    chain_id = chain_id_of(dependencies["genesis"].get("execution", {}))
    async with open_executor(config.executor, functions, environment, config.executor_options) as executor:
        engine = AptosEngine(
            dependencies["stores.state"],
            environment,
            dependencies["verifier"],
            functions,
            executor,
            chain_id,
            cache_bytes=config.cache_bytes,
            history=config.history,
            saved=Saved(config.save_changes, config.index_accounts, config.index_events),
        )
        await engine.open()
        async with trio.open_nursery() as nursery:
            if config.kernels == "auto":
                nursery.start_soon(warm_up_kernels, environment, sha3.KERNELS, LANES)
            yield engine
            nursery.cancel_scope.cancel()


@hookimpl
def register_execution() -> list[ExecutionSpec]:
    return [
        ExecutionSpec(
            name="aptos",
            summary="Aptos accounts and coins over a Jellyfish Merkle tree; transaction functions in place of Move",
            open=open_aptos,
            config=AptosConfig,
            check=check,
            provides=frozenset({EXECUTION, "declared-access", "undo"}),
            requires=(Requirement("stores.state", KEY_VALUE), Requirement("verifier", VERIFIER)),
        )
    ]


@hookimpl
def register_commands(cli: click.Group) -> None:
    from nodewright.cli.bench import bench
    from nodewright_aptos.bench.command import aptos
    from nodewright_aptos.shards.command import shard

    bench.add_command(aptos)
    cli.add_command(shard)
