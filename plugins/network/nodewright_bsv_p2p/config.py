"""What an operator may set for the service ``bsv_p2p``."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting

MIB = 1024 * 1024


@attrs.define
class BsvP2pConfig:
    listen: str = setting("127.0.0.1:18444", help="host:port for nodes that dial; port 0 picks a free one; empty: none may")
    connect: list[str] = setting(factory=list, help="host:port of nodes to dial and keep")
    max_inbound: int = setting(32, help="nodes that dialled, at once", minimum=0, maximum=1024)
    max_inbound_per_host: int = setting(8, help="of them from one address", minimum=1, maximum=1024)
    max_block_mib: int = setting(1024, help="largest block taken or sent, in MiB", minimum=1, maximum=65536)
    max_tx_mib: int = setting(32, help="largest transaction taken, in MiB", minimum=1, maximum=1024)
    handshake_seconds: float = setting(10.0, help="until a node must have introduced itself", minimum=0.1)
    stall_seconds: float = setting(
        20.0, help="a node that is asked for blocks and sends nothing this long gives way to another", minimum=0.1
    )
    idle_seconds: float = setting(600.0, help="without a word (it is pinged before) a node is gone", minimum=1.0)
    send_seconds: float = setting(60.0, help="a node that takes nothing off us this long is gone", minimum=0.1)
    ban_seconds: float = setting(3600.0, help="for which an address that reached 100 points is refused", minimum=0.0)
    retry_most_seconds: float = setting(30.0, help="between two attempts at a node, at most", minimum=0.1)
    relay: bool = setting(True, help="take and pass on transactions, not only blocks")


def parse_address(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"{text!r} is no address: write host:port")
    return host, int(port)


def check(config: BsvP2pConfig) -> list[str]:
    problems = []
    for name, addresses in (("listen", [config.listen] if config.listen else []), ("connect", config.connect)):
        for address in addresses:
            try:
                parse_address(address)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return problems
