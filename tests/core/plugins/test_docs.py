"""Every hook is tested and documented: ``test_hooks.py`` names it, ``docs/plugins.md`` has a heading for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodewright.plugins.checks import REGISTERS, hook_names

TESTS = Path(__file__).with_name("test_hooks.py")
DOCS = Path(__file__).parents[3] / "docs" / "plugins.md"

documented = pytest.mark.skipif(not DOCS.exists(), reason="the tests run apart from the source tree")


def test_the_hooks_are_those_of_the_design() -> None:
    observers = {"register_profiles", "register_commands", "check_plan", "node_ready", "node_stopping"}
    assert hook_names() == set(REGISTERS) | observers


@pytest.mark.parametrize("hook", sorted(hook_names()))
def test_every_hook_has_a_test(hook: str) -> None:
    text = TESTS.read_text()
    assert f'"{hook}"' in text or re.search(rf"def test_\w*{hook}\b", text)


@documented
@pytest.mark.parametrize("hook", sorted(hook_names()))
def test_every_hook_has_a_heading(hook: str) -> None:
    assert re.search(rf"^#+ `{hook}\(", DOCS.read_text(), re.MULTILINE)


@documented
def test_no_heading_names_a_hook_that_is_not_there() -> None:
    headings = re.findall(r"^#+ `((?:register|check|node)_\w+)\(", DOCS.read_text(), re.MULTILINE)
    assert set(headings) == hook_names()


@documented
def test_the_examples_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"\bexamples/[\w/]+\.(?:py|toml)\b", DOCS.read_text()))
    assert named
    assert [path for path in sorted(named) if not (DOCS.parents[1] / path).is_file()] == []
