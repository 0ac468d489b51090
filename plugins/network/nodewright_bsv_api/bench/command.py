"""The command ``nodewright bench teranode``."""

from __future__ import annotations

from pathlib import Path

import click

from nodewright.bench.progress import Progress, settings_of
from nodewright.bench.report import table, write_json

EXPLAIN = {
    "submitted": "transactions posted",
    "accepted": "answered with success",
    "committed": "of those, in a block of the best chain at the end",
    "lost": "accepted and not committed: must be 0",
    "tps": "committed / seconds",
    "seconds": "from the first post until nothing was pending",
    "node_cpu_seconds": "CPU time of the node and its children in that time",
    "node_cpu_loading_seconds": "the part of it until the last answer",
    "accepted_per_second": "accepted / time from the first post to the last answer",
    "verify_us": "one correct libsecp256k1 check here, with all cores busy",
    "efficiency": "committed x verify_us / node_cpu_seconds",
    "p50_ms": "median time of one POST",
    "p95_ms": "95th percentile of it",
    "rss_mb": "peak resident memory of the node (MiB)",
    "busy": "times the node said busy, retry",
    "digest": "over the outputs: the same for one seed and count on every database",
}


@click.command(name="teranode")
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Transactions to send.")
@click.option(
    "--batch",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Transactions in one POST /txs; 1: POST /tx.",
)
@click.option(
    "--connections", default=4, show_default=True, type=click.IntRange(1, 64), help="Sockets of the load process."
)
@click.option(
    "--block-every",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Transactions after which a block is mined while loading; 0: at the end alone. A long run outgrows the pool else.",
)
@click.option("--seed", default=1, show_default=True, type=int, help="Keys, amounts and so the digest follow from it.")
@click.option("--profile", default="teranode", show_default=True, help="Profile name or TOML file.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Override one key of the profile (repeatable).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the node's data here (must be empty).")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def teranode(
    count: int,
    batch: int,
    connections: int,
    block_every: int,
    seed: int,
    profile: str,
    pairs: tuple[str, ...],
    data_dir: Path | None,
    json_file: Path | None,
) -> None:
    """Send pre-signed one-input two-output transactions to a node and account for every one of them.

    Starts a node of the profile on this machine, funds one key per transaction, signs everything beforehand, then posts
    batches from a process of their own and mines until nothing is pending.

    \b
    nodewright bench teranode --count 100000 --json out.json
    nodewright bench teranode --count 1000000 --block-every 100000
    nodewright bench teranode --count 5000 --batch 1 --connections 16
    nodewright bench teranode --set stores.utxo.use=memory
    """
    from nodewright_bsv_api.bench.run import Plan, run

    progress = Progress()
    plan = Plan(profile, count, batch, connections, seed, settings_of(pairs), data_dir, block_every)
    figures = run(plan, progress)
    progress.end()
    click.echo(table(f"bench teranode ({profile})", figures, EXPLAIN))
    if json_file is not None:
        write_json(json_file, figures)
    if figures["lost"]:
        raise click.ClickException(f"{figures['lost']} accepted transactions are in no block")
