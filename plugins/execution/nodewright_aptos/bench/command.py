"""The command ``nodewright bench aptos``."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import attrs
import click

from nodewright.bench.progress import Progress, settings_of
from nodewright.bench.report import table, write_json
from nodewright_aptos.executors import EXECUTORS

BY_COLUMNS = ("columnar", "block-stm")
WORKLOADS = ("non-conflicting", "conflicting", "transfers")

EXPLAIN = {
    "submitted": "transactions",
    "accepted": "the same: none is refused at a door here",
    "committed": "of those, executed and kept",
    "lost": "refused or to be ordered again: must be 0",
    "seconds": "of all blocks; drawing them is not counted",
    "tps": "committed / seconds",
    "node_cpu_seconds": "CPU time of this process in that time (of its children too, where an executor has some)",
    "cpu_us_per_tx": "CPU time of one",
    "tps_per_cpu_second": "committed / node_cpu_seconds: what one core free of other work would do",
    "verify_us": "one correct Ed25519 check here, with all cores busy: none is in these figures",
    "sha3_per_second": "hashes of tree nodes that one core does here, now",
    "efficiency": "committed x verify_us / node_cpu_seconds: times cheaper than a check",
    "p50_ms": "median time of one block",
    "p95_ms": "95th percentile of it",
    "rss_mb": "peak resident memory (MiB)",
    "blocks": "",
    "block_size": "transactions a block",
    "digest": "the last root, or over the results: the same for one seed and size with every executor of its kind",
    "disk_bytes_per_tx": "given to the store for each",
    "supply": "octas that are left",
    "shards": "",
    "partitioner": "",
    "fanout": "executor shards that touch a state key, mean over keys that two senders or more touch",
    "cross_shard_messages": "values sent from one shard to another, in all blocks",
    "message_chain": "of those of a block, how many wait for each other at most",
    "executions_per_tx": "incarnations that ran to their end",
    "aborts_per_tx": "of those, taken back because they had read something else than they should have",
    "suspensions_per_tx": "that waited for another's result",
    "in_kernel": "part of the transactions that Block-STM's kernel ran",
    "imbalance": "transactions of the largest shard / mean",
    "stage_partition_seconds": "dividing and ordering blocks, and planning messages",
}


def includes(workload: str, executor: str, root: bool, state: str, state_keys: int) -> dict[str, str]:
    """What the figures include, for the table and the JSON."""
    columns = executor in BY_COLUMNS
    return {
        "signatures": "not checked: transactions come as checked",
        "lookup": "every 32-byte address is looked up in a table" if columns else "by state key",
        "state_keys_per_account": str(state_keys if columns else 2),
        "state_root": "the Jellyfish Merkle root of every block" if root else "none",
        "events": "made as columns of numbers, not hashed" if columns else "made as objects, not hashed",
        "transaction_info": "not made, not hashed",
        "disk": f"state, root and marker of every block, synced, in {state}; no transaction bodies"
        if state != "memory"
        else "none: state in memory",
    }


def _counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Numbers of shards, each once. Raises BadParameter."""
    words = [] if value is None else value.split(",")
    if not all(word.isdecimal() and 1 <= int(word) <= 256 for word in words):
        raise click.BadParameter(f"{value!r} is not a number from 1 to 256, or several with commas between")
    return tuple(dict.fromkeys(map(int, words)))


