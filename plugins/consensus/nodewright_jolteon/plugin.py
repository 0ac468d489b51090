"""Registers the consensus ``jolteon``."""

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
from nodewright_jolteon.config import JolteonConfig, check


def complete_genesis(config: JolteonConfig, document: dict[str, Any]) -> dict[str, Any]:
    from nodewright_jolteon.local import complete

    return complete(config, document)


@asynccontextmanager
async def open_jolteon(
    config: JolteonConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Consensus]:
    from nodewright_jolteon.consensus import Jolteon

    yield Jolteon.create(
        config,
        genesis=dependencies["genesis"],
        chain=dependencies["stores.chain"],
        execution=dependencies["execution"],
        pool=dependencies["pool"],
        events=dependencies["events"],
        verifier=dependencies["verifier"],
        environment=environment,
        transport=dependencies.get("transport"),
    )


@hookimpl
def register_consensus() -> list[ConsensusSpec]:
    return [
        ConsensusSpec(
            name="jolteon",
            summary="Jolteon over a Quorum Store: certified batches, two-chain order, outcomes signed by a quorum",
            open=open_jolteon,
            config=JolteonConfig,
            check=check,
            complete_genesis=complete_genesis,
            provides=frozenset({CONSENSUS, "finality", "discard"}),
            requires=(
                Requirement("stores.chain", KEY_VALUE, frozenset({"ordered"})),
                Requirement("execution", EXECUTION),
                Requirement("verifier", VERIFIER),
                Requirement("transport", TRANSPORT, optional=True),
            ),
        )
    ]
