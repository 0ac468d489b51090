"""``nodewright show``: the effective configuration, each value with its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from nodewright.cli.common import ProfileRequest, profile_options
from nodewright.composition.plan import Effective, Plan


@click.command()
@profile_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object: key to value, source and line.")
def show(request: ProfileRequest, as_json: bool) -> None:
    """Print every effective setting of a profile, and where its value is from.

    The output is TOML again: what a profile that extends nothing would have to say. Secrets are never shown.

    \b
    nodewright show teranode
    nodewright show mine.toml --set pool.max_bytes=1073741824 --json
    """
    _, plan = request.compose()
    if as_json:
        click.echo(json.dumps({key: _as_json(value) for key, value in plan.effective.items()}, indent=2))
    else:
        for line in toml_lines(plan):
            click.echo(line)


def toml_lines(plan: Plan) -> list[str]:
    """Tables in the order of the plan; a value that is not set is a comment."""
    lines: list[str] = []
    current = ""
    for key, effective in plan.effective.items():
        table, _, name = key.rpartition(".")
        if table != current:
            lines += ["", f"[{table}]"]
            current = table
        value = "# " + name if effective.value is None else f"{name} = {toml_value(effective.value)}"
        lines.append(f"{value:<48} # {effective.origin}")
    return lines[1:] if lines and not lines[0] else lines


def toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_value(str(key))} = {toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _as_json(effective: Effective) -> dict[str, Any]:
    return {"value": effective.value, "source": effective.origin.source, "line": effective.origin.line}
