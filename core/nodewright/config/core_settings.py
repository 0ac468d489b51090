"""The tables of a profile that the core itself reads: ``[network] [genesis] [pool] [log] [node]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from nodewright.plugins.specs import setting

MIB = 1024 * 1024
NETWORK_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")


@attrs.frozen
class NetworkSettings:
    id: str = setting(help="Name of the network: peers and databases of another name are refused.")

    def __attrs_post_init__(self) -> None:
        if not NETWORK_ID.match(self.id):
            raise ValueError(f"id must be 1 to 32 of  a-z 0-9 -  and start with a letter or digit, not {self.id[:40]!r}")


@attrs.frozen
class GenesisSettings:
    """One of the two. ``file`` is relative to the profile that names it, and absolute once composed."""

    file: str | None = setting(None, help="Genesis file, as `nodewright genesis build` writes it.")
    document: Mapping[str, Any] | None = setting(None, help="The genesis document itself, as the execution defines it.")


@attrs.frozen
class PoolSettings:
    max_bytes: int = setting(256 * MIB, minimum=MIB, help="Bytes of pending transactions; above it the node is busy.")
    status_retention_seconds: int = setting(
        86_400, minimum=0, help="How long the final status of a transaction can be asked for."
    )


@attrs.frozen
class LogSettings:
    format: str = setting(
        "auto", choices=("auto", "console", "json"), help="`auto` is console on a terminal, JSON elsewhere."
    )
    level: str = setting("info", choices=("debug", "info", "warning", "error"), help="Least level that is logged.")


@attrs.frozen
class NodeSettings:
    name: str = setting("node", help="Name in logs and metrics; says nothing to peers.")
    shutdown_seconds: float = setting(
        10.0, minimum=0.1, maximum=600, help="How long a stopping node may take to finish the commit in flight."
    )
    events_keep: int = setting(
        100_000, minimum=1_000, maximum=10_000_000, help="Chain events kept for readers that fall behind."
    )


CORE_TABLES: dict[str, type[Any]] = {
    "network": NetworkSettings,
    "genesis": GenesisSettings,
    "pool": PoolSettings,
    "log": LogSettings,
    "node": NodeSettings,
}
