"""The settings of the consensus ``jolteon``. Rules of the network are in its genesis, not here."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting


@attrs.define
class JolteonConfig:
    validator: bool = setting(
        False, help="sign as a validator, with the key of the secret validator_key; off: it follows and signs nothing"
    )
    local_validator: int = setting(
        -1,
        help="on a local network: sign as validator number so many, whose key everybody knows; -1: as none of them",
        minimum=-1,
        maximum=255,
    )
    local_validators: int = setting(1, help="on a local network: how many validators it has", minimum=1, maximum=256)
    block_seconds: float = setting(0.05, help="between two blocks, at least", minimum=0.0, maximum=60)
    produce_empty: bool = setting(True, help="make blocks without transactions too; off, leaders wait for work")
    empty_seconds: float = setting(
        0.25, help="how long a leader waits for transactions before it makes an empty block", minimum=0.0, maximum=60
    )
    round_seconds: float = setting(
        1.0, help="a round is given up after this; 1.2 times as much after each, six times", minimum=0.05, maximum=600
    )
    batch_seconds: float = setting(0.05, help="between two batches of this node, at least", minimum=0.001, maximum=10)
    backlog: int = setting(
        36_000, help="while more transactions than this wait for their block, fewer are let in", minimum=1
    )
    min_rate: int = setting(160, help="transactions a second let into batches, at least", minimum=1)
    max_rate: int = setting(12_000, help="transactions a second let into batches, at most", minimum=1)
    request_timeout_seconds: float = setting(5.0, help="how long a peer has to answer", minimum=0.1, maximum=600)


def check(config: JolteonConfig) -> list[str]:
    problems = []
    if config.validator and config.local_validator >= 0:
        problems.append("validator and local_validator are both set: keep one")
    if config.min_rate > config.max_rate:
        problems.append("min_rate is more than max_rate")
    if config.block_seconds + (config.empty_seconds if config.produce_empty else 0.0) > config.round_seconds / 2:
        problems.append("block_seconds and empty_seconds together are more than half of round_seconds: rounds would fail")
    return problems
