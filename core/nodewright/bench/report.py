"""A benchmark's result: one flat set of figures, shown as a table and written as JSON with the same names."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodewright import __version__


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"cpu": model, "python": platform.python_version(), "system": platform.system(), "nodewright": __version__}


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile; 0.0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def table(title: str, figures: Mapping[str, Any], explain: Mapping[str, str]) -> str:
    """Aligned rows: name, value, what it means."""
    shown = {name: f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
             for name, value in figures.items()}  # fmt: skip
    names = max(len(name) for name in shown)
    values = max(len(value) for value in shown.values() if len(value) < 40)
    rows = [f"  {name:<{names}}  {value:>{values}}  {explain.get(name, '')}".rstrip() for name, value in shown.items()]
    return "\n".join([title, *rows])


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({**figures, "machine": machine()}, indent=2) + "\n")
