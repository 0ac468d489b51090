"""Files of signed state: several tasks save at once, on threads that finish in any order, and at a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.errors import StoreFull
from nodewright.storage.synced import SyncedFile, write_synced
from nodewright.testing.environment import LocalEnvironment
from nodewright_nightshade.safety import Safety


class Reversing(LocalEnvironment):
    """The first call begins, and ends only after every later one has had its chance to overtake it."""

    calls = 0

    async def offload(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            await trio.testing.wait_all_tasks_blocked()
        return await super().offload(function, *arguments)


async def test_an_older_state_never_replaces_a_newer_one(tmp_path: Path) -> None:
    state = [0]
    file = SyncedFile(Reversing(tmp_path), tmp_path / "kept", lambda: bytes(state))

    async def save(number: int) -> None:
        state[0] = max(number, state[0])
        await file.save()
        assert file.path.read_bytes()[0] >= number

    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(save, number)
    assert file.path.read_bytes() == bytes([8])


async def test_what_a_validator_signs_side_by_side_is_all_in_its_file(tmp_path: Path) -> None:
    environment = Reversing(tmp_path)
    safety = await Safety.open(environment, chain_is_empty=True)
    environment.calls = 0

    async def sign(number: int) -> None:
        assert await safety.make_chunk(number, 10 + number)
        kept = await Safety.open(LocalEnvironment(tmp_path), chain_is_empty=False)
        assert not await kept.make_chunk(number, 10 + number), "it may be signed again after a crash"

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(sign, number)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "kept"
    write_synced(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="make room"):
        write_synced(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["kept"]
