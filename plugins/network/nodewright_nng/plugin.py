"""Registers the transport ``nng``: encrypted, authenticated peers behind one listening address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from nodewright.errors import ConfigurationError, MissingDriver
from nodewright.interfaces.environment import Environment
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import TRANSPORT, Dependencies, TransportSpec, setting
from nodewright.transport.link import Limits, NetworkIdentity
from nodewright_nng.addresses import parse_address, parse_key, parse_ports
from nodewright_nng.keys import load_or_create

if TYPE_CHECKING:
    from nodewright_nng.transport import NngTransport

MIB = 1024 * 1024
KEY_FILE = "node.key"
PROTOCOL_MINIMUM = PROTOCOL_MAXIMUM = 1  # of the frames of a session


@attrs.define
class NngConfig:
    listen: str = setting("127.0.0.1:0", help="host:port that all peers dial; port 0 picks a free one; empty: none may")
    peers: list[str] = setting(
        factory=list, help="host:port of peers to dial and keep; KEY@host:port where the node key must be that one"
    )
    allow: list[str] = setting(factory=list, help="node keys (64 hex digits) that may connect; empty: all of the network")
    key_file: str = setting("", help="file of the node key (32 bytes, mode 0600); empty: node.key in the slot's folder")
    pair_ports: str = setting("", help="first-last: ports for the peers' own sockets, for a firewall; empty: any free one")
    max_peers: int = setting(
        64,
        help="peers connected at once that dialled this node; those of peers have room beside them",
        minimum=1,
        maximum=1024,
    )
    max_inbound_per_host: int = setting(32, help="of these, at most so many of one host", minimum=1, maximum=1024)
    inbox_mib: int = setting(16, help="MiB one peer may have waiting in one channel", minimum=1, maximum=1024)
    outbox_mib: int = setting(8, help="MiB waiting to be sent to one peer on one channel", minimum=1, maximum=1024)
    outbox_stall_seconds: float = setting(
        10.0, help="a peer whose outbox stays full this long while broadcast to is disconnected", minimum=0.1
    )
    fetch_credit_mib: int = setting(4, help="MiB of one body on the way at once", minimum=1, maximum=256)
    keepalive_seconds: float = setting(5.0, help="between two signs of life", minimum=0.05)
    dead_seconds: float = setting(20.0, help="of silence after which a peer is gone", minimum=0.1)
    ban_seconds: float = setting(3600.0, help="for which a peer that reached 100 points is refused", minimum=0.0)
    retry_most_seconds: float = setting(10.0, help="between two attempts at a peer, at most", minimum=0.1)

    def limits(self) -> Limits:
        return Limits(
            max_peers=self.max_peers,
            max_inbound_per_host=self.max_inbound_per_host,
            inbox_bytes=self.inbox_mib * MIB,
            outbox_bytes=self.outbox_mib * MIB,
            outbox_stall_seconds=self.outbox_stall_seconds,
            fetch_credit_bytes=self.fetch_credit_mib * MIB,
            keepalive_seconds=self.keepalive_seconds,
            dead_seconds=self.dead_seconds,
            ban_seconds=self.ban_seconds,
        )


def check_config(config: NngConfig) -> list[str]:
    problems = []
    checks: list[tuple[str, Any, str]] = [("peers", parse_address, peer) for peer in config.peers]
    checks += [("allow", parse_key, key) for key in config.allow]
    checks += [("pair_ports", parse_ports, config.pair_ports)]
    if config.listen:
        checks.append(("listen", parse_address, config.listen))
    for name, parse, text in checks:
        try:
            parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if config.dead_seconds <= config.keepalive_seconds:
        problems.append("dead_seconds must be longer than keepalive_seconds, or every quiet peer is taken for dead")
    return problems


def network_identity(genesis: Mapping[str, Any]) -> NetworkIdentity:
    return NetworkIdentity(genesis["network"], genesis["hash"], PROTOCOL_MINIMUM, PROTOCOL_MAXIMUM)


@asynccontextmanager
async def open_nng(config: NngConfig, dependencies: Dependencies, environment: Environment) -> AsyncIterator[NngTransport]:
    try:
        from nodewright_nng.transport import NngTransport
    except ImportError as error:
        if error.name != "pynng":
            raise
        raise MissingDriver("pynng", "nng") from error

    problems = check_config(config)
    if problems:
        raise ConfigurationError(problems)
    path = Path(environment.data_dir, config.key_file or KEY_FILE)
    key = await environment.offload(load_or_create, path, environment.entropy)
    transport = NngTransport(
        key,
        network_identity(dependencies["genesis"]),
        environment,
        limits=config.limits(),
        allow=[parse_key(text) for text in config.allow],
        pair_ports=parse_ports(config.pair_ports),
        retry_most_seconds=config.retry_most_seconds,
    )
    async with transport.running(config.listen, config.peers):
        yield transport


@hookimpl
def register_transport() -> list[TransportSpec]:
    return [
        TransportSpec(
            name="nng",
            summary="Encrypted, authenticated peers behind one listening address (nng)",
            config=NngConfig,
            open=open_nng,
            provides=frozenset({TRANSPORT, "encrypted", "authenticated"}),
            check=check_config,
        )
    ]
