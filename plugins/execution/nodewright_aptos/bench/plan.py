"""What is to be run, what is told of it, and the clock that leaves out the drawing of blocks."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from nodewright.bench.processes import own_cpu_seconds
from nodewright.bench.report import percentile
from nodewright.kernels.yardstick import ed25519_verify_us
from nodewright_aptos.bench.workloads import Sizes

Progress = Callable[[str, int, int], None]


@define
class Plan:
    """``state`` is the name of a key-value store's plugin, or ``memory`` for none; ``folder`` is where it is put."""

    workload: str
    sizes: Sizes
    blocks: int
    executor: str
    state: str = "memory"
    root: bool = False
    state_keys: int = 2
    seed: int = 1
    workers: int = 2
    folder: Path = Path()
    settings: dict[str, str] = field(factory=dict)
    options: dict[str, Any] = field(factory=dict)


@define
class Clock:
    """Wall and CPU time of what runs within ``block``, and of stages within it (which overlap)."""

    seconds: list[float] = field(factory=list)
    cpu: float = 0.0
    stages: dict[str, float] = field(factory=dict)

    @contextmanager
    def block(self) -> Iterator[None]:
        cpu, began = own_cpu_seconds(), time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - began)
        self.cpu += own_cpu_seconds() - cpu

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began


def sha3_per_second(count: int = 1 << 16) -> float:
    """Hashes of a tree's nodes that one core does now: what the roots' figures are to be held against."""
    import numpy as np

    from nodewright.kernels.compiled.sha3 import sha3_pairs

    data, out = np.zeros(64 * count, np.uint8), np.empty((count, 32), np.uint8)
    prefix, best = np.zeros(32, np.uint8), float("inf")
    for _ in range(5):
        began = time.thread_time()
        sha3_pairs(prefix, data, out)
        best = min(best, time.thread_time() - began)
    return count / best


def figures(plan: Plan, clock: Clock, submitted: int, committed: int, digest: str, cores: int) -> dict[str, Any]:
    """The names of every benchmark, and those of this one."""
    seconds = sum(clock.seconds)
    verify = ed25519_verify_us(cores)
    return {
        "submitted": submitted,
        "accepted": submitted,
        "committed": committed,
        "lost": submitted - committed,
        "seconds": seconds,
        "tps": committed / seconds,
        "node_cpu_seconds": clock.cpu,
        "cpu_us_per_tx": clock.cpu / max(committed, 1) * 1e6,
        "tps_per_cpu_second": committed / clock.cpu,
        "sha3_per_second": sha3_per_second(),
        "verify_us": verify,
        "efficiency": committed * verify / 1e6 / clock.cpu,
        "p50_ms": percentile(clock.seconds, 0.5) * 1e3,
        "p95_ms": percentile(clock.seconds, 0.95) * 1e3,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "blocks": plan.blocks,
        "block_size": plan.sizes.block,
        "digest": digest,
        **{f"stage_{name}_seconds": spent for name, spent in clock.stages.items()},
    }
