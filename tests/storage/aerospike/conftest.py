"""A real Aerospike server for the tests. They do not bring one: ``NODEWRIGHT_AEROSPIKE=host:port`` names one to be used,
``NODEWRIGHT_AEROSPIKE_CONTROL`` is a command that ends it at once with the argument ``kill`` (as kill -9 does) and starts
it with ``start``. The namespace is ``NODEWRIGHT_AEROSPIKE_NAMESPACE``, or the first with storage on a disk; what must be
refused is tried on the first without."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_aerospike.config import AerospikeConfig
from nodewright_aerospike.plugin import open_aerospike

NONE = Dependencies()


class LocalServer:
    def __init__(self, address: str, control: str | None) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self._control = control
        self.namespace = os.environ.get("NODEWRIGHT_AEROSPIKE_NAMESPACE", "")
        self.volatile: str | None = None

    def find_namespaces(self) -> None:
        for name in self.info("namespaces").split(";"):
            kept = "storage-engine=device" in self.info(f"namespace/{name}")
            if kept:
                self.namespace = self.namespace or name
            else:
                self.volatile = self.volatile or name
        assert self.namespace, "the server has no namespace with storage-engine device"

    def client(self) -> Any:
        """A client of one's own, once the server answers."""
        import aerospike

        end = time.monotonic() + 60
        while True:
            client = None
            try:
                client = aerospike.client({"hosts": [(self.host, self.port)]})
                client.info_all("cluster-stable:")
                return client
            except aerospike.exception.AerospikeError:
                if client is not None:
                    client.close()
                if time.monotonic() > end:
                    raise

    def info(self, command: str) -> str:
        client = self.client()
        try:
            ((_, answer),) = client.info_all(command).values()
            return str(answer).strip()
        finally:
            client.close()

    def set(self, **settings: object) -> None:
        """Change settings of the namespace until the server is started again, or they are set back."""
        for name, value in settings.items():
            answer = self.info(f"set-config:context=namespace;namespace={self.namespace};{name.replace('_', '-')}={value}")
            assert answer == "ok", answer

    def control(self, what: str) -> None:
        if self._control is None:
            pytest.skip("NODEWRIGHT_AEROSPIKE_CONTROL is not set: no command that kills and starts the server")
        subprocess.run([*shlex.split(self._control), what], check=True)

    def kill(self) -> None:
        self.control("kill")

    def start(self) -> None:
        """Returns when it takes connections."""
        self.control("start")
        self.client().close()

    @property
    def can_restart(self) -> bool:
        return self._control is not None

    def config(self, path: Path | str, **changes: Any) -> AerospikeConfig:
        """A store of its own for each path; what survived of one is that one."""
        settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "namespace": self.namespace,
            "sets": "test",
            "store": hashlib.sha256(str(path).removesuffix("-survived").encode()).hexdigest(),
            "retry_seconds": 20.0,
        }
        return AerospikeConfig(**(settings | changes))

    def open(self, path: Path, node: str = "test", **changes: Any) -> AbstractAsyncContextManager[Any]:
        return open_aerospike(self.config(path, **changes), NONE, LocalEnvironment(path, node))


@pytest.fixture(scope="session")
def aerospike() -> Iterator[LocalServer]:
    address = os.environ.get("NODEWRIGHT_AEROSPIKE")
    if not address:
        pytest.skip("NODEWRIGHT_AEROSPIKE does not name a server (host:port) to be tested on")
    pytest.importorskip("aerospike", reason="aerospike is not installed: pip install 'nodewright[aerospike]'")
    server = LocalServer(address, os.environ.get("NODEWRIGHT_AEROSPIKE_CONTROL"))
    server.find_namespaces()
    yield server


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
