"""Real nng transports on loopback, each in a folder of its own."""

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.transport_kit import KIT_GENESIS, KIT_LIMITS, KIT_NETWORK
from nodewright.transport.link import Limits, NetworkIdentity
from nodewright_nng.keys import load_or_create
from nodewright_nng.transport import NngTransport


class NngWorld:
    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self._logs: dict[int, list[dict[str, Any]]] = {}
        self._closing: dict[int, tuple[trio.Event, trio.Event]] = {}

    async def open(
        self,
        name: str,
        *,
        network: str = KIT_NETWORK,
        genesis: bytes = KIT_GENESIS,
        limits: Limits = KIT_LIMITS,
        allow: Collection[bytes] = (),
        listen: str = "127.0.0.1:0",
        **options: Any,
    ) -> NngTransport:
        log: list[dict[str, Any]] = []

        def keep(logger: Any, method: str, event: Any) -> Any:
            log.append({"level": method, **event})
            raise structlog.DropEvent

        logger = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.BoundLogger)
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        environment = LocalEnvironment(folder, name, logger=logger)
        key = load_or_create(folder / "node.key", environment.entropy)
        options.setdefault("retry_most_seconds", 0.3)
        identity = NetworkIdentity(network, genesis)
        transport = NngTransport(key, identity, environment, limits=limits, allow=allow, **options)
        self._logs[id(transport)] = log
        self._closing[id(transport)] = trio.Event(), trio.Event()
        await self._nursery.start(self._run, transport, listen)
        return transport

    async def _run(self, transport: NngTransport, listen: str, task_status: Any) -> None:
        close, closed = self._closing[id(transport)]
        async with transport.running(listen):
            task_status.started()
            await close.wait()
        assert not transport._pairs
        closed.set()

    async def close(self, transport: Any) -> None:
        close, closed = self._closing[id(transport)]
        close.set()
        await closed.wait()

    async def kill(self, transport: Any) -> None:
        for pair in list(transport._pairs):
            pair.close()
        transport.shut()
        await self.close(transport)

    def break_connection(self, transport: Any, peer: bytes) -> None:
        transport.session(peer)._link.close()

    def log(self, transport: Any) -> list[dict[str, Any]]:
        return self._logs[id(transport)]

    async def aclose(self) -> None:
        for close, _ in self._closing.values():
            close.set()


@pytest.fixture
async def nng_world(tmp_path: Path) -> AsyncIterator[NngWorld]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        world = NngWorld(tmp_path, nursery)
        try:
            yield world
        finally:
            with trio.CancelScope(shield=True):
                await world.aclose()
