"""The settings of the consensus ``nightshade``. Rules of the network are in its genesis, not here."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting

MIN_KEPT = 4


@attrs.define
class NightshadeConfig:
    validator: str = setting("", help="account that this node signs for; empty: it follows and signs nothing")
    local_validator: int = setting(
        -1,
        help="on a local network: sign as validator number so many, whose key everybody knows; -1: as none of them",
        minimum=-1,
        maximum=255,
    )
    local_validators: int = setting(1, help="on a local network: how many validators it has", minimum=1, maximum=256)
    shards: int = setting(1, help="on a local network: into how many shards accounts are split", minimum=1, maximum=256)
    track: str = setting(
        "all",
        help="of which shards this node is to hold the state: all, or those that it makes chunks for (assigned), while the "
        "others are checked from witnesses; execution.kept has to name them",
    )
    state_sync_epochs: int = setting(
        3, help="this many epochs behind, a node fetches the state of its shards and runs what follows; 0: never", minimum=0
    )
    keep_epochs: int = setting(
        0,
        help="bodies of chunks and what they came to are kept of so many epochs, older ones deleted; 0: all are kept; who "
        "is further behind needs state_sync_epochs",
        minimum=0,
    )
    endorsement_seconds: float = setting(0.6, help="a tip is endorsed this long after it came", minimum=0.0, maximum=60)
    min_delay_seconds: float = setting(1.8, help="a height is skipped after this at the earliest", minimum=0.05, maximum=60)
    delay_step_seconds: float = setting(0.18, help="added for each height without finality", minimum=0.0, maximum=60)
    max_delay_seconds: float = setting(6.0, help="a height is skipped after this at the latest", minimum=0.05, maximum=600)
    produce_empty: bool = setting(True, help="make blocks without transactions too; off, a lone producer waits for work")
    max_chunk_transactions: int = setting(10_000, help="transactions of one chunk at most", minimum=1, maximum=131_072)
    early_prepare_transactions: bool = setting(
        True, help="choose the next chunk's transactions as soon as the state it stands on is known, not when it is made"
    )
    decoded_cache: bool = setting(
        True, help="keep blocks, headers, chunks and results as they were read last; passed by while they are written"
    )
    own_tasks: bool = setting(
        True, help="witnesses and endorsements are worked on in tasks of their own, beside the making of chunks and blocks"
    )
    save_untracked_partial_chunks_parts: bool = setting(
        True, help="keep whole bodies of chunks of shards whose state is not kept here; off: only what reached this node's"
    )
    request_timeout_seconds: float = setting(10.0, help="how long a peer has to answer", minimum=0.1, maximum=600)


def check(config: NightshadeConfig) -> list[str]:
    if config.validator and config.local_validator >= 0:
        return ["validator and local_validator are both set: keep one"]
    if config.track not in ("all", "assigned"):
        return [f"track is all or assigned, not {config.track!r}"]
    if 0 < config.keep_epochs < MIN_KEPT or 0 < config.keep_epochs <= config.state_sync_epochs:
        least = max(MIN_KEPT, config.state_sync_epochs + 1)
        return [f"keep_epochs is 0 (all) or at least {least}: others may need what the last epochs brought"]
    if config.min_delay_seconds > config.max_delay_seconds:
        return ["min_delay_seconds is more than max_delay_seconds"]
    return []
