"""The small chains as a plugin: specs to select by name, and a pattern for one's own.

Executions ``coins``, ``accounts``, ``shards``; consensuses ``pow``, ``two-chain`` (over certified bundles) and
``two-chain-shards``.
Every consensus runs over every execution that its requirements admit. A validator's key is the secret ``validator``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from nodewright.errors import ConfigurationError
from nodewright.interfaces import Consensus, Environment, Execution
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import (
    BLOB,
    CONSENSUS,
    EXECUTION,
    KEY_VALUE,
    TRANSPORT,
    ConsensusSpec,
    Dependencies,
    ExecutionSpec,
    NoConfig,
    Requirement,
    setting,
)
from nodewright.testing.shapes.accounts import Accounts
from nodewright.testing.shapes.bft import TwoChain, genesis_ref
from nodewright.testing.shapes.bft_formats import Validators
from nodewright.testing.shapes.bodies import Bodies
from nodewright.testing.shapes.bundles import Bundles
from nodewright.testing.shapes.chain_log import ChainLog
from nodewright.testing.shapes.chunks import Chunks
from nodewright.testing.shapes.coins import Coins
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.pow import ProofOfWork
from nodewright.testing.shapes.shards import Shards

STORE = Requirement("stores.state", KEY_VALUE, frozenset({"ordered"}))
CHAIN = Requirement("stores.chain", KEY_VALUE, frozenset({"ordered"}))
BLOBS = Requirement("stores.blobs", BLOB)
PEERS = Requirement("transport", TRANSPORT)
FINALITY = frozenset({CONSENSUS, "finality", "discard"})


@attrs.define
class ShardsConfig:
    kept: list[int] = setting(factory=lambda: [0, 1], help="shards whose state is kept on this node")


@attrs.define
class PowConfig:
    mine: bool = setting(False, help="mine without being asked")


@asynccontextmanager
async def open_coins(config: NoConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    coins = Coins(dependencies["stores.state"])
    await coins.open()
    yield coins


@asynccontextmanager
async def open_accounts(config: NoConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Execution]:
    accounts = Accounts(dependencies["stores.state"])
    await accounts.open()
    yield accounts


@asynccontextmanager
async def open_shards(
    config: ShardsConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Execution]:
    count = dependencies["genesis"]["execution"]["shards"]
    shards = Shards(dependencies["stores.state"], count, config.kept)
    await shards.open()
    yield shards


def _log(dependencies: Dependencies) -> ChainLog:
    return ChainLog(dependencies["stores.chain"], genesis_ref(dependencies["genesis"]))


async def _two_chain(dependencies: Dependencies, environment: Environment) -> TwoChain:
    """``genesis["consensus"]["validators"]`` lists (validator key, node id), both in hex, in the order of their turns."""
    genesis = dependencies["genesis"]
    listed = [(bytes.fromhex(key), bytes.fromhex(node)) for key, node in genesis["consensus"]["validators"]]
    secret = environment.secret("validator")
    if secret is None:
        raise ConfigurationError("consensus: set the secret 'validator' (a follower's may be any text)")
    log = _log(dependencies)
    await log.open()
    return TwoChain(
        Validators(tuple(key for key, _ in listed)),
        Key(secret),
        log,
        dependencies["execution"],
        dependencies["transport"],
        dependencies["events"],
        environment,
        genesis,
        {index: node for index, (_, node) in enumerate(listed)},
    )


def _bodies(dependencies: Dependencies, environment: Environment, kind: str = "bundle", hashed: bool = True) -> Bodies:
    return Bodies(dependencies["stores.blobs"], dependencies["transport"], environment, kind, hashed)


def _unsharded(dependencies: Dependencies) -> None:
    shards = dependencies["genesis"]["execution"].get("shards", 1)
    if "sharded" in dependencies["execution"].capabilities and shards > 1:
        raise ConfigurationError(
            f"consensus: it orders for one shard and the genesis has {shards}: use 'two-chain-shards', or another genesis"
        )


@asynccontextmanager
async def open_two_chain(
    config: NoConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Consensus]:
    _unsharded(dependencies)
    chain = await _two_chain(dependencies, environment)
    chain.payloads = Bundles(chain, _bodies(dependencies, environment), dependencies["pool"])
    yield chain


@asynccontextmanager
async def open_two_chain_shards(
    config: NoConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Consensus]:
    chain = await _two_chain(dependencies, environment)
    bodies = _bodies(dependencies, environment)
    parcels = _bodies(dependencies, environment, "parcel", hashed=False)
    witnesses = _bodies(dependencies, environment, "witness")
    chain.payloads = Chunks(chain, bodies, parcels, witnesses, dependencies["pool"])
    yield chain


@asynccontextmanager
async def open_pow(config: PowConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[Consensus]:
    _unsharded(dependencies)
    log = _log(dependencies)
    await log.open()
    yield ProofOfWork(
        log,
        _bodies(dependencies, environment),
        dependencies["execution"],
        dependencies["transport"],
        dependencies["pool"],
        dependencies["events"],
        environment,
        dependencies["genesis"],
        mine=config.mine,
    )


@hookimpl
def register_execution() -> list[ExecutionSpec]:
    return [
        ExecutionSpec(
            name="coins",
            summary="outputs created once and spent once; one durable head that can be undone",
            open=open_coins,
            provides=Coins.capabilities | {EXECUTION},
            requires=(STORE,),
        ),
        ExecutionSpec(
            name="accounts",
            summary="accounts with nonces; executes on unfinished blocks",
            open=open_accounts,
            provides=Accounts.capabilities | {EXECUTION},
            requires=(STORE,),
        ),
        ExecutionSpec(
            name="shards",
            summary="accounts over shards that exchange receipts; checked from witnesses",
            open=open_shards,
            config=ShardsConfig,
            provides=Shards.capabilities | {EXECUTION},
            requires=(STORE,),
        ),
    ]


def _consensus(name: str, summary: str, open: Any, provides: frozenset[str], *needs: str, **more: Any) -> ConsensusSpec:
    execution = Requirement("execution", EXECUTION, frozenset(needs))
    return ConsensusSpec(
        name=name, summary=summary, open=open, provides=provides, requires=(CHAIN, BLOBS, PEERS, execution), **more
    )


@hookimpl
def register_consensus() -> list[ConsensusSpec]:
    work = frozenset({CONSENSUS, "proof-of-work", "reorganise", "reject-block"})
    return [
        _consensus("pow", "best chain by work, reorganisations", open_pow, work, config=PowConfig),
        _consensus("two-chain", "rounds, instant finality, certified bundles", open_two_chain, FINALITY),
        _consensus(
            "two-chain-shards",
            "rounds, instant finality, chunks endorsed from their witness",
            open_two_chain_shards,
            FINALITY,
            "sharded",
            "witness",
        ),
    ]
