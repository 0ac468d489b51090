"""``nodewright db``: the data of a stopped node."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodewright.cli.common import ProfileRequest, plugins_dir_option, profile_options
from nodewright.cli.run import DATA_FOLDER
from nodewright.composition.plan import Plan
from nodewright.errors import StoreError

if TYPE_CHECKING:
    from nodewright.db.progress import Advance
    from nodewright.db.stopped import StoppedNode, StoreSlot
    from nodewright.db.transfer import Moved
    from nodewright.plugins.specs import Repair

STORE_SETTINGS = "stores."  # overrides that a snapshot keeps: how its stores were named, nothing else of the operator's


@click.group()
def db() -> None:
    """Look at, check and move the data of a stopped node.

    Every command takes the node's lease and refuses while the node runs, naming it. Name the profile (and --set) that
    the node runs with: it says what its stores are.

    \b
    nodewright db info teranode --data-dir DIR
    nodewright db verify teranode --data-dir DIR
    nodewright db copy teranode mine.toml --data-dir DIR --to-dir OTHER
    nodewright db snapshot teranode FILE.tar --data-dir DIR
    nodewright db restore FILE.tar --data-dir OTHER
    """


def data_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help=f"The node's data directory. Default: ./{DATA_FOLDER}/PROFILE.",
    )(function)


def _keys_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--with-keys", is_flag=True, help=help)


def _folder(plan: Plan, data_dir: Path | None) -> Path:
    return (data_dir if data_dir is not None else Path(DATA_FOLDER, plan.profile)).absolute()


def _run(
    plan: Plan,
    data_dir: Path | None,
    work: Callable[[StoppedNode], Awaitable[None]],
    upgrading: bool = False,
    without: frozenset[str] = frozenset(),
) -> None:
    """``work`` on the stopped node's opened stores; see ``stopped_node``."""
    import trio

    from nodewright.db.stopped import stopped_node

    async def main() -> None:
        async with stopped_node(plan, _folder(plan, data_dir), _logger(plan), upgrading, without) as node:
            await work(node)

    trio.run(main)


def _logger(plan: Plan) -> Any:
    from nodewright import logging

    return logging.configure(plan.node.name, "console", "warning")


@contextmanager
def _progress(label: str, length: int | None) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    endless = itertools.count() if length is None else None
    with click.progressbar(endless, length=length, label=label, show_pos=True, file=sys.stderr) as bar:
        yield bar.update


def _tell_moved(verb: str) -> Callable[[Moved], None]:
    def tell(moved: Moved) -> None:
        measure = moved.measure
        if measure.count:
            click.echo(
                f"{moved.slot}: {moved.part}: {verb} {measure.count} {moved.unit}, {measure.size} bytes, "
                f"digest {measure.digest[:16]}"
            )

    return tell


def _tell_private(names: list[str] | tuple[str, ...], what: str) -> None:
    if names:
        click.echo(f"{what}: {', '.join(sorted(names))}")


# --- info ----------------------------------------------------------------------------------------------------------------


@db.command()
@profile_options
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(request: ProfileRequest, data_dir: Path | None, as_json: bool) -> None:
    """Each store's plugin, format record, last owner, and the rows and bytes of every table (reads everything)."""
    plan = request.compose()[1]
    document: dict[str, Any] = {}

    async def work(node: StoppedNode) -> None:
        document.update(
            data_dir=str(node.folder),
            family=node.record.family,
            network=node.record.network,
            genesis=node.record.genesis.hex(),
            owner=_owner(node.owner),
            stores={store.slot: await _describe(store) for store in node.stores},
        )

    _run(plan, data_dir, work)
    click.echo(json.dumps(document, indent=2) if as_json else _info_text(document))


def _owner(owner: Any) -> dict[str, Any] | None:
    return None if owner is None else {"node": owner.node, "pid": owner.pid, "host": owner.host, "epoch": owner.epoch}


async def _describe(store: StoreSlot) -> dict[str, Any]:
    from nodewright.db.contents import measure_kind, measure_table

    record = await store.format()
    parts: dict[str, Any] = {}
    for part in await store.tables() if store.rows is not None else await store.kinds() if store.bodies is not None else ():
        with _progress(f"{store.slot} {part}", None):
            measured = (
                await measure_table(store.rows, part) if store.rows is not None else await measure_kind(store.bodies, part)  # type: ignore[arg-type]
            )
        if measured.count:
            parts[part] = measured.document()
    return {
        "plugin": store.describe(),
        "contract": store.contract,
        "volatile": store.volatile,
        "owner": _owner(store.owner),
        "unit": "rows" if store.rows is not None else "blobs",
        "format": None
        if record is None
        else {
            "store": record.store,
            "consensus": record.consensus,
            "execution": record.execution,
            "network": record.network,
            "genesis": record.genesis.hex(),
            "extra": dict(record.extra),
        },
        "parts": parts,
    }


