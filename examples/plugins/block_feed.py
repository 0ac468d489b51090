"""A service plugin in one file: the latest blocks as JSON over HTTP.

Drop it in with ``--plugins-dir`` and switch it on by naming its slot::

    nodewright run teranode --plugins-dir examples/plugins --set services.block_feed.keep=50

It reads chain events at its own pace: a reader that falls behind is told ``Lagged`` and goes on from there, and can never
slow the chain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nodewright.interfaces import ChainEvent, Environment, NodeHandle
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import SERVICE, Dependencies, ServiceSpec, setting
from nodewright.services.http import HttpSettings
from nodewright.services.service import HttpService


@attrs.define(kw_only=True)
class BlockFeedConfig(HttpSettings):
    keep: int = setting(20, help="how many of the latest blocks are told", minimum=1, maximum=10_000)


class BlockFeed(HttpService[BlockFeedConfig]):
    """``url`` is empty until it runs."""

    def __init__(self, config: BlockFeedConfig, environment: Environment) -> None:
        super().__init__(config, environment)
        self._blocks: deque[dict[str, Any]] = deque(maxlen=config.keep)

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def blocks(request: Request) -> JSONResponse:
            head = node.consensus.head()
            return JSONResponse({"height": head.height, "blocks": list(self._blocks)})

        async def follow() -> None:
            async for event in node.events.subscribe():
                if isinstance(event, ChainEvent) and event.kind == "block_accepted":
                    self._blocks.append({"sequence": event.sequence, "time": event.time, **event.data})

        await self.serve(Starlette(routes=[Route("/", blocks)]), task_status, beside=[follow])


@asynccontextmanager
async def open_block_feed(
    config: BlockFeedConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[BlockFeed]:
    yield BlockFeed(config, environment)


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [
        ServiceSpec(
            name="block_feed",
            summary="the latest blocks as JSON over HTTP",
            open=open_block_feed,
            config=BlockFeedConfig,
            provides=frozenset({SERVICE}),
        )
    ]
