"""Settings of the service."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting
from nodewright.services.http import HttpSettings, check_settings


@attrs.define(kw_only=True)
class NearApiConfig(HttpSettings):
    listen: str = setting("127.0.0.1:3030", help="host:port to bind; port 0 picks a free one")
    max_body_bytes: int = setting(10 * 1024 * 1024, help="largest request body", minimum=1024, maximum=1024**3)
    wait_seconds: float = setting(
        10.0,
        help="how long send_tx, broadcast_tx_commit and tx wait for what they were asked for",
        minimum=0.1,
        maximum=600,
    )
    unknown_seconds: float = setting(
        2.0, help="how long tx waits for a transaction that nobody here has heard of", minimum=0, maximum=600
    )
    max_state_bytes: int = setting(50_000, help="larger contract states are not answered by view_state", minimum=0)
    sandbox: bool = setting(False, help="allow sandbox_patch_state and sandbox_fast_forward: never on a shared network")
    allowed_origins: list[str] = setting(
        attrs.Factory(list), help='web pages that may call this node, such as "http://localhost:3000", or "*" for all'
    )


def check(config: NearApiConfig) -> list[str]:
    problems = check_settings(config)
    for origin in config.allowed_origins:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            problems.append(f'allowed_origins: {origin!r} is no origin: write "http://host:port" or "*"')
    return problems
