"""The settings of the consensus ``nakamoto``."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting
from nodewright_nakamoto.subtree import MAX_LEAVES


@attrs.define
class NakamotoConfig:
    subtree_size: int = setting(
        MAX_LEAVES,
        help="leaves of a full subtree, a power of two; every subtree of a block but the last has this many",
        minimum=2,
        maximum=MAX_LEAVES,
    )
    announce_after_seconds: float = setting(
        1.0, help="announce transactions that wait in a subtree that is not full after this time", minimum=0.01, maximum=600
    )
    mine: bool = setting(False, help="mine with the built-in CPU miner (local networks)")
    mine_empty: bool = setting(True, help="mine blocks without transactions too")
    block_interval_seconds: float = setting(
        10.0, help="the built-in miner waits this long after a block before it looks for the next", minimum=0, maximum=86400
    )
    payout_script: str = setting(
        "", help="hexadecimal locking script that built blocks pay to; empty: the execution's own default"
    )
    coinbase_text: str = setting("nodewright", help="what the coinbases of built blocks say, at most 40 bytes of UTF-8")
    take_count: int = setting(4096, help="transactions taken from the pool at a time", minimum=1, maximum=1_000_000)
    max_unmined_bundles: int = setting(
        1024, help="stored subtrees that no block names, beyond which the oldest are dropped", minimum=8, maximum=1_000_000
    )
    max_subtree_data_bytes: int = setting(
        4 * 1024**3, help="largest total size of a subtree's transactions taken from a peer", minimum=1024
    )
    max_parallel_blocks: int = setting(4, help="blocks fetched side by side while catching up", minimum=1, maximum=64)
    request_timeout_seconds: float = setting(
        10.0, help="how long a peer has to answer a request or send the next piece", minimum=0.1, maximum=600
    )


def check(config: NakamotoConfig) -> list[str]:
    problems = []
    if config.subtree_size & (config.subtree_size - 1):
        problems.append(f"subtree_size must be a power of two, not {config.subtree_size}")
    try:
        bytes.fromhex(config.payout_script)
    except ValueError:
        problems.append("payout_script must be hexadecimal")
    if len(config.coinbase_text.encode()) > 40:
        problems.append("coinbase_text must have at most 40 bytes of UTF-8")
    return problems
