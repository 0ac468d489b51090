"""One run of a workload after another, of several numbers of shards and partitioners, and what is shown of them all."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import trio

from nodewright.bench.progress import Progress
from nodewright.environment import NodeEnvironment, default_threads
from nodewright.errors import NodewrightError
from nodewright.kernels.switch import warm_up
from nodewright_aptos.bench import columns, objects
from nodewright_aptos.bench.plan import Plan
from nodewright_aptos.partition import KERNELS

SHARDED: Final = "sharded"

# Figure, its heading, and how it is shown.
COLUMNS: Final = (
    ("shards", "shards", "{:,}"),
    ("partitioner", "partitioner", "{}"),
    ("tps", "tx/s", "{:,.0f}"),
    ("cpu_us_per_tx", "CPU us/tx", "{:,.1f}"),
    ("p50_ms", "block ms", "{:,.0f}"),
    ("fanout", "fanout", "{:.3f}"),
    ("cross_shard_messages", "messages", "{:,}"),
    ("message_chain", "chain", "{:,.0f}"),
    ("imbalance", "imbalance", "{:.3f}"),
    ("stage_partition_seconds", "partition s", "{:.3f}"),
    ("lost", "lost", "{:,}"),
)


def executor_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Of ``--executor-set KEY=VALUE``, values as TOML has them, or else texts. Raises BadParameter."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is no KEY=VALUE", param_hint="--executor-set")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    return settings


def run_once(
    plan: Plan, by_columns: bool, shards: int | None, partitioner: str | None, environment: NodeEnvironment
) -> dict[str, Any]:
    """``shards`` and ``partitioner`` for the sharded executor alone. Raises NodewrightError."""
    columns.prepare()
    progress = Progress()
    told: dict[str, Any] = {}
    if plan.executor == SHARDED:
        reason = warm_up(KERNELS)
        if reason is not None:
            raise NodewrightError(f"{reason}; install nodewright[kernels] to run this benchmark")
        told = {"shards": shards, "partitioner": partitioner}
        plan.options = {**plan.options, **told}
    run = columns.run_columns if by_columns else objects.run_objects
    figures = trio.run(run, plan, environment, default_threads() - 2, progress)
    progress.end()
    return {**told, **figures}


def curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Transactions a second over shards, a curve for each partitioner."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        drawn.setdefault(run["partitioner"], []).append((run["shards"], run["tps"]))
    return drawn
