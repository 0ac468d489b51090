"""``nodewright check``: compose a profile, open nothing, and say whether it would start."""

from __future__ import annotations

import click

from nodewright.cli.common import ProfileRequest, plan_genesis, profile_options


@click.command()
@profile_options
def check(request: ProfileRequest) -> None:
    """Say whether a profile is right, or everything that is wrong with it.

    Reads the profile with all that it extends, the plugins and the genesis; opens no database and no port. Every
    problem is one line on standard error, with file and line, and the exit code is then 2.

    \b
    nodewright check teranode
    nodewright check mine.toml --set stores.utxo.use=memory
    """
    host, plan = request.compose()
    genesis = plan_genesis(plan)
    click.echo(
        f"OK: {plan.profile}: family {plan.family}, network {genesis.network}, {len(plan.components)} components, "
        f"genesis {genesis.hash.hex()[:16]}"
    )
    for broken in host.registry.broken:
        click.echo(f"note: not needed here, but broken: {broken}", err=True)