@click.command(name="aptos")
@click.option("--workload", type=click.Choice(WORKLOADS), default="non-conflicting", show_default=True)
@click.option("--blocks", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Blocks to run.")
@click.option(
    "--block-size", default=500_000, show_default=True, type=click.IntRange(1, 4_000_000), help="Transactions each."
)
@click.option(
    "--accounts",
    default=2_000_000,
    show_default=True,
    type=click.IntRange(2, 20_000_000),
    help="Accounts; users, of the conflicting workload, are a twentieth of it.",
)
@click.option(
    "--executor", default="columnar", show_default=True, type=click.Choice(list(EXECUTORS)), help="What executes blocks."
)
@click.option("--objects", is_flag=True, help="columnar and block-stm as a node runs them, on one object a transaction.")
@click.option("--root/--no-root", default=False, show_default=True, help="The state's root of every block.")
@click.option("--state", default="memory", show_default=True, help="memory, or the key-value store for every block.")
@click.option(
    "--state-keys",
    default=2,
    show_default=True,
    type=click.IntRange(1, 2),
    help="Values an account has in the tree: 2 as in a node, or 1 of sequence number and balance.",
)
@click.option("--inside", type=click.FloatRange(0, 1), help="Part of conflicting payments within the user's own cluster.")
@click.option("--shards", metavar="N,N,...", callback=_counts, help="Executor shards; of several numbers, each in turn.")
@click.option("--partitioner", help="Who divides blocks among them: fanout, components, round-robin, or all in turn.")
@click.option(
    "--executor-set", "executor_pairs", multiple=True, metavar="KEY=VALUE", help="A setting of the executor (repeatable)."
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw throughput over shards, as FILE.svg.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Threads that hash.")
@click.option("--seed", default=1, show_default=True, type=int, help="Accounts and blocks follow from it.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting of the store (repeatable).")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where the store is put.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def aptos(
    workload: str,
    blocks: int,
    block_size: int,
    accounts: int,
    executor: str,
    objects: bool,
    root: bool,
    state: str,
    state_keys: int,
    inside: float | None,
    shards: tuple[int, ...],
    partitioner: str | None,
    executor_pairs: tuple[str, ...],
    plot: Path | None,
    workers: int,
    seed: int,
    pairs: tuple[str, ...],
    folder: Path | None,
    json_file: Path | None,
) -> None:
    """Execute blocks of a workload and say what a transaction costs, and what of a node is in that figure.

    The defaults are the published sizes: 50 blocks of 500,000 transactions, 2,000,000 accounts (100,000 users and 400
    clusters of 5 resources for the conflicting workload). Executors that take one object a transaction want smaller ones.

    With --executor sharded each block is divided among --shards by --partitioner and executed there. With another executor
    these two are compared without anything being executed: --partitioner says which, all unless it is given.

    With --executor block-stm a table of transactions is run by --workers threads; --executor-set burden=N makes every
    execution heavier by N rounds of arithmetic (with columnar too), for there is little to win with lighter ones.

    \b
    nodewright bench aptos --root --json out.json
    nodewright bench aptos --root --state leveldb --blocks 10
    nodewright bench aptos --workload conflicting --executor sequential --blocks 2 --block-size 20000 --accounts 200000
    nodewright bench aptos --workload conflicting --partitioner all --shards 2,4,8,30 --blocks 3
    nodewright bench aptos --workload conflicting --executor sharded --shards 1,2 --block-size 10000 --plot out.svg
    """
    from nodewright import logging
    from nodewright.environment import NodeEnvironment

    try:
        from nodewright_aptos.bench import partitions, runs, workloads
        from nodewright_aptos.bench import plan as plans
        from nodewright_aptos.bench.plot import write_svg
    except ImportError as error:
        raise click.ClickException(f"{error}; install nodewright[kernels] to run this benchmark") from error

    by_columns = executor in BY_COLUMNS and not objects
    if state != "memory" and not by_columns:
        raise click.BadParameter(
            f"a durable state is measured with --executor {' or '.join(BY_COLUMNS)} alone", param_hint="--state"
        )
    if state != "memory":
        root = True
        if state_keys != 2:
            raise click.BadParameter("a durable state is a node's: two values an account", param_hint="--state-keys")
    if workload == "non-conflicting" and block_size > accounts:
        raise click.BadParameter("each transaction of a block is of another account", param_hint="--block-size")
    if plot is not None and (plot.suffix != ".svg" or executor != runs.SHARDED):
        raise click.BadParameter("it draws --executor sharded, into a file that ends in .svg", param_hint="--plot")
    sizes = workloads.Sizes(block=block_size, accounts=accounts, users=max(accounts // 20, 400))
    if inside is not None:
        sizes.inside = inside
    title = f"bench aptos: {workloads.explain(workload, sizes)[0]}"
    told: dict[str, Any] = {"workload": workload, "executor": executor}
    with tempfile.TemporaryDirectory(prefix="nodewright-bench-", dir=folder) as scratch:
        plan = plans.Plan(
            workload,
            sizes,
            blocks,
            executor,
            state,
            root,
            state_keys,
            seed,
            workers,
            Path(scratch),
            settings_of(pairs),
            runs.executor_settings(executor_pairs),
        )
        progress = Progress()
        if executor != runs.SHARDED and (shards or partitioner is not None):
            rows = partitions.run_partitions(plan, shards or (2,), partitions.chosen(partitioner or "all"), progress)
            progress.end()
            click.echo("\n".join([title, *partitions.lines(rows, partitions.COLUMNS), *partitions.EXPLAIN]))
            if json_file is not None:
                sized = {"block_size": block_size, "users": sizes.users, "inside": sizes.inside, "blocks": blocks}
                write_json(json_file, {"workload": workload, **sized, "partitions": rows})
            return
        environment = NodeEnvironment("bench", Path(scratch), logging.configure("bench", "console", "error"))
        in_shards = executor == runs.SHARDED
        wanted: list[tuple[int | None, str | None]] = [(None, None)]
        if in_shards:
            wanted = list(itertools.product(shards or (2,), partitions.chosen(partitioner)))
        included = includes(workload, executor if by_columns else "objects", root, state, state_keys)
        all_figures = [
            {**told, **runs.run_once(attrs.evolve(plan), by_columns, count, name, environment), **included}
            for count, name in wanted
        ]
    if len(all_figures) == 1:
        click.echo(table(title, all_figures[0], EXPLAIN))
    else:
        click.echo("\n".join([title, *partitions.lines(all_figures, runs.COLUMNS)]))
    if plot is not None:
        write_svg(
            plot,
            f"{workload}, {block_size:,} a block",
            "executor shards",
            "transactions a second",
            runs.curves(all_figures),
        )
    if json_file is not None:
        write_json(json_file, all_figures[0] if len(all_figures) == 1 else {**told, "runs": all_figures})
    lost = sum(figures["lost"] for figures in all_figures)
    if lost:
        raise click.ClickException(f"{lost} transactions were not kept")
