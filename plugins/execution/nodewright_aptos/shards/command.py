"""The command ``nodewright shard``."""

from __future__ import annotations

from pathlib import Path

import click

from nodewright_aptos.shards.server import EXECUTORS


@click.command(name="shard")
@click.option("--listen", "address", default="127.0.0.1:0", show_default=True, help="host:port that coordinators dial.")
@click.option("--allow", multiple=True, metavar="KEY", help="Node key of a coordinator, 64 hex digits. Repeatable.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("nodewright-shard"),
    show_default=True,
    help="Where this shard's node key is.",
)
@click.option("--executor", type=click.Choice(EXECUTORS), default="sequential", show_default=True, help="What runs it.")
@click.option("--functions", multiple=True, metavar="MODULE", help="As the node's execution.functions. Repeatable.")
@click.option("--transport", default="nng", show_default=True, help="The transport plugin: the node's transport setting.")
@click.option("--show-key", is_flag=True, help="Say the node key of --data-dir and end.")
def shard(
    address: str,
    allow: tuple[str, ...],
    data_dir: Path,
    executor: str,
    functions: tuple[str, ...],
    transport: str,
    show_key: bool,
) -> None:
    """Execute parts of blocks for an Aptos-shaped node on another machine, until it is interrupted.

    Both sides prove their keys: the node names this shard as KEY@host:port, which is said when it starts, and this shard
    allows the node's.

    \b
    nodewright shard --listen 10.0.0.2:9700 --allow 5a3f...
    nodewright run aptos --set execution.executor=sharded \\
        --set 'execution.executor_options.shards=["local", "c0de...@10.0.0.2:9700"]'
    """
    import trio

    from nodewright import logging
    from nodewright.environment import NodeEnvironment
    from nodewright.errors import AddressInUse, ConfigurationError
    from nodewright.interfaces.transport import Transport
    from nodewright.storage.lease import acquire
    from nodewright_aptos.shards import listening
    from nodewright_aptos.shards.opening import opened_server

    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = NodeEnvironment("shard", data_dir, logging.configure("shard", "console", "info"))

    def started(opened: Transport) -> None:
        click.echo(f"shard {opened.node_id.hex()}@{opened.address.removeprefix('tcp://')}")

    async def run() -> None:
        if show_key:
            click.echo((await listening.show_key(environment, transport)).hex())
            return
        lease = acquire(data_dir, environment)  # two of one key would be taken for each other
        try:
            async with opened_server(executor, functions, environment) as server:
                await listening.listen(server, environment, transport, address, allow, started)
        except AddressInUse as error:
            raise ConfigurationError(f"the address {address} is taken: choose another with --listen HOST:PORT") from error
        finally:
            lease.release()

    trio.run(run)
