"""The entry point of ``nodewright``: signals first, then everything else, which takes a while to import.

Whoever starts a node may stop it again at any moment and is answered with exit code 0. Nothing but the standard library's
smallest modules is imported before that is arranged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nodewright.node import signals

STOPPED_BY_SIGNAL = ("devnet", "run")  # commands whose help says: SIGINT and SIGTERM end it with exit code 0
WITH_VALUE = "--plugins-dir"  # the one option that may stand before the command


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """``arguments`` without the program's name; those of the process where there are none."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if command_of(given) in STOPPED_BY_SIGNAL:
        signals.end_at_once()
    from nodewright.cli.app import invoke

    code = invoke(given)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # of a full disk, or a reader that is gone: the code stays what it is
            os._exit(code)
    environment = sys.modules.get("nodewright.environment")
    if environment is not None and environment.left_behind():
        os._exit(code)  # threads that compile would be pulled out from under by the interpreter's end
    sys.exit(code)


def command_of(arguments: Sequence[str]) -> str | None:
    """The first argument that is no option and no option's value."""
    waiting = False
    for argument in arguments:
        if waiting:
            waiting = False
        elif argument == WITH_VALUE:
            waiting = True
        elif not argument.startswith("-"):
            return argument
    return None
