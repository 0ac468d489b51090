"""Chain events: numbered for good, kept for a while, read at the reader's own pace."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.environment import NodeEnvironment
from nodewright.interfaces import ChainEvent, EventLog, Lagged
from nodewright.node import segment as files
from nodewright.node.events import UNSAVED_EVENTS, Events
from nodewright.node.health import Health


async def read(stream: AsyncIterator[ChainEvent | Lagged], count: int) -> list[ChainEvent | Lagged]:
    with trio.fail_after(20):
        return [await anext(stream) for _ in range(count)]


def numbers(items: list[ChainEvent | Lagged]) -> list[int]:
    return [item.sequence for item in items if isinstance(item, ChainEvent)]


async def test_events_are_numbered_over_restarts(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    async with Events.open(environment, folder) as events:
        assert isinstance(events, EventLog)
        assert [events.publish("admitted", {"ids": [str(n)]}) for n in range(3)] == [1, 2, 3]
    async with Events.open(environment, folder) as events:
        assert events.last_sequence == 3
        assert events.publish("vote", {}) == 4
        items = await read(events.subscribe(after=0), 4)
    assert [(item.sequence, item.kind) for item in items if isinstance(item, ChainEvent)] == [
        (1, "admitted"),
        (2, "admitted"),
        (3, "admitted"),
        (4, "vote"),
    ]
    assert items[1] == ChainEvent(2, items[1].time, "admitted", {"ids": ["1"]})  # type: ignore[union-attr]


async def test_numbers_are_not_used_again_after_a_crash(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    async with Events.open(environment, folder) as events:
        events.publish("a", {})
    (folder / "clean").unlink()  # what a crash leaves
    async with Events.open(environment, folder) as events:
        assert events.publish("b", {}) == 2 + UNSAVED_EVENTS
        items = await read(events.subscribe(after=1), 2)
        assert items[0] == Lagged(2 + UNSAVED_EVENTS)
        assert numbers(items) == [2 + UNSAVED_EVENTS]


async def test_from_now_on_and_many_readers(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with Events.open(environment, tmp_path / "events") as events:
        events.publish("old", {})
        seen: list[list[int]] = [[], []]

        async def follow(index: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            stream = events.subscribe()
            task_status.started()
            seen[index] = numbers(await read(stream, 50))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, 0)
                nursery.start_soon(follow, 1)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(50):
                    events.publish("new", {})
                    await trio.lowlevel.checkpoint()
        assert seen == [list(range(2, 52))] * 2


async def test_slow_reader_reads_from_disk_then_memory(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with Events.open(environment, tmp_path / "events", ring_bytes=2000) as events:
        for number in range(1000):
            events.publish("e", {"number": number})
        await events._flush()
        items = await read(events.subscribe(after=0), 1000)
        assert numbers(items) == list(range(1, 1001))
        assert [item.data["number"] for item in items if isinstance(item, ChainEvent)] == list(range(1000))


async def test_lagged_reader_is_told_and_goes_on(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with Events.open(environment, tmp_path / "events", ring_bytes=500, max_bytes=8000) as events:
        for number in range(300):
            events.publish("e", {"pad": "x" * 50, "number": number})
            await events._flush()
        stream = events.subscribe(after=3)
        first = await anext(stream)
        assert isinstance(first, Lagged) and first.sequence > 100
        assert numbers(await read(stream, 301 - first.sequence)) == list(range(first.sequence, 301))


async def test_full_disk_costs_old_events_not_the_node(
    environment: NodeEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "events"
    real = files.write_all

    def full(descriptor: int, pieces: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    health = Health(environment.now)
    async with Events.open(environment, folder, health=health) as events:
        events.publish("kept", {})
        await events._flush()
        with monkeypatch.context() as patched:
            patched.setattr(files, "write_all", full)
            for _ in range(10):
                events.publish("while full", {})
                await events._flush()
            assert "full" in health.report()["components"][environment.slot]["detail"]
        await events._flush()
        assert health.report()["components"][environment.slot]["ok"]
        assert real is files.write_all
        assert numbers(await read(events.subscribe(after=0), 11)) == list(range(1, 12))
    async with Events.open(environment, folder) as events:
        assert events.last_sequence == 11
        assert numbers(await read(events.subscribe(after=0), 11)) == list(range(1, 12))


async def test_what_is_not_json_is_refused_whole(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with Events.open(environment, tmp_path / "events") as events:
        with pytest.raises(TypeError):
            events.publish("bad", {"id": b"bytes"})
        assert events.last_sequence == 0
        assert events.publish("good", {}) == 1


async def test_readers_end_when_the_log_closes(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with Events.open(environment, tmp_path / "events") as events:
        events.publish("a", {})
        stream = events.subscribe(after=0)
    assert numbers([item async for item in stream]) == [1]
