"""``nodewright bench teranode``: every transaction accounted for, every figure there, one digest on every database."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("kernels")

COUNT = 2000
COUNTED = {"submitted", "accepted", "committed", "lost", "busy", "blocks", "cores", "batch", "connections", "seed", "count"}
MEASURED = {
    "tps",
    "seconds",
    "node_cpu_seconds",
    "node_cpu_loading_seconds",
    "accepted_per_second",
    "verify_us",
    "efficiency",
    "p50_ms",
    "p95_ms",
    "rss_mb",
    "tps_per_core",
}
MEMORY = ("stores.utxo.use=memory", "stores.chain.use=memory", "stores.blobs.use=memory")


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodewright", "bench", "teranode", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The JSON of a run with these settings and this seed; each is run once."""

    @cache
    def run(settings: tuple[str, ...] = (), seed: int = 1, count: int = COUNT) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("bench")
        pairs = [part for pair in settings for part in ("--set", pair)]
        done = bench(folder, "--count", str(count), "--seed", str(seed), "--json", "out.json", *pairs)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "lost" in done.stdout
        assert {line.split()[0] for line in done.stderr.splitlines()} >= {"mining", "funding", "loading", "committing"}
        assert f"{count:,} / {count:,}" in done.stderr, "what is done of what"
        assert len(done.stderr.splitlines()) < 50
        document: dict[str, Any] = json.loads((folder / "out.json").read_text())
        return document

    return run


@pytest.mark.parametrize("settings", [(), MEMORY], ids=["leveldb", "memory"])
def test_nothing_is_lost_and_nothing_left_out(figures: Any, settings: tuple[str, ...]) -> None:
    told = figures(settings)
    assert set(told) == COUNTED | MEASURED | {"digest", "machine"}
    assert all(isinstance(told[name], int) for name in COUNTED)
    assert all(told[name] > 0 for name in MEASURED)
    assert told["submitted"] == told["accepted"] == told["committed"] == told["count"] == COUNT
    assert told["lost"] == 0
    assert told["blocks"] >= 1
    assert set(told["machine"]) == {"cpu", "python", "system", "nodewright"}


def test_the_figures_agree_with_each_other(figures: Any) -> None:
    told = figures()
    assert told["tps"] == pytest.approx(told["committed"] / told["seconds"])
    assert told["tps_per_core"] == pytest.approx(told["tps"] / told["cores"])
    assert told["efficiency"] == pytest.approx(told["committed"] * told["verify_us"] / 1e6 / told["node_cpu_seconds"])
    assert told["p50_ms"] <= told["p95_ms"]
    assert told["node_cpu_loading_seconds"] <= told["node_cpu_seconds"]


@pytest.mark.long
def test_the_digest_is_the_same_on_every_database_and_another_for_another_seed(figures: Any) -> None:
    assert figures()["digest"] == figures(MEMORY)["digest"]
    few, other = figures(MEMORY, 1, 20), figures(MEMORY, 2, 20)
    assert few["lost"] == other["lost"] == 0
    assert len({figures()["digest"], few["digest"], other["digest"]}) == 3


def test_single_posts_are_accounted_for_too(tmp_path: Path) -> None:
    pairs = [part for pair in MEMORY for part in ("--set", pair)]
    done = bench(tmp_path, "--count", "300", "--batch", "1", "--connections", "16", "--json", "out.json", *pairs)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["committed"], told["lost"], told["batch"]) == (300, 0, 1)
    assert told["accepted_per_second"] > 0


def test_refusals_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, sentence in (
        (("--data-dir", "full"), "not empty"),
        (("--set", "stores.utxo.use"), "is no KEY=VALUE"),
        (("--set", "stores.utxo.use=levledb"), "leveldb"),
        (("--count", "0"), "--count"),
    ):
        done = bench(tmp_path, *arguments)
        assert done.returncode != 0
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
