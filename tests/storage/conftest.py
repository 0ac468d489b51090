"""Child processes for the tests that kill one: each is this Python running one of the programs below."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEAD = """
import sys
from pathlib import Path
import trio
from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb

path = Path(sys.argv[1])
environment = LocalEnvironment(path, "first")
NONE = Dependencies()

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    """Start a program in a process of its own; it is killed at the end of the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + program, str(path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
