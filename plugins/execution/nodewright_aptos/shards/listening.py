"""A shard for coordinators on other machines: behind a listening address, for the keys that it allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import Transport
from nodewright_aptos.shards.peers import PeerLink, Peers, open_transport
from nodewright_aptos.shards.server import ShardServer


async def listen(
    server: ShardServer,
    environment: Environment,
    transport: str,
    address: str,
    allow: Sequence[str],
    started: Callable[[Transport], None],
) -> None:
    """Serves whoever connects with one of the keys ``allow`` (64 hex digits), until it is cancelled. Raises
    ConfigurationError where there is none: a shard that anybody could feed is a hole; AddressInUse, PluginError."""
    if not allow:
        raise ConfigurationError(
            "a shard serves nobody it is not told to: name its coordinator with --allow KEY, the key that a node with "
            "executor = sharded logs when it starts, or that  nodewright shard --show-key  says of a folder"
        )
    async with (
        open_transport(transport, environment, listen=address, allow=allow) as opened,
        trio.open_nursery() as nursery,
    ):

        def taken(link: PeerLink) -> None:
            nursery.start_soon(serve, link)

        async def serve(link: PeerLink) -> None:
            environment.logger.info("a coordinator speaks to this shard", key=link.peer.hex())
            reason = await server.serve(link)
            environment.logger.info("a coordinator is gone", key=link.peer.hex(), reason=reason)

        peers = Peers(opened, taken)
        started(opened)
        await peers.run()


async def show_key(environment: Environment, transport: str) -> bytes:
    """The node key of the environment's folder, made where there is none yet."""
    async with open_transport(transport, environment) as opened:
        return opened.node_id
