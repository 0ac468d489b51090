"""Fixtures shared by the tests of the running node."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodewright.environment import NodeEnvironment


@pytest.fixture
def environment(tmp_path: Path) -> NodeEnvironment:
    return NodeEnvironment("test", tmp_path, threads=4)
