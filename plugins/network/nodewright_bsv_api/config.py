"""Settings of the service. The JSON-RPC password is no setting: it comes from the environment or a file (see rpc_auth)."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting
from nodewright.services.http import HttpSettings


@attrs.define(kw_only=True)
class BsvApiConfig(HttpSettings):
    listen: str = setting("127.0.0.1:8833", help="host:port to bind; port 0 picks a free one")
    max_tx_bytes: int = setting(32 * 1024 * 1024, help="largest single transaction in POST /tx", minimum=1000)
    max_batch_count: int = setting(1024, help="most transactions in one POST /txs", minimum=1, maximum=65536)
    max_batch_bytes: int = setting(32 * 1024 * 1024, help="largest POST /txs body", minimum=1000)
    max_rpc_bytes: int = setting(64 * 1024 * 1024, help="largest JSON-RPC body", minimum=1000)
    rpc_user: str = setting(
        "",
        help="JSON-RPC user; its password is NODEWRIGHT_BSV_API_RPC_PASSWORD or secrets/bsv_api_rpc_password. "
        "Empty: a random pair in <data-dir>/.cookie",
    )
    rpc_password: str = setting("", help="never in the profile: see rpc_user", secret=True)
