"""What is done of each stage of a benchmark, on standard error."""

from __future__ import annotations

import sys

import click


class Progress:
    """One line, rewritten in place, on a terminal; elsewhere a line where a stage begins, and for each quarter of it."""

    def __init__(self) -> None:
        self._stage = ""
        self._told = 0

    def __call__(self, stage: str, done: int, of: int) -> None:
        live = sys.stderr.isatty()
        fresh = stage != self._stage
        quarter = 4 * done // max(of, 1)
        if live:
            start = "\n" if fresh and self._stage else "\r"
            click.echo(f"{start}  {stage:<11} {done:>9,} / {of:,}   ", err=True, nl=False)
        elif fresh or quarter > self._told:
            click.echo(f"{stage:<11} {done:>9,} / {of:,}", err=True)
        self._stage, self._told = stage, quarter if fresh else max(quarter, self._told)

    def end(self) -> None:
        if sys.stderr.isatty():
            click.echo(err=True)


def settings_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Of ``--set KEY=VALUE``. Raises click.BadParameter."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is no KEY=VALUE", param_hint="--set")
        settings[key] = value
    return settings
