"""Services run beside the chain: one that crashes is started again with back-off and never takes the node down.

Only a service that fails the very first time, before it was ever started, stops the start of the node: then an address is
taken or its configuration is wrong, and the operator is there to read it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import NodeHandle, Service
from nodewright.node.health import Health

FAILURES_TOLD = 3
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0


async def supervise(
    slot: str,
    service: Service,
    handle: NodeHandle,
    environment: Environment,
    health: Health,
    changed: Callable[[], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """``changed`` is called when the service is started again: its address may be another. After FAILURES_TOLD crashes
    with less than STEADY_SECONDS between, health says that it fails; it is tried on for ever."""
    failures = 0
    begun = False
    while True:
        started_at = environment.monotonic()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run, handle)
                health.set(slot, True)
                if begun:
                    changed()
                    environment.logger.info("service runs again", url=service.url)
                else:
                    begun = True
                    task_status.started()
            health.set(slot, True, "ended by itself")
            environment.logger.info("service ended")
            return
        except BaseException as error:
            cancelled, rest = _split(error)
            if rest is None or not begun or not isinstance(rest, Exception):
                raise
            reason = _said(rest)
            if cancelled is not None:
                environment.logger.warning("service failed while it was stopped", reason=reason)
                raise cancelled from None
        if environment.monotonic() - started_at > STEADY_SECONDS:
            failures = 0
        failures += 1
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16))
        pause *= environment.random.uniform(0.75, 1.25)
        told = f"crashed {failures} times, last: {reason}" if failures >= FAILURES_TOLD else f"crashed: {reason}"
        health.set(slot, False, told)
        environment.logger.error("service crashed", reason=reason, failures=failures, again_in_seconds=round(pause, 1))
        await environment.sleep(pause)


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """The cancelled part and the rest."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
