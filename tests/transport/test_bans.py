"""Bans outlive a restart; a file of them that is damaged costs the bans and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.transport_kit import KIT_LIMITS
from nodewright.transport import bans
from nodewright.transport.hub import PeerHub

PEER, OTHER = b"\x07" * 32, b"\x08" * 32


async def written(path: Path, expected: set[bytes]) -> None:
    with trio.fail_after(20):
        while set(bans.load(path)) != expected:  # noqa: ASYNC110 - another task writes it
            await trio.sleep(0.01)


async def test_a_ban_outlives_a_restart(nng_world: Any, tmp_path: Path) -> None:
    path = tmp_path / "victim" / bans.BANS_FILE
    transport = await nng_world.open("victim")
    transport.ban(PEER, 1000, "a lie")
    transport.ban(OTHER, 1000, "another")
    transport.unban(OTHER)
    await written(path, {PEER})
    await nng_world.close(transport)
    transport = await nng_world.open("victim")
    assert set(transport.banned()) == {PEER}
    assert transport.refusal(PEER, inbound=True) == "banned"
    transport.unban()
    await written(path, set())
    assert path.is_file()


async def test_a_ban_is_over_in_time(nng_world: Any) -> None:
    transport = await nng_world.open("victim")
    transport.ban(PEER, -1, "over already")
    await nng_world.close(transport)
    assert not (await nng_world.open("victim")).banned()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"07": 1}', '{"zz": 1}', f'{{"{PEER.hex()}": "x"}}', "\0" * 100])
async def test_a_damaged_file_is_told_and_forgotten(nng_world: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / bans.BANS_FILE).write_text(content)
    transport = await nng_world.open("victim")
    assert transport.banned() == {}
    assert any("forgotten" in line["event"] for line in nng_world.log(transport))


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    many = {number.to_bytes(32, "big"): float(number) for number in range(bans.MAX_BANS + 5)}
    bans.save(tmp_path / "bans.json", many)
    kept = bans.load(tmp_path / "bans.json")
    assert len(kept) == bans.MAX_BANS
    assert min(kept.values()) == 5.0
    assert KIT_LIMITS.ban_seconds > 0


def test_strangers_with_many_keys_fill_no_memory(tmp_path: Path) -> None:
    hub = PeerHub(b"n" * 32, LocalEnvironment(tmp_path))
    for number in range(bans.MAX_BANS + 50):
        hub.ban(number.to_bytes(32, "big"), 1000 + number, "a lie")
    kept = hub.banned()
    assert len(kept) == bans.MAX_BANS and (49).to_bytes(32, "big") not in kept
    assert hub.refusal((50).to_bytes(32, "big"), inbound=True) == "banned"
    assert hub.refusal((49).to_bytes(32, "big"), inbound=True) is None
    hub.ban(PEER, -1, "over already")
    assert hub.refusal(PEER, inbound=True) is None
