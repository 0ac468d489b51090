"""Registers the service ``bsv_api``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Service
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec
from nodewright.services.http import check_settings
from nodewright_bsv_api.config import BsvApiConfig


@asynccontextmanager
async def _open(config: BsvApiConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_bsv_api.service import BsvApi

    yield BsvApi(config, environment)


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [
        ServiceSpec(
            name="bsv_api",
            summary="transactions (POST /tx, /txs, ARC /v1/tx), asset reads, Bitcoin JSON-RPC, /health, /metrics",
            open=_open,
            config=BsvApiConfig,
            check=check_settings,
            provides=frozenset({SERVICE}),
        )
    ]


@hookimpl
def register_commands(cli: click.Group) -> None:
    from nodewright.cli.bench import bench
    from nodewright_bsv_api.bench.command import teranode

    bench.add_command(teranode)
