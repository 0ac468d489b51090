"""What a profile says about an Aerospike server."""

from __future__ import annotations

import re

import attrs

from nodewright.plugins.specs import setting

MIB = 1024 * 1024
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,7}\Z")
MAX_STORE_NAME = 255


@attrs.define
class AerospikeConfig:
    host: str = setting("127.0.0.1", help="name or address of the server")
    port: int = setting(3000, help="service port of the server", minimum=1, maximum=65535)
    namespace: str = setting("nodewright", help="namespace of the server, with storage on a device or in a file")
    store: str = setting("", help="name of this store in the namespace; empty is the slot's name. One node for each name")
    sets: str = setting("nw", help="what the names of the server's sets begin with; stores may share them")
    path: str = setting("", help="folder of the journal; empty is the slot's own folder in the data directory")
    journal_mib: int = setting(16, help="MiB of one file of the journal", minimum=1, maximum=1024)
    pending_mib: int = setting(
        64, help="MiB of commits in memory that the server is not yet known to keep; beyond it commits wait", minimum=1
    )
    cache_mib: int = setting(64, help="MiB of transactions kept in memory, as a store of unspent outputs", minimum=1)
    index_keys: int = setting(
        10_000_000,
        help="keys that one table may have to be scanned in order (about 100 bytes of memory each)",
        minimum=1000,
    )
    batch_records: int = setting(1000, help="records in one request to the server", minimum=1, maximum=5000)
    writers: int = setting(2, help="requests that write at a time", minimum=1, maximum=8)
    retry_seconds: float = setting(
        30.0, help="how long a call is retried while the server is away before it fails", minimum=0.0, maximum=3600.0
    )
    timeout_seconds: float = setting(5.0, help="how long one request may take", minimum=0.1, maximum=600.0)
    close_seconds: float = setting(
        20.0, help="how long to wait at the end for the server to keep what is in the journal", minimum=0.0, maximum=3600.0
    )
    allow_volatile: bool = setting(
        False, help="accept a server that may lose acknowledged data (no device, no direct-files, several nodes)"
    )
    take_over: bool = setting(
        False,
        help="take the store from a node that did not stop cleanly and whose data directory is gone; what only its journal "
        "had is lost",
    )


def check_config(config: AerospikeConfig) -> list[str]:
    problems = []
    if not _PREFIX.match(config.sets):
        problems.append(f"sets = {config.sets!r} must match [a-z][a-z0-9]{{0,7}}: choose another")
    if len(config.store.encode()) > MAX_STORE_NAME:
        problems.append(f"store has more than {MAX_STORE_NAME} bytes: choose a shorter name")
    for name in ("host", "namespace"):
        if not getattr(config, name):
            problems.append(f"{name} is empty: give one")
    return problems
