"""``nodewright devnet``: a local network of real node processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from nodewright import logging
from nodewright.cli.common import ProfileRequest, profile_options
from nodewright.cli.run import DATA_FOLDER
from nodewright.errors import ConfigurationError
from nodewright.node import signals

COLORS = ("cyan", "green", "yellow", "magenta", "blue", "bright_red", "bright_cyan", "bright_green", "bright_yellow")
LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}
HIDDEN = ("node", "slot", "event", "level", "timestamp")


class MergedLog:
    """Lines of many nodes as one readable log: time, node, what happened, its values. What is no JSON is shown as it is."""

    def __init__(self, stream: TextIO, names: list[str], colors: bool) -> None:
        self._stream = stream
        self._width = max(map(len, names))
        self._colors = dict(zip(names, COLORS * (len(names) // len(COLORS) + 1), strict=False)) if colors else {}
        self._on = colors

    def show(self, name: str, line: str) -> None:
        prefix = name.ljust(self._width) + " │ "
        if self._on:
            prefix = click.style(prefix, fg=self._colors.get(name, "white"), bold=name not in self._colors)
        self._stream.write(prefix + self._text(line) + "\n")
        self._stream.flush()

    def _text(self, line: str) -> str:
        try:
            event = json.loads(line)
            what, level = str(event["event"]), str(event.get("level", "info"))
        except (ValueError, KeyError, TypeError):
            return line
        time = str(event.get("timestamp", ""))[11:23]
        where = str(event.get("slot", ""))
        values = " ".join(f"{key}={_value(value)}" for key, value in event.items() if key not in HIDDEN)
        color = LEVELS.get(level)
        if color is None:
            head = what
        else:
            head = click.style(f"{level.upper()} {what}", fg=color) if self._on else f"{level.upper()} {what}"
        return " ".join(part for part in (time, f"[{where}]" if where not in ("", "node") else "", head, values) if part)


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value, ensure_ascii=False)


def _own_settings(given: tuple[str, ...]) -> dict[int, list[str]]:
    own: dict[int, list[str]] = {}
    problems = []
    for text in given:
        index, colon, setting = text.partition(":")
        if not colon or not index.isdigit() or "=" not in setting:
            problems.append(f"--set-node {text}: write NUMBER:key=value, for example --set-node 1:consensus.mine=true")
        else:
            own.setdefault(int(index), []).append(setting)
    if problems:
        raise ConfigurationError(problems)
    return own


@click.command()
@profile_options
@click.option("--nodes", type=int, default=3, show_default=True, metavar="N", help="How many nodes.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help=f"Node i keeps its data in DIR/node<i>. Default: ./{DATA_FOLDER}/devnet-PROFILE.",
)
@click.option(
    "--set-node", "own", multiple=True, metavar="I:KEY=VALUE", help="As --set, for node I alone (from 0). Repeatable."
)
@click.option("--keep-going", is_flag=True, help="When a node dies, say so and go on with the others.")
@click.option("--for", "seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop by itself after this time.")
def devnet(
    request: ProfileRequest,
    nodes: int,
    data_dir: Path | None,
    own: tuple[str, ...],
    keep_going: bool,
    seconds: float | None,
) -> None:
    """Run a local network of N real node processes until Ctrl-C.

    Each node has its own data, keys and free ports, and is connected to all others; the first one mines where the profile
    has a miner. Their logs come out as one, each line with its node's name. When all are ready their addresses are
    printed and written to DIR/devnet.json. Ctrl-C stops all; if one dies, all are stopped and the reason is said. Data
    stays: the same command goes on where it was stopped.

    \b
    nodewright devnet teranode --nodes 3
    nodewright devnet teranode --nodes 2 --set stores.utxo.use=memory --set-node 1:consensus.mine=true
    """
    settings = _own_settings(own)
    plan = request.plan(request.host())
    import trio

    from nodewright.environment import NodeEnvironment
    from nodewright.node.devnet import Devnet, command_line, plan_nodes

    folder = (data_dir if data_dir is not None else Path(DATA_FOLDER, f"devnet-{plan.profile}")).absolute()
    planned = plan_nodes(plan, nodes, folder, request.overrides, settings)
    logger = logging.configure("devnet", "console", "warning")
    log = MergedLog(sys.stderr, [node.name for node in planned], logging.wants_colors(sys.stderr))

    def ready(infos: list[dict[str, Any]]) -> None:
        click.echo(f"{len(infos)} nodes are ready (profile {plan.profile}, data in {folder}). Ctrl-C stops them.")
        for info in infos:
            click.echo(f"  {info['name']}  pid {info['pid']}  {info.get('transport') or 'no transport'}")
            for name, url in info.get("services", {}).items():
                click.echo(f"    {name}  {url}")
        sys.stdout.flush()

    held = signals.hold()

    async def run() -> None:
        stop = trio.Event()
        command = command_line(request.reference, request.plugin_directories)
        network = Devnet(NodeEnvironment("devnet", folder, logger), plan, planned, command, log.show, keep_going)
        with trio.open_signal_receiver(*signals.SIGNALS) as received:
            if held:
                stop.set()

            async def obey() -> None:
                async for _ in received:
                    stop.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(obey)
                await network.run(stop, seconds, ready)
                nursery.cancel_scope.cancel()

    trio.run(run)
