"""asyncio code called from trio: the one place that knows of trio-asyncio.

Invariants:

- a bridge has an event loop of its own, open for as long as the bridge; several may be open at once, one inside another,
  and a call may come from a task that was started before the bridge was: every call names its loop;
- an error that the driver leaves in a future which nobody awaits any more does not end the loop: the call that it was made
  for has failed already. asyncpg leaves one where the connection is lost in a COPY;
- what the body raises leaves ``open_bridge`` as it was raised, not in a group, after the loop has closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Bridge:
    """Runs asyncio coroutine functions; made by ``open_bridge``."""

    def __init__(self, loop: Any, current_loop: Any) -> None:
        self.loop = loop
        self._current = current_loop

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """``await function(*arguments)`` as an asyncio task. Cancelling cancels the task and waits for it to end."""

        async def call() -> T:
            return await function(*arguments)

        token = self._current.set(self.loop)
        try:
            result: T = await self.loop.run_aio_coroutine(call())
            return result
        finally:
            self._current.reset(token)


def _handle(loop: Any, context: dict[str, Any]) -> None:
    """trio-asyncio's own handler raises everything, which would end the node."""
    if "future" in context and isinstance(context.get("exception"), Exception):
        return
    loop.default_exception_handler(context)


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Bridge]:
    import trio_asyncio

    raised: BaseException | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_handle)
        try:
            yield Bridge(loop, trio_asyncio.current_loop)
        except BaseException as error:  # the loop's nurseries would wrap it in a group
            raised = error
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # no cycle through this frame
