"""The one-file plugins of ``examples/plugins``: the store passes the shipped kits, and the service tells blocks."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from nodewright.interfaces import BlockRef, ChainEvent, Lagged, WriteBatch
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import KeyValueStoreTests, LeaseTests, StoreKit

FOLDER = Path(__file__).parents[3] / "examples" / "plugins"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the tests run apart from the source tree")


def spec_of(kind: str, name: str) -> Any:
    return PluginHost([FOLDER], entry_points=[]).registry.get(kind, name).value


def test_they_are_whole() -> None:
    registry = PluginHost([FOLDER], entry_points=[]).registry
    assert [str(broken) for broken in registry.broken] == []
    assert {provided.name for provided in registry.components} == {"sqlite", "block_feed"}


class OnSqlite(StoreKit):
    capabilities = frozenset({"ordered", "snapshot"})
    examples = 15

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        spec = spec_of("storage", "sqlite")
        opened: AbstractAsyncContextManager[Any] = spec.open(spec.config(), Dependencies(), LocalEnvironment(path))
        return opened


class TestSqliteKeyValue(OnSqlite, KeyValueStoreTests):
    pass


class TestSqliteLease(OnSqlite, LeaseTests):
    async def write(self, store: Any) -> None:
        batch = WriteBatch()
        batch.put("a", b"key", b"value")
        await store.commit(batch)


class OneBlock:
    """An event log that holds a lag and one block, and then waits."""

    def __init__(self) -> None:
        self.read = trio.Event()

    def subscribe(self, after: int | None = None) -> AsyncIterator[ChainEvent | Lagged]:
        return self._events()

    async def _events(self) -> AsyncIterator[ChainEvent | Lagged]:
        yield Lagged(3)
        yield ChainEvent(4, 5.0, "admitted", {"ids": []})
        yield ChainEvent(5, 6.0, "block_accepted", {"height": 1})
        self.read.set()
        await trio.sleep_forever()


async def test_the_block_feed(tmp_path: Path) -> None:
    spec = spec_of("service", "block_feed")
    log = OneBlock()
    node: Any = SimpleNamespace(events=log, consensus=SimpleNamespace(head=lambda: BlockRef(1, b"x" * 32)))
    async with spec.open(spec.config(), Dependencies(), LocalEnvironment(tmp_path)) as service:
        assert service.url == ""
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run, node)
            await log.read.wait()
            body = await trio.to_thread.run_sync(lambda: urllib.request.urlopen(service.url, timeout=30).read())
            nursery.cancel_scope.cancel()
        assert service.url == ""
    assert json.loads(body) == {"height": 1, "blocks": [{"sequence": 5, "time": 6.0, "height": 1}]}
