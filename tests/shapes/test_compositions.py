"""Every consensus over every execution it admits, from TOML alone: the contracts are all that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nodewright.cli.main import main
from nodewright.errors import ConfigurationError
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.plugin import ShardsConfig
from nodewright.testing.shapes.transfers import transfer

ALICE, BERT = Key("alice"), Key("bert")
PROFILE = """
profile = "shape"
family = "shapes"
[genesis.document]
network = "shapes"
family = "shapes"
time = 1700000000
[genesis.document.consensus]
validators = []
keepers = []
[genesis.document.execution]
shards = {shards}
accounts = []
coins = []
[network]
id = "shapes"
[execution]
use = "{execution}"
[consensus]
use = "{consensus}"
[transport]
use = "nng"
listen = "127.0.0.1:0"
[stores.state]
use = "memory"
[stores.chain]
use = "memory"
[stores.blobs]
use = "memory"
"""


@pytest.mark.parametrize("consensus", ["pow", "two-chain", "two-chain-shards"])
@pytest.mark.parametrize("execution", ["coins", "accounts", "shards"])
def test_a_profile_composes_or_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], consensus: str, execution: str
) -> None:
    profile, plugins = tmp_path / "shape.toml", tmp_path / "plugins"
    profile.write_text(PROFILE.format(consensus=consensus, execution=execution, shards=2))
    plugins.mkdir()
    (plugins / "shapes.py").write_text(
        "from nodewright.testing.shapes.plugin import register_consensus, register_execution\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["check", str(profile), "--plugins-dir", str(plugins)])
    said = capsys.readouterr()
    if consensus == "two-chain-shards" and execution != "shards":
        assert ended.value.code == 2 and "sharded, witness" in said.err and "or 'shards'" in said.err
    else:
        assert ended.value.code == 0, said.err


def nodes(world: Any, names: Sequence[str], committee: Any, consensus: str, shards: int) -> list[Any]:
    world.found(
        {"validators": committee(names), "keepers": [[0, 1, 2, 3]] * shards},
        {"shards": shards, "accounts": [(key.public.hex(), 1000) for key in (ALICE, BERT)]},
    )
    return [world.node(name, consensus, "shards", ShardsConfig(list(range(shards)))) for name in names]


@pytest.mark.parametrize("consensus", ["pow", "two-chain", "two-chain-shards"])
def test_a_sharded_execution_with_one_shard_runs_under_any_consensus(
    play: Callable[..., Any], names: Sequence[str], committee: Any, consensus: str
) -> None:
    async def story(world: Any) -> None:
        chosen = nodes(world, names, committee, consensus, 1)
        await world.start()
        tx = transfer(ALICE, 0, BERT.public, 10)
        await chosen[0].pool.submit([tx.raw])
        if consensus == "pow":
            await world.until(lambda: queued(chosen[0], tx.id))
            for _ in range(8):
                await chosen[0].consensus.control("generate")

        async def reached() -> bool:
            states = [await node.state() for node in chosen]
            return all(state[0].get(BERT.public) is not None and state[0][BERT.public].balance == 1010 for state in states)

        await world.until(reached)
        assert await chosen[0].statuses([tx.id]) == ["committed"]

    async def queued(node: Any, id: bytes) -> bool:
        return id in node.consensus._queue

    play(story)


@pytest.mark.parametrize("consensus", ["pow", "two-chain"])
def test_more_shards_than_a_consensus_orders_are_refused_by_name(
    play: Callable[..., Any], names: Sequence[str], committee: Any, consensus: str
) -> None:
    async def story(world: Any) -> None:
        chosen = nodes(world, names[:1], committee, consensus, 2)
        async with chosen[0]._open():
            pass

    with pytest.raises(BaseExceptionGroup) as refused:
        play(story)
    matching = refused.value.subgroup(ConfigurationError)
    while isinstance(matching, BaseExceptionGroup):
        (matching,) = matching.exceptions
    assert "two-chain-shards" in str(matching)
