"""Shards as actors of a Ray cluster (extra ``nodewright[ray]``): the same server, the same messages.

An actor has three threads of Ray's: one runs the server, one hands it messages, one waits for its answers; within each of
them Ray keeps the order of calls. Nodewright is installed wherever the cluster may put an actor. Who may reach the cluster
may run what they like there: that is Ray's to keep closed, not ours.
"""

from __future__ import annotations

import queue
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import trio

from nodewright import logging
from nodewright.environment import NodeEnvironment
from nodewright.errors import ConfigurationError, MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright_aptos.shards.links import Link, LinkLost
from nodewright_aptos.shards.opening import opened_server

GROUPS: Final = {"serve": 1, "put": 1, "take": 1}
TAKE_SECONDS: Final = 5.0
MAX_TAKEN: Final = 64


class ShardActor:
    """In a worker of Ray. ``serve`` runs until ``put(None)``; ``take`` answers what the shard says, at most MAX_TAKEN
    messages, or nothing within TAKE_SECONDS."""

    def __init__(self, executor: str, modules: Sequence[str]) -> None:
        self._executor = executor
        self._modules = tuple(modules)
        self._said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ways: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.MemorySendChannel[bytes]]] = queue.SimpleQueue()
        self._way: tuple[trio.lowlevel.TrioToken, trio.MemorySendChannel[bytes]] | None = None

    def serve(self) -> str:
        return trio.run(self._serve)

    async def _serve(self) -> str:
        out, into = trio.open_memory_channel[bytes](1 << 30)  # what is on its way is bounded by the coordinator's windows
        self._ways.put((trio.lowlevel.current_trio_token(), out))
        folder = Path(tempfile.gettempdir())
        environment = NodeEnvironment("shard", folder, logging.configure("shard", "console", "warning"))
        async with opened_server(self._executor, self._modules, environment) as server:
            return await server.serve(_ActorLink(self._said, into))

    def put(self, data: bytes | None) -> None:
        if self._way is None:
            self._way = self._ways.get()
        token, out = self._way
        token.run_sync_soon(out.close if data is None else lambda: out.send_nowait(data))

    def take(self) -> list[bytes]:
        taken: list[bytes] = []
        try:
            taken.append(self._said.get(timeout=TAKE_SECONDS))
            while len(taken) < MAX_TAKEN:
                taken.append(self._said.get_nowait())
        except queue.Empty:
            pass
        return taken


class _ActorLink:
    """The shard's end, in its actor."""

    def __init__(self, said: queue.SimpleQueue[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._said = said
        self._into = into

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._said.put(data)

    async def receive(self) -> bytes:
        try:
            return await self._into.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise LinkLost("its coordinator closed it") from error

    async def aclose(self) -> None:
        self._into.close()
        await trio.lowlevel.checkpoint()


class RayLink:
    """The coordinator's end."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._taken: list[bytes] = []

    async def send(self, data: bytes) -> None:
        await result(self._actor.put.options(concurrency_group="put").remote(data))

    async def receive(self) -> bytes:
        while not self._taken:
            self._taken = list(await result(self._actor.take.options(concurrency_group="take").remote()))
        return self._taken.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def result(reference: Any) -> Any:
    """Of a call. Raises LinkLost whatever became of it."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    future = reference.future()

    def tell(_: Any) -> None:
        try:
            token.run_sync_soon(done.set)
        except trio.RunFinishedError:
            pass  # nobody waits any more

    future.add_done_callback(tell)
    await done.wait()
    error = future.exception()
    if error is not None:
        raise LinkLost(f"its actor is gone: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return future.result()


class RayActor:
    """A shard wherever Ray puts it: one of its CPUs each."""

    def __init__(self, name: str, ray: Any, executor: str, modules: Sequence[str]) -> None:
        self.name = name
        self.actor: Any = None
        self._ray = ray
        self._arguments = executor, tuple(modules)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        made = self._ray.remote(num_cpus=1, max_restarts=0, concurrency_groups=GROUPS)(ShardActor)
        actor = self.actor = made.remote(*self._arguments)
        try:
            actor.serve.options(concurrency_group="serve").remote()
            yield RayLink(actor)
        finally:
            self.actor = None
            self._ray.kill(actor)


@asynccontextmanager
async def open_ray(environment: Environment, address: str) -> AsyncIterator[Any]:
    """Connected to the cluster at ``address``; empty: that of RAY_ADDRESS, or this machine's. None is started here:
    Ray ties a cluster to the thread that started it. One that this process is connected to already is used and left as it
    is. Raises MissingDriver, ConfigurationError."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        if error.name != "ray":
            raise
        raise MissingDriver("ray", "ray") from error
    own = not ray.is_initialized()
    if own:
        try:
            await environment.offload(lambda: ray.init(address or "auto", log_to_driver=False))
        except Exception as error:  # of many kinds
            raise ConfigurationError(f"the Ray cluster cannot be used: {str(error).splitlines()[0]}") from error
    try:
        yield ray
    finally:
        if own:
            with trio.CancelScope(shield=True):
                await environment.offload(ray.shutdown)
