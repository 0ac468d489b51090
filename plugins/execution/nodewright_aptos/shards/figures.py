"""What sharded execution cost: for benchmarks and a log, not for any decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import define, field

STAGES: Final = ("send", "prefetch", "run", "share", "return")  # the pipeline's five, in order


@define
class Meter:
    """Since the executor was opened. ``seconds`` by stage, added up over shards, which overlap: the first is the
    coordinator's, with the reading of state; the others are those of shards."""

    clock: Callable[[], float]
    seconds: list[float] = field(factory=lambda: [0.0] * len(STAGES))
    partition_seconds: float = 0.0
    transactions: int = 0
    sharded: int = 0  # of these, run in parts
    messages: int = 0  # values from part to part
    asked: int = 0  # keys that shards asked for
    moved: int = 0  # parts that went on elsewhere
    abandoned: int = 0  # runs that were done one after the other in the end
    fanout: int = 0
    keys: int = 0
    runs: int = 0
    imbalance: float = 0.0
    last_failure: str = ""

    @contextmanager
    def stage(self, number: int) -> Iterator[None]:
        began = self.clock()
        yield
        self.seconds[number] += self.clock() - began

    def add(self, micros: tuple[int, int, int, int]) -> None:
        for number, spent in enumerate(micros, 1):
            self.seconds[number] += spent / 1e6

    def figures(self) -> dict[str, Any]:
        return {
            "sharded": self.sharded,
            "fanout": self.fanout / max(self.keys, 1),
            "cross_shard_messages": self.messages,
            "imbalance": self.imbalance / max(self.runs, 1),
            "asked_keys": self.asked,
            "moved_parts": self.moved,
            "abandoned_runs": self.abandoned,
            "stage_partition_seconds": self.partition_seconds,
            **{f"stage_shard_{name}_seconds": spent for name, spent in zip(STAGES, self.seconds, strict=True)},
        }
