"""Plugins of one file from outside the repository: dropped in with ``--plugins-dir``, named in a short profile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright.errors import NodewrightError
from nodewright_bsv_api.client import BsvClient

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the tests run apart from the source tree")

KIT = '''
"""What an author writes: the shipped kits, told how to open the store."""
from pathlib import Path

from nodewright.interfaces import WriteBatch
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright.testing.storage import KeyValueStoreTests, LeaseTests, StoreKit


class OnSqlite(StoreKit):
    capabilities = frozenset({"ordered", "snapshot"})
    examples = 5

    def open_store(self, path):
        spec = PluginHost([Path(__file__).parent / "plugins"], entry_points=[]).registry.get("storage", "sqlite").value
        return spec.open(spec.config(), Dependencies(), LocalEnvironment(path))


class TestKeyValue(OnSqlite, KeyValueStoreTests):
    pass


class TestLease(OnSqlite, LeaseTests):
    async def write(self, store):
        batch = WriteBatch()
        batch.put("a", b"key", b"value")
        await store.commit(batch)
'''


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def dropped_in(folder: Path, name: str, profile: str) -> tuple[Path, Path]:
    """(the folder that holds the plugin's copy, the profile)."""
    plugins = folder / "plugins"
    plugins.mkdir()
    shutil.copy(EXAMPLES / "plugins" / name, plugins)
    file = folder / "mine.toml"
    file.write_text(f'extends = "teranode"\n{profile}')
    return plugins, file


SQLITE = '[stores.utxo]\nuse = "sqlite"\n[stores.chain]\nuse = "sqlite"\ncache_mib = 8\n[stores.blobs]\nuse = "sqlite"\n'


def test_a_store_runs_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("bsv", reason="the demo speaks to the node with bsv-sdk (extra demo)")
    plugins, profile = dropped_in(tmp_path, "sqlite_store.py", SQLITE)
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--profile", str(profile), "--plugins-dir", str(plugins)]
    done = subprocess.run([*command, "--count", "40"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: both have the same tip and the same UTXO set" in done.stdout
    assert "both nodes have stopped cleanly" in done.stdout


@pytest.mark.long
def test_a_store_survives_kills_and_holds_what_leveldb_holds(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], tmp_path: Path
) -> None:
    plugins, profile = dropped_in(tmp_path, "sqlite_store.py", SQLITE)
    theirs = node("sqlite", str(profile), ("--plugins-dir", str(plugins)))
    files = sorted(path.name for path in theirs.data_dir.rglob("*.sqlite"))
    assert files == ["store.sqlite"] * 3
    wallet = wallet_of(theirs)
    wallet.coins(20)
    told = wallet.client.rpc("gettxoutsetinfo")
    theirs.kill()
    theirs.start()
    wallet = wallet_of(theirs)
    assert wallet.client.rpc("gettxoutsetinfo") == told

    peer = theirs.info["transport"].removeprefix("tcp://")
    ours = node("leveldb", **{"transport.peers": f'["{peer}"]'})
    other = wallet_of(ours).client
    until(lambda: other.rpc("getbestblockhash") == told["bestblock"], "catching up with a node on another store")
    assert other.rpc("gettxoutsetinfo") == told
    assert theirs.stop() == 0
    assert ours.stop() == 0


def test_a_store_passes_the_kit(tmp_path: Path) -> None:
    dropped_in(tmp_path, "sqlite_store.py", SQLITE)
    (tmp_path / "test_kit.py").write_text(KIT)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_kit.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted is not None
    assert int(counted[1]) >= 10, done.stdout


def test_a_service_tells_the_blocks(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], tmp_path: Path
) -> None:
    plugins, profile = dropped_in(tmp_path, "block_feed.py", '[services.block_feed]\nlisten = "127.0.0.1:0"\nkeep = 3\n')
    alpha = node("alpha", str(profile), ("--plugins-dir", str(plugins)))
    wallet = wallet_of(alpha)
    mined = wallet.mine(5)

    def read() -> dict[str, Any]:
        with urllib.request.urlopen(alpha.service("block_feed"), timeout=30) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    # A service reads the events at its own pace.
    until(lambda: [block["height"] for block in read()["blocks"]][-1:] == [5], "the feed of the last block")
    feed = read()
    assert feed["height"] == 5
    assert [block["hash"] for block in feed["blocks"]] == mined[-3:]
    assert alpha.stop() == 0


def test_without_the_folder_the_profile_is_refused_by_name(
    node: Callable[..., NodeProcess], client_of: Callable[[NodeProcess], BsvClient], tmp_path: Path
) -> None:
    _, profile = dropped_in(tmp_path, "sqlite_store.py", SQLITE)
    with pytest.raises(NodewrightError, match="sqlite") as refused:
        node("alpha", str(profile))
    assert "Traceback" not in str(refused.value)
