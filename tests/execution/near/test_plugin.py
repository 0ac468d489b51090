"""The plugin as a node opens it: from its spec, over any key-value store, with one final state on all of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nodewright_leveldb.plugin
import nodewright_memory.plugin
import nodewright_near.plugin
from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import Execution
from nodewright.kernels.signatures import NativeVerifier
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_near.config import NearConfig, check
from nodewright_near.transactions import Transfer

NEAR = 10**24
PEOPLE = {name: 100 * NEAR for name in ("alice.near", "bob.near", "carol.near")}
(SPEC,) = nodewright_near.plugin.register_execution()
STORES = {
    spec.name: spec
    for plugin in (nodewright_memory.plugin, nodewright_leveldb.plugin)
    for spec in plugin.register_storage()
    if spec.name in ("memory", "leveldb")
}


async def test_one_final_state_on_every_store_and_after_every_restart(world: Callable[..., Any], tmp_path: Path) -> None:
    final = {}
    for name, store_spec in STORES.items():
        w = world(PEOPLE, ["bob.near"])
        random_ = random.Random(7)
        genesis = {"execution": {**w.table, "boundary_accounts": list(w.boundaries)}}
        environment = LocalEnvironment(tmp_path / name)
        async with store_spec.open(store_spec.config(), Dependencies(), environment.for_slot("stores.state")) as store:
            for life in range(2):
                dependencies = Dependencies(genesis=genesis, verifier=NativeVerifier())
                dependencies["stores.state"] = store
                async with SPEC.open(NearConfig(), dependencies, environment) as engine:
                    assert isinstance(engine, Execution) and engine.capabilities <= SPEC.provides
                    w.engine = engine
                    answer = await engine.genesis(genesis, BlockRef(1000, w.head.id if not life else b"?" * 32))
                    if not life:
                        w.commitments = {0: answer[:32], 1: answer[32:]}
                    for _ in range(4):
                        names = [random_.choice(list(PEOPLE)) for _ in range(12)]
                        pairs = zip(names[::2], names[1::2], strict=True)
                        await w.block(*[w.sign(one, other, Transfer(random_.randrange(NEAR))) for one, other in pairs])
                    assert await engine.applied(1) == w.head
        final[name] = dict(w.commitments)
    assert len(final) == 2 and len({tuple(sorted(one.items())) for one in final.values()}) == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"boundary_accounts": ["b", "aa"]}, "boundary"),
        ({"gas_limit": -1}, "gas_limit is not a whole number"),
        ({"min_top_level": "x"}, "min_top_level is not a whole number"),
    ],
)
async def test_a_bad_genesis_is_one_sentence(table: dict[str, Any], words: str, tmp_path: Path) -> None:
    dependencies = Dependencies(genesis={"execution": table}, verifier=NativeVerifier())
    dependencies["stores.state"] = None
    with pytest.raises(ConfigurationError, match=words):
        async with SPEC.open(NearConfig(), dependencies, LocalEnvironment(tmp_path)):
            raise AssertionError("opened")


def test_settings_are_checked() -> None:
    assert check(NearConfig(kept=[0, 2])) == [] and "numbered from 0" in check(NearConfig(kept=[-1]))[0]
