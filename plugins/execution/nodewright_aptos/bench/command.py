"""The command ``nodewright bench aptos``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from nodewright.bench.progress import Progress, settings_of
from nodewright.bench.report import table, write_json

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
    "fanout": "executor shards that a state key is touched by, mean over keys",
    "cross_shard_messages": "values sent from one shard to another",
    "imbalance": "transactions of the largest shard / mean",
}


def includes(workload: str, executor: str, root: bool, state: str, state_keys: int) -> dict[str, str]:
    """What the figures include, for the table and the JSON."""
    columns = executor == "columnar"
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
@click.option("--executor", default="columnar", show_default=True, help="sequential, columnar, block-stm, sharded.")
@click.option("--objects", is_flag=True, help="The columnar executor as a node runs it, on one object a transaction.")
@click.option("--root/--no-root", default=False, show_default=True, help="The state's root of every block.")
@click.option("--state", default="memory", show_default=True, help="memory, or the key-value store for every block.")
@click.option(
    "--state-keys",
    default=2,
    show_default=True,
    type=click.IntRange(1, 2),
    help="Values an account has in the tree: 2 as in a node, or 1 of sequence number and balance.",
)
@click.option("--shards", type=click.IntRange(1, 256), help="Executor shards, where the executor has any.")
@click.option("--partitioner", help="How they are given transactions, where the executor can choose.")
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
    shards: int | None,
    partitioner: str | None,
    workers: int,
    seed: int,
    pairs: tuple[str, ...],
    folder: Path | None,
    json_file: Path | None,
) -> None:
    """Execute blocks of a workload and say what a transaction costs, and what of a node is in that figure.

    The defaults are the published sizes: 50 blocks of 500,000 transactions, 2,000,000 accounts (100,000 users and 400
    clusters of 5 resources for the conflicting workload). Executors that take one object a transaction want smaller ones.

    \b
    nodewright bench aptos --root --json out.json
    nodewright bench aptos --root --state leveldb --blocks 10
    nodewright bench aptos --workload conflicting --executor sequential --blocks 2 --block-size 20000 --accounts 200000
    """
    import trio

    from nodewright import logging
    from nodewright.environment import NodeEnvironment, default_threads

    try:
        from nodewright_aptos.bench import columns, workloads
        from nodewright_aptos.bench import plan as plans
        from nodewright_aptos.bench.objects import run_objects
    except ImportError as error:
        raise click.ClickException(f"{error}; install nodewright[kernels] to run this benchmark") from error

    by_columns = executor == "columnar" and not objects
    if state != "memory" and not by_columns:
        raise click.BadParameter("a durable state is measured with --executor columnar alone", param_hint="--state")
    if state != "memory":
        root = True
        if state_keys != 2:
            raise click.BadParameter("a durable state is a node's: two values an account", param_hint="--state-keys")
    if workload == "non-conflicting" and block_size > accounts:
        raise click.BadParameter("each transaction of a block is of another account", param_hint="--block-size")
    sizes = workloads.Sizes(block=block_size, accounts=accounts, users=max(accounts // 20, 400))
    options: dict[str, Any] = {"shards": shards, "partitioner": partitioner}
    cores = default_threads() - 2
    columns.prepare()
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
            {name: value for name, value in options.items() if value is not None},
        )
        environment = NodeEnvironment("bench", Path(scratch), logging.configure("bench", "console", "error"))
        progress = Progress()
        run = columns.run_columns if by_columns else run_objects
        figures = trio.run(run, plan, environment, cores, progress)
        progress.end()
    told = includes(workload, executor if by_columns else "objects", root, state, state_keys)
    figures = {"workload": workload, "executor": executor, **figures, **told}
    click.echo(table(f"bench aptos: {workloads.explain(workload, sizes)[0]}", figures, EXPLAIN))
    if json_file is not None:
        write_json(json_file, figures)
    if figures["lost"]:
        raise click.ClickException(f"{figures['lost']} transactions were not kept")
