"""The command ``nodewright bench near``."""

from __future__ import annotations

from pathlib import Path

import click

from nodewright.bench.progress import Progress, settings_of
from nodewright.bench.report import table, write_json

EXPLAIN = {
    "submitted": "transfers posted",
    "accepted": "answered with success",
    "committed": "of those, in final chunks, and run",
    "lost": "accepted and not committed: must be 0",
    "tps": "committed / seconds",
    "seconds": "from the first post until the last receipt had run in a final block",
    "node_cpu_seconds": "CPU time of the node and its children in that time",
    "node_cpu_loading_seconds": "the part of it until the last answer",
    "accepted_per_second": "accepted / time from the first post to the last answer",
    "verify_us": "one correct Ed25519 check by libsodium here, with all cores busy",
    "efficiency": "committed x verify_us / node_cpu_seconds",
    "p50_ms": "median time of one POST",
    "p95_ms": "95th percentile of it",
    "rss_mb": "peak resident memory of the node (MiB)",
    "busy": "times the node said busy, retry",
    "blocks": "that became final in that time",
    "block_p50_ms": "median time from one block to the next",
    "block_p95_ms": "95th percentile of it",
    "missed_chunks": "places for a chunk in these blocks that stayed empty",
    "digest": "state root of each shard at the end: the same for one seed, count, shards and accounts",
}


@click.command(name="near")
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Transfers to send.")
@click.option("--shards", default=1, show_default=True, type=click.IntRange(1, 256), help="Shards of the network.")
@click.option(
    "--accounts", default=20_000, show_default=True, type=click.IntRange(2, 350_000), help="Accounts, each with one key."
)
@click.option("--batch", default=1000, show_default=True, type=click.IntRange(1, 4096), help="Transfers in one POST /txs.")
@click.option(
    "--connections", default=4, show_default=True, type=click.IntRange(1, 64), help="Sockets of the load process."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Keys and draws, and so the digest, follow from it.")
@click.option("--profile", default="near", show_default=True, help="Profile name or TOML file.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Override one key of the profile (repeatable).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the node's data here (must be empty).")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def near(
    count: int,
    shards: int,
    accounts: int,
    batch: int,
    connections: int,
    seed: int,
    profile: str,
    pairs: tuple[str, ...],
    data_dir: Path | None,
    json_file: Path | None,
) -> None:
    """Send pre-signed transfers of one yoctoNEAR to a node and account for every one of them.

    Starts a lone validator of a local network that holds all shards, with the accounts in its genesis, and signs everything
    beforehand. Senders and receivers are drawn by Zipf-Mandelbrot (shift 2.7, exponent 1). A process of its own posts them
    over sockets, as fast as they are answered; what is measured ends when the last receipt has run in a final block.

    Included: HTTP, every signature checked, the pool's journal, chunks and blocks made and signed, execution, outcomes, the
    stores of the profile. Not included: peers, witnesses, a load that is held to a block time.

    \b
    nodewright bench near --count 100000 --json out.json
    nodewright bench near --shards 4 --accounts 100000
    nodewright bench near --set execution.save_tx_outcomes=false
    """
    from nodewright_near_api.bench.run import Plan, run

    progress = Progress()
    plan = Plan(profile, count, shards, accounts, batch, connections, seed, settings_of(pairs), data_dir)
    figures = run(plan, progress)
    progress.end()
    click.echo(table(f"bench near ({profile})", figures, EXPLAIN))
    if json_file is not None:
        write_json(json_file, figures)
    if figures["lost"]:
        raise click.ClickException(f"{figures['lost']} accepted transfers have not run in a final block")
