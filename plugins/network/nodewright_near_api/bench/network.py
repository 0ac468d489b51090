"""The nodes of a benchmark: real processes, one or a network of validators, and what is asked of them. Blocking code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import cpu_seconds, peak_rss_mb
from nodewright.errors import NodewrightError
from nodewright_near_api.bench.service import GO, REPORT
from nodewright_near_api.bench.watch import Rpc
from nodewright_nightshade.local import boundaries
from nodewright_nightshade.sampling import Validator, assign_chunk_producers

POLL_SECONDS: Final = 0.2
LOAD_SLOT: Final = "services.near_load"


class Nodes:
    """Validators of a local network, started one after the other, each connected to all before it."""

    def __init__(self, profile: str, folder: Path, count: int, shards: int, settings: Mapping[str, str]) -> None:
        self.processes: list[NodeProcess] = []
        self.rpcs: list[Rpc] = []
        self._profile = profile
        self._folder = folder
        self._count = count
        self._shards = shards
        self._settings = settings

    def start(self, timeout_seconds: float, started: Callable[[int], None]) -> None:
        for number in range(self._count):
            settings = {**self._own(number), **self._settings}
            if LOAD_SLOT + ".use" in settings:
                settings |= {f"{LOAD_SLOT}.part": str(number), f"{LOAD_SLOT}.parts": str(self._count)}
            name = "node" if self._count == 1 else f"node{number}"
            process = NodeProcess(self._profile, self._folder / name, settings)
            self.processes.append(process)
            process.start(timeout_seconds)
            self.rpcs.append(Rpc(process.service("near_api"), ("00", *boundaries(self._shards))[self._kept(number)[0]]))
            started(number + 1)

    def _own(self, number: int) -> dict[str, str]:
        settings = {"services.near_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0"}
        if self._count == 1:
            return settings
        peers = [str(process.info["transport"]) for process in self.processes]
        return {
            **settings,
            "node.name": f"node{number}",
            "transport.peers": json.dumps(peers),
            "consensus.local_validators": str(self._count),
            "consensus.local_validator": str(number),
            "consensus.shards": str(self._shards),
            "consensus.track": "assigned",
            "execution.kept": json.dumps(self._kept(number)),
        }

    def _kept(self, number: int) -> list[int]:
        """Of which shards a validator makes chunks."""
        validators = [Validator(f"validator{at}", b"", 1) for at in range(self._count)]
        members = assign_chunk_producers(validators, self._shards)
        return [shard for shard, producers in enumerate(members) if number in producers]

    def stop(self) -> None:
        for rpc in self.rpcs:
            rpc.close()
        for process in self.processes:
            if process.alive():
                process.stop()

    # --- what they cost ---

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def rss_mb(self) -> float:
        return sum(peak_rss_mb(process.pid) for process in self.processes)

    def metric(self, name: str) -> int:
        return sum(rpc.metric(name) for rpc in self.rpcs)

    def waiting(self) -> int:
        """Transactions that are not final, on the node that has most."""
        return max(rpc.metric("nodewright_pool_transactions") for rpc in self.rpcs)

    # --- the generators inside ---

    def reports(self, phase: str, timeout_seconds: float, done: Callable[[int], None]) -> list[dict[str, Any]]:
        """Of each node's generator, once all are that far."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            reports = [report for report in map(self._report, self.processes) if report is not None]
            ready = [one for one in reports if one["phase"] == phase]
            done(len(ready))
            if len(ready) == len(self.processes):
                return ready
            for process in self.processes:
                if not process.alive():
                    raise NodewrightError(f"a node ended:\n{process.log_tail()}")
            if time.monotonic() > deadline:
                raise NodewrightError(f"the load was not {phase} after {timeout_seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def _report(self, process: NodeProcess) -> dict[str, Any] | None:
        try:
            report: dict[str, Any] = json.loads((self._slot(process) / REPORT).read_text())
        except FileNotFoundError:
            return None
        return report

    def _slot(self, process: NodeProcess) -> Path:
        return process.data_dir.joinpath(*LOAD_SLOT.split("."))

    def go(self) -> None:
        for process in self.processes:
            (self._slot(process) / GO).touch()
