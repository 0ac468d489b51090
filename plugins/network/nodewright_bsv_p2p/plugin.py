"""Registers the service ``bsv_p2p``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import Service
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec
from nodewright_bsv_p2p.config import BsvP2pConfig, check


@asynccontextmanager
async def _open(config: BsvP2pConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Service]:
    from nodewright_bsv_p2p.service import BsvP2p

    yield BsvP2p(config, environment)


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [
        ServiceSpec(
            name="bsv_p2p",
            summary="Bitcoin's wire protocol: follows SV Nodes and is followed by them, blocks and transactions",
            open=_open,
            config=BsvP2pConfig,
            check=check,
            provides=frozenset({SERVICE}),
        )
    ]
