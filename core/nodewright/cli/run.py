"""``nodewright run``: one node in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import click

from nodewright import logging
from nodewright.cli.common import ProfileRequest, plan_genesis, profile_options
from nodewright.composition.plan import Plan
from nodewright.config.core_settings import GenesisSettings
from nodewright.errors import ConfigurationError

DATA_FOLDER = "nodewright-data"


@click.command()
@profile_options
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help=f"Where the node keeps everything: databases, keys, journal. Default: ./{DATA_FOLDER}/PROFILE.",
)
@click.option(
    "--genesis",
    "genesis_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Genesis file to use instead of the one the profile names.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="Overrides log.format of the profile.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Overrides log.level of the profile."
)
@click.option("--stop-with-stdin", is_flag=True, help="Also stop when standard input ends (for programs that start nodes).")
def run(
    request: ProfileRequest,
    data_dir: Path | None,
    genesis_file: Path | None,
    log_format: str | None,
    log_level: str | None,
    stop_with_stdin: bool,
) -> None:
    """Run a node in the foreground until it is told to stop.

    PROFILE is a name that `nodewright plugins` lists, or the path of a .toml file. When the node is ready it writes
    DIR/node.json with its process id, its key and the bound address of every service; port 0 picks a free one.
    Ctrl-C or SIGTERM stops it cleanly, a second one ends it at once: nothing acknowledged is lost either way.

    \b
    nodewright run teranode --data-dir /var/lib/teranode
    nodewright run mine.toml --set services.bsv_api.listen=127.0.0.1:0 --set consensus.mine=true

    Exit codes: 0 stopped as asked, 1 died of what the last line says, 2 wrong configuration, taken port or directory.
    """
    host, plan = request.compose()
    plan = _with_options(plan, genesis_file, log_format, log_level)
    genesis = plan_genesis(plan)
    if genesis.network != plan.network.id:
        raise ConfigurationError(
            f"the genesis is that of the network {genesis.network!r}, but network.id is {plan.network.id!r}: choose one "
            f"with --set network.id={genesis.network} or --genesis FILE"
        )
    # Only now: composing needs none of it, and `nodewright run --help` should be quick.
    from nodewright.node.process import run_process
    from nodewright.node.runtime import Runtime

    format = plan.log.format if plan.log.format != "auto" else "console" if sys.stderr.isatty() else "json"
    logger = logging.configure(plan.node.name, "json" if format == "json" else "console", plan.log.level)
    folder = data_dir if data_dir is not None else Path(DATA_FOLDER, plan.profile)
    run_process(Runtime(plan, genesis, folder.absolute(), logger, host.notify), stop_with_stdin)


def _with_options(plan: Plan, genesis_file: Path | None, log_format: str | None, log_level: str | None) -> Plan:
    if genesis_file is not None:
        plan = attrs.evolve(plan, genesis=GenesisSettings(file=str(genesis_file.absolute())))
    log = plan.log
    return attrs.evolve(plan, log=attrs.evolve(log, format=log_format or log.format, level=log_level or log.level))
