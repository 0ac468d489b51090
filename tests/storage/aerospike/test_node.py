"""A whole node on Aerospike by ``--set`` alone: the same digest as on LevelDB, and nothing lost to a kill -9 of either."""

from __future__ import annotations

import os
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
