"""Fixtures shared by the tests of the running node."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nodewright.environment import NodeEnvironment


@pytest.fixture
def environment(tmp_path: Path) -> NodeEnvironment:
    return NodeEnvironment("test", tmp_path, threads=4)


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The family of ``plugins/toy.py``."""
    path = Path(__file__).parent / "plugins" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy_family", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_family"] = module  # where its annotations are looked up
    spec.loader.exec_module(module)
    return module
