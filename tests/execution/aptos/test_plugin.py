"""The plugin as a node opens it: from its spec, over any key-value store, with the same rows in all of them."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nodewright_aptos.plugin
import nodewright_leveldb.plugin
import nodewright_memory.plugin
from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import Execution
from nodewright.kernels.signatures import NativeVerifier
from nodewright.plugins.specs import Dependencies
from nodewright.testing import postgres_server
from nodewright.testing.environment import LocalEnvironment
from nodewright_aptos.config import AptosConfig, check
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.plugin import open_postgres

APT = 10**8
PEOPLE = {name: 100 * APT for name in ("alice", "bob", "carol")}
(SPEC,) = nodewright_aptos.plugin.register_execution()
STORES = {
    spec.name: spec
    for plugin in (nodewright_memory.plugin, nodewright_leveldb.plugin)
    for spec in plugin.register_storage()
    if spec.name in ("memory", "leveldb")
}


@asynccontextmanager
async def opened(store: Any, w: Any, environment: LocalEnvironment, **config: Any) -> AsyncIterator[Any]:
    dependencies = Dependencies(genesis=w.document, verifier=NativeVerifier())
    dependencies["stores.state"] = store
    async with SPEC.open(AptosConfig(**config), dependencies, environment) as engine:
        w.engine = engine
        yield engine


async def rows(store: Any) -> dict[str, dict[bytes, bytes]]:
    found: dict[str, dict[bytes, bytes]] = {}
    for table in await store.tables():
        after: bytes | None = None
        while True:
            page = await store.scan(table, b"", after, 1000)
            found.setdefault(table, {}).update(page.items)
            after = page.after
            if after is None:
                break
    return {table: there for table, there in found.items() if there}


async def story(store: Any, w: Any, environment: LocalEnvironment) -> tuple[list[bytes], dict[str, dict[bytes, bytes]]]:
    """Two lives of a node, blocks undone in between, state pruned: the roots, and all rows in the end."""
    dice, roots = random.Random(7), []
    for life in range(2):
        async with opened(store, w, environment, history=4) as engine:
            assert isinstance(engine, Execution) and engine.capabilities <= SPEC.provides
            await engine.genesis(w.document, w.head if not life else BlockRef(0, b"?" * 32))
            for number in range(6):
                names = [dice.choice([*PEOPLE, f"new {dice.randrange(9)}"]) for _ in range(8)]
                payments = [w.pay(dice.choice(list(PEOPLE)), name, dice.randrange(APT)) for name in names]
                parent, numbers = w.head, dict(w.numbers)
                if number == 3:
                    await w.block(w.pay("alice", "bob", 1), name="undone")
                    await engine.revert(w.head)
                    w.head, w.numbers = parent, numbers
                roots.append((await w.block(*payments)).detail["state_root"])
    return roots, await rows(store)


async def test_one_state_and_the_same_rows_on_every_store(world: Callable[..., Any], tmp_path: Path) -> None:
    final: dict[str, Any] = {}
    for name, store_spec in STORES.items():
        environment = LocalEnvironment(tmp_path / name)
        async with store_spec.open(store_spec.config(), Dependencies(), environment.for_slot("stores.state")) as store:
            final[name] = await story(store, world(PEOPLE), environment)
    missing = postgres_server.missing()
    if missing is None:
        with postgres_server.postgres_server() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("NODEWRIGHT_POSTGRES_PASSWORD", server.password)
            config, environment = PostgresConfig(port=server.port), LocalEnvironment(tmp_path / "postgres")
            async with open_postgres(config, Dependencies(), environment.for_slot("stores.state")) as store:
                final["postgres"] = await story(store, world(PEOPLE), environment)
    roots, table = final["memory"]
    assert len(set(roots)) == 12 and len(table["aptos_tree"]) > 100
    for other_roots, other in final.values():
        assert other_roots == roots and other.keys() == table.keys()
        for name in table:
            assert other[name] == table[name], name


async def test_settings_say_what_is_kept_and_never_change_the_outcome(world: Callable[..., Any], tmp_path: Path) -> None:
    commitments = set()
    for config in ({}, {"save_changes": False, "index_accounts": False, "index_events": False, "cache_bytes": 1 << 20}):
        w = world(PEOPLE)
        spec, environment = STORES["memory"], LocalEnvironment(tmp_path / str(len(config)))
        async with (
            spec.open(spec.config(), Dependencies(), environment) as store,
            opened(store, w, environment, **config) as engine,
        ):
            await engine.genesis(w.document, w.head)
            outcome = await w.block(w.pay("alice", "bob", 1))
            commitments.add(outcome.commitment)
            there = set(await rows(store))
            assert ({"aptos_by_account", "aptos_events"} <= there) == (not config)
    assert len(commitments) == 1


async def test_a_module_that_adds_functions(
    world: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    module = ModuleType("some_functions")
    module.register_transaction_functions = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_functions", module)
    spec, environment = STORES["memory"], LocalEnvironment(tmp_path)
    async with spec.open(spec.config(), Dependencies(), environment) as store:
        async with opened(store, world(PEOPLE), environment, functions=["some_functions"]):
            assert len(seen) == 1
        with pytest.raises(ConfigurationError, match="no_such_module adds no transaction functions"):
            async with opened(store, world(PEOPLE), environment, functions=["no_such_module"]):
                raise AssertionError("opened")


def test_settings_are_checked() -> None:
    assert check(AptosConfig()) == []
    (problem, other) = check(AptosConfig(executor="fast", functions=["a b"]))
    assert "is not one of sequential" in problem and "no module" in other
    for executor, option in {
        "sequential": "workers",
        "columnar": "batch",
        "block-stm": "shards",
        "sharded": "native",
    }.items():
        (problem,) = check(AptosConfig(executor=executor, executor_options={option: 3}))
        assert problem.startswith("executor_options: ") and f"no setting '{option}'" in problem
