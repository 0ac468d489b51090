"""A shard's server with what it needs, in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_aptos.executors import open_executor
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards.server import ShardServer


@asynccontextmanager
async def opened_server(executor: str, functions: Sequence[str], environment: Environment) -> AsyncIterator[ShardServer]:
    """``functions`` are the modules that add transaction functions. Raises ConfigurationError."""
    known = installed_functions()
    for name in functions:
        try:
            known.add_module(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"--functions: {name} adds no transaction functions: {error}") from error
    if executor == "sequential":
        yield ShardServer(known, environment)
        return
    async with open_executor(executor, known, environment, {}) as inner:
        yield ShardServer(known, environment, inner)
