"""A real SV Node as a child process on loopback, driven by its JSON-RPC. Blocking code, for tests and benchmarks.

The program is none of ours and comes with nothing of ours: ``NODEWRIGHT_BITCOIND`` names it (docs/svnode.md).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodewright.errors import NodewrightError

VARIABLE = "NODEWRIGHT_BITCOIND"
USER = "nodewright"
PASSWORD = "loopback"

OPTIONS: Mapping[str, object] = {
    "regtest": 1,
    "server": 1,
    "listen": 1,
    "dnsseed": 0,
    "discover": 0,
    "upnp": 0,
    "bind": "127.0.0.1",
    "rpcbind": "127.0.0.1",
    "rpcallowip": "127.0.0.1",
    "rpcworkqueue": 600,
    "genesisactivationheight": 1,
    "minminingtxfee": "0.00000001",
    "excessiveblocksize": 2_000_000_000,
    "maxstackmemoryusageconsensus": 200_000_000,
    "disablewallet": 1,
    "minerid": 0,
    "broadcastdelay": 0,
}
"""Every one may be overridden. The first era is Genesis from block 1 on."""


class SvNodeError(NodewrightError):
    """The program could not be started, or its RPC answered with an error (``code`` is then its number)."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def program() -> Path | None:
    """What ``NODEWRIGHT_BITCOIND`` names; None where it is not set."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class SvNode:
    """``options`` become ``-name=value``; a sequence is given once for each of its members. A context manager."""

    def __init__(self, program: Path, data_dir: Path, **options: object) -> None:
        self.program = program
        self.data_dir = data_dir
        self.port = free_port()
        self.rpc_port = free_port()
        self.options = dict(OPTIONS) | options
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: http.client.HTTPConnection | None = None

    def command(self) -> list[str]:
        fixed = {
            "datadir": self.data_dir,
            "port": self.port,
            "rpcport": self.rpc_port,
            "rpcuser": USER,
            "rpcpassword": PASSWORD,
        }
        command = [str(self.program)]
        for name, value in (self.options | fixed).items():
            each = value if isinstance(value, list | tuple) else [value]
            command += [f"-{name}={one}" for one in each]
        return command

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Until its RPC answers. A second start goes on from the same folder."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "console.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._process.poll() is not None:
                end = (self.data_dir / "console.log").read_text(errors="replace")[-600:]
                raise SvNodeError(f"the SV Node ended with code {self._process.returncode}: {end}")
            try:
                self.rpc("getblockcount")
                return
            except (OSError, SvNodeError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    self.kill()
                    raise SvNodeError(f"the SV Node did not answer in {timeout_seconds:.0f} s: {error}") from error
                time.sleep(0.1)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise SvNodeError("the SV Node has not been started")
        return self._process.pid

    @property
    def address(self) -> str:
        """Where it speaks the wire protocol."""
        return f"127.0.0.1:{self.port}"

    def rpc(self, method: str, *parameters: Any) -> Any:
        """The result. SvNodeError with its code and message for an error; OSError where nobody answers."""
        return self._post({"method": method, "params": parameters, "id": 1})

    def _post(self, document: Mapping[str, Any]) -> Any:
        body = json.dumps(document)
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        for attempt in (1, 2):
            connection = self._connection or http.client.HTTPConnection("127.0.0.1", self.rpc_port, timeout=600)
            self._connection = connection
            try:
                connection.request("POST", "/", body, headers)
                answer = connection.getresponse().read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self._connection = None
                if attempt == 2:  # the first may have been an idle connection that the other side had closed
                    raise
        try:
            reply = json.loads(answer)
        except ValueError:
            raise SvNodeError(f"the SV Node's RPC answers {answer[:200]!r}") from None
        if reply.get("error"):
            raise SvNodeError(str(reply["error"].get("message")), int(reply["error"].get("code", 0)))
        return reply["result"]

    def mine(self, count: int, address: str) -> list[str]:
        """Block hashes in display hex."""
        return list(self.rpc("generatetoaddress", count, address))

    def verify_scripts(self, cases: Sequence[Mapping[str, Any]], batch: int = 200) -> list[dict[str, Any]]:
        """The RPC ``verifyscript`` for all of them, in order, however many fail."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(cases), batch):
            found += self.rpc("verifyscript", list(cases[start : start + batch]), False, 600_000)
        return found

    def log_tail(self, lines: int = 30) -> str:
        path = self.data_dir / "regtest" / "bitcoind.log"
        try:
            return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_seconds: float = 60.0) -> None:
        if self._process is None:
            return
        self._hang_up()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._hang_up()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> SvNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive():
            self.stop()
