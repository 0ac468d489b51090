"""A shard that talks over its standard input and output: what a node starts for each ``local`` one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import trio

from nodewright import logging
from nodewright.environment import NodeEnvironment
from nodewright_aptos.shards.links import StreamLink
from nodewright_aptos.shards.opening import opened_server
from nodewright_aptos.shards.server import EXECUTORS


@click.command()
@click.option("--executor", type=click.Choice(EXECUTORS), default="sequential")
@click.option("--functions", multiple=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), required=True)
def shard(executor: str, functions: tuple[str, ...], folder: Path) -> None:
    """Ends when its standard input does."""
    into, out = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints into no message
    trio.run(_run, into, out, executor, functions, folder)


async def _run(into: int, out: int, executor: str, functions: tuple[str, ...], folder: Path) -> None:
    link = StreamLink(trio.lowlevel.FdStream(into), trio.lowlevel.FdStream(out))
    environment = NodeEnvironment("shard", folder, logging.configure("shard", "console", "warning"))
    async with opened_server(executor, functions, environment) as server:
        await server.serve(link)


if __name__ == "__main__":
    sys.exit(shard())
