"""Registers the consensus ``nightshade``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nodewright.interfaces.consensus import Consensus
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import (
    CONSENSUS,
    EXECUTION,
    KEY_VALUE,
    TRANSPORT,
    VERIFIER,
    ConsensusSpec,
    Dependencies,
    Requirement,
)
from nodewright_nightshade.config import NightshadeConfig, check


def complete_genesis(config: NightshadeConfig, document: dict[str, Any]) -> dict[str, Any]:
    from nodewright_nightshade.local import complete

    return complete(config, document)


@asynccontextmanager
async def open_nightshade(
    config: NightshadeConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Consensus]:
    from nodewright_nightshade.consensus import Nightshade

    yield Nightshade.create(
        config,
        genesis=dependencies["genesis"],
        chain=dependencies["stores.chain"],
        execution=dependencies["execution"],
        pool=dependencies["pool"],
        events=dependencies["events"],
        verifier=dependencies["verifier"],
        environment=environment,
        transport=dependencies.get("transport"),
        metrics=dependencies.get("metrics"),
    )


@hookimpl
def register_consensus() -> list[ConsensusSpec]:
    return [
        ConsensusSpec(
            name="nightshade",
            summary="NEAR's sharded consensus: Doomslug finality, chunks by shard, endorsed by drawn validators",
            open=open_nightshade,
            config=NightshadeConfig,
            check=check,
            complete_genesis=complete_genesis,
            extra="near",
            provides=frozenset({CONSENSUS, "finality", "discard"}),
            requires=(
                Requirement("stores.chain", KEY_VALUE, frozenset({"ordered"})),
                Requirement("execution", EXECUTION, frozenset({"sharded"})),
                Requirement("verifier", VERIFIER),
                Requirement("transport", TRANSPORT, optional=True),
            ),
        )
    ]
