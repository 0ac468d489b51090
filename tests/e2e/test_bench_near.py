"""``nodewright bench near``: every transfer accounted for, and a final state that follows from the seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("kernels")

pytest.importorskip("wasmtime")

COUNT = 200
MEMORY = ("--set", "stores.state.use=memory", "--set", "stores.chain.use=memory")


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodewright", "bench", "near", "--accounts", "60", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    done = bench(folder, "--count", str(COUNT), "--batch", "32", "--ramp", "0.5", "--json", "out.json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {line.split()[0] for line in done.stderr.splitlines()}
    assert stages >= {"starting", "signing", "loading", "executing", "accounting"}
    told: dict[str, Any] = json.loads((folder / "out.json").read_text())
    assert told["submitted"] == told["accepted"] == told["committed"] == told["count"] == COUNT
    assert told["lost"] == 0
    assert told["blocks"] >= 2
    assert told["efficiency"] == pytest.approx(COUNT * told["verify_us"] / 1e6 / told["node_cpu_seconds"])
    assert told["tps_per_core"] == pytest.approx(told["tps"] / told["cores"])
    for name in ("tps", "seconds", "node_cpu_seconds", "verify_us", "p50_ms", "p95_ms", "rss_mb", "block_p50_ms"):
        assert told[name] > 0
    for name in ("submitted", "accepted", "committed", "lost", "missed_chunks"):
        assert sum(shard[name] for shard in told["per_shard"]) == told[name]
    assert " ".join(shard["digest"] for shard in told["per_shard"]) == told["digest"]
    return told


@pytest.mark.long
def test_the_final_state_is_one_however_the_load_falls_into_blocks(tmp_path: Path) -> None:
    """From inside the node on LevelDB, over sockets into memory; and each shard has its own."""
    told = figures(tmp_path)
    assert told["signing_cpu_seconds"] > 0
    again = figures(tmp_path, "--load", "http", "--connections", "1", *MEMORY)
    assert told["digest"] == again["digest"]
    sharded = figures(tmp_path, "--shards", "3", *MEMORY)
    assert len(set(sharded["digest"].split())) == 3


def test_refusals_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, sentence in (
        (("--data-dir", "full"), "not empty"),
        (("--shards", "0"), "--shards"),
        (("--nodes", "2", "--load", "http"), "--nodes"),
    ):
        done = bench(tmp_path, *arguments)
        assert done.returncode != 0
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
