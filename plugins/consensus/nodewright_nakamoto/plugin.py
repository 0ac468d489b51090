"""Registers the consensus ``nakamoto``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from nodewright.interfaces.audit import ChainAudit
from nodewright.interfaces.consensus import Consensus
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import (
    BLOB,
    CONSENSUS,
    EXECUTION,
    KEY_VALUE,
    TRANSPORT,
    ConsensusSpec,
    Dependencies,
    Requirement,
)
from nodewright_nakamoto.config import NakamotoConfig, check


@asynccontextmanager
async def open_nakamoto(
    config: NakamotoConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Consensus]:
    from nodewright_nakamoto.consensus import Nakamoto

    health = dependencies.get("health")
    yield await Nakamoto.create(
        config,
        genesis=dependencies["genesis"],
        chain=dependencies["stores.chain"],
        blobs=dependencies["stores.blobs"],
        execution=dependencies["execution"],
        pool=dependencies["pool"],
        events=dependencies["events"],
        environment=environment,
        transport=dependencies.get("transport"),
        metrics=dependencies.get("metrics"),
        health=partial(health.set, "consensus") if health is not None else lambda ok, detail: None,
    )


@asynccontextmanager
async def open_audit(
    config: NakamotoConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[ChainAudit]:
    """What the blocks of a stopped node are, without running it."""
    from nodewright_nakamoto import genesis as genesis_rules
    from nodewright_nakamoto.audit import NakamotoAudit
    from nodewright_nakamoto.store import ChainStore

    document = dependencies["genesis"]
    coinbase = genesis_rules.coinbase_of(document)
    prologue_id = dependencies["identify"]([coinbase])[0] if coinbase else None
    chain, blobs = dependencies["stores.chain"], dependencies["stores.blobs"]
    yield NakamotoAudit(
        genesis_rules.build(document, prologue_id),
        chain,
        blobs,
        ChainStore(chain, blobs, environment),
        dependencies["identify"],
        dependencies["report"],
    )


@hookimpl
def register_consensus() -> list[ConsensusSpec]:
    return [
        ConsensusSpec(
            name="nakamoto",
            summary="proof of work over Teranode subtrees: best chain by work, reorganisations, a built-in miner",
            open=open_nakamoto,
            config=NakamotoConfig,
            check=check,
            audit=open_audit,
            provides=frozenset({CONSENSUS, "proof-of-work", "reorganise", "mining", "reject-block"}),
            requires=(
                Requirement("stores.chain", KEY_VALUE, frozenset({"ordered"})),
                Requirement("stores.blobs", BLOB),
                Requirement("execution", EXECUTION, frozenset({"undo"})),
                Requirement("transport", TRANSPORT, optional=True),
            ),
        )
    ]