def _info_text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['data_dir']}: family {document['family']}, network {document['network']}, "
        f"genesis {document['genesis'][:16]}",
        f"  last owner: {_owner_text(document['owner'])}",
    ]
    for slot, store in document["stores"].items():
        lines += ["", f"{slot}: {store['plugin']}, as {store['contract']}", f"  last owner: {_owner_text(store['owner'])}"]
        record = store["format"]
        if record is None:
            lines.append("  format: no record: no node has used this store with this profile")
        else:
            extra = "".join(f", {name} {value}" for name, value in record["extra"].items())
            lines.append(
                f"  format: {record['store']}, consensus {record['consensus']}, execution {record['execution']}, network "
                f"{record['network']}, genesis {record['genesis'][:16]}{extra}"
            )
        if store["parts"]:
            lines.append(f"  {'':24} {store['unit']:>14} {'bytes':>16}")
        lines += [f"  {name:24} {part['count']:>14,} {part['size']:>16,}" for name, part in store["parts"].items()]
    return "\n".join(lines)


def _owner_text(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "not known (it does not live in a folder, or was never opened)"
    return f"node {owner['node']!r} (pid {owner['pid']} on {owner['host']}), epoch {owner['epoch']}"


# --- verify, compact, upgrade, repair ------------------------------------------------------------------------------------


@db.command()
@profile_options
@data_dir_option
def verify(request: ProfileRequest, data_dir: Path | None) -> None:
    """Read everything and check that it is whole. Changes nothing.

    Exit codes: 0 nothing damaged, 1 damage, each told on standard error.
    """
    from nodewright.db.findings import Findings
    from nodewright.db.verify import verify_node

    plan = request.compose()[1]
    findings = Findings(lambda line, damaged: click.echo(f"damage: {line}" if damaged else line, err=damaged))

    async def work(node: StoppedNode) -> None:
        await verify_node(node, findings, _progress)

    _run(plan, data_dir, work)
    if findings.count:
        raise StoreError(
            f"{findings.count} damaged: restore the data from a snapshot, save what is whole with  nodewright db repair  , "
            "or start anew in another --data-dir"
        )
    click.echo("OK: nothing is damaged")


@db.command()
@profile_options
@data_dir_option
def compact(request: ProfileRequest, data_dir: Path | None) -> None:
    """Give back the space of what was deleted or written over."""
    from nodewright.db.compact import compact_store

    plan = request.compose()[1]

    async def work(node: StoppedNode) -> None:
        for store in node.stores:
            with _progress(f"{store.slot} compact", None):
                done = await compact_store(store)
            click.echo(f"{store.slot}: {done}")

    _run(plan, data_dir, work)


@db.command()
@profile_options
@data_dir_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def upgrade(request: ProfileRequest, data_dir: Path | None, dry_run: bool) -> None:
    """Bring stores to the formats that this version writes, by numbered migrations."""
    import trio

    from nodewright.db.tools import pending_migrations
    from nodewright.db.upgrade import apply_upgrade, plan_upgrade

    plan = request.compose()[1]
    pending = trio.run(pending_migrations, plan, _folder(plan, data_dir), _logger(plan))
    for found in pending:
        click.echo(f"{found.slot}: {found.store}: {len(found.migrations)} migrations of its own")
        for migration in found.migrations:
            click.echo(f"  {migration.number}: {migration.summary}")
    left = frozenset(found.slot for found in pending) if dry_run else frozenset()

    async def work(node: StoppedNode) -> None:
        upgrades = [await plan_upgrade(store) for store in node.stores]
        for planned in upgrades:
            store = planned.store
            record = await store.format()
            kept = "" if record is None else f" (consensus {record.consensus}, execution {record.execution})"
            click.echo(
                f"{store.slot}: {planned.owner} format {planned.held or 'none yet'}{kept}, this version writes "
                f"{planned.wanted}: {len(planned.steps)} migrations"
            )
            for step in planned.steps:
                click.echo(f"  {step.number}: {step.before} to {step.after}: {step.summary}")
        stuck = [planned for planned in upgrades if planned.stuck]
        if stuck:
            raise StoreError(
                "; ".join(
                    f"{p.store.slot}: no migration leads from {p.owner} format {p.held!r} to {p.wanted!r}" for p in stuck
                )
                + ": use the version that wrote the data, or start anew in another --data-dir"
            )
        if pending and not dry_run:
            click.echo(
                f"{sum(len(found.migrations) for found in pending)} migrations were applied by the stores themselves"
            )
        if not pending and not any(planned.steps for planned in upgrades):
            click.echo("nothing to do; formats of consensus and execution are compared when the node starts")
        elif not dry_run:
            for planned in upgrades:
                await apply_upgrade(planned)
            click.echo("done")

    _run(plan, data_dir, work, upgrading=not dry_run, without=left)


@db.command()
@profile_options
@data_dir_option
@click.option("--store", "slots", multiple=True, metavar="SLOT", help="Only this one, such as stores.chain. Repeatable.")
def repair(request: ProfileRequest, data_dir: Path | None, slots: tuple[str, ...]) -> None:
    """Save what is whole of damaged stores, and say what was not.

    A store that is not damaged is left as it is. One that is damaged is copied aside before anything is changed.

    Exit codes: 0 nothing was lost, 1 something was.
    """
    import trio

    from nodewright.db.tools import repair_stores

    plan = request.compose()[1]
    lost: list[str] = []

    def tell(slot: str, done: Repair | None) -> None:
        if done is None:
            click.echo(f"{slot}: its plugin repairs nothing")
            return
        for line in done.lines:
            click.echo(f"{slot}: {line}")
        if done.lost:
            lost.append(slot)

    trio.run(repair_stores, plan, _folder(plan, data_dir), _logger(plan), slots, tell)
    if lost:
        raise StoreError(
            f"{', '.join(lost)}: what was lost is not back, and rows that were replaced or deleted there may be: restore a "
            "snapshot or start anew in another --data-dir; to go on with what is left, run  nodewright db verify  first"
        )
    click.echo("OK: nothing was lost; run  nodewright db verify  before the node")


# --- copy, snapshot, restore ---------------------------------------------------------------------------------------------


@db.command()
@profile_options
@click.argument("destination", metavar="PROFILE|FILE.toml")
@data_dir_option
@click.option(
    "--to-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Data directory of the copy: empty, or not there yet.",
)
@click.option("--to-set", multiple=True, metavar="KEY=VALUE", help="As --set, for the destination's profile. Repeatable.")
@_keys_option("Also copy keys and the safety state of consensus: never run both nodes then.")
def copy(
    request: ProfileRequest,
    destination: str,
    data_dir: Path | None,
    to_dir: Path,
    to_set: tuple[str, ...],
    with_keys: bool,
) -> None:
    """Copy a stopped node to other stores: from the first profile's to those of the second.

    Counts and digests of every table and of all blobs are compared on both sides. The source is not changed.

    \b
    nodewright db copy teranode teranode --to-set stores.utxo.use=sqlite --data-dir A --to-dir B
    """
    from nodewright.db.copy import copy_node

    host, plan = request.compose()
    target = ProfileRequest(destination, to_set, request.plugin_directories).plan(host)
    folder = to_dir.absolute()

    async def work(node: StoppedNode) -> None:
        copied = await copy_node(node, target, folder, with_keys, _progress, _tell_moved("copied and compared"))
        _tell_private(copied.left_out, "left out (see --with-keys)")
        click.echo(f"OK: the copy in {to_dir} holds the same; {len(copied.files)} other files were copied")

    _run(plan, data_dir, work)


@db.command()
@profile_options
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.tar")
@data_dir_option
def snapshot(request: ProfileRequest, file: Path, data_dir: Path | None) -> None:
    """Write a stopped node into one file, with checksums.

    The file holds the node's keys as well and is readable by its owner only.
    """
    from nodewright.db.snapshot import take

    plan = request.compose()[1]
    reference = os.path.abspath(request.reference) if os.path.exists(request.reference) else request.reference
    kept = tuple(override for override in request.overrides if override.startswith(STORE_SETTINGS))

    path = file.absolute()

    async def work(node: StoppedNode) -> None:
        taken = await take(node, path, reference, kept, _progress, _tell_moved("written"))
        _tell_private(taken.private, "keys and safety state in it (restored only with --with-keys)")
        click.echo(f"OK: {file}: {taken.files} other files")

    _run(plan, data_dir, work)


@db.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path), metavar="FILE.tar")
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Data directory to fill: empty, or not there yet.",
)
@click.option("--profile", metavar="PROFILE|FILE.toml", help="Restore into its stores instead of those it was taken from.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in `nodewright run`. Repeatable.")
@_keys_option("Also restore keys and the safety state of consensus: only if the original never runs again.")
@plugins_dir_option
def restore(
    file: Path,
    data_dir: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    with_keys: bool,
    plugin_directories: tuple[Path, ...],
) -> None:
    """Fill an empty data directory from a snapshot, after comparing all of its checksums."""
    import trio

    from nodewright.db.snapshot import read_header
    from nodewright.db.snapshot import restore as restore_node

    header = read_header(file)
    kept = header.overrides if profile is None else ()
    plan = ProfileRequest(profile or header.profile, (*kept, *overrides), plugin_directories).compose()[1]
    work = functools.partial(
        restore_node,
        file,
        plan,
        data_dir.absolute(),
        _logger(plan),
        with_keys,
        _progress,
        _tell_moved("restored and compared"),
    )
    restored = trio.run(work)
    _tell_private(restored.left_out, "left out (see --with-keys)")
    click.echo(f"OK: {data_dir} holds what {file} does; {len(restored.files)} other files were restored")
