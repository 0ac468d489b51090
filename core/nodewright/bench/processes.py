"""CPU time and memory of a process with everything it started, from the operating system's own accounting (Linux /proc).

CPU time of a node counts its child processes and embedded servers, so that moving work elsewhere hides nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from nodewright.errors import NodewrightError

PROC = Path("/proc")


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _require_proc() -> None:
    if not (PROC / "self" / "stat").exists():
        raise NodewrightError("benchmarks read CPU time from /proc, which this system does not have: run them on Linux")


def family(pid: int) -> list[int]:
    """``pid`` and all its living descendants."""
    _require_proc()
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue.extend(children.get(current, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the process, its living descendants and those it has waited for."""
    ticks = 0
    for member in family(pid):
        if (fields := _stat(member)) is not None:
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_mb(pid: int) -> float:
    """Sum of the peak resident sizes of the process and its living descendants, in MiB."""
    kib = 0
    for member in family(pid):
        try:
            lines = (PROC / str(member) / "status").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib / 1024


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
