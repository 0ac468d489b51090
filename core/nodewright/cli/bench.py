"""``nodewright bench``: a group to which each family's plugin adds its own benchmark."""

from __future__ import annotations

import click


@click.group(name="bench")
def bench() -> None:
    """Measure a node on this machine with real transactions over real sockets.

    Each family brings its own benchmark. All report the same names: committed transactions, transactions a second, CPU
    seconds of the node, and efficiency = committed x time of one correct signature check / CPU time of the node.
    """
