"""CPU time and memory of a process with everything it started, from the operating system's own accounting (Linux /proc).

CPU time of a node counts its child processes and embedded servers, so that moving work elsewhere hides nothing.
"""

from __future__ import annotations

import os
import resource
import time
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
    """``pid``, first, and all its living descendants."""
    _require_proc()
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for task in (PROC / str(current) / "task").glob("*/children"):
            try:
                queue += map(int, task.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _seconds(pid: int) -> float:
    """Of the process alone, and those it has waited for."""
    fields = _stat(pid)
    return 0.0 if fields is None else sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of the process, its living descendants and those it has waited for; in steps of 10 ms."""
    return sum(map(_seconds, family(pid)))


def own_cpu_seconds() -> float:
    """As ``cpu_seconds`` of this process, what it used itself without steps."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = sum(map(_seconds, family(os.getpid())[1:]))
    return time.process_time() + ended.ru_utime + ended.ru_stime + started


def until_quiet(pid: int) -> None:
    """Until the process uses less than a fiftieth of a core, over a second."""
    while True:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        if cpu_seconds(pid) - before < 0.02:
            return


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
