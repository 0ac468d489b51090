"""Registers the services ``near_api`` and ``near_load``, and ``nodewright bench near``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Service
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec
from nodewright_near_api.bench.config import LoadConfig
from nodewright_near_api.bench.config import check as check_load
from nodewright_near_api.config import NearApiConfig, check


@asynccontextmanager
async def _open(config: NearApiConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_near_api.service import NearApi

    yield NearApi(config, environment)


@asynccontextmanager
async def _open_load(config: LoadConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_near_api.bench.service import NearLoad

    yield NearLoad(config, environment)


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [
        ServiceSpec(
            name="near_api",
            summary="NEAR's JSON-RPC: state, contracts, transactions with wait levels, blocks, proofs; /status, /metrics",
            open=_open,
            config=NearApiConfig,
            check=check,
            provides=frozenset({SERVICE}),
        ),
        ServiceSpec(
            name="near_load",
            summary="Load generator: signed transfers at a rate that holds a block time, for benchmarks alone",
            open=_open_load,
            config=LoadConfig,
            check=check_load,
            provides=frozenset({SERVICE}),
        ),
    ]


@hookimpl
def register_commands(cli: click.Group) -> None:
    from nodewright.cli.bench import bench
    from nodewright_near_api.bench.command import near

    bench.add_command(near)
