"""A node's real data, stopped and moved: to another database and back, and through a snapshot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bsv_api.bench.wallet import payments

EXAMPLES = Path(__file__).parents[2] / "examples"
SQLITE = ("--set", "stores.utxo.use=sqlite", "--set", "stores.chain.use=sqlite", "--set", "stores.blobs.use=sqlite")
PLUGINS = ("--plugins-dir", str(EXAMPLES / "plugins"))

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the tests run apart from the source tree")


def db(*arguments: str | Path, code: int = 0) -> str:
    """Standard output of the command, and what it said on standard error."""
    command = [sys.executable, "-m", "nodewright", "db", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def to_settings(settings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.replace("--set", "--to-set") for part in settings)


def test_a_node_moves_to_another_database_and_back(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], tmp_path: Path
) -> None:
    alpha = node("alpha")
    wallet = wallet_of(alpha)
    wallet.coins(30)
    wallet.mine(2)
    told = wallet.client.rpc("gettxoutsetinfo")
    refused = db("verify", "teranode", "--data-dir", alpha.data_dir, code=2)
    assert f"in use by node 'node' (pid {alpha.pid} on " in refused
    assert alpha.stop() == 0

    verified = db("verify", "teranode", "--data-dir", alpha.data_dir)
    assert f"{told['txouts']} unspent outputs of {told['total']} satoshis, digest {told['hash_serialized']}" in verified

    there, back = tmp_path / "there", tmp_path / "back"
    db("copy", "teranode", "teranode", *to_settings(SQLITE), *PLUGINS, "--data-dir", alpha.data_dir, "--to-dir", there)
    assert told["hash_serialized"] in db("verify", "teranode", *SQLITE, *PLUGINS, "--data-dir", there)
    sqlite = node("there", arguments=(*SQLITE, *PLUGINS))
    wallet = wallet_of(sqlite)
    assert wallet.client.rpc("gettxoutsetinfo") == told
    wallet.mine(3)
    told = wallet.client.rpc("gettxoutsetinfo")
    assert sqlite.stop() == 0

    db("copy", "teranode", "teranode", *SQLITE, *PLUGINS, "--data-dir", there, "--to-dir", back)
    assert "compacted leveldb" in db("compact", "teranode", "--data-dir", back)
    leveldb = node("back")
    assert wallet_of(leveldb).client.rpc("gettxoutsetinfo") == told
    assert leveldb.stop() == 0


@pytest.mark.long
def test_a_killed_node_through_a_snapshot(
    node: Callable[..., NodeProcess], wallet_of: Callable[[NodeProcess], Any], tmp_path: Path
) -> None:
    """With a transaction that only the pool's journal holds for sure: it is acknowledged, and must come back."""
    alpha = node("alpha")
    wallet = wallet_of(alpha)
    (payment,) = payments(wallet.coins(5)[:1], seed=7)
    assert wallet.client.post_tx(payment)[0] == 200
    pending = wallet.client.rpc("getrawmempool")
    assert len(pending) == 1
    told = wallet.client.rpc("gettxoutsetinfo")
    key = alpha.info["node_id"]
    alpha.kill()

    assert "OK: nothing is damaged" in db("verify", "teranode", "--data-dir", alpha.data_dir)
    file = tmp_path / "alpha.tar"
    db("snapshot", "teranode", file, "--data-dir", alpha.data_dir)
    assert "left out (see --with-keys): transport/node.key" in db("restore", file, "--data-dir", tmp_path / "beta")
    beta = node("beta")
    restored = wallet_of(beta).client
    assert restored.rpc("getrawmempool") == pending
    assert restored.rpc("gettxoutsetinfo") == told
    assert beta.info["node_id"] != key
    assert beta.stop() == 0
