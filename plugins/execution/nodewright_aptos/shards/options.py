"""Settings of the sharded executor (``execution.executor_options``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from nodewright_aptos.shards.peers import key_of
from nodewright_aptos.shards.server import EXECUTORS

LOCAL: Final = "local"
RAY: Final = "ray"
BY_SENDER: Final = "senders"
PARTITIONERS: Final = ("fanout", "components", "round-robin", BY_SENDER)
MAX_SHARDS: Final = 256


@define
class Options:
    """``shards``: for each one ``local`` (a process that this node starts), ``ray`` (an actor of the cluster at
    ``ray_address``) or KEY@host:port; a number is as many local.
    ``micro_batch`` transactions are sent at once, ``window`` micro-batches without their results. Runs of fewer than
    ``least`` transactions are not divided. Silence is suffered for ``silent_seconds``, and a shard that could go on and has
    no result for ``stuck_seconds`` loses its part; at its start a node waits for its shards no longer than
    ``wait_seconds``."""

    shards: list[str] = field(factory=lambda: [LOCAL, LOCAL])
    partitioner: str = "fanout"
    shard_executor: str = "sequential"
    micro_batch: int = 200
    window: int = 4
    least: int = 200
    silent_seconds: float = 30.0
    stuck_seconds: float = 300.0
    wait_seconds: float = 30.0
    transport: str = "nng"
    ray_address: str = ""


_BOUNDS: Final = {
    "micro_batch": (1, 4096),
    "window": (1, 64),
    "least": (1, 1 << 30),
    "silent_seconds": (1, 3600),
    "stuck_seconds": (1, 86400),
    "wait_seconds": (0, 3600),
}


def read_options(options: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """And what is wrong with them, a sentence each."""
    read, problems = Options(), []
    for name, value in options.items():
        if name == "shards":
            value = [LOCAL] * value if isinstance(value, int) and 0 < value <= MAX_SHARDS else value
            problems += _shard_problems(value)
        elif name == "partitioner" and value not in PARTITIONERS:
            problems.append(f"partitioner {value!r} is not one of {', '.join(PARTITIONERS)}")
        elif name == "shard_executor" and value not in EXECUTORS:
            problems.append(f"shard_executor {value!r} is not one of {', '.join(EXECUTORS)}")
        elif name in _BOUNDS:
            least, most = _BOUNDS[name]
            whole = not name.endswith("_seconds")
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else (int, float))
                or not least <= value <= most
            ):
                problems.append(f"{name} must be a number from {least} to {most}")
        elif name in ("transport", "ray_address") and not isinstance(value, str):
            problems.append(f"{name} must be a text")
        elif not hasattr(read, name):
            problems.append(f"the sharded executor has no setting {name!r}: see docs/shards.md")
            continue
        setattr(read, name, value)
    return read, problems


def _shard_problems(value: Any) -> list[str]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_SHARDS or not all([isinstance(one, str) for one in value]):
        return [f'shards must be a list of 1 to {MAX_SHARDS}, such as ["local", "KEY@host:port"], or a number']
    problems = []
    keys = set()
    for one in value:
        if one in (LOCAL, RAY):
            continue
        try:
            key = key_of(one)
        except ValueError as error:
            problems.append(str(error))
        else:
            if key in keys:
                problems.append(f"shards names {one!r} twice: each machine's shard has a key of its own")
            keys.add(key)
    return problems
