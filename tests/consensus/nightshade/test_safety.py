"""What a validator has signed is written down first, and survives everything but an operator's word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.testing.simulation import SimulatedEnvironment, simulate
from nodewright_nightshade.safety import FILE, Safety


def with_file(folder: Path, story: Callable[[SimulatedEnvironment], Awaitable[None]]) -> None:
    async def main(simulation: Any) -> None:
        await story(SimulatedEnvironment(0, "node", folder))

    simulate(main)


def test_the_file_says_it_before_it_is_signed(tmp_path: Path) -> None:
    async def story(environment: SimulatedEnvironment) -> None:
        safety = await Safety.open(environment, chain_is_empty=True)
        assert await safety.approve(5, 4)
        assert await safety.make_block(7)
        assert await safety.make_chunk(2, 9)
        again = await Safety.open(environment, chain_is_empty=False)
        assert again.may_sign
        assert not await again.approve(5, 4)
        assert not await again.approve(4, 4)
        assert not await again.make_block(7)
        assert not await again.make_chunk(2, 9)
        assert await again.make_chunk(1, 9)
        assert not await again.approve(8, 3), "a tip below one that was approved"
        assert await again.approve(8, 4)

    with_file(tmp_path, story)


def test_a_file_that_cannot_be_read_is_no_leave_to_sign(tmp_path: Path) -> None:
    async def story(environment: SimulatedEnvironment) -> None:
        safety = await Safety.open(environment, chain_is_empty=True)
        await safety.approve(5, 4)
        file = environment.data_dir / FILE
        for raw in (b"", b"{", b"[]", b'{"approved": 5}', b"\xff" * 64):
            file.write_bytes(raw)
            with pytest.raises(StoreCorrupt, match="allow_voting"):
                await Safety.open(environment, chain_is_empty=False)
        file.unlink()
        file.mkdir()
        with pytest.raises(StoreError, match="make it readable"):
            await Safety.open(environment, chain_is_empty=False)

    with_file(tmp_path, story)


def test_a_restore_without_the_file_signs_nothing_until_it_may(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 1)
        await near.until(lambda: all(node.final >= 3 for node in nodes))
        *others, restored = nodes
        await restored.kill()
        (restored.folder / "consensus" / "signed.json").unlink()
        # The book of the world forgets it too: a second copy of the node may have signed anything.
        await restored.start()
        approvals = [key for key in world.approvals if key[0] == restored.name]
        await trio.sleep(60)
        assert [key for key in world.approvals if key[0] == restored.name] == approvals
        assert restored.consensus.producer.produced == {}
        await near.until(lambda: restored.final >= others[0].final - 2)
        await restored.consensus.control("allow_voting")
        await near.until(lambda: restored.consensus.producer.produced.get("blocks", 0) > 0)
        assert (restored.folder / "consensus" / "signed.json").exists()
        await world.same()

    tell(story)


def test_an_older_copy_of_the_chain_under_a_newer_file(tell: Any, near: Any) -> None:
    """The copy follows until it is as high as what was approved; ``World.heard`` sees every approval."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 1)
        old = nodes[-1]
        await near.until(lambda: old.final >= 3)
        await old.kill()
        copies = {slot: {name: table.copy() for name, table in disk.base.items()} for slot, disk in old.disks.items()}
        await old.start()
        await near.until(lambda: old.final >= 15)
        await old.kill()
        for slot, disk in old.disks.items():
            disk.base = copies[slot]
            disk.live = {name: table.copy() for name, table in disk.base.items()}
        world.network.cut(old.name)
        await old.start()
        assert old.final < 15
        count = len([key for key in world.approvals if key[0] == old.name])
        await trio.sleep(120)
        assert len([key for key in world.approvals if key[0] == old.name]) == count, (
            "it approved on a tip it had left behind"
        )
        world.network.heal()
        await near.until(lambda: len([key for key in world.approvals if key[0] == old.name]) > count + 3)
        await world.same()

    tell(story)
