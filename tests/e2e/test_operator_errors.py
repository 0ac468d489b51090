"""What an operator gets wrong: one clear sentence each, that names the fix, and exit code 2."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess

FREE = ["--set", "services.bsv_api.listen=127.0.0.1:0", "--set", "transport.listen=127.0.0.1:0"]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodewright", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, f"{word!r} is not in:\n{done.stderr}"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[consensus]\nmien = true\n", ("mien", "mine", "line 3")),
        ('[consensus]\nmine = "yes"\n', ("consensus.mine", "line 3")),
        ('[execution]\nuse = "bitcoim"\n', ("bitcoim", "bitcoin")),
        ('[stores.utxo]\nuse = "files"\n', ("stores.utxo", "utxo")),
        ('[stores.extra]\nuse = "memory"\n', ("stores.extra",)),
        ("[consensus\n", ("line 2",)),
    ],
)
def test_a_wrong_profile(tmp_path: Path, toml: str, words: tuple[str, ...]) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('extends = "teranode"\n' + toml)
    refused(run("run", profile, "--data-dir", tmp_path / "data", *FREE), *words)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    refused(run("run", "teranod", "--data-dir", tmp_path), "teranod", "teranode")


def test_all_errors_at_once(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('extends = "teranode"\n[consensus]\nmien = true\nmine = 7\n[pool]\nmax_bites = 1\n')
    refused(run("check", profile), "mien", "consensus.mine", "max_bites")


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for slot in ("services.bsv_api", "transport"):
            done = run("run", "teranode", "--data-dir", tmp_path / slot, *FREE, "--set", f"{slot}.listen={address}")
            refused(done, address, f"--set {slot}.listen=")


def test_two_plugins_of_one_name(tmp_path: Path) -> None:
    text = """
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import StorageSpec

@hookimpl
def register_storage():
    return [StorageSpec(name="twice", summary="x", open=lambda c, d, e: None, provides=frozenset({"key-value", "ordered"}))]
"""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(text)
    done = run("check", "teranode", "--plugins-dir", tmp_path, "--set", "stores.utxo.use=twice")
    refused(done, "one:twice", "two:twice")


def test_a_second_node_on_the_same_data_is_refused_by_name(node: Callable[..., NodeProcess]) -> None:
    alpha = node()
    done = run("run", "teranode", "--data-dir", alpha.data_dir, *FREE)
    refused(done, str(alpha.pid), str(alpha.data_dir))
    assert alpha.alive()
    assert alpha.stop() == 0


def test_a_data_directory_of_another_network(node: Callable[..., NodeProcess], tmp_path: Path) -> None:
    alpha = node()
    assert alpha.stop() == 0
    profile = tmp_path / "other.toml"
    profile.write_text('extends = "teranode"\n[network]\nid = "othernet"\n')
    refused(run("run", profile, "--data-dir", alpha.data_dir, *FREE), "othernet")


def test_stop_and_start_again(node: Callable[..., NodeProcess]) -> None:
    alpha = node()
    assert (alpha.data_dir / "node.json").exists()
    assert alpha.stop() == 0
    assert not (alpha.data_dir / "node.json").exists()
    alpha.start()
    assert alpha.stop() == 0


def test_a_stop_waits_for_no_kernel_that_is_being_compiled(
    node: Callable[..., NodeProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the first start of an installation, when nothing is in the cache yet."""
    monkeypatch.delenv("NODEWRIGHT_KERNELS", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "no kernels"))
    assert node().stop() == 0


def test_bodies_that_are_gone_stop_the_start_and_a_key_that_is_gone_is_told(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], tmp_path: Path
) -> None:
    alpha = node()
    wallet_of(alpha).coins(20)
    key = alpha.info["node_id"]
    assert alpha.stop() == 0
    bodies = alpha.data_dir / "stores" / "blobs"
    bodies.rename(tmp_path / "elsewhere")
    done = run("run", "teranode", "--data-dir", alpha.data_dir, *FREE)
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "stores.blobs" in sentence and str(bodies) in sentence and "copy" in sentence
    assert not bodies.exists(), "the next start must say the same"

    shutil.rmtree(bodies, ignore_errors=True)
    (tmp_path / "elsewhere").rename(bodies)
    (alpha.data_dir / "transport" / "node.key").unlink()
    alpha.start()
    assert alpha.info["node_id"] != key
    assert "another identity" in alpha.log.read_text()
    assert alpha.stop() == 0


def test_all_stores_gone_is_a_new_beginning(node: Callable[..., NodeProcess]) -> None:
    alpha = node()
    assert alpha.stop() == 0
    shutil.rmtree(alpha.data_dir / "stores")
    shutil.rmtree(alpha.data_dir / "pool")
    alpha.start()
    assert alpha.log.read_text().count(" gone") == 4
    assert alpha.stop() == 0
