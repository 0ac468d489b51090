"""``nodewright genesis``: write and read the one file that the nodes of a network must agree on."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from nodewright.cli.common import ProfileRequest, plan_genesis, profile_options
from nodewright.errors import ConfigurationError
from nodewright.genesis import Genesis, names, resolve


@click.group()
def genesis() -> None:
    """Write and read genesis files.

    A genesis file holds what the nodes of one network agree on before the first block: network id, time, the tables of
    consensus and execution, and protocol versions by height. Databases and handshakes compare its hash.
    """


@genesis.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where to write; must not exist.",
)
@profile_options
def build(request: ProfileRequest, output: Path) -> None:
    """Write the genesis file of a profile.

    Give the file to every node of the network, in a profile with  [genesis]  file = "FILE"  .

    \b
    nodewright genesis build -o genesis.json teranode
    nodewright genesis build -o genesis.json teranode --set network.id=mynet
    """
    _, plan = request.compose()
    document = plan_genesis(plan)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(document.dump())
    except FileExistsError:
        raise ConfigurationError(f"{output} exists: remove it first, or write to another file") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{output}: network {document.network}, hash {document.hash.hex()}")


@genesis.command()
@click.argument("source", metavar="FILE|NAME")
def show(source: str) -> None:
    """Check a genesis file and print it with its hash.

    NAME is a network that comes with the package.

    \b
    nodewright genesis show genesis.json
    nodewright genesis show regtest
    """
    found = resolve(source if source in names() else Path(source))
    for line in _summary(found):
        click.echo(line)
    click.echo(found.dump(), nl=False)


def _summary(found: Genesis) -> list[str]:
    when = datetime.datetime.fromtimestamp(min(found.time, 253402300799), datetime.UTC).isoformat()
    return [f"# network {found.network}, family {found.family}, time {when}", f"# hash {found.hash.hex()}"]
