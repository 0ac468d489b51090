"""A node as a child process, driven from outside as an operator does: start, read node.json, stop, kill. Blocking code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodewright.errors import NodewrightError


class NodeProcess:
    """``profile`` is a name or a TOML file; ``settings`` become ``--set``; the log is ``<data_dir>.log``."""

    def __init__(
        self,
        profile: str,
        data_dir: Path,
        settings: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.profile = profile
        self.data_dir = data_dir
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.info: dict[str, Any] = {}
        self._environment = dict(environment) if environment is not None else None
        self._command = [sys.executable, "-m", "nodewright", "run", profile, "--data-dir", str(data_dir), *arguments]
        for key, value in (settings or {}).items():
            self._command += ["--set", f"{key}={value}"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NodewrightError("the node has not been started")
        return self._process

    def start(self, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Start and wait until it is ready; returns node.json. Raises with the end of its log if it dies or hangs."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise NodewrightError(f"the node ended with code {self._process.returncode}:\n{self.log_tail()}")
            info = self._read_info()
            if info is not None and info.get("pid") == self._process.pid:
                self.info = info
                return info
            time.sleep(0.05)
        self.kill()
        raise NodewrightError(f"the node was not ready after {timeout_seconds:.0f} s:\n{self.log_tail()}")

    def _read_info(self) -> dict[str, Any] | None:
        try:
            document = json.loads((self.data_dir / "node.json").read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def service(self, name: str) -> str:
        """The bound URL of a service."""
        return str(self.info["services"][name])

    def log_tail(self, lines: int = 20) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_seconds: float = 60.0) -> int:
        """Until it ends by itself; the exit code."""
        try:
            return self._running().wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise NodewrightError(f"the node still runs after {timeout_seconds:.0f} s:\n{self.log_tail()}") from None

    def stop(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM and wait; the exit code. Killed, and an error, if it does not end in time."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodewrightError(f"the node did not stop within {timeout_seconds:.0f} s:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """SIGKILL and wait: what a power cut leaves of a process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> NodeProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive():
            try:
                self.stop()
            finally:
                self.kill()
