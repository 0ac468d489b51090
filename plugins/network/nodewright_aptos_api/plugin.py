"""Registers the services ``aptos_api`` and ``faucet``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Service
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec
from nodewright_aptos_api.config import AptosApiConfig, FaucetConfig, check


@asynccontextmanager
async def _open_api(config: AptosApiConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_aptos_api.service import AptosApi

    yield AptosApi(config, environment)


@asynccontextmanager
async def _open_faucet(
    config: FaucetConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Service]:
    from nodewright_aptos_api.faucet import Faucet

    yield Faucet(config, environment)


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [
        ServiceSpec(
            name="aptos_api",
            summary="Aptos's REST API: accounts, resources, views, transactions, blocks, a stream; /health, /metrics",
            open=_open_api,
            config=AptosApiConfig,
            check=check,
            provides=frozenset({SERVICE}),
        ),
        ServiceSpec(
            name="faucet",
            summary="Gives coins of the faucet account of a local Aptos-shaped network: POST /mint, POST /fund",
            open=_open_faucet,
            config=FaucetConfig,
            check=check,
            provides=frozenset({SERVICE}),
        ),
    ]
