"""Contract ``environment``: everything impure a component may touch comes from here.

A node gives threads, the wall clock and the operating system's entropy; the simulator gives inline calls, virtual time and
a seed. A test forbids direct thread, process, clock and random calls elsewhere in core and plugins.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


class Process(Protocol):
    pid: int

    async def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@runtime_checkable
class Environment(Protocol):
    node_name: str
    slot: str  # the slot being opened: "stores.utxo", "consensus", "services.bsv_api"
    data_dir: Path
    random: random.Random  # for back-off, sampling: never for keys
    logger: Any  # structlog bound logger

    def now(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def entropy(self, count: int) -> bytes:
        """For keys and cookies."""

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run CPU work or a blocking call off the trio thread. Not cancelled half-way: it finishes, then cancels."""

    async def spawn(self, command: Sequence[str], **options: Any) -> Process: ...

    def secret(self, name: str) -> str | None:
        """From the process environment (``NODEWRIGHT_<NAME>``) or ``<data-dir>/secrets/<name>``; never the profile."""

    def for_slot(self, slot: str) -> Environment:
        """The same environment seen from another slot: its own data folder and logger name."""


@runtime_checkable
class Reentrant(Protocol):
    """Of an environment whose ``offload`` runs in threads: what runs there can have the node's loop do something for it.
    One whose ``offload`` is inline (the simulator) does not have this: the caller has to do without."""

    def reenter(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """From within an offloaded function only: run ``function(*arguments)`` on the node's loop, in the task that
        offloaded, and wait for what it returns or raises. Cancelled with that task. Whoever calls this holds a thread:
        what is awaited may need another, so a component bounds how many of its threads do so."""


@runtime_checkable
class Detaching(Protocol):
    """Of an environment that can leave a call behind; one whose ``offload`` is inline (the simulator) has no need to."""

    async def detach(self, function: Callable[..., T], *arguments: Any) -> T:
        """As ``offload``, but who is cancelled goes at once and the call runs on by itself, cut off by the end of the
        process at the latest: for work that holds nothing and whose result nobody will miss, such as compiling."""
