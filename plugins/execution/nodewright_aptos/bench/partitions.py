"""Partitioners on the blocks of a workload: what each costs and what it saves. Nothing is executed.

An account is one key here, whatever resources it has: its sender touches it, and who pays to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import numpy as np

from nodewright.errors import NodewrightError
from nodewright.kernels.switch import warm_up
from nodewright_aptos.bench import workloads
from nodewright_aptos.bench.plan import Plan, Progress
from nodewright_aptos.partition import KERNELS, PARTITIONERS, Access, figures, partition
from nodewright_aptos.partition.measures import LATENCY

Array = Any

# Column, its heading, and how a figure is shown.
COLUMNS = (
    ("shards", "shards", "{:,}"),
    ("partitioner", "partitioner", "{}"),
    ("fanout", "fanout", "{:.3f}"),
    ("cross_shard_messages", "messages", "{:,.0f}"),
    ("message_chain", "chain", "{:,.0f}"),
    ("span", "span", "{:.2f}"),
    ("imbalance", "imbalance", "{:.3f}"),
    ("rounds", "rounds", "{:,.0f}"),
    ("last_round", "last round", "{:,.0f}"),
    ("partition_cpu_us_per_tx", "CPU us/tx", "{:.3f}"),
)
EXPLAIN = (
    "fanout: shards that an account is touched in, mean over those that two senders or more touch; messages: values that",
    "one shard must send another, of a block; chain: how many of them wait for each other at most; span: how long a block",
    f"would take, over that without any waiting and all shards even, if a message took as long as {LATENCY} transactions;",
    "imbalance: transactions of the largest shard / mean; last round: transactions left to the last of several rounds;",
    "CPU: of dividing and ordering.",
)


def access_of(senders: Array, recipients: Array) -> Access:
    """Columns of payments between accounts by number; a recipient of -1 is none."""
    own, count = first_come(senders)
    paid = recipients >= 0
    lengths = np.ones(len(senders), np.int64) + paid
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    keys = np.empty(starts[-1], np.int64)
    keys[starts[:-1]] = senders
    keys[starts[1:][paid] - 1] = recipients[paid]
    keys, key_count = first_come(keys)
    twice = np.flatnonzero(paid & (senders == recipients))
    if len(twice):  # who pays to oneself touches one account
        keys = np.delete(keys, starts[twice + 1] - 1)
        lengths[twice] = 1
        starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Access(own, starts, keys, starts, keys, count, key_count)


def first_come(values: Array) -> tuple[Array, int]:
    """Numbers from 0 in place of values, in the order in which these come; and how many there are."""
    found, first, places = np.unique(values, return_index=True, return_inverse=True)
    numbers = np.empty(len(found), np.int64)
    numbers[np.argsort(first)] = np.arange(len(found))
    return numbers[places], len(found)


def chosen(name: str | None) -> list[str]:
    """``all``, or one. Raises BadParameter."""
    if name == "all":
        return list(PARTITIONERS)
    if name is not None and name not in PARTITIONERS:
        raise click.BadParameter(f"there are {', '.join(PARTITIONERS)}, and all", param_hint="--partitioner")
    return [name or "fanout"]


def run_partitions(plan: Plan, shards: Sequence[int], names: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """One row for each number of shards and partitioner: means over the plan's blocks, the same blocks for each. Raises
    NodewrightError where there are no kernels."""
    reason = warm_up(KERNELS)
    if reason is not None:
        raise NodewrightError(f"{reason}; install nodewright[kernels] to run this benchmark")
    workload = workloads.make(plan.workload, plan.sizes, plan.seed)
    rows: dict[tuple[int, str], list[dict[str, float]]] = {(count, name): [] for count in shards for name in names}
    for number in range(plan.blocks):
        _, senders, recipients = workload.block()
        access = access_of(senders, recipients)
        for (count, name), found in rows.items():
            began = time.thread_time()
            made = partition(access, count, name, plan.seed)
            spent = time.thread_time() - began
            found.append({**figures(access, made), "partition_cpu_us_per_tx": spent / max(len(access), 1) * 1e6})
        progress("blocks", number + 1, plan.blocks)
    return [
        {
            "shards": count,
            "partitioner": name,
            **{figure: sum(one[figure] for one in found) / len(found) for figure in found[0]},
        }
        for (count, name), found in rows.items()
    ]


def lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A table with one line for each row; a figure that a row has not is left out."""
    cells = [[heading for _, heading, _ in columns]]
    cells += [[shape.format(row[name]) if name in row else "" for name, _, shape in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
