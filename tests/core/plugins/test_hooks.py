"""Every hook, once, from a one-file plugin. ``test_docs.py`` checks that none is missing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from nodewright.plugins.host import PluginHost

Load = Callable[..., PluginHost]


@pytest.mark.parametrize(
    ("hook", "spec", "kind"),
    [
        ("register_storage", "StorageSpec", "storage"),
        ("register_execution", "ExecutionSpec", "execution"),
        ("register_consensus", "ConsensusSpec", "consensus"),
        ("register_transport", "TransportSpec", "transport"),
        ("register_services", "ServiceSpec", "service"),
        ("register_verifiers", "VerifierSpec", "verifier"),
    ],
)
def test_registers_a_component(load: Load, hook: str, spec: str, kind: str) -> None:
    registry = load(
        mine=f"""
        @hookimpl
        def {hook}():
            return [{spec}(name="x", summary="s", open=opened, provides=frozenset({{"key-value"}}))]
        """
    ).registry
    assert registry.broken == ()
    found = registry.get(kind, "x")
    assert found.value.kind == kind and found.provider.name == "mine"
    assert registry.of_kind(kind) == [found]


def test_register_profiles(load: Load) -> None:
    host = load(
        mine="""
        from pathlib import Path

        @hookimpl
        def register_profiles():
            file = Path(__file__).with_name("two.toml")
            file.write_text("a = 2")
            return {"one": "a = 1", "two": file}
        """
    )
    assert host.find_profile("one").text == "a = 1"
    two = host.find_profile("two")
    assert two.text == "a = 2" and two.directory is not None and two.label.endswith("two.toml")


def test_register_commands(load: Load) -> None:
    host = load(
        mine="""
        import click

        @hookimpl
        def register_commands(cli):
            cli.add_command(click.Command("mine"))
        """
    )
    group = click.Group()
    assert host.notify("register_commands", cli=group) == []
    assert list(group.commands) == ["mine"]


def test_check_plan(load: Load) -> None:
    (check,) = load(mine="@hookimpl\ndef check_plan(plan):\n    return [f'{plan} is no plan']\n").registry.plan_checks
    assert list(check.check("this")) == ["this is no plan"]
    assert check.provider.name == "mine"


def test_check_plan_may_return_nothing(load: Load) -> None:
    (check,) = load(mine="@hookimpl\ndef check_plan(plan):\n    pass\n").registry.plan_checks
    assert list(check.check("this")) == []


@pytest.mark.parametrize("hook", ["node_ready", "node_stopping"])
def test_node_ready_and_node_stopping(load: Load, hook: str) -> None:
    """Called of every plugin that has it, whatever another one does."""
    host = load(
        a=f"@hookimpl\ndef {hook}(node):\n    raise ValueError('a had a bad day')\n",
        b=f"@hookimpl\ndef {hook}(node):\n    node.append('b')\n",
        c=f"@hookimpl\ndef {hook}():\n    pass\n",
    )
    seen: list[Any] = []
    (failed,) = host.notify(hook, node=seen)
    assert seen == ["b"]
    assert failed.provider.name == "a" and failed.reason == f"{hook} failed: ValueError: a had a bad day"
