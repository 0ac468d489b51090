"""Settings of the service ``near_load``."""

from __future__ import annotations

import attrs

from nodewright.plugins.specs import setting


@attrs.define
class LoadConfig:
    count: int = setting(
        20_000, help="transfers to draw; each part signs and sends its share", minimum=1, maximum=100_000_000
    )
    seed: int = setting(1, help="the draws follow from it", minimum=0)
    part: int = setting(0, help="which part of the senders this node sends for (from 0)", minimum=0, maximum=1023)
    parts: int = setting(1, help="into how many parts the senders are split, one for each node that sends", minimum=1)
    batch: int = setting(1000, help="transfers handed to the pool at once", minimum=1, maximum=4096)
    streams: int = setting(4, help="batches handed over at the same time; each sender keeps to one", minimum=1, maximum=64)
    start: str = setting(
        "ready",
        help="ready: as soon as all are signed; file: once a file named go is in the service's folder",
        choices=("ready", "file"),
    )
    rate: float = setting(2000.0, help="transfers a second at the end of the ramp", minimum=1.0, maximum=10_000_000.0)
    ramp_seconds: float = setting(3.0, help="the rate grows evenly for this long", minimum=0.0, maximum=3600.0)
    target_block_seconds: float = setting(
        1.5,
        help="the time between blocks that the rate is then held to; 0: as fast as they are taken",
        minimum=0.0,
        maximum=60,
    )
    window: int = setting(6, help="blocks whose mean time is held", minimum=1, maximum=1000)
    proportional: float = setting(75.0, help="transfers a second for each second of error")
    integral: float = setting(0.0, help="the same for the sum of errors over blocks")
    derivative: float = setting(0.0, help="the same for the change of the error from block to block")
    max_waiting: int = setting(
        10_000,
        help="none is sent while the pool holds more: a chunk has room for some 2,200",
        minimum=1,
        maximum=10_000_000,
    )


def check(config: LoadConfig) -> list[str]:
    if config.part >= config.parts:
        return [f"part = {config.part}: the parts are numbered from 0 to {config.parts - 1}"]
    if config.max_waiting < config.batch:
        return [f"max_waiting = {config.max_waiting} has no room for a batch of {config.batch}"]
    return []
