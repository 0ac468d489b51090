"""Registers the service ``near_api``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Service
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec
from nodewright_near_api.config import NearApiConfig, check


@asynccontextmanager
async def _open(config: NearApiConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_near_api.service import NearApi

    yield NearApi(config, environment)


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
        )
    ]


@hookimpl
def register_commands(cli: click.Group) -> None:
    from nodewright.cli.bench import bench
    from nodewright_near_api.bench.command import near

    bench.add_command(near)
