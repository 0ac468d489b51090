"""``nodewright check``: compose a profile, open nothing, and say whether it would start."""

from __future__ import annotations

import click

from nodewright.cli.common import ProfileRequest, plan_genesis, profile_options
from nodewright.errors import ConfigurationError
from nodewright.plugins.extras import missing_driver


@click.command()
@profile_options
def check(request: ProfileRequest) -> None:
    """Say whether a profile is right, or everything that is wrong with it.

    Reads the profile with all that it extends, the plugins and the genesis, and looks whether drivers are installed;
    opens no database and no port. Every problem is one line on standard error, with file and line; the exit code is then 2.

    \b
    nodewright check teranode
    nodewright check mine.toml --set stores.utxo.use=memory
    """
    host, plan = request.compose()
    problems = []
    for component in plan.components:
        said = missing_driver(component.spec, host.registry)
        if said is not None:
            problems.append(f"{plan.effective[f'{component.slot}.use'].origin}: {component.slot}: {said}")
    if problems:
        raise ConfigurationError(problems)
    genesis = plan_genesis(plan)
    click.echo(
        f"OK: {plan.profile}: family {plan.family}, network {genesis.network}, {len(plan.components)} components, "
        f"genesis {genesis.hash.hex()[:16]}"
    )
    for broken in host.registry.broken:
        click.echo(f"note: not needed here, but broken: {broken}", err=True)
