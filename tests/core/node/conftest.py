"""Fixtures shared by the tests of the running node."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
import trio

from nodewright.environment import NodeEnvironment
from nodewright.interfaces import BlockRef, ChainEvent
from nodewright.node.events import Events
from nodewright.node.metrics import Registry
from nodewright.node.pool import Pool, PoolLimits

T = TypeVar("T")
HEAD = BlockRef(0, bytes(32))


@pytest.fixture
def environment(tmp_path: Path) -> NodeEnvironment:
    return NodeEnvironment("test", tmp_path, threads=4)


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The family of ``plugins/toy.py``."""
    path = Path(__file__).parent / "plugins" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy_family", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_family"] = module  # where its annotations are looked up
    spec.loader.exec_module(module)
    return module


class Clock(NodeEnvironment):
    """The node's environment with a clock that a test moves. ``inline``: no threads, for tests under virtual time."""

    time = 1000.0
    inline = False

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        if self.inline:
            await trio.lowlevel.checkpoint()
            return function(*arguments)
        return await super().offload(function, *arguments)

    def now(self) -> float:
        return self.time


class Bench:
    """A pool over the toy execution, with all that it needs, in one folder."""

    def __init__(self, toy: ModuleType, folder: Path) -> None:
        self.toy = toy
        self.folder = folder
        self.environment = Clock("test", folder, threads=4)
        self.execution: Any = None
        self.events: Any = None
        self.metrics = Registry()
        self.locate: Any = None

    @asynccontextmanager
    async def pool(self, recovered: bool = True, execution: Any = None, **limits: Any) -> AsyncIterator[Pool]:
        self.execution = execution or self.toy.ToyExecution()
        self.execution.head = HEAD
        async with (
            Events.open(self.environment, self.folder / "events") as self.events,
            Pool.open(
                self.environment,
                self.folder / "journal",
                self.execution,
                self.events,
                self.metrics,
                PoolLimits(**limits),
            ) as pool,
        ):
            if recovered:
                pool.attach(lambda: HEAD, self.locate)
                await pool.recovered()
            yield pool

    def make(self, count: int, prefix: bytes = b"p", **options: Any) -> tuple[list[bytes], list[bytes]]:
        raws = [self.toy.make(prefix + b"%d" % number, **options) for number in range(count)]
        return raws, [self.toy.id_of(raw) for raw in raws]

    def chain(self, count: int, prefix: bytes = b"c") -> tuple[list[bytes], list[bytes]]:
        """Each the child of the one before."""
        raws: list[bytes] = []
        parent = bytes(32)
        for number in range(count):
            raws.append(self.toy.make(prefix + b"%d" % number, parent))
            parent = self.toy.id_of(raws[-1])
        return raws, [self.toy.id_of(raw) for raw in raws]

    async def told(self, kind: str) -> list[dict[str, Any]]:
        """Every event of a kind so far."""
        last, found = self.events.last_sequence, []
        if last:
            async for event in self.events.subscribe(0):
                if isinstance(event, ChainEvent):
                    if event.kind == kind:
                        found.append(dict(event.data))
                    if event.sequence >= last:
                        break
        return found


@pytest.fixture
def bench(toy: ModuleType, tmp_path: Path) -> Bench:
    return Bench(toy, tmp_path)
