"""Where a shard is: in this process, in one that is started here, or at the other end of a transport.

A process that is started here talks over its standard input and output, which nobody else has; it ends when they are
closed, so that none is left when its coordinator is killed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from nodewright.environment import PIPE
from nodewright.interfaces.environment import Environment
from nodewright_aptos.shards.links import Link, LinkLost, StreamLink, linked
from nodewright_aptos.shards.peers import Peers
from nodewright_aptos.shards.server import ShardServer


class Here:
    """In this process: the last resort, of which there is always one."""

    name = "here"

    def __init__(self, server: ShardServer) -> None:
        self._server = server

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        one, other = linked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.serve, other)
            try:
                yield one
            finally:
                nursery.cancel_scope.cancel()


class LocalProcess:
    """``process`` is the one that runs, for those who want to see what it costs or to kill it."""

    def __init__(self, name: str, environment: Environment, executor: str, functions: Sequence[str]) -> None:
        self.name = name
        self.process: Any = None
        self._environment = environment
        module = [sys.executable, "-P", "-m", "nodewright_aptos.shards", "--executor", executor]
        module += ["--folder", str(environment.data_dir)]
        self._command = [*module, *[word for one in functions for word in ("--functions", one)]]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        try:
            # A session of its own: what interrupts the node in its terminal leaves the shard to the node.
            process: Any = await self._environment.spawn(self._command, stdin=PIPE, stdout=PIPE, start_new_session=True)
        except OSError as error:
            raise LinkLost(f"no process can be started: {error.strerror}") from error
        self.process = process
        try:
            yield StreamLink(process.stdout, process.stdin)
        finally:
            self.process = None
            with trio.CancelScope(shield=True):
                process.kill()
                await process.stdin.aclose()
                await process.stdout.aclose()
                await process.wait()


class Remote:
    """``nodewright shard`` at an address, under its node key."""

    def __init__(self, name: str, key: bytes, peers: Peers) -> None:
        self.name = name
        self._key = key
        self._peers = peers

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        link = await self._peers.link(self._key)
        try:
            yield link
        finally:
            with trio.CancelScope(shield=True):
                await link.aclose()
