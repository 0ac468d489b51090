"""Settings of the services ``aptos_api`` and ``faucet``."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting
from nodewright.services.http import HttpSettings, check_settings


@attrs.define(kw_only=True)
class AptosApiConfig(HttpSettings):
    listen: str = setting("127.0.0.1:8080", help="host:port to bind; port 0 picks a free one")
    max_body_bytes: int = setting(8 * 1024 * 1024, help="largest request body", minimum=1024, maximum=1024**3)
    page_size: int = setting(100, help="transactions in one answer, at most", minimum=1, maximum=100)
    max_resources: int = setting(1000, help="resources in one answer, at most", minimum=1, maximum=9999)
    max_batch: int = setting(100, help="transactions in one POST /transactions/batch, at most", minimum=1, maximum=10_000)
    wait_seconds: float = setting(1.0, help="how long wait_by_hash waits for a transaction", minimum=0, maximum=60)
    max_streams: int = setting(32, help="readers of /v1/transactions/stream at once; others are told 503", minimum=0)
    max_streams_per_client: int = setting(8, help="of them per client address", minimum=0)
    allowed_origins: list[str] = setting(
        attrs.Factory(lambda: ["*"]), help='web pages that may call this node, such as "http://localhost:3000"; "*" for all'
    )


@attrs.define(kw_only=True)
class FaucetConfig(HttpSettings):
    listen: str = setting("127.0.0.1:8081", help="host:port to bind; port 0 picks a free one")
    max_body_bytes: int = setting(16 * 1024, help="largest request body", minimum=1024, maximum=1024**3)
    max_octas: int = setting(100_000_000_000, help="octas given in one request, at most", minimum=0)
    wait_seconds: float = setting(
        20.0,
        help="how long a request waits until its transaction is committed; it is answered then in any case",
        minimum=0.1,
    )
    allowed_origins: list[str] = setting(
        attrs.Factory(lambda: ["*"]), help='web pages that may call it, such as "http://localhost:3000"; "*" for all'
    )


def check(config: AptosApiConfig | FaucetConfig) -> list[str]:
    problems = check_settings(config)
    for origin in config.allowed_origins:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            problems.append(f'allowed_origins: {origin!r} is no origin: write "http://host:port" or "*"')
    return problems
