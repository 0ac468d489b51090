"""A node as a process of its own: signals, the deadline of a stop, the exit code.

The first SIGINT or SIGTERM asks for a clean stop (exit code 0), also where it came before the node listened; a second one
ends the process at once. A stop that is not done ``shutdown_seconds`` after it was asked for, and STOP_GRACE_SECONDS more
for what may not be interrupted, ends it too: what was acknowledged is on the disk, and the next start recovers as after a
kill. Where the node stopped because a store failed, the last line is that failure all the same.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn

import trio

from nodewright.node import signals
from nodewright.node.runtime import Runtime

STOP_GRACE_SECONDS = 5.0
# A node holds millions of small long-lived objects, which the collector would walk again and again to find no cycle: what
# start-up made is set aside, young objects are looked at in larger lots, and old ones rarely.
COLLECTOR_THRESHOLDS = (200_000, 20, 100)


def run_process(runtime: Runtime, stop_with_stdin: bool = False) -> None:
    """Blocks until the node has stopped. Raises what it died of. ``stop_with_stdin``: also stop when standard input
    ends, which it does when the process that holds its other end is gone."""
    held = signals.hold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    trio.run(_run, runtime, stop_with_stdin, held)


async def _run(runtime: Runtime, stop_with_stdin: bool, held: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, runtime, held)
        nursery.start_soon(_enforce_deadline, runtime)
        if stop_with_stdin:
            nursery.start_soon(_obey_stdin, runtime)
        try:
            await runtime.run()
        finally:
            nursery.cancel_scope.cancel()


async def _obey_signals(
    runtime: Runtime, held: list[int], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """``held`` are those that came before."""
    asked = False

    def obey(number: int) -> None:
        nonlocal asked
        name = signal.Signals(number).name
        if asked:
            _end_now(f"{name} again: ended at once", 128 + number)
        asked = True
        runtime.environment.logger.info("asked to stop", signal=name)
        runtime.request_stop()

    with trio.open_signal_receiver(*signals.SIGNALS) as received:
        for number in held:
            obey(number)
        task_status.started()
        async for number in received:
            obey(number)


async def _obey_stdin(runtime: Runtime) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        async for _ in stream:
            pass
    runtime.environment.logger.info("asked to stop", reason="standard input ended")
    runtime.request_stop()


async def _enforce_deadline(runtime: Runtime) -> None:
    await runtime.stop_requested()
    seconds = runtime.plan.node.shutdown_seconds
    await trio.sleep(seconds)
    runtime.environment.logger.warning("still stopping", after_seconds=seconds)
    await trio.sleep(STOP_GRACE_SECONDS)
    said = f"not stopped {seconds + STOP_GRACE_SECONDS:g} seconds after it was asked to: ended at once"
    _end_now(said if runtime.failure is None else f"{said}\nerror: {runtime.failure}", 1)


def _end_now(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"nodewright: {sentence}\n")
    sys.stderr.flush()
    os._exit(code)
