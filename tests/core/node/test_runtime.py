"""The order of a node's life, and what happens when a piece of it fails, with small real components in one process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
import trio

from nodewright import genesis
from nodewright.composition.plan import Plan, PlannedComponent
from nodewright.config.core_settings import GenesisSettings, LogSettings, NetworkSettings, NodeSettings, PoolSettings
from nodewright.errors import FormatMismatch, NodewrightError, StoreCorrupt, StoreError, StoreFull, StoreLocked
from nodewright.interfaces import BlockRef, FormatRecord, NodeHandle
from nodewright.node import segment
from nodewright.node.runtime import Runtime
from nodewright.plugins.specs import (
    ConsensusSpec,
    ExecutionSpec,
    NoConfig,
    ServiceSpec,
    StorageSpec,
    TransportSpec,
)
from nodewright.storage.formats import read_format, write_format


class Story:
    """What happened, in order."""

    def __init__(self, toy: ModuleType, folder: Path) -> None:
        self.toy = toy
        self.folder = folder
        self.events: list[str] = []
        self.fail: str | None = None
        self.store: Any = None
        self.consensus: Any = None
        self.gate = trio.Event()
        self.gate.set()

    def say(self, what: str) -> None:
        self.events.append(what)
        if what == self.fail:
            raise NodewrightError(f"told to fail: {what}")

    def spec(self, kind: Any, name: str, make: Callable[[Any], Any], **options: Any) -> Any:
        @asynccontextmanager
        async def open(config: Any, dependencies: Any, environment: Any) -> AsyncIterator[Any]:
            self.say(f"open {name}")
            component = make(dependencies)
            try:
                yield component
            finally:
                self.events.append(f"close {name}")

        return kind(name=name, summary="x", open=open, config=NoConfig, **options)

    def plan(self, network: str = "toynet") -> Plan:
        def planned(slot: str, spec: Any, *requires: str) -> PlannedComponent:
            return PlannedComponent(slot, spec.kind, spec, NoConfig(), "test", requires=dict.fromkeys(requires, "x"))

        key_value = frozenset({"key-value"})
        components = (
            planned("stores.state", self.spec(StorageSpec, "store", self.make_store, provides=key_value)),
            planned("execution", self.spec(ExecutionSpec, "execution", self.make_execution), "stores.state"),
            planned("transport", self.spec(TransportSpec, "transport", lambda _: Gate(self))),
            planned("consensus", self.spec(ConsensusSpec, "consensus", self.make_consensus), "execution", "transport"),
            planned("services.one", self.spec(ServiceSpec, "service", lambda _: Quiet(self))),
        )
        return Plan(
            profile="story",
            family="toy",
            source="test",
            network=NetworkSettings(network),
            genesis=GenesisSettings(),
            pool=PoolSettings(),
            log=LogSettings(),
            node=NodeSettings(),
            components=components,
            effective={},
        )

    def make_store(self, _: Any) -> Any:
        from nodewright_memory.disk import MemoryDisk
        from nodewright_memory.store import MemoryStore

        if self.store is None:
            self.store = MemoryStore(MemoryDisk(), "test")
        return self.store

    def make_execution(self, dependencies: Any) -> Any:
        assert set(dependencies) == {"stores.state", "genesis", "metrics", "health", "events"}
        return self.toy.ToyExecution(dependencies["stores.state"])

    def make_consensus(self, dependencies: Any) -> Any:
        story = self

        class Consensus(self.toy.ToyConsensus):  # type: ignore[name-defined, misc]
            async def recover(self) -> None:
                story.say("recover")
                await story.gate.wait()
                await super().recover()

            async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
                story.say("run")
                try:
                    await super().run(task_status)
                finally:
                    story.events.append("consensus ends")

        config = self.toy.ToyConsensusConfig()
        self.consensus = Consensus(config, dependencies["execution"], dependencies["pool"], dependencies["events"])
        return self.consensus

    def runtime(self, network: str = "toynet", time: int = 5) -> Runtime:
        document = genesis.build({"network": network, "family": "toy", "time": time})
        return Runtime(self.plan(network), document, self.folder, structlog.get_logger(), self.notify)

    def notify(self, hook: str, node: NodeHandle) -> list[str]:
        self.say(hook)
        return []


class Gate:
    node_id = b"\x07" * 32
    capabilities: frozenset[str] = frozenset()
    address = "tcp://127.0.0.1:1"

    def __init__(self, story: Story) -> None:
        self.story = story

    def open_gate(self) -> None:
        self.story.say("gate")

    async def events(self) -> AsyncIterator[Any]:
        await trio.sleep_forever()
        yield


class Quiet:
    url = "http://127.0.0.1:2"

    def __init__(self, story: Story) -> None:
        self.story = story

    async def run(self, node: NodeHandle, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self.story.say("serve")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.story.events.append("service ends")


@pytest.fixture
def story(toy: ModuleType, tmp_path: Path) -> Story:
    return Story(toy, tmp_path / "data")


OPENED = ["open store", "open execution", "open transport", "open consensus", "open service"]
CLOSED = ["close service", "close consensus", "close transport", "close execution", "close store"]


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def test_the_whole_order(story: Story) -> None:
    runtime = story.runtime()
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(runtime.run)
        assert runtime.health.ready
        document = json.loads((story.folder / "node.json").read_text())
        assert document["node_id"] == "07" * 32 and document["transport"] == Gate.address
        assert document["services"] == {"one": Quiet.url}
        assert document["genesis"] == handle.genesis.hash.hex()
        handle.request_stop()
    assert story.events == [
        *OPENED,
        *["recover", "run", "gate", "serve", "node_ready"],
        *["node_stopping", "service ends", "consensus ends"],
        *CLOSED,
    ]
    assert not (story.folder / "node.json").exists()
    record = await read_format(story.store)
    assert record == FormatRecord("key-value", "toy-chain/1", "toy/1", "toynet", handle.genesis.hash)


@pytest.mark.parametrize("at", [*OPENED[1:], "recover", "run", "gate", "serve", "node_ready"])
async def test_a_failure_anywhere_closes_what_was_opened(story: Story, at: str) -> None:
    story.fail = at
    with pytest.raises(NodewrightError, match=f"told to fail: {at}"):
        await story.runtime().run()
    opened = [event.removeprefix("open ") for event in story.events if event.startswith("open ") and event != at]
    closed = [event.removeprefix("close ") for event in story.events if event.startswith("close ")]
    assert closed == opened[::-1]
    assert not (story.folder / "node.json").exists()
    story.fail = None
    async with trio.open_nursery() as nursery:  # the folder is free again
        handle = await nursery.start(story.runtime().run)
        handle.request_stop()


async def test_stop_while_starting(story: Story) -> None:
    story.gate = trio.Event()
    runtime = story.runtime()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.run)
        with trio.fail_after(30):
            while "recover" not in story.events:
                await trio.lowlevel.checkpoint()
        runtime.request_stop()
    assert story.events == [*OPENED, "recover", *CLOSED]


async def test_consensus_that_dies_or_ends_takes_the_node_along(story: Story) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(story.runtime().run)
            story.consensus.crash.set()
    assert [str(leaf) for leaf in leaves(caught.value)] == ["consensus: told to die"]
    assert story.events[-5:] == CLOSED


async def test_one_node_a_folder(story: Story) -> None:
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(story.runtime().run)
        with pytest.raises(StoreLocked, match="pid"):
            await story.runtime().run()
        handle.request_stop()


async def test_folder_and_store_of_another_network(story: Story, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        (await nursery.start(story.runtime().run)).request_stop()
    with pytest.raises(FormatMismatch, match="othernet"):
        await story.runtime("othernet").run()
    with pytest.raises(FormatMismatch, match="genesis"):
        await story.runtime(time=6).run()
    # A fresh folder over the same database, as with a server: the store itself says no, before anything reads it.
    story.folder = tmp_path / "fresh"
    story.events.clear()
    with pytest.raises(FormatMismatch, match=r"stores\.state"):
        await story.runtime("othernet").run()
    assert "open execution" not in story.events


async def test_store_of_another_format(story: Story) -> None:
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(story.runtime().run)
        handle.request_stop()
    await write_format(story.store, FormatRecord("key-value", "toy-chain/0", "toy/1", "toynet", handle.genesis.hash))
    with pytest.raises(FormatMismatch, match="toy-chain/0"):
        await story.runtime().run()
    assert "run" not in story.events[len(OPENED) + 12 :]


async def test_heads_are_checked_against_consensus(story: Story) -> None:
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(story.runtime().run)
        answers = await handle.pool.submit([story.toy.make(b"1")])
        assert len(handle.pool) == len(answers) == 1
        assert await handle.consensus.control("mine") == 1
        assert handle.consensus.head() == BlockRef(1, handle.consensus.head().id)
        handle.request_stop()


async def test_a_failed_write_stops_the_node_in_order(story: Story) -> None:
    """Whoever asked for the write may swallow the error: memory and disk may differ from then on, and the node ends."""
    runtime = story.runtime()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            handle = await nursery.start(runtime.run)
            story.store.disk.capacity_bytes = 1
            with pytest.raises(StoreFull, match=r"^stores\.state: "):
                await handle.execution.genesis({}, BlockRef(0, bytes(32)))
            assert not runtime.health.live and not runtime.health.ready
            component = runtime.health.report()["components"]["stores.state"]
            assert not component["ok"] and component["detail"].startswith("stores.state: ")
            story.store.disk.capacity_bytes = None  # room again: what stands after the failed write could not be trusted
            with pytest.raises(StoreError, match=r"stores\.state"):
                await handle.execution.genesis({}, BlockRef(0, bytes(32)))
    (cause,) = leaves(caught.value)
    assert isinstance(cause, StoreFull) and str(cause).startswith("stores.state: ")
    assert story.events[-8:] == ["node_stopping", "service ends", "consensus ends", *CLOSED]
    async with trio.open_nursery() as nursery:
        (await nursery.start(story.runtime().run)).request_stop()


async def test_a_write_that_fails_while_starting_is_what_the_node_dies_of(story: Story) -> None:
    story.make_store(None)
    story.store.disk.capacity_bytes = 1
    with pytest.raises(StoreFull, match=r"^stores\.state: "):
        await story.runtime().run()
    assert story.events[-5:] == CLOSED


async def test_a_journal_that_fails_stops_the_node_and_a_full_one_does_not(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Callable[..., int]:
        def fail(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        return fail

    runtime = story.runtime()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            handle = await nursery.start(runtime.run)
            (accepted,) = await handle.pool.submit([story.toy.make(b"1")])
            monkeypatch.setattr(segment, "write_all", failing(errno.ENOSPC))
            (busy,) = await handle.pool.submit([story.toy.make(b"2")])
            assert busy.kind == "busy" and runtime.health.live, "what was not answered yet waits for room"
            monkeypatch.setattr(segment, "write_all", failing(errno.EIO))
            with pytest.raises(StoreError, match=r"^pool: "):
                await handle.consensus.control("mine")
            monkeypatch.undo()
            with pytest.raises(StoreError):  # no later block may be settled where an earlier one is not
                await story.consensus.pool.settle(committed={accepted.id: BlockRef(2, bytes(32))})
    (cause,) = leaves(caught.value)
    assert isinstance(cause, StoreError)
    assert str(cause).startswith("pool: ") and "check the disk" in str(cause)
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(story.runtime().run)
        assert len(handle.pool) == 1
        handle.request_stop()


async def test_damage_found_while_reading_is_told_and_the_node_goes_on(story: Story) -> None:
    store = story.make_store(None)
    whole, damaged = store.get_many, False

    async def get_many(table: str, keys: Any) -> Any:
        if damaged:
            raise StoreCorrupt("a row is damaged: restore the store from a copy")
        return await whole(table, keys)

    store.get_many = get_many
    runtime = story.runtime()
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(runtime.run)
        damaged = True
        with pytest.raises(StoreCorrupt):
            await handle.execution.store.get_many("toy", [b"genesis"])
        assert runtime.health.ready
        component = runtime.health.report()["components"]["stores.state"]
        assert not component["ok"] and "damaged" in component["detail"]
        damaged = False
        handle.request_stop()
