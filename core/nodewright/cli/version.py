"""``nodewright version``."""

from __future__ import annotations

import platform

import click

from nodewright import __version__


@click.command()
def version() -> None:
    """Print the version of nodewright, Python and the system.

    Loads no plugin, so that it works whatever is installed.  nodewright plugins  tells the versions of plugins.

    \b
    nodewright version
    """
    click.echo(f"nodewright {__version__}")
    click.echo(f"Python {platform.python_version()} ({platform.python_implementation()})")
    click.echo(f"{platform.system()} {platform.machine()}")
