"""``nodewright verify``: a stopped node's state, computed anew from its blocks and compared with what it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from attrs import define, field

from nodewright.cli.common import ProfileRequest, plan_genesis, profile_options
from nodewright.cli.db import data_dir_option
from nodewright.errors import ConfigurationError, StoreError

EXAMPLES = 3


@define
class Found:
    """One kind of difference."""

    fix: str
    count: int = 0
    examples: list[str] = field(factory=list)


class Findings:
    """Implements ``db.recompute.Told``: of each kind the number, the first few cases and what to do."""

    def __init__(self, progress: Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]) -> None:
        self.found: dict[str, Found] = {}
        self.notes: list[str] = []
        self._progress = progress

    def differs(self, kind: str, where: str, fix: str) -> None:
        found = self.found.setdefault(kind, Found(fix))
        found.count += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(where)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def progress(self, label: str, length: int | None) -> AbstractContextManager[Callable[[int], None]]:
        return self._progress(label, length)

    @property
    def clean(self) -> bool:
        return not self.found

    def lines(self) -> list[str]:
        """One line for each kind."""
        return [
            f"difference: {kind} ({found.count}): {'; '.join(found.examples)}"
            f"{'; …' if found.count > len(found.examples) else ''}. What to do: {found.fix}"
            for kind, found in self.found.items()
        ]

    def document(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "differences": [
                {"kind": kind, "count": found.count, "examples": found.examples, "fix": found.fix}
                for kind, found in self.found.items()
            ],
            "notes": self.notes,
        }


@click.command()
@profile_options
@data_dir_option
@click.option(
    "--genesis",
    "genesis_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Genesis file that the node was run with, where it was one.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(request: ProfileRequest, data_dir: Path | None, genesis_file: Path | None, as_json: bool) -> None:
    """Compute a stopped node's state anew from its blocks and its journal, and compare. Changes nothing.

    Has any transaction been lost, any spent output come back, any value changed? Every block is read and checked, down to
    its Merkle root and header; the unspent outputs that blocks and pending transactions give are compared with the store,
    every output and every spender, in both directions. What a killed node would complete at its next start is noted, and
    is no difference. Where nothing differs, every row and blob is read as well, as `nodewright db verify` does.

    \b
    nodewright verify teranode --data-dir DIR

    Exit codes: 0 the same; 1 differences, one line for each kind, or a store that cannot be opened; 2 nothing was looked
    at, because the node runs, or the profile is another or has no such recomputation.
    """
    import trio

    from nodewright.cli.db import _folder, _logger, _progress
    from nodewright.cli.run import _with_options
    from nodewright.db.recompute import require_audits, verify_stopped
    from nodewright.db.stopped import stopped_node
    from nodewright.node.folder import RECORD_FILE

    plan = _with_options(request.compose()[1], genesis_file, None, None)
    require_audits(plan)
    genesis = plan_genesis(plan)
    folder = _folder(plan, data_dir)
    if not (folder / RECORD_FILE).is_file():
        raise ConfigurationError(f"{folder} holds no node's data (it has no {RECORD_FILE}): name another --data-dir")
    findings = Findings(_progress)

    async def main() -> None:
        async with stopped_node(plan, folder, _logger(plan)) as node:
            if node.record.genesis != genesis.hash:
                raise ConfigurationError(
                    f"{folder} was made with another genesis ({node.record.genesis.hex()[:16]}) than this profile has "
                    f"({genesis.hash.hex()[:16]}): name the profile, with its --set, that the node ran with"
                )
            await verify_stopped(node, genesis, findings)

    trio.run(main)
    if as_json:
        click.echo(json.dumps(findings.document(), indent=2))
    else:
        for line in findings.notes:
            click.echo(line)
        for line in findings.lines():
            click.echo(line, err=True)
    if findings.found:
        raise StoreError(f"{sum(one.count for one in findings.found.values())} differences of {len(findings.found)} kinds")
    if not as_json:
        click.echo("OK: no differences")
