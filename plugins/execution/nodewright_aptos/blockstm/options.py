"""What ``execution.executor_options`` say to ``block-stm``: ``workers`` (2), ``placement`` (``threads`` or ``processes``),
``batch`` (64) transactions that a worker is given at once, ``native`` (true) for the kernel where numba is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

PLACEMENTS: Final = ("threads", "processes")
_MOST: Final = {"workers": 256, "batch": 10_000}


@define
class Options:
    workers: int = 2
    placement: str = "threads"
    batch: int = 64
    native: bool = True


def read_options(options: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """And what is wrong with them, a sentence each."""
    read, problems = Options(), []
    for name, value in options.items():
        if name in _MOST:
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST[name]:
                problems.append(f"{name} must be a number from 1 to {_MOST[name]}")
        elif name == "native":
            if not isinstance(value, bool):
                problems.append("native must be true or false")
        elif name == "placement":
            if value not in PLACEMENTS:
                problems.append(f"placement {value!r} is not one of {', '.join(PLACEMENTS)}")
        else:
            problems.append(f"block-stm has no setting {name!r}: it has workers, placement, batch and native")
            continue
        setattr(read, name, value)
    return read, problems
