"""The environment of a real node: the operating system's clock, entropy, threads and processes.

This is the one module of the core that touches them. Components reach them only through
``nodewright.interfaces.Environment``; the simulator has an environment of its own.

Invariants
- One limiter bounds the worker threads of a whole node, whatever the number of slots.
- ``for_slot`` never changes what another slot sees: each has its folder ``<root>/<slot with dots as folders>`` and its
  logger, and all share clock, limiter and secrets.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any, TypeVar

import structlog
import trio

from nodewright.errors import ConfigurationError
from nodewright.storage.full import write_error

__all__ = ["PIPE", "STDOUT", "NodeEnvironment", "default_threads", "left_behind"]

T = TypeVar("T")

MAX_SECRET_BYTES = 64 * 1024
SLOT = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*\Z")
SECRET = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")

_detached: set[object] = set()


def left_behind() -> bool:
    """Whether a detached call still runs in this process."""
    return bool(_detached)


def default_threads() -> int:
    """Worker threads of a node: as many as the machine has cores to run on, and three for calls that wait for a disk, or
    for the loop (``reenter``)."""
    return len(os.sched_getaffinity(0)) + 3 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) + 3


class NodeEnvironment:
    """Implements ``nodewright.interfaces.Environment`` for one node process.

    ``root`` is the node's data folder; ``threads`` bounds concurrent ``offload`` calls of the whole node. A call that
    takes a few microseconds is cheaper inline: the caller decides, a thread hop costs about a hundred.
    """

    def __init__(
        self,
        node_name: str,
        root: Path,
        logger: Any = None,
        threads: int | None = None,
        *,
        slot: str = "node",
        limiter: trio.CapacityLimiter | None = None,
    ) -> None:
        if not SLOT.match(slot):
            raise ValueError(f"not a slot name: {slot!r}")
        self.node_name = node_name
        self.root = root
        self.slot = slot
        self.data_dir = root if slot == "node" else root.joinpath(*slot.split("."))
        self.random = random.Random(os.urandom(16))
        self._base_logger = logger if logger is not None else structlog.get_logger()
        self.logger: Any = self._base_logger.bind(slot=slot)
        self._limiter = limiter if limiter is not None else trio.CapacityLimiter(threads or default_threads())

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def entropy(self, count: int) -> bytes:
        return os.urandom(count)

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function(*arguments)`` in a worker thread. Waiting for a free thread can be cancelled; once it runs it
        runs to its end."""
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=False, limiter=self._limiter)

    async def detach(self, function: Callable[..., T], *arguments: Any) -> T:
        """See ``interfaces.environment.Detaching``."""

        def run() -> T:
            token = object()
            _detached.add(token)
            try:
                return function(*arguments)
            finally:
                _detached.discard(token)

        return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)

    def reenter(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """See ``interfaces.environment.Reentrant``."""
        return trio.from_thread.run(function, *arguments)

    async def spawn(self, command: Sequence[str], **options: Any) -> trio.Process:
        """Start a process. ``options`` are those of ``trio.lowlevel.open_process`` (``stdin``, ``stdout``, ``env`` …)."""
        return await trio.lowlevel.open_process(list(command), **options)

    def secret(self, name: str) -> str | None:
        """``NODEWRIGHT_<NAME>`` of the process environment, else the file ``<root>/secrets/<name>`` without its trailing
        newline, else None."""
        if not SECRET.match(name):
            raise ValueError(f"not a secret's name: {name!r}")
        value = os.environ.get(f"NODEWRIGHT_{name.upper()}")
        if value is not None:
            return value
        path = self.root / "secrets" / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"the secret {path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_SECRET_BYTES:
            raise ConfigurationError(f"the secret {path} is larger than {MAX_SECRET_BYTES} bytes")
        try:
            return data.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"the secret {path} is not UTF-8 text") from error

    def for_slot(self, slot: str) -> NodeEnvironment:
        """This environment seen from another slot; its folder is created (mode 0700). Raises StoreError."""
        other = NodeEnvironment(self.node_name, self.root, self._base_logger, slot=slot, limiter=self._limiter)
        try:
            other.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, other.data_dir) from error
        return other
