"""SIGINT and SIGTERM before and after the time in which a node listens to them itself. Imported before everything else.

Three phases: until there is anything to stop, a signal ends the process with exit code 0 (``end_at_once``); from ``hold``
on it is kept in a list, which whoever starts listening looks at first; once the node has ended it is kept and read by
nobody, so that the exit code is the node's.
"""

from __future__ import annotations

import os
import signal
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> None:
    """Nothing is open and nothing is running that would have to be ended."""

    def end(_: int, __: Any) -> None:
        os._exit(0)

    for number in SIGNALS:
        signal.signal(number, end)


def hold() -> list[int]:
    """The list that signals are put into from now on, and again after others listened."""
    held: list[int] = []

    def keep(number: int, _: Any) -> None:
        held.append(number)

    for number in SIGNALS:
        signal.signal(number, keep)
    return held
