"""A real PostgreSQL server for the tests (``nodewright.testing.postgres_server``), and stores on it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nodewright.plugins.specs import Dependencies
from nodewright.testing import postgres_server
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.plugin import open_postgres

OPTIONS = ("max_connections=60", "shared_buffers=64MB")


class Stores:
    """The server, and stores on it: what is not found here is the server's own."""

    def __init__(self, server: postgres_server.PostgresServer) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def config(self, path: Path | str, **changes: Any) -> PostgresConfig:
        """A schema of its own for each path."""
        settings: dict[str, Any] = {
            "port": self._server.port,
            "schema": "t_" + hashlib.sha256(str(path).encode()).hexdigest()[:20],
            "readers": 2,
            "retry_seconds": 20.0,
            "lock_seconds": 0.3,
        }
        return PostgresConfig(**(settings | changes))

    def open(self, path: Path, node: str = "test", **changes: Any) -> AbstractAsyncContextManager[Any]:
        return open_postgres(self.config(path, **changes), Dependencies(), LocalEnvironment(path, node))


@contextmanager
def running(programs: Path | None = None) -> Iterator[Stores]:
    """With its password in the environment."""
    with postgres_server.postgres_server(OPTIONS, programs) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODEWRIGHT_POSTGRES_PASSWORD", server.password)
        yield Stores(server)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Stores]:
    missing = postgres_server.missing()
    if missing is not None:
        pytest.skip(f"no PostgreSQL: {missing}")
    with running() as stores:
        yield stores


@pytest.fixture(scope="session")
def new_server() -> Callable[[Path], Any]:
    """Start a server of one's own from a folder of programs."""
    return running


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program of Python in a process of its own; it is killed at the end of the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
