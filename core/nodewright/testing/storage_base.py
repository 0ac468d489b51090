"""What the storage kits share: opening, crashing, and running programs that Hypothesis makes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy


class StoreKit:
    """Base of the kits. A subclass gives ``open_store``; see ``nodewright.testing.storage``."""

    capabilities: frozenset[str] = frozenset()
    examples: int = 30
    can_crash: bool = False
    volatile: bool = False  # nothing survives closing: tests that reopen are left out

    def open_store(self, path: Path) -> AbstractAsyncContextManager[Any]:
        """Open the store that lives in ``path`` (which exists, empty at first)."""
        raise TypeError(f"{type(self).__name__} does not say how to open its store: give it an open_store(path)")

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        """The process that has ``store`` open dies now. Returns where to open what survived: ``path`` itself, or a copy.

        ``keep`` (0 to 7) may choose how much of what was not synced survives. ``store`` is closed after."""
        raise TypeError(f"{type(self).__name__} sets can_crash and does not say how: give it a crash(store, path, keep)")

    def run(self, programs: SearchStrategy[Any], check: Callable[[Any, Path], Awaitable[None]]) -> None:
        """Try ``check(program, empty folder)`` on what ``programs`` draws; each in a trio loop of its own."""

        @settings(
            max_examples=self.examples,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors],
        )
        @given(programs)
        def attempt(program: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "store")
                path.mkdir()
                trio.run(check, program, path)

        attempt()


class FolderKit(StoreKit):
    """Of a store whose data is files of its folder. A copy of the folder, taken while the store is open, is what kill -9 at
    that instant leaves. A thread of the database may be at work: the copy counts once no file changed meanwhile."""

    can_crash = True

    async def crash(self, store: Any, path: Path, keep: int) -> Path:
        copy = path.with_name("crashed")
        while True:
            before = files_in(path)
            try:
                shutil.copytree(path, copy)
            except shutil.Error:  # a file went away
                pass
            if files_in(path) == before:
                return copy
            shutil.rmtree(copy)
            await trio.lowlevel.checkpoint()


def files_in(path: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change by file; a file that goes away meanwhile is left out."""
    found = {}
    for file in path.rglob("*"):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        found[file] = (status.st_size, status.st_mtime_ns)
    return found


@asynccontextmanager
async def tolerant(opened: AbstractAsyncContextManager[Any]) -> Any:
    """Open a store that will be crashed: what closing it raises afterwards is of no interest."""
    store = await opened.__aenter__()
    try:
        yield store
    except BaseException as error:
        await opened.__aexit__(type(error), error, error.__traceback__)
        raise
    try:
        await opened.__aexit__(None, None, None)
    except Exception:
        pass
