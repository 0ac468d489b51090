"""One-file plugins written on the spot, and a host that sees only them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewright.plugins.host import PluginHost

HEAD = """\
from contextlib import asynccontextmanager
import attrs
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import *
from nodewright.plugins.specs import setting

@asynccontextmanager
async def opened(config, dependencies, environment):
    yield object()

def store(name="mine", **more):
    return StorageSpec(name=name, summary="a store", open=opened, provides=frozenset({"key-value"}), **more)

"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., PluginHost]:
    """``load(name="source", ...)``: a host with these one-file plugins and nothing installed."""

    def make(**plugins: str) -> PluginHost:
        for name, source in plugins.items():
            (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(source))
        return PluginHost([tmp_path], entry_points=[])

    return make


@pytest.fixture
def reason(load: Callable[..., PluginHost]) -> Callable[[str], str]:
    """Why this plugin is broken."""

    def of(source: str) -> str:
        registry = load(broken=source, whole="@hookimpl\ndef register_storage():\n    return [store()]\n").registry
        assert [provided.name for provided in registry.components] == ["mine"]  # the other one is untouched
        (broken,) = registry.broken
        assert broken.provider.name == "broken"
        return broken.reason

    return of


@pytest.fixture
def head() -> str:
    """What the plugins of these tests begin with."""
    return HEAD
