"""The command ``nodewright bench near``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nodewright.bench.progress import Progress, settings_of
from nodewright.bench.report import table, write_json

EXPLAIN = {
    "submitted": "transfers handed over",
    "accepted": "taken by the node",
    "committed": "of those, in final chunks, and run",
    "lost": "accepted and not committed: must be 0",
    "tps": "committed / seconds",
    "seconds": "from the first transfer until the last receipt had run in a final block",
    "node_cpu_seconds": "CPU time of all nodes and their children in that time",
    "node_cpu_loading_seconds": "the part of it until the last was taken",
    "signing_cpu_seconds": "of the generators before that time: not in it",
    "accepted_per_second": "accepted / time from the first transfer to the last answer",
    "verify_us": "one correct Ed25519 check by libsodium here, with all cores busy",
    "efficiency": "committed x verify_us / node_cpu_seconds",
    "p50_ms": "median time until a batch was taken",
    "p95_ms": "95th percentile of it",
    "rss_mb": "peak resident memory of all nodes (MiB), the generators' transfers in it",
    "cores": "that this machine has for all of it",
    "tps_per_core": "tps / cores",
    "tps_per_busy_core": "committed / node_cpu_seconds",
    "seed_tps_per_core": "of NEAR's own benchmark: 1 M a second on 140 validators of 8 cores",
    "busy": "times a node said busy, retry",
    "blocks": "that became final in that time",
    "block_p50_ms": "median time from one block to the next",
    "block_p95_ms": "95th percentile of it",
    "missed_chunks": "places for a chunk in these blocks that stayed empty",
    "witness_bytes": "of state witnesses made; a lone node makes none",
    "held_rate": "transfers a second that the generators were at in the end",
    "start_seconds": "until all nodes were ready, the genesis state made",
    "digest": "state root of each shard at the end: the same for one seed, count, shards and accounts",
}


@click.command(name="near")
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Transfers to send.")
@click.option("--shards", default=1, show_default=True, type=click.IntRange(1, 256), help="Shards of the network.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 64), help="Validators, a process each.")
@click.option(
    "--accounts", default=20_000, show_default=True, type=click.IntRange(2, 10**8), help="Accounts, each with one key."
)
@click.option(
    "--load",
    default="node",
    show_default=True,
    type=click.Choice(["node", "http"]),
    help="From inside the nodes, or posted to POST /txs by a process of its own.",
)
@click.option(
    "--hold",
    default=1.5,
    show_default=True,
    type=click.FloatRange(0, 60),
    help="Seconds between blocks that the load in nodes holds; 0: as fast as is taken.",
)
@click.option(
    "--rate", default=4000.0, show_default=True, type=click.FloatRange(1), help="Transfers a second at the end of the ramp."
)
@click.option(
    "--ramp",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Seconds in which the load grows to that.",
)
@click.option(
    "--batch", default=1000, show_default=True, type=click.IntRange(1, 4096), help="Transfers handed over at once."
)
@click.option(
    "--connections", default=4, show_default=True, type=click.IntRange(1, 64), help="Batches on their way at once."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Keys and draws, and so the digest, follow from it.")
@click.option("--profile", default="near", show_default=True, help="Profile name or TOML file.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Override one key of the profile (repeatable).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the nodes' data here (must be empty).")
@click.option("--ablate", is_flag=True, help="Then again with each optimisation switched off in turn; prints a table.")
@click.option(
    "--rounds", default=1, show_default=True, type=click.IntRange(1, 100), help="With --ablate: by turns, this often."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def near(
    profile: str,
    pairs: tuple[str, ...],
    ablate: bool,
    rounds: int,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Send pre-signed transfers of one yoctoNEAR to a node or a network and account for every one of them.

    Starts validators of a local network with the accounts in its genesis. Senders and receivers are drawn by
    Zipf-Mandelbrot (shift 2.7, exponent 1); everything is signed beforehand. A generator in each node hands the transfers
    over at a rate that grows over a ramp and is then held by a PID controller so that blocks come --hold seconds apart; or
    a process of its own posts them over sockets, as fast as they are answered. What is measured ends when the last receipt
    has run in a final block.

    Included: every signature checked, the pool's journal, chunks and blocks made and signed, execution, outcomes if they
    are kept, the stores of the profile; with --load http sockets and HTTP; with --nodes peers, chunk parts, witnesses.

    \b
    nodewright bench near --count 100000 --json out.json
    nodewright bench near --shards 4 --accounts 1000000
    nodewright bench near --shards 4 --nodes 4
    nodewright bench near --ablate --rounds 3
    """
    from nodewright_near_api.bench.run import Plan, run

    progress = Progress()
    plan = Plan(profile=profile, settings=settings_of(pairs), **options)
    if ablate:
        from nodewright_near_api.bench.ablation import ablation, ablation_table

        result = ablation(plan, rounds, progress)
        progress.end()
        click.echo(ablation_table(result))
        if json_file is not None:
            write_json(json_file, result)
        return
    figures = run(plan, progress)
    progress.end()
    shards = figures["per_shard"]
    click.echo(table(f"bench near ({profile})", {k: v for k, v in figures.items() if k != "per_shard"}, EXPLAIN))
    if len(shards) > 1:
        for one in shards:
            click.echo(
                f"  shard {one['shard']}: {one['committed']:,} of {one['submitted']:,} committed, {one['tps']:,.0f} /s, "
                f"{one['missed_chunks']} chunks missed, {one['digest']}"
            )
    if json_file is not None:
        write_json(json_file, figures)
    if figures["lost"]:
        raise click.ClickException(f"{figures['lost']} accepted transfers have not run in a final block")
