"""A whole node on Aerospike by ``--set`` alone: the same digest as on LevelDB, and nothing lost to a kill -9 of either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.run import Plan, run
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out
from nodewright_bsv_api.client import BsvClient

SLOTS = ("utxo", "chain", "blobs")


def _settings(server: Any, prefix: str) -> dict[str, str]:
    chosen = {}
    for slot in SLOTS:
        chosen |= {
            f"stores.{slot}.use": "aerospike",
            f"stores.{slot}.host": server.host,
            f"stores.{slot}.port": str(server.port),
            f"stores.{slot}.namespace": server.namespace,
            f"stores.{slot}.sets": "test",
            f"stores.{slot}.store": f"{prefix} {slot}",
        }
    return chosen


def _quiet(stage: str, done: int, of: int) -> None:
    pass


def test_one_digest_on_aerospike_and_leveldb(aerospike: Any, tmp_path: Path) -> None:
    on_aerospike = run(Plan("teranode", 500, 100, 2, 3, _settings(aerospike, f"digest {tmp_path}")), _quiet)
    on_leveldb = run(Plan("teranode", 500, 100, 2, 3, {}), _quiet)
    assert on_aerospike["lost"] == 0
    assert on_aerospike["digest"] == on_leveldb["digest"]


def _db(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "nodewright", "db", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _told(node: NodeProcess) -> Any:
    node.start()
    try:
        with BsvClient(node.service("bsv_api"), node.data_dir / ".cookie") as client:
            return client.rpc("gettxoutsetinfo")
    finally:
        assert node.stop() == 0


@pytest.mark.slow
def test_a_node_moves_there_and_back(aerospike: Any, tmp_path: Path) -> None:
    """From LevelDB, whose unspent outputs are rows of the adapter, to records of their own, and back."""
    settings = _settings(aerospike, f"copy {tmp_path}")
    to = [part for name, value in settings.items() for part in ("--to-set", f"{name}={value}")]
    on = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    quiet = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    key = Key(9, 0)
    node = NodeProcess("teranode", here, quiet, environment=dict(os.environ))
    node.start()
    try:
        with BsvClient(node.service("bsv_api"), here / ".cookie") as client:
            client.rpc("generatetoaddress", 101, address_of_pubkey(key.public, REGTEST))
            txid = client.rpc("getblockbyheight", 1)["tx"][0]
            coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), 50 * 100_000_000, key)
            assert client.post_tx(fan_out(coin, [Key(9, n) for n in range(1, 50)], 10_000)[0])[0] == 200
            client.rpc("generatetoaddress", 1, address_of_pubkey(key.public, REGTEST))
            before = client.rpc("gettxoutsetinfo")
        assert node.stop() == 0
    finally:
        node.kill()
    _db("copy", "teranode", "teranode", *to, "--data-dir", here, "--to-dir", there)
    assert before["hash_serialized"] in _db("verify", "teranode", *on, "--data-dir", there)
    assert _told(NodeProcess("teranode", there, settings | quiet, environment=dict(os.environ))) == before
    _db("copy", "teranode", "teranode", *on, "--data-dir", there, "--to-dir", back)
    assert _told(NodeProcess("teranode", back, quiet, environment=dict(os.environ))) == before


@pytest.mark.slow
def test_kills_of_node_and_server_lose_nothing(aerospike: Any, tmp_path: Path) -> None:
    if not aerospike.can_restart:
        pytest.skip("NODEWRIGHT_AEROSPIKE_CONTROL is not set: no command that kills and starts the server")
    settings = _settings(aerospike, f"kills {tmp_path}") | {
        "services.bsv_api.listen": "127.0.0.1:0",
        "transport.listen": "127.0.0.1:0",
        "consensus.mine": "false",
    }
    node = NodeProcess("teranode", tmp_path / "node", settings, environment=dict(os.environ))
    key = Key(9, 0)
    address = address_of_pubkey(key.public, REGTEST)
    try:
        node.start()
        with BsvClient(node.service("bsv_api"), node.data_dir / ".cookie") as client:
            client.rpc("generatetoaddress", 101, address)
            txid = client.rpc("getblockbyheight", 1)["tx"][0]
            coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), 50 * 100_000_000, key)
            raw, coins = fan_out(coin, [Key(9, n) for n in range(1, 50)], 10_000)
            assert client.post_tx(raw)[0] == 200
            before = client.rpc("gettxoutsetinfo")
        node.kill()
        aerospike.kill()
        aerospike.start()
        node.start()
        with BsvClient(node.service("bsv_api"), node.data_dir / ".cookie") as client:
            assert client.rpc("gettxoutsetinfo") == before
            client.rpc("generatetoaddress", 1, address)
            again, _ = fan_out(coins[0], [Key(9, 60)], 1_000)
            assert client.post_tx(again)[0] == 200
        assert node.stop() == 0
    finally:
        node.kill()
